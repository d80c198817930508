"""Darts' workflows around a model: backtests, searches, encoders, ensembles, conformal and anomaly models."""

import numpy as np
import pytest
import torch
from darts.ad import ForecastingAnomalyModel, NormScorer
from darts.dataprocessing.transformers import Scaler
from darts.explainability import ShapExplainer
from darts.metrics import mae, mse
from darts.models import (
    ConformalNaiveModel,
    ConformalQRModel,
    NaiveEnsembleModel,
    NaiveSeasonal,
    RegressionEnsembleModel,
)
from darts.utils.likelihood_models import GaussianLikelihood, QuantileRegression

from birnn_forecast import BiGRUModel
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import FUTURE, PAST, assert_same, fitted, two_models

COVARIATES = {"past_covariates": PAST, "future_covariates": FUTURE}


@pytest.mark.parametrize("horizon", [3, 6])
def test_historical_forecasts_are_a_loop_of_predict(model_class, horizon):
    series = make_series(60, 2, missing=0.2)
    model = fitted(model_class, series, fit=COVARIATES)
    options = {"retrain": False, "start": 40, "stride": 3, "last_points_only": False, "forecast_horizon": horizon}
    fast = model.historical_forecasts(series, **COVARIATES, **options)
    slow = model.historical_forecasts(series, **COVARIATES, **options, enable_optimization=False)
    loop = [model.predict(horizon, series[:end], **COVARIATES) for end in range(40, 60 - horizon + 1, 3)]
    assert_same(fast, slow)
    assert_same(fast, loop)


@two_models
def test_last_points_of_a_shifted_model(model_class):
    series = make_series(60, missing=0.2)
    model = fitted(model_class, series, output_chunk_shift=2)
    options = {"retrain": False, "forecast_horizon": 4, "start": 0.7}
    assert_same(
        model.historical_forecasts(series, **options),
        model.historical_forecasts(series, **options, enable_optimization=False),
    )


@pytest.mark.parametrize("retrain", [True, 3])
def test_retrained_forecasts(model_class, retrain):
    series = make_series(40, missing=0.2)
    model = make_model(model_class)
    forecasts = model.historical_forecasts(
        series, retrain=retrain, start=-6, start_format="position", forecast_horizon=2, train_length=30
    )
    assert len(forecasts) == 5
    assert np.isfinite(forecasts.values()).all()
    assert not model.model_created


@two_models
def test_sampled_and_parametric_forecasts(model_class):
    series = make_series(60, 2, missing=0.2)
    model = fitted(model_class, series, likelihood=GaussianLikelihood())
    options = {"retrain": False, "start": 50, "forecast_horizon": 3}
    assert model.historical_forecasts(series, num_samples=5, **options).n_samples == 5
    parameters = model.historical_forecasts(series, predict_likelihood_parameters=True, **options)
    assert list(parameters.components) == ["0_mu", "0_sigma", "1_mu", "1_sigma"]


def test_backtest_and_residuals_over_gaps(model_class):
    series = make_series(60, missing=0.2)
    model = fitted(model_class, series)
    options = {"retrain": False, "start": 40, "forecast_horizon": 2}
    forecasts = model.historical_forecasts(series, **options)
    assert model.backtest(series, metric=[mae, mse], **options).shape == (2,)
    score = model.backtest(series, metric=mae, last_points_only=True, **options)
    assert score == pytest.approx(mae(series, forecasts))
    residuals = model.residuals(series, last_points_only=True, **options)
    expected = series.slice_intersect(forecasts).values() - forecasts.values()
    np.testing.assert_allclose(residuals.values(), expected, rtol=1e-5)
    assert np.isnan(residuals.values()).any()  # where nothing was observed


@two_models
def test_backtest_scales_inside(model_class):
    series = make_series(60, missing=0.2)
    model = make_model(model_class)
    forecasts = model.historical_forecasts(
        series, start=-3, start_format="position", forecast_horizon=2, data_transformers={"series": Scaler()}
    )
    assert np.abs(forecasts.values() - 100).max() < 40


@two_models
def test_gridsearch(model_class):
    series = make_series(60, missing=0.2)
    grid = {
        "input_chunk_length": [6, 12],
        "output_chunk_length": [4],
        "hidden_dim": [4],
        "n_epochs": [1],
        "pl_trainer_kwargs": [make_model(model_class).model_params["pl_trainer_kwargs"]],
    }
    model, best, score = model_class.gridsearch(grid, series[:50], val_series=series[50:54], metric=mae)
    assert isinstance(model, model_class)
    assert best["input_chunk_length"] in (6, 12)
    assert np.isfinite(score)


