"""A change of unit changes nothing but the unit: every model, component and series for itself, every kind of output."""

import numpy as np
import pytest
import torch
import torchmetrics
from darts import TimeSeries
from darts.utils.likelihood_models import (
    CauchyLikelihood,
    ExponentialLikelihood,
    GammaLikelihood,
    GaussianLikelihood,
    GumbelLikelihood,
    HalfNormalLikelihood,
    LaplaceLikelihood,
    LogNormalLikelihood,
    PoissonLikelihood,
    QuantileRegression,
    WeibullLikelihood,
)

from birnn_forecast import BiGRUModel, GRINModel
from birnn_forecast.losses import SMALLEST_UNIT, loss_unit
from birnn_forecast.masks import observed_mask
from birnn_forecast.nn.normalization import SeriesStatistics
from tests.conftest import make_model, make_series, quiet_trainer
from tests.models.contract_helpers import PAST, Recorder, fitted, own_options, two_models

QUANTILES = [0.1, 0.5, 0.9]
# of each series and component: factor, and shift in its standard deviations
FACTORS = np.array([[1e-6, 1e6], [3e3, 0.02]])
SHIFTS = np.array([[1000.0, -300.0], [200.0, 7.0]])


def made_up(positive=False) -> list[np.ndarray]:
    """Return two series of two components with gaps of every kind, a constant stretch and equal neighbours."""
    rng = np.random.default_rng(0)
    series = []
    for i in range(2):
        t = np.arange(60)[:, None]
        values = np.sin(2 * np.pi * (t + 3 * np.arange(2) + i) / 12) + 0.3 * rng.normal(size=(60, 2))
        values[50:55, 0] = 0.7
        values[rng.random(values.shape) < 0.15] = np.nan
        values[20:24, 0] = np.nan
        values[30:47, 1] = np.nan
        series.append(np.exp(values) if positive else values)
    return series


def scaled(values: list[np.ndarray], shifted: bool) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    factors, shifts = FACTORS, FACTORS * SHIFTS * shifted
    return [v * a + b for v, a, b in zip(values, factors, shifts, strict=True)], factors, shifts


def answers(cls, values, dtype, likelihood=None, **options) -> list[list[np.ndarray]]:
    """Return what a model says of series after two epochs: each an array ``(time, components, ...)``."""
    series = [TimeSeries.from_values(v.astype(dtype)) for v in values]
    model = make_model(cls, n_epochs=2, likelihood=likelihood, **options).fit(series)
    asked = {} if likelihood is None else {"predict_likelihood_parameters": True}
    results = [
        model.predict(4, series=series, **asked),
        model.impute(series, **asked),
        model.reconstruct(series, **asked),
        model.historical_forecasts(series, forecast_horizon=4, start=40, retrain=False, **asked),
    ]
    if likelihood is not None:
        results += [
            model.predict(4, series=series, num_samples=3, random_state=0),
            model.impute(series, num_samples=3, random_state=0),
        ]
    return [[one.all_values() for one in result] for result in results]


def assert_same_but_for_the_unit(one, two, factors, shifts, roles, tolerance):
    for number, (before, after) in enumerate(zip(one, two, strict=True)):
        for i, (x, y) in enumerate(zip(before, after, strict=True)):
            n = x.shape[1] // 2
            shift = np.repeat(shifts[i], n) * (np.tile(roles, 2) if n == len(roles) else 1.0)
            z = (y - shift[:, None]) / np.repeat(factors[i], n)[:, None]
            np.testing.assert_allclose(z, x, atol=tolerance, err_msg=f"answer {number}, series {i}")


@pytest.mark.parametrize(
    ("likelihood", "roles"),
    [(None, [1.0]), (QuantileRegression(QUANTILES), [1.0] * 3), (GaussianLikelihood(), [1.0, 0.0])],
    ids=["none", "quantiles", "Gaussian"],
)
def test_units(model_class, likelihood, roles):
    values = made_up()
    others, factors, shifts = scaled(values, shifted=True)
    one, two = (answers(model_class, v, np.float64, likelihood) for v in (values, others))
    assert_same_but_for_the_unit(one, two, factors, shifts, roles, 1e-6)


def test_units_in_float32(model_class):
    """Rounding a series 1,000 of its standard deviations from 0 is all that differs."""
    values = made_up()
    others, factors, shifts = scaled(values, shifted=True)
    one, two = (answers(model_class, v, np.float32) for v in (values, others))
    assert_same_but_for_the_unit(one, two, factors, shifts, [1.0], 0.02)


@two_models
@pytest.mark.parametrize("likelihood", [LaplaceLikelihood(), CauchyLikelihood()], ids=str)
def test_units_of_other_likelihoods(model_class, likelihood):
    values = made_up()
    others, factors, shifts = scaled(values, shifted=True)
    one, two = (answers(model_class, v, np.float64, likelihood)[:4] for v in (values, others))
    assert_same_but_for_the_unit(one, two, factors, shifts, [1.0, 0.0], 1e-6)


