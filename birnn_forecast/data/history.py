"""What level and scale has a series shown up to some step? A window that shows too little of its own borrows them.

Everything here is per series and component, so that no series takes its unit from another one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 16_384
"""Steps that are looked at together: the memory needed does not grow with the length of a series."""


FEWEST = 10
"""Steps that two columns must share to learn from each other."""


class Moments(NamedTuple):
    """Mean and standard deviation of what was observed, NaN where that is nothing; in the unit of the series."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]


class History:
    """Level and scale of a series' components, overall and lately, up to any step.

    Parameters
    ----------
    values
        ``(time, components)``, NaN where missing.
    recent
        Number of observed values that "lately" means.
    often
        Whether many steps will be asked for: sums over the whole series are then kept.
    """

    def __init__(self, values: np.ndarray, recent: int, often: bool = True):
        self.values, self.recent, self.often = values, recent, often
        self._sums: list[_Sums] | None = None

    def until(self, ends: NDArray[np.int64]) -> Moments:
        """Return the moments of all values before each of the steps `ends`, each ``(ends, components)``."""
        if not self.often:
            return _stacked([moments(self.values[:end]) for end in ends.tolist()])
        return self._from_sums(ends, None)

    def lately(self, ends: NDArray[np.int64]) -> Moments:
        """Return the moments of the last `recent` observed values before each of `ends`, ``(ends, components)``."""
        if not self.often:
            return _stacked([moments(self._last_values(end)) for end in ends.tolist()])
        return self._from_sums(ends, self.recent)

    def _from_sums(self, ends: NDArray[np.int64], recent: int | None) -> Moments:
        if self._sums is None:
            self._sums = [_Sums.of(column) for column in self.values.T]
        columns = zip(*(sums.moments(ends, recent) for sums in self._sums), strict=True)
        return Moments(*(np.stack(each, axis=1) for each in columns))

    def _last_values(self, end: int) -> np.ndarray:
        """Return the last `recent` observed values of each component before `end`, NaN in front of fewer."""
        last = np.full((self.recent, self.values.shape[1]), np.nan, dtype=self.values.dtype)
        lacking = np.full(self.values.shape[1], self.recent)
        size = self.recent
        while end > 0 and lacking.any():
            start = max(end - size, 0)
            block = self.values[start:end]
            for c in np.flatnonzero(lacking):
                found = block[:, c][~np.isnan(block[:, c])][-lacking[c] :]
                last[lacking[c] - len(found) : lacking[c], c] = found
                lacking[c] -= len(found)
            end, size = start, min(2 * size, BLOCK)
        return last


def _stacked(each: list[Moments]) -> Moments:
    return Moments(*(np.stack(values) for values in zip(*each, strict=True)))


class _Sums(NamedTuple):
    """Running sums over the observed values of one component, counted from their mean."""

    steps: NDArray[np.int64]
    center: float
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    eps: float

    @classmethod
    def of(cls, column: np.ndarray) -> "_Sums":
        steps = np.flatnonzero(~np.isnan(column))
        x = column[steps].astype(np.float64)
        center = x.mean() if len(x) else 0.0
        x -= center
        total, squares = (np.concatenate([[0.0], np.cumsum(each)]) for each in (x, np.square(x)))
        return cls(steps, float(center), total, squares, float(np.finfo(column.dtype).eps))

    def moments(self, ends: NDArray[np.int64], recent: int | None) -> tuple[np.ndarray, np.ndarray]:
        last = np.searchsorted(self.steps, ends)
        first = np.zeros_like(last) if recent is None else np.maximum(last - recent, 0)
        count = np.where(last > first, last - first, np.nan)
        mean = (self.total[last] - self.total[first]) / count
        square = (self.squares[last] - self.squares[first]) / count
        variance = square - np.square(mean)
        # the difference of large sums may be nothing but their rounding
        rounding = 1e-14 * (self.squares[last] / count + np.square(mean))
        variance = np.where(variance > rounding, variance, 0.0)
        return self.center + mean, _scale(self.center + mean, variance, self.eps)


