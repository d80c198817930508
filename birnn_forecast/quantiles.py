"""Components that are quantiles, told from names that only look like it."""

import re
from collections.abc import Iterable
from typing import Any

from darts.utils.likelihood_models.base import quantile_names

LEVEL = re.compile(r"_q(\d\.\d{3})$")


def quantile_levels(names: Iterable[Any], components: Iterable[Any]) -> list[float] | None:
    """Return the levels if `names` are the same quantiles of each of `components`, named as Darts does, else None."""
    names, components = list(map(str, names)), list(map(str, components))
    count, rest = divmod(len(names), max(len(components), 1))
    if rest or names == components:
        return None
    found = [LEVEL.search(name) for name in names[:count]]
    levels = [float(one[1]) for one in found if one]
    expected = [name for component in components for name in quantile_names(levels, component)]
    return levels if levels and names == expected else None


def levels_of_one(names: Iterable[Any], component: Any) -> list[float] | None:
    """Return the levels of the quantiles of one component, also of another name if there are several, else None.

    Names of univariate series do not matter; one component alone, however, may well have a name like a quantile's.
    """
    names = list(map(str, names))
    base = LEVEL.sub("", names[0]) if len(names) > 1 else component
    return quantile_levels(names, [base])
