"""Windows of a long series: where they start, what they hold, and how their estimates are blended."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# a value that a window sees from one side only, or not at all, has a say only where no window sees it from both
ONE_SIDED = 1e-6


def window_starts(n_steps: int, length: int, stride: int) -> NDArray[np.int64]:
    """Return the first steps of windows that overlap by ``length - stride``, the last one flush with the end.

    A series shorter than a window has one, which starts before the series (at a negative step).
    """
    last = n_steps - length
    return np.append(np.arange(0, max(last, 0), stride), last)


def gap_starts(missing: np.ndarray, length: int, stride: int) -> NDArray[np.int64]:
    """Return the first steps of windows centred on the gaps that windows every `stride` steps may not span.

    `missing` is ``(time, components)``. Where a gap is longer than a window, this one lies within it.
    """
    last = len(missing) - length
    if last <= 0:
        return np.empty(0, dtype=np.int64)
    found = {
        int(np.clip((start + end - length) // 2, 0, last))
        for column in missing.T
        for start, end in gaps(column)
        if end - start >= length - stride
    }
    return np.array(sorted(found), dtype=np.int64)


def say(before: np.ndarray, after: np.ndarray) -> NDArray[np.float64]:
    """Return how much a window's estimates count, by the steps to the observations before and after in the window.

    1 with observations on both sides (or of an observed value); with one, the less the farther it is; with none, as
    little as with one that is a window away. No observation is a negative number of steps.
    """
    length = len(before)
    sides = (before >= 0).astype(int) + (after >= 0)
    nearest = np.where(before >= 0, before, after)
    return np.where(sides == 2, 1.0, ONE_SIDED / np.where(sides == 1, np.maximum(nearest, 1), length))


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


def gap_lengths(missing: np.ndarray) -> NDArray[np.int64]:
    """Return for each missing value of ``(time, components)`` the length of its gap in steps, 0 where observed."""
    lengths = np.zeros(missing.shape, dtype=np.int64)
    for component, column in enumerate(missing.T):
        for start, end in gaps(column):
            lengths[start:end, component] = end - start
    return lengths


def gaps(missing: np.ndarray) -> NDArray[np.int64]:
    """Return the first step of each gap of one component and the step after its last, ``(gap, 2)``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]])))
    return edges.reshape(-1, 2)
