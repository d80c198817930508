"""Construction, fitting and predicting: what every Darts torch model does, over all models of the family."""

import inspect

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import _batch_collate_fn_train
from darts.utils.likelihood_models import GaussianLikelihood

from tests.conftest import make_model, make_series, quiet_trainer
from tests.models.contract_helpers import (
    FUTURE,
    PAST,
    add,
    assert_finite_weights,
    assert_same,
    differs,
    fitted,
    own_options,
    two_models,
    with_statics,
)


def test_unknown_parameter_raises(model_class):
    with pytest.raises(ValueError, match=r"Invalid model creation parameters.*'hiden_dim'"):
        make_model(model_class, hiden_dim=3)


def test_untrained_model_has_the_same_parameters(model_class):
    model = fitted(model_class, likelihood=GaussianLikelihood(), hidden_fc_sizes=[3], dropout=0.1)
    again = model.untrained_model()
    assert type(again) is model_class
    assert not again.model_created
    assert dict(again.model_params) == dict(model.model_params)
    assert model.model_params["hidden_fc_sizes"] == [3]
    assert model.model_params["output_chunk_shift"] == 0


def test_positional_parameters(model_class):
    model = model_class(12, 4, 2, hidden_dim=5)
    assert (model.input_chunk_length, model.output_chunk_length, model.output_chunk_shift) == (12, 4, 2)
    assert model.model_params["hidden_dim"] == 5


def test_properties_before_and_after_fit(model_class):
    model = make_model(model_class, output_chunk_shift=1)
    for created in (False, True):
        assert model.model_created is created
        assert model.epochs_trained == int(created)
        assert model.extreme_lags == (-12, 4, -12, -1, -12, 4, 1)
        assert (model.input_chunk_length, model.min_input_chunk_length, model.output_chunk_length) == (12, 12, 4)
        assert model.min_train_series_length == 17
        assert model.supports_multivariate
        assert model.supports_past_covariates
        assert model.supports_future_covariates
        assert model.supports_static_covariates
        assert model.supports_sample_weight
        assert model.supports_probabilistic_prediction is not created  # neither likelihood nor dropout
        assert not model.supports_likelihood_parameter_prediction
        assert model.supports_optimized_historical_forecasts
        assert model.supports_transferable_series_prediction
        assert not model.uses_past_covariates
        assert not model.uses_future_covariates
        assert not model.uses_static_covariates
        model.fit(make_series())


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("n", [2, 4, 11])
def test_forecast_continues_the_series(model_class, components, n):
    series = with_statics(make_series(components=components), 1.0)
    model = fitted(model_class, series)
    forecast = model.predict(n)
    assert_finite_weights(model)
    assert forecast.time_index.equals(pd.date_range(series.end_time() + series.freq, periods=n, freq="MS"))
    assert list(forecast.components) == list(series.components)
    assert forecast.static_covariates.equals(series.static_covariates)
    assert forecast.dtype == np.float32
    assert forecast.n_samples == 1
    assert np.isfinite(forecast.values()).all()
    assert np.abs(forecast.values() - 100).max() < 40  # in the unit of the series


def test_shorter_forecast_is_the_start_of_the_longer(model_class):
    model = fitted(model_class)
    assert_same(model.predict(2), model.predict(11)[:2])


def test_forecast_beyond_the_output_chunk_feeds_itself(model_class):
    series = make_series()
    model = fitted(model_class, series)
    first = model.predict(4)
    assert_same(model.predict(8)[4:], model.predict(4, series.append(first)))


def test_roll_size(model_class):
    series = make_series()
    model = fitted(model_class, series)
    rolled = model.predict(5, roll_size=1)
    first = model.predict(4)[:1]
    # the last window starts where it ends exactly at n
    assert_same(rolled[1:], model.predict(4, series.append(first)))
    with pytest.raises(ValueError, match="roll_size"):
        model.predict(5, roll_size=5)


