"""Which component of a caller's series is which of training? Names decide, wherever the training series share them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from darts import TimeSeries

from birnn_forecast.data.batches import Order

Names = tuple[str, ...]


class TrainingNames(NamedTuple):
    """Names of the components that a model was fitted on, in its order.

    None stands for nothing to go by: a single component, whose name does not matter, or series of different names,
    whose components are told apart by their place.
    """

    series: Names | None = None
    past_covariates: Names | None = None
    future_covariates: Names | None = None
    static_covariates: Names | None = None

    @classmethod
    def of(
        cls,
        series: Sequence[TimeSeries],
        past_covariates: Sequence[TimeSeries] | None,
        future_covariates: Sequence[TimeSeries] | None,
        considers_static: bool,
    ) -> "TrainingNames":
        """Return the names that training series share."""
        return cls(
            _shared(map(names_of, series)),
            _shared(map(names_of, past_covariates or ())),
            _shared(map(names_of, future_covariates or ())),
            _shared(map(static_names_of, series)) if considers_static else None,
        )

    def order(
        self,
        series: TimeSeries,
        past_covariates: TimeSeries | None,
        future_covariates: TimeSeries | None,
        which: str,
        targets: bool = True,
    ) -> Order | None:
        """Return where the components of training stand in these series, None if all are in order.

        Parameters
        ----------
        series, past_covariates, future_covariates
            The caller's.
        which
            What is added to the names of the arguments in errors, such as "[3]".
        targets
            Whether the target's components must be those of training.

        Raises
        ------
        ValueError
            If the names of some argument are others than in training.
        """
        found = Order(
            _places(f"`series{which}`", "components", self.series, names_of(series)) if targets else None,
            _places(f"`past_covariates{which}`", "components", self.past_covariates, names_of(past_covariates)),
            _places(f"`future_covariates{which}`", "components", self.future_covariates, names_of(future_covariates)),
            _places(f"`series{which}`", "static covariates", self.static_covariates, static_names_of(series)),
        )
        return None if all(places is None for places in found) else found

    def sorted(
        self,
        series: TimeSeries,
        past_covariates: TimeSeries | None,
        future_covariates: TimeSeries | None,
        which: str = "",
        targets: bool = True,
    ) -> tuple[TimeSeries, TimeSeries | None, TimeSeries | None]:
        """Return the series with their components in the order of training; errors as in :meth:`order`."""
        order = self.order(series, past_covariates, future_covariates, which, targets)
        if order is None:
            return series, past_covariates, future_covariates
        if order.static_covariates is not None:
            table = series.static_covariates
            series = series.with_static_covariates(table[table.columns[order.static_covariates]])
        return (
            in_places(series, order.target),
            None if past_covariates is None else in_places(past_covariates, order.past_covariates),
            None if future_covariates is None else in_places(future_covariates, order.future_covariates),
        )


def in_places(series: TimeSeries, places: np.ndarray | None) -> TimeSeries:
    """Return the series with the components that stand at `places`, in this order."""
    return series if places is None else series[[str(series.components[place]) for place in places]]


def names_of(series: TimeSeries | None) -> Names:
    """Return the names of a series' components."""
    return () if series is None else tuple(map(str, series.components))


def static_names_of(series: TimeSeries) -> Names:
    """Return the names of a series' static covariates."""
    return () if series.static_covariates is None else tuple(map(str, series.static_covariates.columns))


def _shared(names: "map[Names]") -> Names | None:
    """Return the first names if all others are the same in some order, and there are several."""
    first, *others = [*names] or [()]
    if len(first) < 2 or any({*other} != {*first} for other in others):
        return None
    return first


def _places(which: str, what: str, expected: Names | None, given: Names) -> np.ndarray | None:
    if expected is None or given == expected or not given:
        return None
    if len(given) != len(expected):  # how many there must be is said elsewhere
        return None
    if {*given} != {*expected}:
        raise ValueError(
            f"{which} must have the {what} that the model was fitted on ({_listed(expected)}), in any order, got "
            f"{_listed(given)}: rename them."
        )
    place = {name: number for number, name in enumerate(given)}
    return np.array([place[name] for name in expected])


def _listed(names: Names) -> str:
    return ", ".join(map(repr, names))
