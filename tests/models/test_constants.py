"""Constants stay constant, nothing is invented for what was never observed, silent series keep their own level."""

import warnings

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.utils.likelihood_models import GaussianLikelihood, QuantileRegression
from darts.utils.likelihood_models.torch import LaplaceLikelihood

from birnn_forecast import GRINModel
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import change, two_models

LIKELIHOODS = {
    "none": None,
    "quantiles": QuantileRegression([0.1, 0.5, 0.9]),
    "Gaussian": GaussianLikelihood(),
    "Laplace": LaplaceLikelihood(),
}


def level(value: float, length=40, components=1) -> TimeSeries:
    return make_series(length, components=components).map(lambda x: x * 0 + value)


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS.keys())
def test_a_constant_window(model_class, likelihood):
    model = make_model(model_class, likelihood=likelihood, n_epochs=2)
    model.fit([make_series(60, components=2, missing=0.1), make_series(60, components=2, seed=1)])
    options = {"num_samples": 3} if likelihood else {}
    for value, gap in ((0.0, slice(20, 23)), (-1234.5, slice(12, 32)), (1e6, slice(35, 40))):
        series = change(level(value, components=2), (gap, 0), np.nan)
        calls = (model.predict(9, series, **options), model.impute(series, **options), model.reconstruct(series))
        for found in calls:
            np.testing.assert_allclose(found.all_values(), value, rtol=1e-5, atol=1e-5)
    bands = model.predict(4, level(3.0, components=2), predict_likelihood_parameters=True) if likelihood else None
    if isinstance(likelihood, QuantileRegression):
        np.testing.assert_allclose(bands.values(), 3.0, rtol=1e-6)


def test_training_on_constants(model_class):
    for series in (level(5.0, 60), level(0.0, 60), [level(5.0, 60), make_series(60)]):
        for likelihood in (None, GaussianLikelihood()):
            model = make_model(model_class, likelihood=likelihood, n_epochs=2).fit(series)
            one = series if isinstance(series, TimeSeries) else series[0]
            np.testing.assert_allclose(model.predict(4, one).all_values(), one.values()[0, 0], atol=1e-5)


def test_a_single_value_lends_its_level_and_its_series_the_scale(model_class):
    model = make_model(model_class, likelihood=QuantileRegression([0.1, 0.5, 0.9])).fit(make_series(60))
    series = make_series(60).map(lambda x: 1000 * x)
    lonely = change(series, [*range(48, 55), *range(56, 60)], np.nan)  # one value in the last input chunk
    bands = model.predict(4, lonely, predict_likelihood_parameters=True).values()
    assert np.abs(bands[:, 1] - 1e5).max() < 6e4
    assert 100 < (bands[:, 2] - bands[:, 0]).mean() < 1e5


# Components without any value


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS.keys())
def test_nothing_is_invented_for_a_dead_component(model_class, likelihood):
    model = make_model(model_class, likelihood=likelihood).fit(make_series(60, components=3, missing=0.1))
    series = change(make_series(50, components=3, missing=0.2), (slice(None), 1), np.nan)
    asked = [{}] if likelihood is None else [{"num_samples": 3}, {"predict_likelihood_parameters": True}]
    for options in asked:
        calls = [
            ("forecast", lambda options=options: model.predict(4, series, **options)),
            ("filled", lambda options=options: model.impute(series, **options)),
            ("filled", lambda options=options: model.reconstruct(series, **options)),
        ]
        if "predict_likelihood_parameters" not in options:
            calls.append(("forecast", lambda options=options: model.predict(9, series, **options)))
        for what, call in calls:
            with pytest.warns(UserWarning, match=f"Without any observed value, {what} as NaN: '1'") as caught:
                found = call()
            assert sum("Without any" in str(one.message) for one in caught) == 1
            each = found.all_values().reshape(len(found), 3, -1)
            assert np.isnan(each[:, 1]).all()
            assert np.isfinite(each[:, [0, 2]]).all()


