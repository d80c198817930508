"""A missing value is an ordinary value: wherever it stands, fits and forecasts stay finite and use what is there."""

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.likelihood_models import QuantileRegression

from birnn_forecast import BiGRUModel, URNNModel
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import (
    add,
    assert_finite_weights,
    assert_same,
    change,
    differs,
    fitted,
)


@pytest.mark.parametrize("skip", ["linear", "last", "seasonal", None])
@pytest.mark.parametrize("norm", [True, False])
def test_gaps_everywhere(model_class, skip, norm):
    series, validation = make_series(60, 2, missing=0.4), make_series(60, 2, seed=1, missing=0.4)
    options = {"skip": skip, "season_length": 6, "use_reversible_instance_norm": norm}
    model = fitted(model_class, series, fit={"val_series": validation}, **options)
    assert_finite_weights(model)
    assert np.isfinite(float(model.trainer.callback_metrics["train_loss"]))
    assert np.isfinite(float(model.trainer.callback_metrics["val_loss"]))
    assert np.isfinite(model.predict(10).values()).all()


GAPS = {
    "all": slice(108, 120),
    "leading": slice(108, 114),
    "trailing": slice(114, 120),
    "inner": slice(111, 117),
    "all but the first": slice(109, 120),
    "all but the last": slice(108, 119),
    "one component": (slice(108, 120), 0),
}


@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS.keys())
def test_gap_in_the_window(model_class, gap):
    series = make_series(components=2)
    model = fitted(model_class, series)
    forecast = model.predict(10, change(series, gap, np.nan))
    assert np.isfinite(forecast.values()).all()
    assert np.abs(forecast.values() - 100).max() < 40  # at the level of the series, whatever is missing
    assert differs(forecast, model.predict(10))


def test_what_stands_under_a_gap_does_not_matter(model_class):
    # the values before the window and under the gap are of no consequence, those around it are
    series = make_series(components=2, missing=0.3)
    model = fitted(model_class, series)
    forecast = model.predict(4)
    assert_same(model.predict(4, add(series, slice(0, 108), 50.0)), forecast)
    for component in (0, 1):
        observed = np.flatnonzero(~np.isnan(series.values()[108:, component])) + 108
        for step in observed:
            assert differs(model.predict(4, add(series, (step, component), 5.0)), forecast, by=1e-5)


def test_a_gap_is_told_apart_from_the_value_that_fills_it(model_class):
    series = make_series().map(lambda x: (x - 100) / 10)
    model = fitted(model_class, series, skip=None, use_reversible_instance_norm=False, activation="Tanh")
    values = series.values()
    filled = change(series, 114, (values[113, 0] + values[115, 0]) / 2)
    assert differs(model.predict(4, change(series, 114, np.nan)), model.predict(4, filled), by=1e-5)


@pytest.mark.parametrize("cls", [BiGRUModel, URNNModel])
def test_a_series_with_gaps_is_learnt(cls):
    series = make_series(100, missing=0.5)
    losses = []
    for epochs in (1, 10):
        model = fitted(cls, series, n_epochs=epochs, input_chunk_length=24)
        losses.append(float(model.trainer.callback_metrics["train_forecast_loss"]))
    assert losses[1] < 0.7 * losses[0]


def test_batches_without_any_target(model_class):
    series = change(make_series(50, 2), slice(14, 36), np.nan)
    model = fitted(model_class, series, batch_size=1)
    assert_finite_weights(model)
    assert np.isfinite(model.predict(4).values()).all()


def test_component_without_any_value(model_class):
    series = change(make_series(60, 2), (slice(0, 60), 1), np.nan)
    model = fitted(model_class, series)
    assert_finite_weights(model)
    with pytest.warns(UserWarning, match="forecast as NaN: '1'"):
        forecast = model.predict(8).values()
    assert np.abs(forecast[:, 0] - 100).max() < 40
    assert np.isnan(forecast[:, 1]).all()
    # in one series only, of several
    other = make_series(60, 2, seed=1)
    model = fitted(model_class, [series, other])
    assert_finite_weights(model)
    with pytest.warns(UserWarning, match="forecast as NaN: '1'"):
        forecast = model.predict(8, series).values()
    assert np.abs(forecast[:, 0] - 100).max() < 40
    assert np.isnan(forecast[:, 1]).all()  # not at the level of the others
    assert np.abs(model.predict(8, other).values() - 100).max() < 40