@pytest.mark.parametrize(
    "likelihood",
    [
        ExponentialLikelihood(),
        HalfNormalLikelihood(),
        WeibullLikelihood(),
        GammaLikelihood(),
        LogNormalLikelihood(),
    ],
    ids=str,
)
def test_units_of_positive_likelihoods(likelihood):
    values = made_up(positive=True)
    others, factors, _ = scaled(values, shifted=False)
    for cls in (BiGRUModel, GRINModel):
        middles = []
        for v in (values, others):
            series = [TimeSeries.from_values(one) for one in v]
            model = make_model(cls, n_epochs=2, likelihood=likelihood).fit(series)
            middles.append([one.values() for one in model.impute(series, calibrate=False)])
        for i, (x, y) in enumerate(zip(*middles, strict=True)):
            np.testing.assert_allclose(y / factors[i], x, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"recurrence": "feedback"},
        {"graph": None},
        {"graph": "learned", "cross_gate": "none"},
        {"patch_length": 4},
        {"skip": "seasonal", "season_length": 12, "pooling": "attention"},
        {"use_reversible_instance_norm": {"affine": False}},
        {"loss_fn": torch.nn.L1Loss()},
    ],
    ids=str,
)
def test_units_with_options(options):
    cls = GRINModel if {"recurrence", "graph"} & options.keys() else BiGRUModel
    values = made_up()
    others, factors, shifts = scaled(values, shifted=True)
    one, two = (answers(cls, v, np.float64, **options) for v in (values, others))
    assert_same_but_for_the_unit(one, two, factors, shifts, [1.0], 1e-6)


def test_units_with_covariates_and_validation(model_class):
    times = make_series(60).time_index
    values = made_up()
    others, factors, shifts = scaled(values, shifted=True)
    found = []
    for v in (values, others):
        series = [TimeSeries.from_times_and_values(times, one) for one in v]
        past = [PAST.astype(np.float64)] * 2
        recorder = Recorder()
        model = make_model(model_class, n_epochs=2, pl_trainer_kwargs=quiet_trainer(callbacks=[recorder]))
        model.fit(series, past_covariates=past, val_series=series, val_past_covariates=past)
        found.append(([one.values() for one in model.predict(4, series, past)], recorder.logged[-1]))
    for i, (x, y) in enumerate(zip(found[0][0], found[1][0], strict=True)):
        np.testing.assert_allclose((y - shifts[i]) / factors[i], x, atol=1e-6)
    for name in ("train_loss", "val_loss", "val_forecast_loss", "val_imputation_loss"):
        assert found[1][1][name] == pytest.approx(found[0][1][name], rel=1e-6), name


@pytest.mark.parametrize("cls", [BiGRUModel, GRINModel])
def test_units_of_series_with_still_nights(cls):
    """Training windows that are constant are no measure of anything."""
    hours = np.arange(150)
    values = np.clip(np.sin(2 * np.pi * hours / 24), 0, None)[:, None] * [[1.0, 0.7]] + [[0.0, 1.0]]
    values[60:100, 1] = values[60, 1]  # a sensor that is stuck
    factors = np.array([1e-6, 1e6])
    found = []
    for factor in (np.ones(2), factors):
        series = TimeSeries.from_values(values * factor)
        model = make_model(cls, 8, 4, n_epochs=4).fit(series)
        found.append([one.values() / factor for one in (model.predict(4, series[:110]), model.predict(4, series[:64]))])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_missing_labels_of_windows_far_apart():
    """What stands in for a missing label must not overflow in the unit of another window."""
    rng = np.random.default_rng(0)
    walks = [level + np.cumsum(rng.normal(size=(80, 1)), axis=0) for level in (5, 500)]
    for walk in walks:
        walk[rng.random(walk.shape) < 0.2] = np.nan
    model = make_model(BiGRUModel, likelihood=GumbelLikelihood(), n_epochs=3)
    model.fit([TimeSeries.from_values(walk) for walk in walks])
    assert all(parameter.isfinite().all() for parameter in model.model.parameters())


def test_counts_stay_counts():
    rng = np.random.default_rng(0)
    small, large = (TimeSeries.from_values(rng.poisson(size, size=(60, 1)).astype(np.float32)) for size in (3, 3000))
    model = make_model(BiGRUModel, likelihood=PoissonLikelihood(), n_epochs=3).fit([small, large])
    for series, size in ((small, 3), (large, 3000)):
        samples = model.predict(4, series, num_samples=50).all_values()
        assert (samples == samples.round()).all()
        assert 0.3 * size < samples.mean() < 3 * size


