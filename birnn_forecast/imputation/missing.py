"""Further observed values of a series hidden in a chosen pattern, to see how well they are filled in again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from darts import TimeSeries

from birnn_forecast.checks import check_series, series_list
from birnn_forecast.models._checks import check_choice, check_integer, check_share

BLOCK_LENGTHS = {"blocks": (12, 48), "blackout": (6, 24)}
MOST_TRIES = 10_000  # misses in a row before it is said that the blocks do not fit


@dataclass
class _Case:
    """What a pattern is drawn from; `observed` has the shape ``(time, components)``."""

    observed: np.ndarray
    components: list[str]
    rate: float
    lengths: tuple[int, int]
    donors: list[np.ndarray]  # masks ``(time, components)``, True = missing
    rng: np.random.Generator


@overload
def make_missing(series: TimeSeries, *args, **kwargs) -> TimeSeries: ...
@overload
def make_missing(series: Sequence[TimeSeries], *args, **kwargs) -> list[TimeSeries]: ...
def make_missing(
    series: TimeSeries | Sequence[TimeSeries],
    pattern: str = "points",
    rate: float = 0.25,
    random_state: int | None = None,
    *,
    block_length: int | tuple[int, int] | None = None,
) -> TimeSeries | list[TimeSeries]:
    """Hide observed values of a series, or of several, in a chosen pattern.

    Parameters
    ----------
    series
        One series or several, deterministic; may have gaps.
    pattern
        "points": single values, independently of each other.
        "blocks": outages of each component, independently of the other components.
        "blackout": outages of all components together.
        "tail": the last steps of all components.
        "native": the gaps that the series has, moved by a random number of steps, again until enough is hidden. A
        component without gaps takes those of another; of several series, each may take those of another.
    rate
        Share to hide, above 0 and below 1: of the observed values of each component for "points" and "blocks", of the
        observed values of the series for "blackout" and "native", of the steps for "tail". The last block is hidden
        whole, so that "blocks" and "blackout" exceed the share by less than a block. Each component keeps at least one
        of its values.
    random_state
        Seed; the same one hides the same values.
    block_length
        Length of an outage in steps, or the shortest and the longest between which it is drawn. Default: 12 to 48 for
        "blocks", 6 to 24 for "blackout".

    Returns
    -------
    TimeSeries or list of TimeSeries
        The series with NaN for what is hidden; all else is kept.

    Raises
    ------
    ValueError
        If an argument is out of its range, a series is stochastic, infinite or has no observed value, the blocks do
        not fit, the share is too small to hide anything, or "native" finds no gaps.
    """
    check_choice("pattern", pattern, PATTERNS)
    check_share("rate", rate, above=True)
    lengths = _lengths(pattern, block_length)
    many = series_list("series", series)
    check_series("series", many, deterministic=True)
    missing = [np.isnan(one.values(copy=False)) for one in many]
    rng = np.random.default_rng(random_state)
    out = []
    for i, one in enumerate(many):
        donors = [gaps for gaps in missing if gaps.shape[1] == one.n_components and (gaps.any(0) & ~gaps.all(0)).any()]
        case = _Case(~missing[i], [*map(str, one.components)], float(rate), lengths, donors, rng)
        _check_case(case, pattern, i)
        hidden = PATTERNS[pattern](case)
        if not hidden.any():
            raise ValueError(
                f"`rate` must hide at least one value, but {rate} of the {case.observed.sum()} observed values of "
                f"`series[{i}]` does not with the pattern {pattern!r}: raise it."
            )
        values = one.values(copy=True)
        values[hidden] = np.nan
        out.append(one.with_values(values))
    return out[0] if isinstance(series, TimeSeries) else out


def _lengths(pattern: str, block_length: int | tuple[int, int] | None) -> tuple[int, int]:
    if block_length is None:
        return BLOCK_LENGTHS.get(pattern, (1, 1))
    if pattern not in BLOCK_LENGTHS:
        raise ValueError(f"`block_length` goes with the patterns 'blocks' and 'blackout', not with {pattern!r}.")
    ends = tuple(block_length) if isinstance(block_length, tuple | list) else (block_length, block_length)
    for end in ends:
        check_integer("block_length", end)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(f"`block_length` must be a length or (shortest, longest), got {block_length!r}.")
    return ends


def _check_case(case: _Case, pattern: str, number: int) -> None:
    steps = len(case.observed)
    if not case.observed.any():
        raise ValueError(f"`series[{number}]` must hold observed values to hide, but all of its {steps} steps are NaN.")
    if case.lengths[1] > steps:
        raise ValueError(
            f"`block_length` must be at most the {steps} steps of `series[{number}]`, got {case.lengths}: "
            "choose shorter blocks."
        )
    if pattern == "native" and not case.donors:
        raise ValueError(
            f"`pattern='native'` needs gaps to transplant, but neither `series[{number}]` nor another series of "
            f"{case.observed.shape[1]} components has any: choose 'points', 'blocks' or 'blackout'."
        )


def _points(case: _Case) -> np.ndarray:
    hidden = np.zeros_like(case.observed)
    for component, observed in enumerate(case.observed.T):
        steps = np.flatnonzero(observed)
        count = min(round(case.rate * len(steps)), len(steps) - 1)
        if count > 0:
            hidden[case.rng.choice(steps, count, replace=False), component] = True
    return hidden


def _blocks(case: _Case) -> np.ndarray:
    columns = range(case.observed.shape[1])
    return np.concatenate([_outages(case, slice(column, column + 1)) for column in columns], axis=1)


def _blackout(case: _Case) -> np.ndarray:
    return _outages(case, slice(None))


def _outages(case: _Case, columns: slice) -> np.ndarray:
    """Hide blocks of these components, all together, until the share of their values is hidden."""
    visible = case.observed[:, columns].copy()
    left = visible.sum(axis=0)
    goal = round(case.rate * left.sum())
    seen = np.flatnonzero(visible.any(axis=1))
    misses = 0
    while goal > 0:
        length = case.rng.integers(*case.lengths, endpoint=True)
        start = case.rng.integers(max(0, seen[0] - length + 1), min(seen[-1], len(visible) - length), endpoint=True)
        block = visible[start : start + length]
        count = block.sum(axis=0)
        if not count.any() or ((count == left) & (left > 0)).any():
            misses += 1
            if misses > MOST_TRIES:
                raise ValueError(
                    f"Blocks of {case.lengths} steps cannot hide a share of {case.rate} of the components "
                    f"{case.components[columns]} and leave a value of each: shorten `block_length` or lower `rate`."
                )
            continue
        block[:] = False
        left = left - count
        goal -= count.sum()
        misses = 0
    return case.observed[:, columns] & ~visible


def _tail(case: _Case) -> np.ndarray:
    hidden = case.observed.copy()
    hidden[: len(hidden) - max(1, round(case.rate * len(hidden)))] = False
    emptied = case.observed.any(axis=0) & (hidden == case.observed).all(axis=0)
    if emptied.any():
        name = case.components[int(emptied.argmax())]
        raise ValueError(
            f"`rate` must leave an observed value of each component, but {name!r} has none before the last "
            f"{case.rate:.0%} of the steps: lower it."
        )
    return hidden


def _native(case: _Case) -> np.ndarray:
    visible = case.observed.copy()
    goal = round(case.rate * visible.sum())
    misses = 0
    while goal > 0:
        hidden = visible & _transplant(case)
        hidden[:, (hidden == visible).all(axis=0)] = False  # would leave nothing of the component
        misses = 0 if hidden.any() else misses + 1
        if misses > MOST_TRIES:
            raise ValueError(
                f"The gaps of the series cannot hide a share of {case.rate} of the components {case.components} and "
                "leave a value of each: lower `rate`."
            )
        if hidden.sum() > goal:
            # only so many steps of it, from anywhere on
            turn = int(case.rng.integers(len(hidden)))
            before = np.roll(hidden.sum(axis=1), -turn).cumsum()
            enough = np.roll(np.concatenate([[0], before[:-1]]) >= goal, turn)
            hidden[enough] = False
        visible &= ~hidden
        goal -= hidden.sum()
    return case.observed & ~visible


def _transplant(case: _Case) -> np.ndarray:
    """Return the gaps of a random donor, moved in time, as a mask of the series' shape."""
    steps = len(case.observed)
    donor = case.donors[case.rng.integers(len(case.donors))]
    donor = np.roll(donor, case.rng.integers(len(donor)), axis=0)
    mask = np.resize(donor, (steps, donor.shape[1]))
    usable = np.flatnonzero(donor.any(axis=0) & ~donor.all(axis=0))
    for column in np.setdiff1d(np.arange(donor.shape[1]), usable):
        mask[:, column] = mask[:, case.rng.choice(usable)]
    return mask


PATTERNS: dict[str, Callable[[_Case], np.ndarray]] = {
    "points": _points,
    "blocks": _blocks,
    "blackout": _blackout,
    "tail": _tail,
    "native": _native,
}