@two_models
def test_lr_find(model_class, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model(model_class, n_epochs=10)
    suggestion = model.lr_find(make_series(60, missing=0.2), num_training=30).suggestion()
    assert 1e-8 <= suggestion <= 1


@pytest.mark.slow
@two_models
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_scale_batch_size(model_class, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    series = [make_series(40, seed=seed, missing=0.2) for seed in range(10)]
    # a loss of its own: Darts shares the default one, which the search leaves in evaluation mode
    model = make_model(model_class, batch_size=2, loss_fn=torch.nn.MSELoss())
    options = {}
    if method == "predict":
        model.fit(series)
        options = {"n": 4}
    size = model.scale_batch_size(series, method=method, max_trials=3, steps_per_trial=1, **options)
    assert size >= 4
    assert model.batch_size == size


def test_encoders(model_class):
    series = make_series(60, missing=0.2)
    encoders = {
        "cyclic": {"future": ["month"]},
        "position": {"past": ["relative"]},
        "custom": {"past": [_year]},
        "transformer": Scaler(),
    }
    model = fitted(model_class, series, add_encoders=encoders)
    assert model.uses_past_covariates
    assert model.uses_future_covariates
    forecast = model.predict(10)  # beyond the output chunk, without any covariate passed
    past, future = model.generate_fit_predict_encodings(10, series)
    assert (past.n_components, future.n_components) == (2, 2)
    assert np.isfinite(forecast.values()).all()
    plain = fitted(model_class, series, fit={"past_covariates": past, "future_covariates": future})
    assert_same(forecast, plain.predict(10, past_covariates=past, future_covariates=future), rtol=1e-4)


def _year(index):
    return (index.year - 2000) / 10


@two_models
def test_ensembles(model_class):
    series = make_series(80, missing=0.2)
    filled = make_series(80)
    naive = NaiveEnsembleModel([make_model(model_class), NaiveSeasonal(12)]).fit(filled)
    expected = (naive.forecasting_models[0].predict(4) + naive.forecasting_models[1].predict(4)) / 2
    assert_same(naive.predict(4), expected)
    ensemble = RegressionEnsembleModel(
        [fitted(model_class, [series, filled]), fitted(model_class, [filled, filled])],
        regression_train_n_points=8,
        train_forecasting_models=False,
    )
    assert np.isfinite(ensemble.fit(filled).predict(4).values()).all()


@two_models
def test_conformal_models(model_class):
    series = make_series(40)
    quantiles = [0.1, 0.5, 0.9]
    options = {"quantiles": quantiles, "cal_num_samples": 20}
    naive = ConformalNaiveModel(fitted(model_class, series), **options)
    likelihood = QuantileRegression(quantiles)
    regression = ConformalQRModel(fitted(model_class, series, likelihood=likelihood, batch_size=500), **options)
    for model in (naive, regression):
        low, median, high = model.predict(4, series, predict_likelihood_parameters=True).values().T
        assert (low <= median).all()
        assert (median <= high).all()
        assert (low < high).any()


@two_models
def test_anomaly_model(model_class):
    series = make_series(100)
    model = ForecastingAnomalyModel(fitted(model_class, series), NormScorer())
    spiked = series.with_values(np.where(np.arange(100)[:, None] == 80, 300, series.values()).astype(np.float32))
    scores = model.score(spiked, start=60)
    assert int(np.argmax(scores.values())) == 20


@pytest.mark.slow
# from statsmodels, about Darts' test of stationarity
@pytest.mark.filterwarnings("ignore:(adfuller|kpss) currently returns a plain tuple:FutureWarning")
@pytest.mark.filterwarnings("ignore:The test statistic is outside of the range of p-values")
@two_models
def test_shap(model_class):
    series = make_series(60)
    model = fitted(
        model_class,
        series,
        fit={"future_covariates": FUTURE},
        input_chunk_length=3,
        output_chunk_length=1,
        loss_fn=torch.nn.MSELoss(),
    )  # Darts shares the default loss, which an explanation sets to evaluation

    explainer = ShapExplainer(model, background_series=series[:14], background_future_covariates=FUTURE[:18])
    result = explainer.explain(series[-6:], foreground_future_covariates=FUTURE[50:64])
    values = result.get_explanation(horizon=1, component="0")
    assert values.n_components == 3 + 4
    assert np.isfinite(values.values()).all()
    assert np.abs(values.values()).max() > 0


def test_retraining_when_a_callable_says_so():
    series = make_series(40, missing=0.2)

    def first_only(counter, pred_time, train_series, past_covariates, future_covariates):
        return counter == 0

    once, always = (
        make_model(BiGRUModel).historical_forecasts(
            series, retrain=retrain, start=32, forecast_horizon=4, stride=2, last_points_only=False
        )
        for retrain in (first_only, True)
    )
    assert len(once) == len(always) == 3
    assert_same(once[0], always[0])
    assert not np.allclose(once[2].values(), always[2].values(), rtol=1e-6)
