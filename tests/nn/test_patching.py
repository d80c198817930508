"""Windows read patch by patch: shapes, padding, gradients, and the models that use it."""

import numpy as np
import pytest
import torch

from birnn_forecast import BiGRUModel, BiLSTMModel, BiRNNModel, CNNBiLSTMModel, URNNModel
from birnn_forecast.nn.networks import ENCODERS
from birnn_forecast.nn.patching import PatchEncoder
from tests.conftest import make_model, make_series

PARAMS = {
    "birnn": {"cell": "GRU"},
    "cnn": {"cell": "LSTM", "n_filters": 4, "kernel_size": 3},
    "urnn": {"cell": "RNN"},
}
MODELS = [BiRNNModel, BiGRUModel, BiLSTMModel, CNNBiLSTMModel, URNNModel]


def make(name, patch_length, input_size=3):
    torch.manual_seed(0)
    return PatchEncoder(patch_length, ENCODERS[name], input_size, hidden_size=5, **PARAMS[name]).double()


def window(time, batch=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, time, 3, dtype=torch.double, generator=generator, requires_grad=True)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("patch_length", [1, 4, 10])
def test_a_state_for_each_step_that_reads_the_whole_window(name, patch_length):
    encoder, x = make(name, patch_length), window(10)
    states, final = encoder(x, torch.zeros(4, dtype=torch.long))
    assert states.shape == (4, 10, encoder.state_size)
    assert final.shape == (4, encoder.final_size)
    # every step from the first patch on hears of every other: what the ReLU lets through
    (slope,) = torch.autograd.grad(final.sum(), x)
    assert (slope[0].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("start", [0, 2, 5, 9])
def test_what_lies_before_the_start_touches_nothing(name, start):
    """The same row in a longer window, with anything before it: a window's patches end with it."""
    encoder, x = make(name, 4), window(10)
    longer = torch.cat([torch.full((4, 7, 3), 1e6, dtype=torch.double), x], dim=1)
    longer[:, 7 : 7 + start] = -1e6
    states, final = encoder(x, torch.full((4,), start))
    padded_states, padded_final = encoder(longer, torch.full((4,), 7 + start))
    torch.testing.assert_close(padded_states[:, 7 + start :], states[:, start:])
    # a convolution also sees how far the window reaches
    torch.testing.assert_close(padded_final, final)


def test_only_the_places_in_a_patch_tell_steps_apart():
    """With nothing in front of the recurrence but zeros, steps of one place have one state where patches are equal."""
    encoder = make("birnn", 3)
    states, _ = encoder(torch.zeros(2, 9, 3, dtype=torch.double), torch.zeros(2, dtype=torch.long))
    assert not torch.allclose(states[:, 0], states[:, 1])
    torch.testing.assert_close(states[0], states[1])


@pytest.mark.parametrize("cls", MODELS)
def test_models_forecast_impute_and_come_back(cls, tmp_path):
    series = make_series(60, missing=0.1)
    model = make_model(cls, patch_length=5, input_chunk_length=(4, 12)).fit(series)
    assert isinstance(model.model.network.encoder, PatchEncoder)
    forecast = model.predict(6)
    assert np.isfinite(forecast.values()).all()
    filled = model.impute(series)
    assert not np.isnan(filled.values()).any()
    model.save(str(tmp_path / "model.pt"))
    np.testing.assert_allclose(cls.load(str(tmp_path / "model.pt")).predict(6).values(), forecast.values(), rtol=1e-5)


def test_a_short_series_is_forecast_whatever_the_patch():
    series = make_series(60)
    model = make_model(BiGRUModel, patch_length=12, input_chunk_length=(4, 12)).fit(series)
    assert np.isfinite(model.predict(4, series[:5]).values()).all()


def test_a_season_is_learnt_through_patches():
    """A wave with a period of 6 and its gaps: far better than its mean."""
    values = np.sin(2 * np.pi * np.arange(240) / 6) + 3
    series = make_series(240).with_values(values[:, None, None].astype(np.float32))
    model = make_model(BiGRUModel, 24, 6, patch_length=6, n_epochs=30, skip="last", optimizer_kwargs={"lr": 1e-2}).fit(
        series[:-6]
    )
    error = np.abs(model.predict(6).values() - series[-6:].values()).mean()
    assert error < 0.1