def test_list_of_series(model_class):
    series = [make_series(60, seed=seed, missing=0.2) for seed in range(3)]
    model = fitted(model_class, series)
    forecasts = model.predict(6, series)
    assert isinstance(forecasts, list)
    assert_same(forecasts, [model.predict(6, one) for one in series])
    with pytest.raises(ValueError, match="Input `series` must be provided"):
        model.predict(6)


@pytest.mark.parametrize("options", [{}, {"normalization": "batch", "n_rnn_layers": 2}, {"pooling": "attention"}])
def test_forecast_does_not_depend_on_its_batch(model_class, options):
    options = own_options(model_class, options)
    series = [make_series(60, components=2, seed=seed, missing=0.1 * seed) for seed in range(5)]
    model = fitted(model_class, series, **options)
    alone = model.predict(6, series, batch_size=1)
    assert_same(model.predict(6, series, batch_size=3), alone)
    assert_same(model.predict(6, series, batch_size=64), alone)


@two_models
@pytest.mark.parametrize("batch_size", [1, 1000])
def test_any_batch_size_trains(model_class, batch_size):
    model = fitted(model_class, make_series(40), batch_size=batch_size, normalization="batch", n_rnn_layers=2)
    assert_finite_weights(model)
    assert np.isfinite(model.predict(4).values()).all()


@pytest.mark.parametrize("lengths", [(1, 4), (2, 7)])
def test_output_chunk_longer_than_the_input_chunk(model_class, lengths):
    model = fitted(
        model_class, make_series(60, missing=0.2), input_chunk_length=lengths[0], output_chunk_length=lengths[1]
    )
    assert np.isfinite(model.predict(20).values()).all()


def test_output_chunk_shift(model_class):
    series = make_series(100)
    model = fitted(model_class, series, fit={"future_covariates": FUTURE}, output_chunk_shift=3)
    forecast = model.predict(4, future_covariates=FUTURE)
    assert forecast.start_time() == series.end_time() + 4 * series.freq
    assert len(forecast) == 4
    # the model reads the covariates of its shifted horizon, and nothing of the steps between
    skipped = model.predict(4, future_covariates=add(FUTURE, slice(100, 103), 50.0))
    assert_same(skipped, forecast)
    assert differs(model.predict(4, future_covariates=add(FUTURE, slice(103, 107), 50.0)), forecast)
    with pytest.raises(ValueError, match="output_chunk_shift"):
        model.predict(5, future_covariates=FUTURE)


def test_random_state_repeats_a_fit(model_class):
    one, two = fitted(model_class, dropout=0.2), fitted(model_class, dropout=0.2)
    assert_same(one.predict(6), two.predict(6), rtol=0)
    assert differs(fitted(model_class, dropout=0.2, random_state=1).predict(6), one.predict(6))


def test_variable_input_chunk_length(model_class):
    short = make_series(9)
    model = fitted(model_class, [short, make_series(60)], input_chunk_length=(4, 12))
    assert (model.min_input_chunk_length, model.input_chunk_length) == (4, 12)
    assert model.extreme_lags[0] == -4
    assert_finite_weights(model)
    shorter = model.predict(6, short[-5:])
    assert np.isfinite(shorter.values()).all()
    # the missing beginning is nothing but a gap
    padded = short.with_values(np.where(np.arange(9)[:, None] < 4, np.nan, short.values()))
    assert_same(shorter, model.predict(6, padded))
    with pytest.raises(ValueError, match="too short"):
        model.predict(6, short[:3])