@two_models
def test_dead_components_of_several_series(model_class):
    model = make_model(model_class).fit(make_series(60, components=2))
    dead = change(make_series(50, components=2), (slice(None), 0), np.nan)
    empty = change(dead, slice(None), np.nan)
    with pytest.warns(UserWarning, match=r"'0' of `series\[1\]`, '0' of `series\[2\]`, '1' of `series\[2\]`\."):
        found = model.impute([make_series(50, components=2, missing=0.1), dead, empty])
    assert [np.isnan(one.values()).mean() for one in found] == [0, 0.5, 1]
    with pytest.warns(UserWarning, match="as NaN"):
        found = model.predict(4, [make_series(50, components=2, missing=0.1), dead, empty])
    assert [np.isnan(one.values()).mean() for one in found] == [0, 0.5, 1]


def test_a_component_that_was_dead_in_training(model_class):
    series = change(make_series(60, components=2, missing=0.1), (slice(None), 0), np.nan)
    model = make_model(model_class).fit(series)
    with pytest.warns(UserWarning, match="as NaN: '0'"):
        assert np.isnan(model.predict(4).values()).mean() == 0.5
    with pytest.warns(UserWarning, match="as NaN: '0'"):
        assert np.isnan(model.impute().values()).mean() == 0.5


def test_a_back_test_before_the_first_value(model_class):
    model = make_model(model_class).fit(make_series(60, components=2))
    series = change(make_series(50, components=2), (slice(0, 30), 0), np.nan)
    options = {"start": 20, "forecast_horizon": 2, "retrain": False, "last_points_only": False}
    quick = model.historical_forecasts(series, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Without any observed value")
        slow = model.historical_forecasts(series, enable_optimization=False, **options)
    for one, other in zip(quick, slow, strict=True):
        np.testing.assert_allclose(one.values(), other.values(), rtol=1e-5)
        assert np.isnan(one.values()[:, 0]).all() == (one.start_time() <= series.time_index[30])


def test_a_place_tells_about_a_component_that_never_reported():
    places = pd.DataFrame({"latitude": [50.0, 50.1, 50.05], "longitude": [10.0, 10.1, 10.05]}, dtype=np.float32)
    whole = make_series(80, components=3).with_static_covariates(places)
    model = make_model(GRINModel, graph="distance", n_epochs=3).fit(whole)
    series = change(whole, (slice(None), 2), np.nan).map(lambda x: 1000 * x)
    with pytest.warns(UserWarning, match="filled from the other components alone: '2'"):
        full = model.impute(series)
    assert np.abs(full.values()[:, 2] - 1e5).max() < 4e4
    with pytest.warns(UserWarning, match="forecast from the other components alone: '2'"):
        ahead = model.predict(4, series)
    assert np.abs(ahead.values()[:, 2] - 1e5).max() < 4e4


# Silence


def test_a_silent_series_keeps_its_own_level(model_class):
    sizes = (1.0, 1000.0, 1e-3)
    each = [make_series(60, seed=i) * size for i, size in enumerate(sizes)]
    model = make_model(model_class, likelihood=QuantileRegression([0.1, 0.5, 0.9]), n_epochs=2).fit(each)
    silent = [change(one, slice(40, 60), np.nan) for one in each]  # longer than the input chunk
    for size, bands in zip(sizes, model.predict(4, silent, predict_likelihood_parameters=True), strict=True):
        assert np.abs(bands.values()[:, 1] / size - 100).max() < 40
        assert 0.1 < ((bands.values()[:, 2] - bands.values()[:, 0]) / size).mean() < 100


def test_the_level_is_the_last_one(model_class):
    step = make_series(100).with_values(np.repeat([[100.0], [500.0]], [40, 60], axis=0).astype(np.float32))
    noisy = step.with_values(step.values() + np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32))
    model = make_model(model_class, n_epochs=2).fit(noisy[:85])
    silent = change(noisy, slice(85, 100), np.nan)
    np.testing.assert_allclose(model.predict(4, silent).values(), 500, atol=30)
    # a back-test knows as much as `predict` at each origin
    options = {"start": 90, "forecast_horizon": 2, "retrain": False, "last_points_only": False}
    for forecast in model.historical_forecasts(silent, **options):
        end = silent.get_index_at_point(forecast.start_time())
        np.testing.assert_allclose(forecast.values(), model.predict(2, silent[:end]).values(), rtol=1e-4)
