"""Windows of a long series: where they start, what they hold, and how their estimates are blended."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def window_starts(n_steps: int, length: int, stride: int) -> NDArray[np.int64]:
    """Return the first steps of windows that overlap by ``length - stride``, the last one flush with the end.

    A series shorter than a window has one, which starts before the series (at a negative step).
    """
    last = n_steps - length
    return np.append(np.arange(0, max(last, 0), stride), last)


def spannable(length: int) -> int:
    """Return the longest gap that some window of `length` steps is sure to span, with an observation on either side."""
    return length - 1 - _grid(length)


def gap_starts(missing: np.ndarray, wanted: np.ndarray, starts: np.ndarray, length: int) -> NDArray[np.int64]:
    """Return the first steps of few further windows, so that each gap is seen as well as windows can.

    Some window spans it, from an observation before to one after; if it is longer than :func:`spannable`, some windows
    reach half their length into it from either side.

    Parameters
    ----------
    missing, wanted
        ``(time, components)``, True where a value is missing, and where an estimate is asked for.
    starts
        The first steps of the windows that there are.
    length
        Steps of a window.
    """
    steps, half, grid = len(missing), length // 2, _grid(length)
    last = steps - length
    if last <= 0:
        return np.empty(0, dtype=np.int64)
    ranges = []
    for column, asked in zip(missing.T, wanted.T, strict=True):
        for first, end in gaps(column):
            if not asked[first:end].any():
                continue
            if first > 0 and end < steps and end - first <= spannable(length):
                ranges.append((end - length + 1, first - 1))
                continue
            if first > 0:
                ranges.append((min(first - half, last), first - 1))
            if end < steps:
                ranges.append((end - length + 1, max(end - length + half, 0)))
    found, added = np.sort(starts).tolist(), [-1]
    for earliest, latest in sorted(ranges, key=lambda span: span[1]):
        before = bisect_right(found, latest)
        if (before and found[before - 1] >= earliest) or added[-1] >= max(earliest, 0):
            continue
        added.append(min(latest // grid * grid, last))
    return np.array(added[1:], dtype=np.int64)


def _grid(length: int) -> int:
    """Return the number of steps that the starts of further windows are multiples of: it bounds how many there are."""
    return max(length // 8, 1)


def cut(values: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Return the windows ``(window, length, ...)`` of ``values (time, ...)``; NaN stands before the series' start."""
    steps = np.asarray(starts)[:, None] + np.arange(length)
    windows = values[steps.clip(min=0)]
    if (steps < 0).any():
        windows = np.where((steps < 0).reshape(steps.shape + (1,) * (values.ndim - 1)), np.nan, windows)
    return windows


def triangle(length: int) -> NDArray[np.float64]:
    """Return a window's weights: highest in the middle, falling to its ends."""
    return np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)) / (length + 1) * 2


class Blend:
    """The weighted mean of what windows say about the same steps.

    Parameters
    ----------
    shape
        Time, components and values per component of the whole.
    """

    def __init__(self, shape: Sequence[int]):
        self.total = np.zeros(shape, dtype=np.float64)
        self.weight = np.zeros(shape[:-1], dtype=np.float64)

    def add(self, start: int, values: np.ndarray, weight: np.ndarray) -> None:
        """Add a window's values ``(time, components, n)`` with weights ``(time, components)``, padding left out."""
        ahead = max(-start, 0)
        span = slice(start + ahead, start + len(values))
        self.total[span] += values[ahead:] * weight[ahead:, :, None]
        self.weight[span] += weight[ahead:]

    def mean(self) -> np.ndarray:
        """Return the blended values, NaN where no window had a say."""
        with np.errstate(invalid="ignore"):
            return self.total / self.weight[:, :, None]


class Runs(NamedTuple):
    """Stretches of steps of single components, in order of components and time, each ``(stretch,)``.

    Attributes
    ----------
    component
        Which component.
    start, end
        The first step, and the one after the last.
    """

    component: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    def any(self, mask: np.ndarray) -> NDArray[np.bool_]:
        """Return for each stretch whether the mask ``(time, components)`` is True at any of its steps."""
        n_steps, n_components = mask.shape
        before = np.zeros(n_steps * n_components + 1, dtype=np.int64)
        np.cumsum(mask.T.ravel(), out=before[1:])
        first = self.component * n_steps
        return before[first + self.end] > before[first + self.start]

    def spread(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return ``(time, components)`` with a value of each stretch at its steps, 0 elsewhere."""
        n_steps, n_components = shape
        lengths = self.end - self.start
        first = self.component * n_steps + self.start
        # the steps of all stretches, counted through the components one after another
        steps = np.repeat(first - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
        out = np.zeros(n_steps * n_components, dtype=np.asarray(values).dtype)
        out[steps] = np.repeat(values, lengths)
        return out.reshape(n_components, n_steps).T


def runs(mask: np.ndarray) -> Runs:
    """Return the stretches of ``(time, components)`` that are True."""
    padded = np.zeros((mask.shape[1], len(mask) + 1), dtype=np.int8)
    padded[:, :-1] = mask.T
    edges = np.flatnonzero(np.diff(padded.ravel(), prepend=np.int8(0)))
    component, start = np.divmod(edges[::2], len(mask) + 1)
    return Runs(component, start, edges[1::2] - component * (len(mask) + 1))


def gap_lengths(missing: np.ndarray) -> NDArray[np.int64]:
    """Return for each missing value of ``(time, components)`` the length of its gap in steps, 0 where observed."""
    found = runs(missing)
    return found.spread(found.end - found.start, missing.shape)


def whole_gaps(missing: np.ndarray, wanted: np.ndarray) -> NDArray[np.bool_]:
    """Return ``(time, components)``, True at all steps of the gaps that something is wanted of."""
    found = runs(missing)
    return found.spread(found.any(wanted), missing.shape)


def gaps(missing: np.ndarray) -> NDArray[np.int64]:
    """Return the first step of each gap of one component and the step after its last, ``(gap, 2)``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]])))
    return edges.reshape(-1, 2)