def test_gap_longer_than_the_input_chunk_in_each_place(model_class):
    series = make_series(100)
    for where in (slice(0, 40), slice(30, 70), slice(60, 100)):
        model = fitted(model_class, change(series, where, np.nan))
        assert_finite_weights(model)
        assert np.abs(model.predict(8).values() - 100).max() < 40


def test_constant_window(model_class):
    series = make_series(components=2)
    model = fitted(model_class, series)
    constant = change(series, (slice(108, 120), 0), 7.0)
    forecast = model.predict(4, constant).values()
    assert np.isfinite(forecast).all()
    assert np.abs(forecast[:, 0] - 7).max() < 40


@pytest.mark.parametrize("length", [4, 7, 11])
def test_short_series_train_and_predict(model_class, length):
    short = [make_series(length + 4, seed=seed) for seed in range(6)]
    model = fitted(model_class, short, input_chunk_length=(4, 12), skip="seasonal", season_length=12)
    assert_finite_weights(model)
    for forecast in model.predict(8, [one[:length] for one in short]):
        assert np.abs(forecast.values() - 100).max() < 40


def test_variable_chunk_does_not_change_what_a_full_one_says(model_class):
    series = make_series(60, missing=0.2)
    model = fitted(model_class, series, input_chunk_length=(4, 12))
    assert_same(model.predict(4, series[-12:]), model.predict(4, series))
    assert_same(
        model.historical_forecasts(series, retrain=False, start=30),
        model.historical_forecasts(series, retrain=False, start=30, enable_optimization=False),
    )


def test_half_precision_series(model_class):
    series = make_series(60, missing=0.2).map(lambda x: (x - 100) / 10).astype(np.float16)
    model = make_model(model_class).fit(series)
    assert_finite_weights(model)
    assert np.isfinite(model.predict(6).values().astype(np.float32)).all()


def test_double_precision_series(model_class):
    series = make_series(60, missing=0.2, dtype=np.float64)
    model = fitted(model_class, series)
    assert {value.dtype for value in model.model.parameters()} == {torch.float64}
    assert model.predict(6).dtype == np.float64


def test_covariates_may_have_another_float_type_than_the_target(model_class):
    series, covariate = make_series(40), make_series(60, seed=1, dtype=np.float64)
    model = make_model(model_class).fit(series, past_covariates=covariate, future_covariates=covariate)
    assert np.isfinite(model.predict(4, past_covariates=covariate, future_covariates=covariate).values()).all()


def test_a_batch_without_observed_targets_has_no_say_in_the_epochs_loss():
    series = make_series(40)
    values = series.values().copy()
    values[20:] = np.nan
    gappy = series.with_values(values)
    # batches of one window: some labels observed, some not, those of the last windows not at all
    model = make_model(BiGRUModel, batch_size=1, masking_rate=0.0, optimizer_kwargs={"lr": 0.0})
    model.fit(gappy, val_series=gappy)
    logged = model.trainer.callback_metrics["val_loss"].item()
    whole = make_model(BiGRUModel, batch_size=1000, masking_rate=0.0, optimizer_kwargs={"lr": 0.0})
    whole.fit(gappy, val_series=gappy)
    assert logged == pytest.approx(whole.trainer.callback_metrics["val_loss"].item(), rel=1e-4)


@pytest.mark.slow
def test_bands_widen_with_the_length_of_a_trailing_gap():
    def walk(length, seed):
        return np.cumsum(np.random.default_rng(seed).normal(size=length)).astype(np.float32)

    model = make_model(
        BiGRUModel,
        input_chunk_length=24,
        hidden_dim=32,
        decoder_dim=16,
        likelihood=QuantileRegression([0.1, 0.5, 0.9]),
        n_epochs=15,
        batch_size=64,
        optimizer_kwargs={"lr": 3e-3},
    ).fit(TimeSeries.from_values(walk(800, 0)))
    widths = []
    for gap in (0, 2, 4, 8):
        windows = walk(1440, 1).reshape(60, 24)
        windows[:, 24 - gap :] = np.nan
        forecasts = model.predict(4, [TimeSeries.from_values(w) for w in windows], predict_likelihood_parameters=True)
        widths.append(np.mean([f.values()[:, 2] - f.values()[:, 0] for f in forecasts]))
    # a random walk's 80 % band, averaged over the four steps
    assert widths[0] == pytest.approx(2.563 * np.sqrt([1, 2, 3, 4]).mean(), rel=0.15)
    assert all(np.diff(widths) > 0.2)