@two_models
@pytest.mark.parametrize(
    "times",
    [
        pd.RangeIndex(5, 125, 2),
        pd.date_range("2000-01-31", periods=60, freq="QE"),
        pd.date_range("2000-01-01", periods=60, freq="15min"),
    ],
    ids=["range", "quarter end", "quarter hour"],
)
def test_time_axes(model_class, times):
    values = make_series(60).values()
    series = TimeSeries.from_times_and_values(times, values)
    forecast = fitted(model_class, series).predict(6)
    assert forecast.freq == series.freq
    assert forecast.start_time() == series.end_time() + series.freq
    # the axis carries no information of its own
    same = fitted(model_class, make_series(60)).predict(6)
    np.testing.assert_allclose(forecast.values(), same.values(), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"skip": "linear", "pooling": "last"},
        {"skip": "seasonal", "season_length": 4, "pooling": "attention", "n_rnn_layers": 2, "merge": "gate"},
        {"skip": None, "pooling": "mean", "n_rnn_layers": 2, "normalization": "layer", "hidden_fc_sizes": [5]},
        {"skip": "last", "normalization": "batch", "n_rnn_layers": 2},
    ],
    ids=str,
)
def test_every_parameter_gets_a_gradient(model_class, options):
    options = {name: value for name, value in options.items() if name in inspect.signature(model_class).parameters}
    series = with_statics(make_series(components=2, missing=0.2), 1.0, -1.0)
    model = make_model(model_class, activation="Tanh", **options)
    model.fit(series, past_covariates=PAST, future_covariates=FUTURE)
    module = model.model.train()
    with torch.no_grad():  # a zero output layer hides the rest of the network
        module.network.decoder.output.weight.normal_()
    dataset = model._build_train_dataset([series], [PAST], [FUTURE], None, None)
    module.zero_grad()
    module.log = lambda *args, **kwargs: None
    module.training_step(_batch_collate_fn_train([dataset[i] for i in range(16)]), 0).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


OPTIONS = {
    "model": "RNN",
    "hidden_dim": 9,
    "n_rnn_layers": 3,
    "hidden_fc_sizes": [3],
    "dropout": 0.5,
    "activation": "ELU",
    "bidirectional": False,
    "merge": "sum",
    "pooling": "mean",
    "normalization": "layer",
    "skip": "last",
    "season_length": 6,
    "masking_rate": 0.0,
    "decoder_dim": 5,
    "n_filters": 3,
    "kernel_size": 5,
    "n_conv_layers": 2,
    "use_static_covariates": False,
    "use_reversible_instance_norm": False,
    "imputation_weight": 0.0,
    "graph": "learned",
    "recurrence": "feedback",
    "cross_gate": "scalar",
    "node_embedding_dim": 0,
}


def test_every_option_reaches_the_network(model_class):
    series = with_statics(make_series(40, 2, missing=0.2), 1.0)
    base = own_options(model_class, {"n_rnn_layers": 2, "skip": "seasonal", "season_length": 4})
    forecast = fitted(model_class, series, **base).predict(4)
    own = own_options(model_class, OPTIONS)
    assert len(own) >= 12
    for name in own:
        assert differs(fitted(model_class, series, **base | {name: OPTIONS[name]}).predict(4), forecast), name


def test_mc_dropout_spreads(model_class):
    model = fitted(model_class, dropout=0.3, activation="Tanh")
    assert model.supports_probabilistic_prediction
    with_dropout = model.predict(4, num_samples=20, mc_dropout=True).all_values()
    assert np.ptp(with_dropout, axis=2).min() > 1e-3
    without = model.predict(4, num_samples=20).all_values()
    assert np.ptp(without, axis=2).max() < 1e-4


@two_models
def test_own_trainer(model_class):
    trainer = pl.Trainer(max_epochs=3, **quiet_trainer(enable_checkpointing=False))
    model = make_model(model_class, n_epochs=1)
    model.fit(make_series(60), trainer=trainer)
    assert model.epochs_trained == 3


@two_models
def test_parallel_loading(model_class):
    series = [make_series(60, seed=seed) for seed in range(3)]
    model = fitted(model_class, series)
    assert_same(model.predict(6, series, n_jobs=2), model.predict(6, series))
