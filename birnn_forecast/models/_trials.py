"""Further values to hide of a series, so that what estimates them is judged on gaps like the series' own."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from birnn_forecast.data.windows import Runs, runs

# gaps are told apart by their length in steps, up to these and above; those at either end of the series are a class
LENGTHS = (2, 6, 24)
OPEN = len(LENGTHS) + 1
N_CLASSES = OPEN + 1
# trials of a series, values and outages that are enough of a class, and steps times components to go through at most
MOST, VALUES, OUTAGES, WORK = 8, 400, 40, 200_000
# values to hide in one trial: as many as are missing of the class, at least a tenth of the observed ones, but no more
# than are enough, nor than a quarter
LEAST_SHARE, MOST_SHARE, PER_TRIAL = 0.1, 0.25, 20_000
# a class of no more outages than that is moved outage by outage
FEW = 20
GOLDEN = 0.6180339887498949


class Trial(NamedTuple):
    """The steps ``start`` to ``stop`` of a series, and which values to hide of them ``(stop - start, components)``."""

    start: int
    stop: int
    hidden: np.ndarray


def gap_classes(missing: np.ndarray) -> np.ndarray:
    """Return for each value ``(time, components)`` the class of the gap that it is in, 0 where it is observed."""
    found = runs(missing)
    classes = np.digitize(found.end - found.start, LENGTHS, right=True)
    classes = np.where((found.start == 0) | (found.end == len(missing)), OPEN, classes)
    return found.spread(classes, missing.shape)


def trials_of(missing: np.ndarray) -> list[Trial]:
    """Return trials: few of a long series, up to :data:`MOST` of each kind of a short one.

    Gaps inside are moved, outage by outage if there are few, else all together, to where the series is observed, in
    another place in each trial. Where no place holds them (every second value is missing, say), some of the observed
    stretches between them are hidden instead, as a whole or up to their middle. For gaps at an end, the series is cut
    off earlier, and as much is hidden there.
    """
    if not missing.any() or missing.all():
        return []
    classes = np.where(missing, gap_classes(missing), -1)
    present = np.bincount(classes[missing], minlength=N_CLASSES) > 0
    inside = [number for number in range(OPEN) if present[number]]
    trials: list[Trial] = []
    if inside:
        trials += _enough(_inside(missing, classes, inside), missing, inside)
    if present[OPEN]:
        trials += _enough(_open(missing), missing, [OPEN])
    return trials


def _enough(candidates: Iterator[Trial], missing: np.ndarray, numbers: list[int]) -> list[Trial]:
    """Return as many of the trials as are needed."""
    taken: list[Trial] = []
    values, outages, work = np.zeros(N_CLASSES), np.zeros(N_CLASSES), 0
    for trial in candidates:
        if trial.hidden.any():
            taken.append(trial)
            then = trial.hidden | missing[trial.start : trial.stop]
            kinds = gap_classes(then)
            values += np.bincount(kinds[trial.hidden], minlength=N_CLASSES)
            stretches = runs(trial.hidden)
            outages += np.bincount(kinds[stretches.start, stretches.component], minlength=N_CLASSES)
        work += trial.hidden.size
        if len(taken) >= MOST or work >= WORK or all(values[k] >= VALUES and outages[k] >= OUTAGES for k in numbers):
            break
    return taken


def _inside(missing: np.ndarray, classes: np.ndarray, numbers: list[int]) -> Iterator[Trial]:
    """Yield trials of gaps inside."""
    n = len(missing)
    for attempt in range(2 * MOST):
        hidden = np.zeros_like(missing)
        for number in reversed(numbers):
            before = hidden.copy() if len(numbers) > 1 else np.zeros_like(hidden)
            _move(hidden, missing, classes == number, attempt, len(numbers))
            if (hidden & ~before).sum() < min(_quota(missing, classes == number, len(numbers)) / 3, 20):
                _thin_out(hidden, missing, classes == number, attempt)
        _leave_half(hidden, missing)
        # what would lengthen a gap at an end of the series is no gap inside
        yield Trial(0, n, hidden & (gap_classes(hidden | missing) != OPEN))


def _quota(missing: np.ndarray, one_class: np.ndarray, n_classes: int) -> float:
    observed = (~missing).sum()
    most = observed * MOST_SHARE / n_classes
    return float(min(max(one_class.sum(), LEAST_SHARE * observed), PER_TRIAL, most))


def _move(hidden: np.ndarray, missing: np.ndarray, one_class: np.ndarray, attempt: int, n_classes: int) -> None:
    """Hide gaps of one class where the series is observed."""
    quota = _quota(missing, one_class, n_classes)
    found = runs(one_class)
    outages, of_outage = np.unique(np.stack([found.start, found.end]), axis=1, return_inverse=True)
    if outages.shape[1] > FEW:
        _move_together(hidden, missing, one_class, attempt, quota)
        return
    order = np.random.default_rng(attempt).permutation(outages.shape[1])
    for turn in range(FEW):
        number = order[turn % len(order)]
        start, end = outages[:, number]
        columns = found.component[of_outage.ravel() == number]
        if not _place(hidden, missing, columns, end - start, attempt + turn * 3) or _count(hidden, missing) >= quota:
            break


def _count(hidden: np.ndarray, missing: np.ndarray) -> int:
    return int((hidden & ~missing).sum())


def _place(hidden: np.ndarray, missing: np.ndarray, columns: np.ndarray, length: int, attempt: int) -> bool:
    """Hide so many steps of some components where they are observed; fewer if there is no such place."""
    gone = (missing | hidden)[:, columns].mean(axis=1)
    total = np.concatenate([[0.0], np.cumsum(gone)])
    length = min(length, max(int((len(missing) - total[-1]) / 2), 1))
    while length >= 1:
        first = np.arange(1, len(missing) - length)
        share = (total[first + length] - total[first]) / length
        places = first[(share <= 0.2) & (gone[first - 1] < 1) & (gone[first + length] < 1)]
        if len(places):
            start = places[int(((attempt + 0.5) * GOLDEN) % 1 * len(places))]
            hidden[start : start + length, columns] |= ~missing[start : start + length, columns]
            return True
        length //= 2
    return False


def _move_together(hidden: np.ndarray, missing: np.ndarray, one_class: np.ndarray, attempt: int, quota: float) -> None:
    """Hide a share of the gaps of one class, all moved by the same distance."""
    n = len(missing)
    distance = int(((attempt + 0.8) * GOLDEN) % 1 * n)
    # periodic gaps fall on themselves when moved by a multiple of their period
    tried = [np.roll(one_class, distance + further, axis=0) for further in (0, 1, 5)]
    moved = max(tried, key=lambda one: (one & ~missing).sum())
    found = runs(moved)
    # side by side, two would be one longer gap: a moved one beside another moved one does not count, one beside a gap
    # of the series only if there are enough others
    free = ~_touches(found, hidden)
    alone = free & ~_touches(found, missing)
    lengths = found.end - found.start
    if lengths[alone].sum() >= quota / 3:
        free = alone
    # gaps that start together are one outage: taken or left together
    taken = np.random.default_rng(attempt).random(n) < quota / max(lengths[free].sum(), 1)
    hidden |= found.spread(free & taken[found.start], missing.shape) & ~missing


def _touches(stretches: Runs, mask: np.ndarray) -> np.ndarray:
    """Return for each stretch whether the mask is True in it or beside it."""
    wider = stretches._replace(start=np.maximum(stretches.start - 1, 0), end=np.minimum(stretches.end + 1, len(mask)))
    return wider.any(mask)


def _thin_out(hidden: np.ndarray, missing: np.ndarray, one_class: np.ndarray, attempt: int) -> None:
    """Hide every third stretch of what is observed beside gaps of a class, or the half of it beside the gap."""
    observed = runs(~missing)
    inside = (observed.start > 0) & (observed.end < len(missing))
    component, start, end = (part[inside] for part in observed)
    if not len(start):
        return
    beside = one_class[start - 1, component] | one_class[end, component]
    # counted, and drawn, for each component alike: their order is of no consequence
    turn = np.arange(len(start)) - np.searchsorted(component, component) + attempt
    few = 0.1 * PER_TRIAL / len(start)
    taken = beside & (turn % 3 == 0) & (np.random.default_rng(attempt).random(len(missing))[start] < few)
    length = end - start
    whole = length <= 2
    first_half = (turn // 3 + attempt) % 2 == 0
    cut = np.maximum(length // 2, 1)
    left = np.where(whole | first_half, start, end - cut)
    right = np.where(whole | ~first_half, end, start + cut)
    part = observed._replace(start=left[taken], end=right[taken], component=component[taken])
    hidden |= part.spread(np.ones(taken.sum(), dtype=bool), missing.shape)


def _leave_half(hidden: np.ndarray, missing: np.ndarray) -> None:
    """Take back what is more than half of a component."""
    hidden &= ~missing
    hidden &= hidden.cumsum(axis=0) <= (~missing).sum(axis=0) // 2


def _open(missing: np.ndarray) -> Iterator[Trial]:
    """Yield trials of gaps at the end, then of those at the beginning."""
    ends = list(_silent_ends(missing))
    starts = [
        Trial(len(missing) - one.stop, len(missing) - one.start, one.hidden[::-1])
        for one in _silent_ends(missing[::-1])
    ]
    for pair in zip_longest(ends, starts):
        yield from (one for one in pair if one is not None)


def _silent_ends(missing: np.ndarray) -> Iterator[Trial]:
    n = len(missing)
    silent = np.argmax(~missing[::-1], axis=0) * (~missing).any(axis=0)  # steps of silence at the end
    if not silent.any():
        return
    longest = int(silent.max())
    last = n - longest  # up to here, what is missing has other reasons
    length = min(longest, max(last // 3, 1))
    pattern = np.arange(length)[:, None] >= length - np.minimum(silent, length)
    step = max(length // 2, 1)
    for attempt in range(2 * MOST):
        stop = last - attempt * step
        if stop - length < max(length, last // 3, 2):
            break
        start = max(stop - max(10 * length, 10_000), 0)
        hidden = np.zeros((stop - start, missing.shape[1]), dtype=bool)
        hidden[-length:] = pattern & ~missing[stop - length : stop]
        hidden &= 2 * hidden.sum(axis=0) <= (~missing[start:stop]).sum(axis=0)
        yield Trial(start, stop, hidden)
