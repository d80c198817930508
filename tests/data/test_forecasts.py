"""Forecasts made together are the series that Darts makes one by one."""

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.utils.timeseries_generation import _build_forecast_series_from_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from birnn_forecast.data import forecasts as module
from birnn_forecast.data.forecasts import Indices, forecast_series
from tests.data.test_batches import FREQUENCIES, make


def both(values, schemas, starts, names=None):
    ours = forecast_series(
        zip(values, schemas, starts, strict=True), Indices(schemas, starts, values.shape[1]), component_names=names
    )
    darts = [
        _build_forecast_series_from_schema(*one, names is not None, names)
        for one in zip(values, schemas, starts, strict=True)
    ]
    return ours, darts


def assert_same(ours: TimeSeries, darts: TimeSeries) -> None:
    assert ours == darts
    assert vars(ours).keys() == vars(darts).keys()
    for name, value in vars(darts).items():
        other = getattr(ours, name)
        if name == "_values":
            assert np.shares_memory(value, other)
        elif name == "_attrs":
            assert other["metadata"] == value["metadata"]
        elif isinstance(value, pd.Index):
            assert type(other) is type(value)
            assert other.equals(value)
            assert other.name == value.name
            assert getattr(other, "freq", None) == getattr(value, "freq", None)
        else:
            assert other == value, name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equal_to_those_of_darts(data):
    freqs = data.draw(st.lists(st.sampled_from([*FREQUENCIES, "15min", "QE-NOV", "2D", "BME"]), min_size=1, max_size=3))
    components, samples = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    static = data.draw(st.sampled_from([None, pd.DataFrame({"a": [1.0]}, dtype=np.float32)]))
    length = data.draw(st.integers(1, 6))
    schemas, starts = [], []
    for number, freq in enumerate(freqs):
        series = make(30, components, freq, seed=number, static=static)
        for _ in range(data.draw(st.integers(1, 8))):
            step = data.draw(st.integers(0, 200))
            schemas.append(series.schema(copy=False))
            inside = step < len(series)
            starts.append(
                series.time_index[step] if inside else series.end_time() + (step + 1 - len(series)) * series.freq
            )
    values = np.random.default_rng(0).normal(size=(len(starts), length, components, samples)).astype(np.float32)
    names = data.draw(st.sampled_from([None, lambda components: [f"{c}_q" for c in components]]))
    for pair in zip(*both(values, schemas, starts, names), strict=True):
        assert_same(*pair)


def test_a_hierarchy_and_metadata_are_kept():
    times = pd.date_range("2000", periods=20, freq="D")
    series = TimeSeries.from_times_and_values(
        times, np.zeros((20, 3)), columns=["a", "b", "sum"], hierarchy={"a": "sum", "b": "sum"}, metadata={"unit": 3}
    )
    values = np.zeros((4, 2, 3, 1))
    schemas, starts = [series.schema(copy=False)] * 4, [*times[:4]]
    for ours, darts in zip(*both(values, schemas, starts), strict=True):
        assert_same(ours, darts)
        assert ours.hierarchy == darts.hierarchy
        assert ours.bottom_level_components == darts.bottom_level_components


def test_a_long_index_is_made_once(monkeypatch):
    series = make(300)
    starts = [*series.time_index[:200]]
    schemas = [series.schema(copy=False)] * 200
    made = []

    def count(*args, **kwargs):
        made.append(args)
        return generate(*args, **kwargs)

    generate = module.generate_index
    monkeypatch.setattr(module, "generate_index", count)
    indices = Indices(schemas, starts, 5)
    for start in starts:
        indices.get(series.freq, None, start)
    assert len(made) == 1


@pytest.mark.parametrize("apart", [1, 10_000_000])
def test_starts_far_apart_make_no_long_index(apart):
    series = make(5, freq="h" if apart == 1 else "s")
    starts = [series.start_time(), series.start_time() + apart * series.freq]
    indices = Indices([series.schema(copy=False)] * 2, starts, 3)
    assert len(indices.made) == (2 if apart == 1 else 0)
    assert indices.get(series.freq, None, starts[1])[0] == starts[1]
