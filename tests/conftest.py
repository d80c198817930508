"""Shape checks of `nn/` and `masks.py`, one thread, quiet trainers, and the series that many tests share."""

import logging
import os

from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
# the shapes in the signatures are checked in tests only
with install_import_hook(["birnn_forecast.nn", "birnn_forecast.masks"], "beartype.beartype"):
    import birnn_forecast.models

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries

torch.set_num_threads(1)
for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
    logging.getLogger(name).setLevel(logging.ERROR)

MODELS = {
    name: getattr(birnn_forecast, name)
    for name in ("BiRNNModel", "BiGRUModel", "BiLSTMModel", "CNNBiLSTMModel", "URNNModel", "BRITSModel", "GRINModel")
}


def quiet_trainer(**kwargs) -> dict:
    """Return `pl_trainer_kwargs` for the CPU without any output."""
    return {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        **kwargs,
    }


def make_model(cls, input_chunk_length=12, output_chunk_length=4, **kwargs):
    """Return a small model of class `cls`: one epoch, few units, reproducible."""
    params = {
        "hidden_dim": 8,
        "decoder_dim": 4,
        "n_epochs": 1,
        "batch_size": 16,
        "random_state": 0,
        "pl_trainer_kwargs": quiet_trainer(),
    }
    return cls(input_chunk_length, output_chunk_length, **(params | kwargs))


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model_class(request):
    """Every model of the family in turn."""
    return request.param


@pytest.fixture
def series() -> TimeSeries:
    """A season of 12 around 100 with noise, 120 monthly float32 values, no gap."""
    return make_series()


def make_series(length=120, components=1, seed=0, missing=0.0, dtype=np.float32) -> TimeSeries:
    """Return a monthly series of seasonal components around 100 of which a share is `missing`."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)[:, None]
    values = 100 + 10 * np.sin(2 * np.pi * (t + np.arange(components)) / 12) + rng.normal(size=(length, components))
    values[rng.random(values.shape) < missing] = np.nan
    times = pd.date_range("2000-01-01", periods=length, freq="MS")
    return TimeSeries.from_times_and_values(times, values.astype(dtype))
