"""Errors that name the argument, what came, and the remedy."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from darts import TimeSeries

from birnn_forecast.data.history import dead_components


def check_choice(name: str, value: Any, choices: Iterable[str | None]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = list(choices)
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_integer(name: str, value: Any, minimum: int = 1) -> None:
    """Raise unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """Raise unless `value` is a number of at least 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a share of at least 0 and below 1, got {value!r}.")


def check_number(name: str, value: Any) -> None:
    """Raise unless `value` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
        raise ValueError(f"`{name}` must be a finite number >= 0, got {value!r}.")


def check_labels(series: Sequence[TimeSeries], first: int) -> None:
    """Raise unless some value from step `first` on, where a forecast may be asked for, is observed."""
    labels = [one.all_values(copy=False)[first:] for one in series if len(one) > first]
    if labels and all(np.isnan(values).all() for values in labels):  # too short a series is Darts' to report
        raise ValueError(
            f"`series` must have an observed value after its first {first} steps (the shortest input chunk and the "
            "shift), but there is nothing to learn from: shorten `input_chunk_length`."
        )


def check_weights(series: Sequence[TimeSeries], sample_weight: Sequence[TimeSeries] | str | None) -> None:
    """Raise unless every observed value has a finite weight, where there are any."""
    if sample_weight is None or isinstance(sample_weight, str):
        return
    for i, (one, weight) in enumerate(zip(series, sample_weight, strict=False)):  # Darts compares the numbers
        values, weights = one.slice_intersect_values(weight), weight.slice_intersect_values(one)
        if (~np.isfinite(weights) & ~np.isnan(values)).any():
            raise ValueError(
                f"`sample_weight[{i}]` must be finite wherever the target is observed, got NaN or an infinite value: "
                "use 0 for what should have no influence."
            )


def check_series(name: str, series: Sequence[TimeSeries] | None, needs_value: bool = False) -> None:
    """Raise unless all values are finite or NaN, with at least one value if `needs_value`."""
    series = series or ()
    for i, one in enumerate(series):
        which = f"`{name}`" if len(series) == 1 else f"`{name}[{i}]`"
        values = one.all_values(copy=False)
        if np.isinf(values).any():
            where = np.argwhere(np.isinf(values))[0]
            raise ValueError(
                f"{which} must be finite or NaN, got an infinite value in component "
                f"{one.components[where[1]]!r} at {one.time_index[where[0]]}; mark what is missing as NaN."
            )
        static = one.static_covariates_values(copy=False)
        if static is not None and np.issubdtype(static.dtype, np.number) and np.isinf(static).any():
            raise ValueError(f"The static covariates of {which} must be finite or NaN, got an infinite value.")
        if needs_value and np.isnan(values).all():
            raise ValueError(f"{which} must hold at least one observed value, but all of its {values.size} are NaN.")


def warn_of_dead_components(series: Sequence[TimeSeries], what: str, filled: bool) -> list[np.ndarray]:
    """Return for each series which components hold no observed value, and warn once that names them.

    Parameters
    ----------
    series
        The series.
    what
        What is made of them: "forecast" or "filled".
    filled
        Whether it is made all the same, from the other components.
    """
    dead = [dead_components(one.all_values(copy=False)[:, :, 0]) for one in series]
    found = [
        f"{name!r}" if len(series) == 1 else f"{name!r} of `series[{i}]`"
        for i, (one, none) in enumerate(zip(series, dead, strict=True))
        for name in np.array(one.components)[none]
    ]
    if found:
        names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        outcome = "from the other components alone" if filled else "as NaN"
        warnings.warn(f"Without any observed value, {what} {outcome}: {names}.", stacklevel=2)
    return dead
