"""What the contract tests share: fitted models whose every input counts, covariates, comparisons."""

import inspect

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from pytorch_lightning.callbacks import Callback

from birnn_forecast import CNNBiLSTMModel, URNNModel
from tests.conftest import make_model, make_series

# what does not depend on the architecture runs over the two that differ most
two_models = pytest.mark.parametrize("model_class", [CNNBiLSTMModel, URNNModel])

# 20 steps longer than a series, around 0: covariates are read as they are
PAST, FUTURE = (make_series(140, components=c, seed=c + 10).map(lambda x: (x - 100) / 10) for c in (2, 1))


def fitted(cls, series=None, fit=None, **kwargs):
    """Return a fitted small model; a fast learning rate and no dead units, so that every input shows in a forecast."""
    params = {"optimizer_kwargs": {"lr": 1e-2}, "activation": "Tanh"} | kwargs
    return make_model(cls, **params).fit(make_series() if series is None else series, **(fit or {}))


def own_options(cls, options: dict) -> dict:
    """Return those of `options` that the model class has."""
    return {name: value for name, value in options.items() if name in inspect.signature(cls.__init__).parameters}


def with_statics(series: TimeSeries, *values: float) -> TimeSeries:
    """Return `series` with one row of static covariates, valid for all its components."""
    frame = pd.DataFrame([values], columns=[f"static_{i}" for i in range(len(values))])
    return series.with_static_covariates(frame.astype(series.dtype))


def change(series: TimeSeries, at, value) -> TimeSeries:
    """Return a copy of `series` with `value` set at the numpy index `at` of ``(time, component)``."""
    values = series.values(copy=True)
    values[at] = value
    return series.with_values(values)


def add(series: TimeSeries, at, value) -> TimeSeries:
    """Return a copy of `series` with `value` added at the numpy index `at` of ``(time, component)``."""
    values = series.values(copy=True)
    values[at] += value
    return series.with_values(values)


def assert_same(actual, expected, rtol=1e-5, **kwargs):
    """Assert that two forecasts, or two sequences of them, agree in time, components and values."""
    if not isinstance(expected, TimeSeries):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, rtol, **kwargs)
        return
    assert actual.time_index.equals(expected.time_index)
    assert list(actual.components) == list(expected.components)
    np.testing.assert_allclose(actual.all_values(), expected.all_values(), rtol=rtol, **kwargs)


def differs(one: TimeSeries, other: TimeSeries, by=1e-4) -> bool:
    """Return whether two forecasts differ by more than rounding, and whether both are finite."""
    a, b = one.all_values(), other.all_values()
    return bool(np.isfinite(a).all() and np.isfinite(b).all() and np.abs(a - b).max() > by)


def assert_finite_weights(model):
    """Assert that no weight or buffer of a fitted model is NaN or infinite."""
    for name, tensor in model.model.state_dict().items():
        assert tensor.isfinite().all(), name


class Recorder(Callback):
    """Keeps every epoch's logged values, learning rate and weights."""

    def __init__(self):
        self.logged, self.rates, self.weights = [], [], []

    def on_train_epoch_end(self, trainer, pl_module):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})
