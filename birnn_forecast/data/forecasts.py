"""Forecasts as time series, those that Darts would make one by one, with what they share made once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.utils.timeseries_generation import _build_forecast_series_from_schema
from darts.utils.utils import generate_index


def forecast_series(
    forecasts: Iterable[tuple[np.ndarray, dict[str, Any], Any]],
    indices: "Indices",
    component_names: Callable | None = None,
) -> list[TimeSeries]:
    """Return the forecasts as series, equal to Darts'.

    Parameters
    ----------
    forecasts
        Values ``(time, components, samples)``, schema of the target series and first time of each.
    indices
        Their time indices.
    component_names
        Names of the parameters of a likelihood for those of the components, if these were predicted.
    """
    made: dict[Any, TimeSeries] = {}
    series = []
    for values, schema, start in forecasts:
        static, hierarchy = schema["static_covariates"], schema["hierarchy"]
        # what Darts checks and converts when it makes a series hangs on these
        key = (tuple(schema["columns"]), schema["time_freq"], schema["time_name"], id(static))
        like = made.get(key) if hierarchy is None else None
        if like is None or len(like) != len(values):
            one = _build_forecast_series_from_schema(
                values, schema, start, component_names is not None, component_names
            )
            made[key] = one
        else:
            one = TimeSeries.__new__(TimeSeries)
            one.__dict__.update(like.__dict__)
            one._time_index = indices.get(schema["time_freq"], schema["time_name"], start)
            one._values = values
            one._attrs = {**like._attrs, "metadata": schema["metadata"]}
        series.append(one)
    return series


class Indices:
    """The time indices of forecasts: cut from a long one per frequency, where that saves making them.

    Parameters
    ----------
    schemas, starts
        Schema of the target series and first time of each forecast.
    length
        Number of steps of all forecasts.
    """

    def __init__(self, schemas: Sequence[dict[str, Any]], starts: Sequence[Any], length: int):
        self.length = length
        self.made: dict[tuple[Any, Any, Any], pd.Index] = {}
        groups: dict[tuple[Any, Any], set[Any]] = {}
        for schema, start in zip(schemas, starts, strict=True):
            groups.setdefault((schema["time_freq"], schema["time_name"]), set()).add(start)
        for (freq, name), found in groups.items():
            if len(found) > 1 and isinstance(freq, pd.DateOffset):
                self._cut(freq, name, sorted(found))

    def _cut(self, freq: pd.DateOffset, name: Any, starts: list[pd.Timestamp]) -> None:
        first, last = starts[0], starts[-1]
        step = first + freq - first
        # far apart, most of a long index would be of no use
        if (last - first) / step > 10 * len(starts):
            return
        steps = len(pd.date_range(first, last, freq=freq))
        index = generate_index(first, freq=freq, length=steps + self.length, name=name)
        for start, place in zip(starts, index.get_indexer(pd.Index(starts)).tolist(), strict=True):
            if place >= 0 and place + self.length <= len(index):
                self.made[freq, name, start] = index[place : place + self.length]

    def get(self, freq: Any, name: Any, start: Any) -> pd.Index:
        """Return the index of the forecast from `start`."""
        key = (freq, name, start)
        if key not in self.made:
            self.made[key] = generate_index(start, freq=freq, length=self.length, name=name)
        return self.made[key]
