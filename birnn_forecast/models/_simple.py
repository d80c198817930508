"""Simple estimates of what is missing in a series: interpolations, smoothers and means, with and without seasons."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from birnn_forecast.masks import (
    by_phase,
    by_time,
    interpolate,
    masked_mean,
    neighbours,
    next_observed,
    previous_observed,
)

# days of a week, hours' season being a day; harmless elsewhere
SEASONS_OF_SEASONS = 7
# number of the rule, and of the estimate, that is linear interpolation
LINEAR = 0
# seasons that a series has to hold for each phase to be interpolated by itself
PHASE_FROM = 1.5
# steps of a series that its rules are told by, at most; and the logarithm of the least likelihood that one can have
RECENT, LEAST_FIT = 5_000, 20.0
# what the rules with a season, and the phases by themselves, are worth before any is tried, beside those without
SEASONAL, BY_PHASE = 0.3, 0.05
# errors below this share of a component's scale are as good as none
NO_ERROR = 1e-4


class Rule(NamedTuple):
    """How the levels on either side of a gap become the estimates in it.

    The rest of the series without a season (and without its straight line or mean) is a level that moves, seen through
    noise. The level on each side is an exponentially weighted mean of its observations.

    Attributes
    ----------
    gain
        Weight of the nearest observation in the level of its side. With 1 there is no noise: straight lines.
    memory
        Share of a level's distance from the mean that is left a step later. With 1 it does not return to the mean: the
        weights of the two levels are those of a random walk plus noise. With 0 the estimate is the mean.
    line
        Whether the mean is the straight line with the least squares.
    nearest
        Whether the level of the nearer side is all.
    """

    gain: float = 1.0
    memory: float = 1.0
    line: bool = False
    nearest: bool = False

    @property
    def prior(self) -> float:
        """The share it has beside the others: the more the nearer it is to linear interpolation.

        Where observations are far apart they do not tell noise from a short memory, and what is right far away from
        them is wrong beside them; linear interpolation is right there.
        """
        return self.gain * max(self.memory, 0.5) ** 4 * (0.05 if self.nearest else 1.0) * (0.1 if self.line else 1.0)

    @property
    def handicap(self) -> float:
        """What the logarithm of its likelihood has to be better by, having been fitted to the same values."""
        return (2.0 if self.memory < 1 else 0.0) + (8.0 if self.line else 0.0)


RULES = (
    Rule(),
    *(Rule(gain=gain) for gain in (0.6, 0.35, 0.2, 0.1, 0.05)),
    *(Rule(memory=memory) for memory in (0.99, 0.97, 0.93, 0.85, 0.7, 0.4, 0.0)),
    Rule(0.5, 0.93),
    Rule(0.3, 0.97),
    *(Rule(memory=memory, line=True) for memory in (0.97, 0.85, 0.5, 0.0)),
    Rule(0.2, 1.0, line=True),
    Rule(0.3, 0.97, line=True),
    Rule(nearest=True),
    Rule(gain=0.35, nearest=True),
)


class SimpleEstimates:
    """Simple estimates of missing values of one series.

    The first is linear interpolation. Then all rules for the series as it is, then for what is left without each season
    and without all of them, then each phase of a season interpolated by itself.

    Parameters
    ----------
    values
        ``(time, components)``, NaN where missing. A component without any observation is estimated as 0.
    seasons
        Steps of the seasons. Those longer than the series are left out; seven times each is tried, too, if the series
        holds three times that.

    References
    ----------
    A. C. Harvey, "Forecasting, Structural Time Series Models and the Kalman Filter", Cambridge 1989 (random walk plus
    noise: its smoother in the steady state has exponential weights).
    """

    def __init__(self, values: np.ndarray, seasons: Sequence[int]):
        n = len(values)
        given = {season for season in seasons if season > 1 and PHASE_FROM * season <= n}
        longer = {SEASONS_OF_SEASONS * season for season in given if 3 * SEASONS_OF_SEASONS * season <= n}
        self.seasons = sorted(given | longer)
        # means of phases need two values, phases by themselves less
        full = [season for season in self.seasons if 2 * season <= n]
        self.groups: list[tuple[int, ...]] = [(), *((season,) for season in full)]
        if len(full) > 1:
            self.groups.append(tuple(full))
        self.n = len(self.groups) * len(RULES) + len(self.seasons)
        self._read(values)

    def _read(self, values: np.ndarray) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        observed = torch.as_tensor(~np.isnan(self.values))[None]
        self.before, self.after = previous_observed(observed)[0].numpy(), next_observed(observed)[0].numpy()

    def again(self, values: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Return the same estimates ``(n, count)`` of another series, or part, `where` that is True."""
        other = copy(self)
        other._read(values)
        return np.stack(list(other.at(where)))

    def log_prior(self) -> np.ndarray:
        """Return the logarithms of what the estimates are worth before any is tried, ``(components, n)``.

        The rules for what is left without a season (or with it) have their shares by how well they predict each
        observation from those before it (a Laplace distribution of unknown scale), the last
        :data:`RECENT` at most. Rules that return to a mean or a line, fitted to the same values, have to do better.
        """
        rows = np.flatnonzero(~np.isnan(self.values).all(axis=1))[-RECENT:]
        n_seasonal = max(len(self.groups) - 1, 1)
        prior = np.empty((self.values.shape[1], self.n))
        shares = np.array([0.5 * rule.prior / len(RULES) for rule in RULES])
        shares[LINEAR] += 0.5
        handicaps = np.array([rule.handicap for rule in RULES])
        for i, group in enumerate(self.groups):
            fit = _predictions(self.values, group, rows) - handicaps
            fit = np.maximum(fit - fit.max(axis=1, keepdims=True), -LEAST_FIT)
            weight = np.exp(fit) * shares
            weight *= (SEASONAL / n_seasonal if group else 1.0) / weight.sum(axis=1, keepdims=True)
            prior[:, i * len(RULES) : (i + 1) * len(RULES)] = np.log(weight)
        prior[:, len(self.groups) * len(RULES) :] = np.log(BY_PHASE / max(len(self.seasons), 1))
        return prior

    def without_season(self) -> range:
        """Return the numbers of the estimates that know of no season: the first ones."""
        return range(len(RULES))

    def interpolations(self) -> list[int]:
        """Return the numbers of linear and seasonal interpolations."""
        rules = len(self.groups) * len(RULES)
        return [*range(0, rules, len(RULES)), *range(rules, self.n)]

    def at(self, where: np.ndarray, chosen: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """Yield the estimates where ``where (time, components)`` is True, of the `chosen` numbers, increasing."""
        numbers = set(range(self.n) if chosen is None else chosen)
        steps, columns = np.nonzero(where)
        before, after = self.before[where], self.after[where]
        to_before = np.where(before < 0, np.inf, steps - before)
        to_after = np.where(after == len(self.values), np.inf, after - steps)
        places = _Places(steps, columns, before.clip(min=0), after.clip(max=len(self.values) - 1), to_before, to_after)
        for i, group in enumerate(self.groups):
            first = i * len(RULES)
            rules = [RULES[j] for j in range(len(RULES)) if first + j in numbers]
            if rules:
                yield from self._by_rules(group, rules, places)
        for i, season in enumerate(self.seasons):
            if len(self.groups) * len(RULES) + i in numbers:
                yield self._phase(season)[where]

    def _by_rules(self, group: tuple[int, ...], rules: Sequence[Rule], places: "_Places") -> Iterator[np.ndarray]:
        wave, line, mean = _waves(self.values, group)
        spacing = _spacing(self.values)
        unknown = ~self._phases_known(group)[places.steps, places.columns]
        straight = _bridge(RULES[LINEAR], *_levels(self.values, 1.0, places), places, spacing[places.columns])
        sides: dict[tuple[float, bool], tuple[np.ndarray, np.ndarray]] = {}
        at = places.steps, places.columns
        for rule in rules:
            center = line if rule.line else mean
            key = rule.gain, rule.line
            if key not in sides:
                sides[key] = _levels(self.values - wave - center, rule.gain, places)
            estimate = _bridge(rule, *sides[key], places, spacing[places.columns])
            estimate = np.where(unknown, straight, estimate + wave[at] + np.broadcast_to(center, wave.shape)[at])
            yield np.nan_to_num(estimate)

    def _phases_known(self, group: tuple[int, ...]) -> np.ndarray:
        """Return ``(time, components)``, True where each season was observed at that phase."""
        known = np.ones(self.values.shape, dtype=bool)
        observed = torch.as_tensor(~np.isnan(self.values))[None]
        for season in group:
            seen = by_phase(observed, season)
            known &= by_time(seen.any(dim=1, keepdim=True).expand_as(seen), season, len(known))[0].numpy()
        return known

    def _phase(self, season: int) -> np.ndarray:
        x = torch.as_tensor(self.values)[None]
        observed = ~torch.isnan(x)
        phases, seen = by_phase(torch.nan_to_num(x), season), by_phase(observed, season)
        known = by_time(seen.any(dim=1, keepdim=True).expand_as(seen), season, len(self.values))
        lines = by_time(interpolate(phases, seen), season, len(self.values))
        # a phase without any observation lies on straight lines between those about it
        return interpolate(lines, known)[0].numpy()


class _Places(NamedTuple):
    """Where estimates are wanted: steps, components, the observed steps on either side, and how far those are."""

    steps: np.ndarray
    columns: np.ndarray
    before: np.ndarray
    after: np.ndarray
    to_before: np.ndarray
    to_after: np.ndarray


def _waves(values: np.ndarray, group: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the seasons' course, the line through what it leaves, and the mean of that, ``(time or 1, components)``.

    A season's course are the means of its phases about the line, one season after another, the shortest first.
    """
    wave = np.zeros_like(values)
    for season in group:
        rest = values - wave
        x = torch.as_tensor(rest - _line(rest, season))[None]
        observed = ~torch.isnan(x)
        seen = by_phase(observed, season)
        profile = masked_mean(by_phase(torch.nan_to_num(x), season), seen).reshape(1, season, -1)
        profile = interpolate(profile, seen.any(dim=1).reshape(1, season, -1))
        wave = wave + profile.repeat(1, -(-len(values) // season), 1)[0, -len(values) :].numpy()
    rest = values - wave
    return wave, _line(rest, 1), _mean(rest)


def _mean(values: np.ndarray) -> np.ndarray:
    observed = ~np.isnan(values)
    return np.nan_to_num(values).sum(axis=0, keepdims=True) / observed.sum(axis=0, keepdims=True).clip(min=1)


def _line(values: np.ndarray, season: int) -> np.ndarray:
    """Return the straight line with least squares, level unless what is observed is spread over 1.5 seasons."""
    observed = ~np.isnan(values)
    steps = np.where(observed, np.arange(len(values), dtype=np.float64)[:, None], np.nan)
    centred = np.nan_to_num(steps - _mean(steps))
    spread = (centred**2).sum(axis=0)
    slope = (centred * np.nan_to_num(values - _mean(values))).sum(axis=0) / spread.clip(min=1e-9)
    enough = spread >= observed.sum(axis=0) * (1.5 * season) ** 2 / 12  # the variance of evenly spread steps
    slope = np.where(enough & (observed.sum(axis=0) > 2), slope, 0.0)
    return _mean(values) + slope * (np.arange(len(values))[:, None] - _mean(steps))


def _spacing(values: np.ndarray) -> np.ndarray:
    """Return for each component the usual number of steps from one observation to the next."""
    gaps = [np.diff(np.flatnonzero(~np.isnan(column))) for column in values.T]
    return np.array([np.median(one) if len(one) else 1.0 for one in gaps])


def _levels(rest: np.ndarray, gain: float, places: _Places) -> tuple[np.ndarray, np.ndarray]:
    """Return the exponentially weighted means of the observations before each place, and of those after it."""
    if gain == 1:
        return rest[places.before, places.columns], rest[places.after, places.columns]
    forward = pd.DataFrame(rest).ewm(alpha=gain, ignore_na=True).mean().to_numpy()
    backward = pd.DataFrame(rest[::-1]).ewm(alpha=gain, ignore_na=True).mean().to_numpy()[::-1]
    return forward[places.before, places.columns], backward[places.after, places.columns]


def _bridge(rule: Rule, left: np.ndarray, right: np.ndarray, places: _Places, spacing: np.ndarray) -> np.ndarray:
    """Return the estimates between the levels of either side, as distances from the mean."""
    d, e = places.to_before, places.to_after
    one_side = np.isinf(d) | np.isinf(e)
    left, right = np.where(np.isinf(d), right, left), np.where(np.isinf(e), left, right)
    if rule.nearest:
        return np.where(d <= e, left, right)
    if rule.memory == 0:
        return np.zeros_like(left)
    # variance of a level, in units of what a random walk gains in a step
    doubt = spacing * (1 - rule.gain) / rule.gain
    if rule.memory == 1:
        d, e = np.where(one_side, 1.0, d), np.where(one_side, 1.0, e)
        return left + (right - left) * (doubt + d) / (2 * doubt + d + e)
    a, b = rule.memory**d, rule.memory**e
    own = 1 + doubt * (1 - rule.memory**2)
    both = a * b
    return ((a * own - b * both) * left + (b * own - a * both) * right) / (own**2 - both**2)


def _predictions(values: np.ndarray, group: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """Return the log-likelihoods ``(components, rules)`` of each observation given those before it."""
    wave, line, mean = _waves(values, group)
    rest = {False: (values - wave - mean)[rows], True: (values - wave - line)[rows]}
    observed = torch.as_tensor(~np.isnan(values[rows]))[None]
    before = neighbours(observed)[0][0].numpy()
    told = observed[0].numpy() & (before >= 0)
    count = told.sum(axis=0)
    distance = np.where(told, rows[:, None] - rows[before.clip(min=0)], 1.0)
    spacing = _spacing(values)
    spread = np.nan_to_num(np.nanstd(np.where(count > 0, values[rows], 0.0), axis=0))
    levels: dict[tuple[float, bool], np.ndarray] = {}
    out = np.zeros((values.shape[1], len(RULES)))
    for number, rule in enumerate(RULES):
        key = rule.gain, rule.line
        x = rest[rule.line]
        if key not in levels:
            level = x if rule.gain == 1 else pd.DataFrame(x).ewm(alpha=rule.gain, ignore_na=True).mean().to_numpy()
            levels[key] = np.take_along_axis(level, before.clip(min=0), axis=0)
        kept = rule.memory**distance
        doubt = spacing * (1 - rule.gain) / rule.gain
        if rule.memory == 1:
            variance = doubt + distance + doubt / rule.gain
        else:
            doubt = doubt * (1 - rule.memory**2)
            variance = 1 - kept**2 + kept**2 * doubt + doubt / rule.gain
        error = np.where(told, np.abs(x - kept * levels[key]) / np.sqrt(variance), 0.0)
        scale = error.sum(axis=0) / count.clip(min=1) + NO_ERROR * spread + 1e-300
        out[:, number] = -0.5 * (told * np.log(variance)).sum(axis=0) - count * np.log(scale)
    return np.where(count[:, None] >= 3, out, 0.0)
