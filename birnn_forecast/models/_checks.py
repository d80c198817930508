"""Values of options, checked: errors name the argument, what came, and the remedy."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def check_choice(name: str, value: Any, choices: Iterable[str | None]) -> None:
    """Raise unless `value` is one of `choices`."""
    choices = list(choices)
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_integer(name: str, value: Any, minimum: int = 1) -> None:
    """Raise unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}, got {value!r}.")


def check_share(name: str, value: Any, above: bool = False) -> None:
    """Raise unless `value` is a number of at least 0, or above it, and below 1."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 <= value < 1 or (above and value == 0):
        least = "above 0" if above else "of at least 0"
        raise ValueError(f"`{name}` must be a share {least} and below 1, got {value!r}.")


def check_number(name: str, value: Any, positive: bool = False) -> None:
    """Raise unless `value` is a finite number of at least 0, or above it."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 <= value < np.inf or (positive and value == 0):
        raise ValueError(f"`{name}` must be a finite number {'> 0' if positive else '>= 0'}, got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")


def check_norm(value: Any, keys: Iterable[str]) -> None:
    """Raise unless `value` is one for ``use_reversible_instance_norm``, as a dictionary with (some of) `keys`."""
    name, keys = "use_reversible_instance_norm", list(keys)
    if not isinstance(value, Mapping):
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"`{name}` must be True, False or a dictionary of its options, got {value!r}.")
        return
    if not value.keys() <= {*keys}:
        raise ValueError(f"`{name}` takes {' and '.join(map(repr, keys))} as keys, got {[*value]}.")
    for key, option in value.items():
        which = f"{name}[{key!r}]"
        if key == "affine":
            check_flag(which, option)
        else:
            check_number(which, option, positive=key == "prior")
