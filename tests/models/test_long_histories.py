"""Long histories are read where they lie, and batches are as large as the model says."""

import tracemalloc

import numpy as np
import pytest
from darts import TimeSeries

from birnn_forecast import BiGRUModel, GRINModel
from birnn_forecast.data.history import History, Moments, completed_moments, moments, pooled_over_components
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import fitted, two_models

LONG = 300_000


def peak_of(call) -> int:
    """Return the most bytes that a call holds at once, beyond those before it."""
    call()  # what is made once
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("model_class", [BiGRUModel, GRINModel])
def test_prediction_copies_no_history_whole(model_class):
    rng = np.random.default_rng(0)
    series = [TimeSeries.from_values(rng.normal(size=(LONG, 2)).astype(np.float32)) for _ in range(2)]
    past = [TimeSeries.from_values(rng.normal(size=(LONG, 3)).astype(np.float32)) for _ in range(2)]
    model = make_model(model_class).fit(series[0][:200], past_covariates=past[0][:200])
    size = series[0].values(copy=False).nbytes
    assert peak_of(lambda: model.predict(4, series, past)) < size / 2
    silent = [one.with_values(np.where(np.arange(LONG)[:, None] < 1000, one.values(), np.nan)) for one in series]
    assert peak_of(lambda: model.predict(4, silent, past)) < size
    # what is read is the same
    short = [one[-500:] for one in series]
    if model_class is BiGRUModel:
        for one, other in zip(model.predict(4, series, past), model.predict(4, short, past), strict=True):
            np.testing.assert_allclose(one.values(), other.values(), rtol=1e-5)


@two_models
def test_batch_size_is_that_of_the_model(model_class, monkeypatch):
    model = fitted(model_class, batch_size=8)
    series = [make_series(40, seed=seed, missing=0.2) for seed in range(20)]
    sizes = []
    encode = model.model.network.encode
    monkeypatch.setattr(
        model.model.network, "encode", lambda window: sizes.append(len(window.target)) or encode(window)
    )
    for call, batch_size in ((lambda: model.predict(4, series), 8), (lambda: model.impute(series), 8)):
        sizes.clear()
        call()
        assert max(sizes) == batch_size
    sizes.clear()
    model.predict(4, series, batch_size=16)
    model.impute(series, batch_size=16)
    assert max(sizes) == 16


# What a series has shown


def gappy_values(n=500, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.cumsum(rng.normal(size=(n, 3)), axis=0) + 100
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:30, 1] = np.nan
    values[:, 2] = np.where(np.isnan(values[:, 2]), np.nan, 7.0)
    return values


@pytest.mark.parametrize("often", [False, True])
def test_history_by_hand(often):
    values = gappy_values()
    history = History(values, recent=10, often=often)
    ends = np.array([0, 5, 40, 333, 500])
    overall, lately = history.until(ends), history.lately(ends)
    for i, end in enumerate(ends):
        for c in range(3):
            seen = values[:end, c][~np.isnan(values[:end, c])]
            for found, part in ((overall, seen), (lately, seen[-10:])):
                expected = (part.mean(), part.std()) if len(part) else (np.nan, np.nan)
                np.testing.assert_allclose([found.mean[i, c], found.scale[i, c]], expected, rtol=1e-9, atol=1e-12)


def test_moments_block_by_block(monkeypatch):
    values = gappy_values()
    whole = moments(values)
    monkeypatch.setattr("birnn_forecast.data.history.BLOCK", 7)
    for one, other in zip(moments(values), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(whole.mean, np.nanmean(values, axis=0))
    np.testing.assert_allclose(whole.scale, np.nanstd(values, axis=0), atol=1e-12)
    assert whole.scale[2] == 0


def test_equal_values_have_no_scale():
    for dtype in (np.float32, np.float64):
        for value in (0.1, 1e6 / 3, -7e-5):
            values = np.full((1001, 1), value, dtype=dtype)
            assert moments(values).scale == 0
            assert History(values, 10).lately(np.array([7, 900])).scale.max() == 0


def test_moments_of_a_sensor_that_was_out_in_the_coldest_week():
    rng = np.random.default_rng(0)
    weather = np.cumsum(rng.normal(size=400))
    values = 50 + weather[:, None] * [1.0, 30.0, -2.0] + rng.normal(size=(400, 3)) * [0.1, 3.0, 0.2]
    unrelated = np.cumsum(rng.normal(size=(400, 1)), axis=0)
    values = np.hstack([values, unrelated])
    truth = moments(values)
    seen = values.copy()
    seen[np.argsort(weather)[:150], 0] = np.nan
    completed, plain = completed_moments(seen), moments(seen)
    assert abs(completed.mean[0] - truth.mean[0]) < 0.1 * abs(plain.mean[0] - truth.mean[0])
    assert abs(completed.scale[0] - truth.scale[0]) < 0.3 * abs(plain.scale[0] - truth.scale[0])
    np.testing.assert_array_equal(completed.mean[1:], plain.mean[1:])  # they have no gaps
    # in any unit
    unit, shift = np.array([1e-3, 1e4, 1.0, 7.0]), np.array([5.0, -3e5, 0.0, 1.0])
    other = completed_moments(seen * unit + shift)
    np.testing.assert_allclose(other.mean, completed.mean * unit + shift, rtol=1e-6)
    np.testing.assert_allclose(other.scale, completed.scale * unit, rtol=1e-6)


def test_components_without_a_value_take_what_the_others_have():
    history = np.array([[1.0, np.nan, 3.0], [1.0, np.nan, 1.0], [2.0, np.nan, 2.0], [0.0, np.nan, 4.0]])
    found = pooled_over_components(history)
    np.testing.assert_allclose(found[:, 1], [2.0, np.sqrt(2), 2.0, np.sqrt(8)])
    np.testing.assert_array_equal(found[:, [0, 2]], history[:, [0, 2]])
    nothing = np.full((5, 4, 2), np.nan)
    np.testing.assert_array_equal(pooled_over_components(nothing), nothing)
    assert isinstance(moments(np.ones((3, 1))), Moments)
