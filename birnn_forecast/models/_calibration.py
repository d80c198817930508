"""How far to trust a network's estimates of a series: as far as they beat interpolation on that very series.

Further values of the series are hidden, in the pattern of its own gaps, and estimated as if they were missing; the
mixture of the network and of interpolations that does best there is applied to the gaps. The truth is what was
observed, so that nothing else is needed, and a series unlike those of training is noticed.
"""

from dataclasses import replace

import numpy as np
import torch

from birnn_forecast.data.windows import gap_lengths, gaps
from birnn_forecast.masks import by_phase, by_time, interpolate, interpolate_seasonal, level_and_scale, observed_mask
from birnn_forecast.models._impute import Source
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._raw import central_value, moved_to

# gaps are told apart by their length in steps, up to these and above; with fewer values than that in one, all are one
LENGTHS = (2, 6, 24)
ENOUGH, AT_MOST = 50, 20_000
# values to hide of all observed ones (at least a tenth, at most a quarter of them), and outages
MANY, OUTAGES = 500, 50
# shares of the series by which gaps are moved
SHIFTS = (0.5, 0.37, 0.62, 0.21, 0.79, 0.29, 0.71, 0.13, 0.87)
# an estimate with more than so many times the error of the best takes no part: what it adds is noise
TOO_FAR = 1.5
# each round gives one part of the mixture to the estimate that improves it most
ROUNDS = 20
# days of a week, hours' season being a day; harmless elsewhere
SEASONS_OF_SEASONS = 7


def trial_of(source: Source) -> Source:
    """Return the source with gaps transplanted to where it is observed, what they hide being wanted."""
    hidden = transplanted(np.isnan(source.target)) if source.wanted.any() else np.zeros_like(source.wanted)
    return replace(source, target=np.where(hidden, np.nan, source.target), wanted=hidden)


def calibrated(
    module: GapAwareModule,
    source: Source,
    trial: Source,
    raw: np.ndarray,
    trial_raw: np.ndarray,
    season_length: int | None,
) -> np.ndarray:
    """Return the raw parameters with locations moved to the mixture with interpolations that is best on the trial.

    Parameters
    ----------
    module
        The fitted module. One whose components do not see each other has a mixture for each.
    source, trial
        The series, and the same with the values of :func:`trial_of` hidden.
    raw, trial_raw
        The module's raw parameters ``(time, components, parameters)`` of what each wants.
    season_length
        Steps of a season, or None.
    """
    estimate, guess = central_value(raw, module), central_value(trial_raw, module)
    before, after = references(trial.target, season_length), references(source.target, season_length)
    scale = level_and_scale(source.target.astype(np.float64))[1].numpy()  # components of different units have equal say
    everything = [slice(None)]
    center = estimate.copy()
    for c in everything if module.network.mixes_components else [slice(i, i + 1) for i in range(len(scale))]:
        missing = np.isnan(trial.target[:, c]), np.isnan(source.target[:, c])
        guesses = np.concatenate([guess[None, :, c], before[:, :, c]]) / scale[c]
        shares = best_mixtures(source.target[:, c] / scale[c], trial.wanted[:, c], missing[0], guesses)
        center[:, c] = mixed(shares, missing[1], np.concatenate([estimate[None, :, c], after[:, :, c]]))
    # nothing to interpolate in a component without observations
    moved = source.wanted & ~np.isnan(source.target).all(axis=0)
    return moved_to(raw, np.where(moved, center, np.nan), module)