def test_small_series_beside_large_ones_are_learnt_as_well():
    """A shop of ten sales beside one of half a million."""
    rng = np.random.default_rng(3)
    sizes = (1, 40, 50_000)
    shops, truths = [], []
    for size in sizes:
        y = size * (10 + 3 * np.sin(2 * np.pi * np.arange(66) / 7) + 0.3 * rng.normal(size=66))
        known = y[:60].copy()
        known[[12, 13, 30, 31, 32, 45]] = np.nan
        truths.append(y)
        shops.append(TimeSeries.from_values(known[:, None].astype(np.float32)))
    for cls in (BiGRUModel, GRINModel):
        model = make_model(cls, 14, 6, n_epochs=5).fit(shops)
        for size, y, full, ahead in zip(sizes, truths, model.impute(shops), model.predict(6, shops), strict=True):
            assert np.abs(full.values()[:, 0] - y[:60]).max() / size < 6
            assert np.abs(ahead.values()[:, 0] - y[60:]).max() / size < 6


# The unit of the loss


def test_unit_of_the_loss_by_hand():
    target = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [float("nan"), 5.0]], [[2.0, 7.0], [float("nan")] * 2, [4.0, 9.0]]])
    history = torch.tensor([[[2.0, 5.0], [1.0, 40.0]] * 2, [[3.0, 8.0], [100.0, 1.0]] * 2])
    unit = loss_unit(target, observed_mask(target), SeriesStatistics.of(history))
    # window's own; constant: a part of the series'; still beside its series; window's own
    assert unit.flatten().tolist() == pytest.approx([1.0, 40 * SMALLEST_UNIT, 100 * SMALLEST_UNIT, 1.0])
    # a constant series counts by its level, 0 by 1; less than two values by their series
    series = SeriesStatistics.of(torch.tensor([[[4.0, 0.0, 3.0], [0.0, 0.0, 2.0]] * 2]))
    target = torch.tensor([[[4.0, 0.0, 3.0], [4.0, 0.0, float("nan")]]])
    assert loss_unit(target, observed_mask(target), series).flatten().tolist() == [4.0, 1.0, 2.0]


def test_loss_is_that_of_darts_in_the_unit_of_each_window(model_class):
    series = make_series(60, components=2)
    module = fitted(model_class, series, imputation_weight=0.0).model
    assert module.scales_loss
    recorder = Recorder()
    options = {"batch_size": 1000, "n_epochs": 1, "optimizer_kwargs": {"lr": 0.0}, "imputation_weight": 0.0}
    model = make_model(model_class, pl_trainer_kwargs=quiet_trainer(callbacks=[recorder]), **options).fit(series)
    errors = []
    values = series.values()
    forecasts = model.historical_forecasts(
        series, forecast_horizon=4, stride=1, retrain=False, last_points_only=False, start=12, start_format="position"
    )
    for i, forecast in enumerate(forecasts):
        scale = np.maximum(values[i : i + 12].std(axis=0), SMALLEST_UNIT * values.std(axis=0))
        errors.append(np.square((forecast.values() - values[i + 12 : i + 16]) / scale))
    assert recorder.logged[0]["train_loss"] == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.mark.filterwarnings("ignore:You called `self.log")
def test_metrics_keep_their_unit():
    series = make_series(60).map(lambda x: 1000 * x)
    model = make_model(BiGRUModel, torch_metrics=torchmetrics.MeanAbsoluteError()).fit(series)
    logged = model.trainer.callback_metrics
    assert logged["train_MeanAbsoluteError"] > 1000
    assert logged["train_loss"] < 100


def test_without_a_unit_the_loss_is_raw():
    series = make_series(60).map(lambda x: 1000 * x)
    logged = []
    for unit in ("window", None):
        recorder = Recorder()
        trainer = quiet_trainer(callbacks=[recorder])
        make_model(BiGRUModel, loss_scale=unit, pl_trainer_kwargs=trainer).fit(series)
        logged.append(recorder.logged[0]["train_loss"])
    assert logged[0] < 100 < 1e5 < logged[1]
    with pytest.raises(ValueError, match="`loss_scale` must be one of 'window', None, got 'series'"):
        make_model(BiGRUModel, loss_scale="series")


def test_a_model_without_instance_norm_measures_its_loss_alike(model_class):
    """One component in thousands does not keep the others from being learnt."""
    options = own_options(model_class, {"use_reversible_instance_norm": False, "skip": "last"})
    values = np.concatenate(made_up())[:, :1]
    both = np.concatenate([values, 1e4 * values], axis=1).astype(np.float32)
    recorder = Recorder()
    trainer = quiet_trainer(callbacks=[recorder])
    make_model(model_class, pl_trainer_kwargs=trainer, **options).fit(TimeSeries.from_values(both))
    assert recorder.logged[0]["train_forecast_loss"] < 1e3