def moments(values: np.ndarray) -> Moments:
    """Return mean and standard deviation of what is observed in each column, block by block (Chan et al. 1983)."""
    count = np.zeros(values.shape[1])
    mean, squares = np.zeros((2, values.shape[1]))
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK].astype(np.float64)
        observed = ~np.isnan(block)
        n = observed.sum(axis=0)
        total = count + n
        with np.errstate(invalid="ignore", divide="ignore"):
            center = np.where(n > 0, np.where(observed, block, 0.0).sum(axis=0) / n, 0.0)
            step = center - mean
            share = np.where(total > 0, n / total, 0.0)
        squares += np.square(np.where(observed, block - center, 0.0)).sum(axis=0) + np.square(step) * count * share
        mean += step * share
        count = total
    nothing = count == 0
    variance = squares / np.maximum(count, 1)
    mean = np.where(nothing, np.nan, mean)
    return Moments(mean, _scale(mean, variance, float(np.finfo(values.dtype).eps)))


def completed_moments(values: np.ndarray) -> Moments:
    """Return the moments that columns would have without gaps, as far as the other columns tell.

    A sensor that was out in the coldest week has a mean that is too high, by what its neighbours show: these are the
    regression estimators of two-phase sampling (Cochran 1977, chapter 12). The auxiliary variable of a column is the
    mean of the other columns, each in its own unit and weighted by its correlation. Whole columns and single ones are
    as in :func:`moments`.
    """
    found = moments(values)
    observed = ~np.isnan(values)
    if values.shape[1] < 2 or observed.all():
        return found
    unit = np.where(found.scale > 0, found.scale, 1.0)
    z = np.where(observed, (values - found.mean) / unit, 0.0)
    seen = observed.astype(np.float64)
    together = seen.T @ seen
    related = np.where(together >= FEWEST, z.T @ z / np.maximum(together, 1), 0.0)
    np.fill_diagonal(related, 0.0)
    weights = seen @ np.abs(related)
    told = weights > 0
    told_by_others = z @ related / np.where(told, weights, 1.0)
    mean, scale = found.mean.copy(), found.scale.copy()
    for c in np.flatnonzero(observed.any(axis=0) & ~observed.all(axis=0)):
        both = told[:, c] & observed[:, c]
        n = int(both.sum())
        if n < FEWEST:
            continue
        u, shared, own = told_by_others[told[:, c], c], told_by_others[both, c], z[both, c]
        covariance = np.mean((shared - shared.mean()) * (own - own.mean()))
        spread, spread_own = shared.var(), own.var()
        if spread <= 0 or spread_own <= 0:
            continue
        # of a weak relation nothing is left: the shrunken slope of James and Stein
        share = covariance**2 / (spread * spread_own)
        slope = covariance / spread * max(0.0, 1 - (1 - share) / max(share * (n - 2), 1e-12))
        mean[c] += unit[c] * slope * (u.mean() - shared.mean())
        change = 1 + slope**2 * (u.var() - spread) / spread_own
        scale[c] *= np.sqrt(np.clip(change, 0.25, 4.0))
    return Moments(mean, scale)


def _scale(mean: np.ndarray, variance: np.ndarray, eps: float) -> np.ndarray:
    """Return the standard deviation, 0 where it is no more than the rounding of equal values."""
    scale = np.sqrt(np.maximum(variance, 0.0))
    scale = np.where(scale > 8 * eps * np.abs(mean), scale, 0.0)
    return np.where(np.isnan(mean), np.nan, scale)


def packed(overall: Moments, lately: Moments) -> NDArray[np.float64]:
    """Return both as ``(..., 4, components)``: mean and scale overall, then lately."""
    return np.stack([*overall, *lately], axis=-2)


def dead_components(values: np.ndarray) -> NDArray[np.bool_]:
    """Return which columns hold no observed value, looking no further than needed."""
    dead = np.ones(values.shape[1], dtype=bool)
    for start in range(0, len(values), BLOCK):
        dead &= np.isnan(values[start : start + BLOCK]).all(axis=0)
        if not dead.any():
            break
    return dead


def pooled_over_components(history: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give components without any value what the others of ``(..., 4, components)`` have in common."""
    if not np.isnan(history).any():
        return history
    found = []
    for first in (0, 2):
        mean, scale = history[..., first, :], history[..., first + 1, :]
        seen = ~np.isnan(mean)
        count = np.maximum(seen.sum(axis=-1, keepdims=True), 1)
        level = np.where(seen, mean, 0.0).sum(axis=-1, keepdims=True) / count
        square = np.where(seen, np.square(scale) + np.square(mean - level), 0.0).sum(axis=-1, keepdims=True) / count
        some = seen.any(axis=-1, keepdims=True)
        found += [np.where(seen | ~some, mean, level), np.where(seen | ~some, scale, np.sqrt(square))]
    return np.stack(found, axis=-2)