def transplanted(missing: np.ndarray) -> np.ndarray:
    """Return the gaps of ``(time, components)`` moved to where values are observed, False where nothing is hidden.

    Class by class of lengths, the longest first, all are moved together, and around the end, by one distance after
    another, until there is enough to tell by, but no more than half of a component: what comes after is left alone. Of
    many gaps only some are taken, so that the series is left much as it is.
    """
    hidden = np.zeros_like(missing)
    observed = (~missing).sum(axis=0)
    counts = _counts(missing, missing)
    for number in np.flatnonzero(counts)[::-1]:
        one_class = missing & (gap_classes(missing) == number)
        outages = len({start for column in one_class.T for start, _ in gaps(column)})
        share_of_class = counts[number] / counts.sum()
        most, least = observed.sum() / 4 * share_of_class, max(observed.sum() / 10, MANY) * share_of_class
        wanted = max(min(max(least, OUTAGES * counts[number] / outages), most), 2 * ENOUGH)
        for seed, part in enumerate(SHIFTS):
            lacking = wanted - _counts(hidden, hidden | missing)[number]
            if lacking <= 0.2 * wanted:
                break
            moved = np.roll(missing, max(int(part * len(missing)), 1), axis=0)
            moved &= gap_classes(moved) == number
            share = lacking / max((moved & ~missing).sum(), 1)
            # gaps that start together are one outage: taken or left together
            taken = np.random.default_rng(seed).random(len(missing)) < share
            for component, column in enumerate(moved.T):
                for start, end in gaps(column):
                    # side by side, two would be one longer gap
                    if taken[start] and not hidden[max(start - 1, 0) : end + 1, component].any():
                        hidden[start:end, component] = True
            hidden &= ~missing
            hidden &= hidden.cumsum(axis=0) <= observed // 2
    return hidden


def _counts(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return the number of `values` in gaps of each class."""
    return np.bincount(gap_classes(missing)[values], minlength=len(LENGTHS) + 1)


def references(values: np.ndarray, season_length: int | None) -> np.ndarray:
    """Return interpolations of the whole series, ``(n, time, components)``.

    Linear over time; with a season also the phases' means plus the interpolated rest, and each phase by itself, both
    along the season and along seven of them (a week of days) if the series holds three times that. A component without
    any observation is 0.
    """
    x = torch.as_tensor(values, dtype=torch.float64)[None]
    observed = observed_mask(x)
    linear = interpolate(x, observed)
    found = [linear]
    season = season_length or len(values)
    for length in (season, SEASONS_OF_SEASONS * season):
        if len(values) < 2 * length or (length > season and len(values) < 3 * length):
            break
        found.append(interpolate_seasonal(x, observed, length))
        phases, seen = by_phase(torch.nan_to_num(x), length), by_phase(observed, length)
        known = by_time(seen.any(dim=1, keepdim=True).expand_as(seen), length, len(values))
        found.append(torch.where(known, by_time(interpolate(phases, seen), length, len(values)), linear))
    return torch.cat(found).numpy()


def gap_classes(missing: np.ndarray) -> np.ndarray:
    """Return the class of the gap that each missing value is in."""
    return np.digitize(gap_lengths(missing), LENGTHS, right=True)


def best_mixtures(truth: np.ndarray, hidden: np.ndarray, missing: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """Return the shares ``(class, n)`` of estimates in the mixture with the least absolute errors, class by class.

    The first estimate is the network's; where there is too little to tell by, it has all. A class with too little has
    the shares of the nearest one with enough, of two the longer.

    Parameters
    ----------
    truth
        ``(time, components)``; what counts is where `hidden`.
    hidden, missing
        What was hidden, and what was missing then (the hidden ones included).
    estimates
        ``(n, time, components)``.

    References
    ----------
    R. Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004,
    https://doi.org/10.1145/1015330.1015432 (greedy, with replacement).
    """
    classes = gap_classes(missing)
    shares = np.zeros((len(LENGTHS) + 1, len(estimates)))
    shares[:, 0] = 1.0
    known = [number for number in range(len(shares)) if (hidden & (classes == number)).sum() >= ENOUGH]
    for number in known:
        where = hidden & (classes == number)
        every = -(-int(where.sum()) // AT_MOST)
        y, guesses = truth[where][::every], estimates[:, where][:, ::every]
        alone = np.abs(guesses - y).mean(axis=1)
        able = np.flatnonzero(alone <= TOO_FAR * alone.min())
        picks, total = np.zeros(len(estimates)), np.zeros_like(y)
        for size in range(1, ROUNDS + 1):
            # of equals, the first: the network
            best = able[np.abs((total + guesses[able]) / size - y).mean(axis=1).argmin()]
            picks[best] += 1
            total = total + guesses[best]
        shares[number] = picks / ROUNDS
    nearest = [min(known, key=lambda other: (abs(other - i), -other), default=i) for i in range(len(shares))]
    return shares[nearest]


def mixed(shares: np.ndarray, missing: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """Return the mixture ``(time, components)`` of estimates ``(n, time, components)``, each value by its gap."""
    return np.einsum("tcn,ntc->tc", shares[gap_classes(missing)], estimates)
