"""Errors that name the argument, what came, and the remedy."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from darts import TimeSeries


def check_choice(name: str, value: Any, choices: Iterable[str | None]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = list(choices)
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_integer(name: str, value: Any, minimum: int = 1) -> None:
    """Raise unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}, got {value!r}.")


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
