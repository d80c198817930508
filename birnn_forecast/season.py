"""Which season a series has, found from the frequency of its index and from its values."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries
from numpy.typing import NDArray
from pandas.tseries.frequencies import to_offset

from birnn_forecast.data.weights import counted_values

SECOND, MINUTE, HOUR, DAY, WEEK, YEAR = 1.0, 60.0, 3_600.0, 86_400.0, 604_800.0, 31_556_952.0
# a season of the calendar may be off a whole number of steps by this share of one (a year has 52.18 weeks)
TOLERANCE = 0.25
# what is looked at: the end of so many series, evenly chosen, and so many components; so many values in all
MOST_STEPS, MOST_SERIES, MOST_COMPONENTS, MOST_VALUES = 4_000, 50, 64, 50_000
# ... but so many steps of each at least, and so many usual seasons
FEWEST_STEPS, LEAST_SEASONS = 300, 4
LONGEST = 400
"""Longest period that is searched for, in steps."""
# seasons that the values must hold
SEASONS, SEASONS_IN_SEARCH = 2, 3
# least score (in a search this and the expected largest of as many scores as there are periods), and variance of the
# season by that of what differs from season to season
SCORE, SCORE_IN_SEARCH, STRENGTH = 2.4, 1.3, 0.1
# share of the usual number of observed values of a season that gives a mean
ENOUGH = 0.7
# phases that are left at the coarse resolution, at least
COARSE = 6
# periods of a search that are looked at closely, and the multiples of the best that its harmonics may hide
# (not seven: a week is no day), with their share of the season's variance
CLOSELY, MULTIPLES, SHARE = 12, (2, 3, 4, 5, 6), 0.15
# variance that counts as rounding, by that of the component
ROUNDING = 1e-6


def usual_season(freq: pd.offsets.BaseOffset | str | int | None) -> int | None:
    """Return the steps of the usual season of a frequency, or None where there is none.

    It is a second for steps below a second, an hour for steps below a minute, a day for steps below a day (12 hours: 2
    steps), a week for steps from a day to below a week (business days: 5 steps), and a year for longer ones (weeks: 52
    steps). A season that is no whole number of steps, or of a single one, is none; of business hours it is a business
    day.

    Parameters
    ----------
    freq
        A pandas offset or its name; an integer is the step of a ``RangeIndex``, which has no usual season.
    """
    if freq is None or isinstance(freq, int | np.integer):
        return None
    offset = to_offset(freq)
    if isinstance(offset, pd.offsets.BusinessHour):
        return _business_hours(offset)
    step = _duration(offset)
    if step is None or step <= 0:
        return None
    if step >= WEEK:
        return _whole(YEAR / step, TOLERANCE)
    exact = 1e-9 if isinstance(offset, pd.offsets.Tick) else TOLERANCE
    if step >= DAY:
        return _whole(WEEK / step, exact)
    span = SECOND if step < SECOND else HOUR if step < MINUTE else DAY
    return _whole(span / step, exact * span / step)


def _duration(offset: pd.offsets.BaseOffset) -> float | None:
    """Return the mean length of a step in seconds, or None if it is longer than what could have a season."""
    if isinstance(offset, pd.offsets.Tick):
        return offset.nanos / 1e9
    start = offset.rollforward(pd.Timestamp("2000-01-01"))
    if (start + offset) - start > pd.Timedelta(days=200):
        return None
    times = [start]
    for _ in range(120):
        times.append(times[-1] + offset)
    return float((times[-1] - times[0]).total_seconds() / 120)


def _business_hours(offset: pd.offsets.BusinessHour) -> int | None:
    opened = sum(
        (end.hour - start.hour) * HOUR + (end.minute - start.minute) * MINUTE
        for start, end in zip(offset.start, offset.end, strict=True)
    )
    return _whole(opened % DAY / HOUR / offset.n, 1e-9)


def _whole(steps: float, tolerance: float) -> int | None:
    nearest = round(steps)
    return nearest if nearest >= 2 and abs(steps - nearest) <= tolerance else None


class Evidence(NamedTuple):
    """What speaks for a season."""

    score: float
    """Standard normal where there is no season, however smooth the series: the test of a one-way analysis of variance
    by phase, with the degrees of freedom that the autocorrelation leaves."""
    strength: float
    """Variance of the season by that of what differs from season to season."""


NOTHING = Evidence(-np.inf, 0.0)


class _Series(NamedTuple):
    """The components of a series that vary."""

    values: NDArray  # (time, components), without the straight line through them, 0 where nothing is observed
    observed: NDArray
    variance: NDArray  # about the mean


class _Phases(NamedTuple):
    """Sums of squares of each component, freed of its trend."""

    between: NDArray  # of the phases' means
    within: NDArray  # of the values about these
    n_between: NDArray  # degrees of freedom
    n_within: NDArray
    seasons: NDArray  # observed values of a phase
    rounding: NDArray  # variance that counts as rounding
    deviations: NDArray  # (time, components), about the phases' means, 0 where nothing is observed
    observed: NDArray
    phases: NDArray  # (phases, components), whether observed at all


def find_season(series: TimeSeries | Sequence[TimeSeries], weights: Sequence[TimeSeries] | None = None) -> int | None:
    """Return the season that series show, in steps, or None.

    With a ``DatetimeIndex`` it is the usual season of the frequency (:func:`usual_season`) if the values show it; with
    a ``RangeIndex`` the strongest period up to ``LONGEST`` steps of which the series hold three. A component's unit,
    the order of components, and gaps have no say in it; of many or long series a part is looked at.

    Parameters
    ----------
    series
        One or several series, NaN where nothing is observed.
    weights
        The weights of their values: those of weight 0 have no say.
    """
    chosen = [series] if isinstance(series, TimeSeries) else list(series)
    width = min(max(one.n_components for one in chosen), MOST_COMPONENTS)
    every = -(-len(chosen) // max(min(MOST_SERIES, MOST_VALUES // (FEWEST_STEPS * width)), 1))
    chosen = chosen[::every]
    counting = [None] * len(chosen) if weights is None else list(weights)[::every]
    dated = [one for one in chosen if not one.has_range_index]
    season = usual_season(dated[0].freq) if dated else None
    if dated and season is None:
        return None
    steps = min(MOST_STEPS, max(MOST_VALUES // (len(chosen) * width), FEWEST_STEPS))
    steps = max(steps, LEAST_SEASONS * (season or 0))
    values = [_end(*pair, steps) for pair in zip(chosen, counting, strict=True)]
    if season is None:
        return strongest_period(values)
    return season if _shown(season_evidence(values, season), SCORE) else None


def _end(series: TimeSeries, weight: TimeSeries | None, steps: int) -> NDArray:
    """Return the last values ``(time, components)``."""
    # by name: the order of the components has no say in it
    columns = np.argsort(series.components.astype(str), kind="stable")
    columns = columns[:: -(-len(columns) // MOST_COMPONENTS)]
    return counted_values(series[-steps:], weight)[:, columns]


def season_evidence(values: NDArray | Sequence[NDArray], period: int) -> Evidence:
    """Return what speaks for a season in arrays ``(time, components)``, NaN where nothing is observed.

    Each component is freed of its trend, a moving average over a season. Its phases' means are compared with what
    differs from season to season; components and series have equal say.
    """
    return _best_evidence(_prepared(values), period, SEASONS)


def strongest_period(values: NDArray | Sequence[NDArray], longest: int = LONGEST) -> int | None:
    """Return the period for which most speaks in arrays ``(time, components)``, or None if nothing does enough."""
    ready = _prepared(values)
    longest = min(longest, max((len(one.values) for one in ready), default=0) // SEASONS_IN_SEARCH)
    ratios = {period: _ratio(_usable(ready, period, SEASONS_IN_SEARCH)) for period in range(2, longest + 1)}
    score = SCORE_IN_SEARCH + (2 * np.log(max(len(ratios), 1))) ** 0.5
    for period in sorted(ratios, key=lambda one: (-ratios[one], one))[:CLOSELY]:
        if _shown(_best_evidence(ready, period, SEASONS_IN_SEARCH), score):
            return _with_harmonics(ready, period, longest, score)
    return None


def _shown(evidence: Evidence, score: float) -> bool:
    return evidence.score >= score and evidence.strength >= STRENGTH


def _with_harmonics(ready: Sequence[_Series], period: int, longest: int, score: float) -> int:
    """Return the period, or the multiple of it that says more: it is a harmonic, such as the half of a day."""
    for multiple in (number * period for number in MULTIPLES if number * period <= longest):
        whole = _usable(ready, multiple, SEASONS_IN_SEARCH)
        more = _usable(ready, multiple, SEASONS_IN_SEARCH, part=period)
        if not whole or not _shown(_evidence(more), score):
            continue
        of_all, of_more = (
            max(_ratio(found) - 1, 0.0) * sum(one.n_between.sum() for one in found) for found in (whole, more)
        )
        if of_more >= SHARE * of_all:
            return _with_harmonics(ready, multiple, longest, score)
    return period


def _prepared(values: NDArray | Sequence[NDArray]) -> list[_Series]:
    ready = []
    for x in [values] if isinstance(values, np.ndarray) else values:
        observed = ~np.isnan(x)
        count = observed.sum(axis=0)
        x, observed, count = x[:, count > 2], observed[:, count > 2], count[count > 2]
        steps = np.where(observed, np.arange(len(x))[:, None], 0.0)
        steps = np.where(observed, steps - steps.sum(axis=0) / count, 0.0)
        x = np.where(observed, x, 0.0)
        largest = np.abs(x).max(axis=0, initial=0.0)
        x = np.where(observed, x - x.sum(axis=0) / count, 0.0)
        variance = (x**2).sum(axis=0) / count
        varies = variance > (1e-6 * largest) ** 2
        x, observed, variance, steps = x[:, varies], observed[:, varies], variance[varies], steps[:, varies]
        if x.shape[1]:
            line = (steps * x).sum(axis=0) / (steps**2).sum(axis=0) * steps
            ready.append(_Series((x - line) / np.sqrt(variance), observed, np.ones_like(variance)))
    return ready


def _usable(ready: Sequence[_Series], period: int, seasons: int, part: int | None = None) -> list[_Phases]:
    """Return the sums of those components that hold so many seasons, without what has a period of a `part` of it."""
    found = []
    for one in ready:
        time, width = one.values.shape
        if time < seasons * period:
            continue
        rest = np.where(one.observed, one.values - _moving_average(one, period), 0.0)
        rows = -(-time // period)
        pad = ((0, rows * period - time), (0, 0))
        x = np.pad(rest, pad).reshape(rows, period, width)
        seen = np.pad(one.observed, pad).reshape(rows, period, width)
        counts = seen.sum(axis=0)
        phases, total = (counts > 0), counts.sum(axis=0)
        n_phases = phases.sum(axis=0)
        first, last = one.observed.argmax(axis=0), time - one.observed[::-1].argmax(axis=0)
        usable = (n_phases >= 2) & (total >= 1.5 * n_phases) & (last - first >= seasons * period)
        if not usable.any():
            continue
        x, seen, counts, phases = x[:, :, usable], seen[:, :, usable], counts[:, usable], phases[:, usable]
        total, n_phases = total[usable], n_phases[usable]
        profile = x.sum(axis=0) / np.maximum(counts, 1)
        deviations = np.where(seen, x - profile, 0.0)
        shorter = part or 1
        sums, numbers = (a.reshape(-1, shorter, a.shape[1]).sum(axis=0) for a in (x.sum(axis=0), counts))
        base = np.tile(sums / np.maximum(numbers, 1), (period // shorter, 1))
        profile = np.where(phases, profile - base, 0.0)
        found.append(
            _Phases(
                between=(counts * profile**2).sum(axis=0),
                within=(deviations**2).sum(axis=(0, 1)),
                n_between=n_phases - (numbers > 0).sum(axis=0).astype(float),
                # the trend has taken a level from each season
                n_within=(total - n_phases) * (n_phases - 1.0) / n_phases,
                seasons=total / n_phases,
                rounding=ROUNDING * one.variance[usable],
                deviations=deviations.reshape(rows * period, -1),
                observed=seen.reshape(rows * period, -1),
                phases=phases,
            )
        )
    return found


def _best_evidence(ready: Sequence[_Series], period: int, seasons: int) -> Evidence:
    """Return the evidence at full resolution or, where there is more, at a coarse one, which has less noise."""
    found = _evidence(_usable(ready, period, seasons))
    factor = max(f for f in range(1, period + 1) if period % f == 0 and (f == 1 or period // f >= COARSE))
    if factor == 1:
        return found
    coarse = _evidence(_usable([_coarse(one, factor) for one in ready], period // factor, seasons))
    return found._replace(score=max(found.score, coarse.score))


def _coarse(one: _Series, factor: int) -> _Series:
    """Return the means of the observed values of every `factor` steps, counted from the end."""
    start = len(one.values) % factor
    values, observed = (x[start:].reshape(-1, factor, x.shape[1]) for x in (one.values, one.observed))
    counts = observed.sum(axis=1)
    return _Series(values.sum(axis=1) / np.maximum(counts, 1), counts > 0, one.variance)


def _moving_average(one: _Series, period: int) -> NDArray:
    """Return the centred moving average over a season; where little of one is observed, it is interpolated.

    The mean of observed values stands for the mean of their times: nights without values do not make a trend look like
    a season.
    """
    half, time = period // 2, len(one.values)
    mean = _window_sums(one.values, half, period)
    steps = np.arange(time)
    if one.observed.all():
        return (mean / period)[np.clip(steps - half, 0, len(mean) - 1)]
    count = _window_sums(one.observed, half, period)
    moment = _window_sums(steps[:, None] * one.observed, half, period)
    known = count >= ENOUGH * count.max(axis=0)
    trend = np.empty_like(one.values)
    for c in range(trend.shape[1]):
        k = known[:, c]
        trend[:, c] = np.interp(steps, moment[k, c] / count[k, c], mean[k, c] / count[k, c])
    return trend


def _window_sums(x: NDArray, half: int, period: int) -> NDArray:
    """Return the sums over a season about each step that has a whole one, both ends in half if it is even."""
    sums = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0)])
    total = sums[2 * half + 1 :] - sums[: -2 * half - 1]
    if period % 2 == 0:
        total = total - (x[: -2 * half] / 2 + x[2 * half :] / 2)
    return total


def _ratio(found: Sequence[_Phases]) -> float:
    """Return the variance of the seasons over that of what differs from season to season, 1 where there is none."""
    if not sum(one.n_between.sum() for one in found):
        return 0.0
    between, within, n_between, n_within = 0.0, 0.0, 0.0, 0.0
    for one in found:
        unit = (one.between + one.within) / (one.n_between + one.n_within) + one.rounding
        between += (one.between / unit).sum()
        within += (one.within / unit + one.rounding / unit * one.n_within).sum()
        n_between, n_within = n_between + one.n_between.sum(), n_within + one.n_within.sum()
    return float(between / n_between / (within / n_within))


def _evidence(found: Sequence[_Phases]) -> Evidence:
    ratio = _ratio(found)
    if not ratio:
        return NOTHING
    seasons = np.concatenate([one.seasons for one in found]).mean()
    freedom = float(np.mean([_freedom(one) for one in found])) * len(found) ** 0.5
    n_between, n_within = (sum(getattr(one, name).sum() for one in found) for name in ("n_between", "n_within"))
    # F -> standard normal, Wilson and Hilferty (Paulson 1942)
    a, b = 2 / (9 * freedom), 2 / (9 * freedom * n_within / n_between)
    root = ratio ** (1 / 3)
    return Evidence(((1 - b) * root - (1 - a)) / (b * root**2 + a) ** 0.5, max(ratio - 1, 0.0) / seasons)


def _freedom(one: _Phases) -> float:
    """Return the degrees of freedom of the shape of a season, the fewer the smoother what differs between seasons.

    S. W. Greenhouse and S. Geisser, "On methods in the analysis of profile data", Psychometrika 24 (1959), with the
    covariances of the phases taken from the autocovariances.
    """
    period = len(one.phases)
    size = 2 * len(one.deviations)
    covariance, pairs = (
        np.fft.irfft(np.abs(np.fft.rfft(x, size, axis=0)) ** 2, axis=0)[:period]
        for x in (one.deviations, one.observed.astype(float))
    )
    freedoms = []
    for cov, n, phases in zip(covariance.T, pairs.T, one.phases.T, strict=True):
        known = n > max(2.0, 0.05 * n[0])
        correlation = (cov / np.maximum(n, 1)) / max(cov[0] / n[0], 1e-300)
        square = np.clip(correlation**2 - 1 / np.maximum(n, 1), 0.0, 1.0)
        square[0] = 1.0
        lags = np.arange(period)
        square = np.interp(lags, lags[known], square[known])
        both = np.correlate(phases.astype(float), phases.astype(float), "full")[period - 1 :]
        both[1:] *= 2
        freedoms.append(phases.sum() ** 2 / (both * square).sum())
    return max(float(np.mean(freedoms)) - 1.0, 1.0)
