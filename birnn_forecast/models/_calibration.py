"""How far to trust a network's estimates of a series: as far as they beat interpolation on that very series.

Further values of the series are hidden, in the pattern of its own gaps, and estimated as if they were missing; what the
network's and the interpolations' errors there say is applied to the gaps. The truth is what was observed, so that
nothing else is needed, and a series unlike those of training is noticed.
"""

from typing import NamedTuple

import numpy as np
import torch

from birnn_forecast.data.windows import gap_lengths
from birnn_forecast.masks import by_phase, by_time, interpolate, interpolate_seasonal, observed_mask

# gaps are told apart by their length in steps, up to these and above; with fewer values than that in one, all are one
LENGTHS = (2, 6, 24)
ENOUGH = 50
SHARES = np.linspace(0, 1, 11)


class Trust(NamedTuple):
    """For each class of gap length: which interpolation to lean on, and the share of the network's estimate."""

    reference: np.ndarray
    share: np.ndarray


def transplanted(missing: np.ndarray) -> np.ndarray:
    """Return the gaps of ``(time, components)`` moved to where values are observed, False where nothing is hidden.

    They are moved, all together and around the end, by that of a few distances which hides most.
    """
    steps = len(missing)
    best = np.zeros_like(missing)
    for part in (0.5, 0.37, 0.62, 0.21, 0.79):
        hidden = np.roll(missing, max(int(part * steps), 1), axis=0) & ~missing
        if hidden.sum() > best.sum():
            best = hidden
    return best


def references(values: np.ndarray, season_length: int | None) -> np.ndarray:
    """Return interpolations of the whole series, ``(n, time, components)``.

    Linear over time; with a season also the phases' means plus the interpolated rest, and each phase by itself. A
    component without any observation is 0.
    """
    x = torch.as_tensor(values, dtype=torch.float64)[None]
    observed = observed_mask(x)
    linear = interpolate(x, observed)
    found = [linear]
    if season_length and len(values) > season_length:
        found.append(interpolate_seasonal(x, observed, season_length))
        phases, seen = by_phase(torch.nan_to_num(x), season_length), by_phase(observed, season_length)
        known = by_time(seen.any(dim=1, keepdim=True).expand_as(seen), season_length, len(values))
        phase = by_time(interpolate(phases, seen), season_length, len(values))
        found.append(torch.where(known, phase, linear))
    return torch.cat(found).numpy()


def gap_classes(missing: np.ndarray) -> np.ndarray:
    """Return the class of the gap that each missing value is in."""
    return np.digitize(gap_lengths(missing), LENGTHS, right=True)


def measure_trust(
    truth: np.ndarray, hidden: np.ndarray, missing: np.ndarray, estimate: np.ndarray, interpolated: np.ndarray
) -> Trust:
    """Return how far to trust the estimates.

    Parameters
    ----------
    truth, estimate
        ``(time, components)``; what counts is where `hidden`.
    hidden, missing
        What was hidden, and what was missing then (the hidden ones included).
    interpolated
        ``(n, time, components)``.
    """
    classes = gap_classes(missing)
    reference = np.zeros(len(LENGTHS) + 1, dtype=int)
    share = np.ones(len(LENGTHS) + 1)
    for number in range(len(share)):
        where = hidden & (classes == number)
        if where.sum() < ENOUGH:
            where = hidden
        if where.sum() < ENOUGH:
            continue
        y, net, simple = truth[where], estimate[where], interpolated[:, where]
        reference[number] = np.abs(simple - y).mean(axis=1).argmin()
        base = simple[reference[number]]
        errors = [np.abs(base + part * (net - base) - y).mean() for part in SHARES]
        share[number] = SHARES[int(np.argmin(errors))]
    return Trust(reference, share)


def apply_trust(trust: Trust, missing: np.ndarray, estimate: np.ndarray, interpolated: np.ndarray) -> np.ndarray:
    """Return what to add to the estimates of missing values, ``(time, components)``."""
    classes = gap_classes(missing)
    base = np.take_along_axis(interpolated, trust.reference[classes][None], axis=0)[0]
    return (1 - trust.share[classes]) * (base - estimate)
