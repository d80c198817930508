from dataclasses import fields

import numpy as np
import pytest
import torch
from darts import TimeSeries

from birnn_forecast import BRITSModel
from birnn_forecast.models import _module
from birnn_forecast.nn.brits import BRITSNetwork
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import fitted


def twins(length=300, seed=0):
    """Return a random walk and nearly the same a second time."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=length))
    return np.stack([walk, walk + 1], axis=1) + 0.05 * rng.normal(size=(length, 2))


def test_a_gap_is_read_off_the_other_component():
    values = twins()
    truth = TimeSeries.from_values(values.astype(np.float32))
    gappy = values.copy()
    gappy[np.arange(300) % 12 < 6, 0] = np.nan
    series = TimeSeries.from_values(gappy.astype(np.float32))
    model = fitted(BRITSModel, truth, input_chunk_length=24, n_epochs=30, optimizer_kwargs={"lr": 1e-2}, hidden_dim=16)
    full = model.impute(series, calibrate=False).values()[:, 0]
    hidden = np.isnan(gappy[:, 0])
    off = np.abs(full - values[:, 0])[hidden].mean()
    linear = np.interp(np.arange(300), np.flatnonzero(~hidden), values[~hidden, 0])
    assert off < 0.6 * np.abs(linear - values[:, 0])[hidden].mean()


@pytest.mark.parametrize("components", [1, 3])
def test_a_lone_component_has_no_others_to_learn_from(components):
    encoder = fitted(BRITSModel, make_series(60, components)).model.network.encoder
    assert (encoder.cross is None) == (components == 1)


def test_what_the_directions_differ_by_is_trained_away(monkeypatch):
    def disagreement(weight):
        monkeypatch.setattr(BRITSNetwork, "disagreement_weight", weight)
        model = fitted(BRITSModel, make_series(80, 2, missing=0.3), n_epochs=20, optimizer_kwargs={"lr": 1e-2})
        found = []
        encode = BRITSNetwork.encode

        def spy(self, window):
            encoding = encode(self, window)
            found.append(encoding.disagreement)
            return encoding

        with monkeypatch.context() as patch:
            patch.setattr(BRITSNetwork, "encode", spy)
            model.predict(4)
        return float(found[0].detach().abs().mean())

    assert disagreement(30.0) < 0.5 * disagreement(0.0)


def test_the_loss_is_that_of_all_estimates():
    """Summed up from the network's own estimates, of hidden values and of the others."""
    series = make_series(16, 2, missing=0.3)
    model = make_model(
        BRITSModel,
        12,
        4,
        batch_size=1,
        masking_rate=0.3,
        optimizer_kwargs={"lr": 0.0},
        imputation_weight=2.0,
        loss_scale=None,
    ).fit(series)
    module, found = model.model, []
    encode = module.network.encode

    def spy(window):
        found.append((encode(window), window.observed))
        return found[-1][0]

    module.network.encode = spy
    logged = {}
    module.log = lambda name, value, *args, **kwargs: logged.setdefault(name, float(value.detach()))
    torch.manual_seed(0)
    batch = next(iter(module.trainer.train_dataloader))
    loss = float(module.training_step(batch, 0).detach())
    past = batch.past_target
    seen = ~torch.isnan(past)
    encoding, visible = found[0]
    assert visible.sum(dim=1).min() > 2
    assert visible.sum() < seen.sum()
    mean = torch.stack([past[0][s, i].mean() for i, s in enumerate(visible[0].T)])
    scale = torch.stack([past[0][s, i].std(correction=0) for i, s in enumerate(visible[0].T)])

    def errors(estimate, power):
        return ((estimate * scale + mean - past)[seen]).abs().pow(power).mean()

    imputation = errors(encoding.estimate[..., 0], 2) + sum(errors(e, 1) for e in encoding.earlier_estimates) / 3
    imputation = imputation + 0.1 * (encoding.disagreement * scale).abs().sum() / seen.sum()
    assert logged["train_imputation_loss"] == pytest.approx(float(imputation.detach()), rel=1e-4)
    assert loss == pytest.approx(logged["train_forecast_loss"] + 2 * float(imputation.detach()), rel=1e-4)


def rows_of(batch, rows):
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return type(batch)(**{name: None if x is None else x[rows] for name, x in parts.items()})


def test_the_loss_of_a_batch_is_that_of_its_halves_by_their_observed_values(monkeypatch):
    """So that processes, which share a batch, learn what one does."""
    monkeypatch.setattr(_module, "hide", lambda observed, *_: observed)
    monkeypatch.setattr(BRITSNetwork, "disagreement_weight", 5.0)
    several = [make_series(18, 2, missing=m, seed=i, dtype=np.float64) for i, m in enumerate((0.1, 0.6, 0.2, 0.7))]
    model = make_model(BRITSModel, (4, 24), 4, batch_size=64, optimizer_kwargs={"lr": 0.0}).fit(several)
    module = model.model
    module.rin.eval()  # levels for windows that show little stay as they are
    batch = next(iter(module.trainer.train_dataloader))
    logged = []
    module.log = lambda name, value, **options: logged.append((name, float(value.detach()), options["batch_size"]))

    def imputation_loss(rows):
        part = rows_of(batch, rows)
        logged.clear()
        module.training_step(part, 0)
        return next((value, n) for name, value, n in logged if name == "train_imputation_loss")

    whole, n = imputation_loss(slice(None))
    (a, n_a), (b, n_b) = imputation_loss(slice(0, 10)), imputation_loss(slice(10, None))
    assert n == n_a + n_b
    assert n_a / n_b != pytest.approx(10 / (len(batch.past_target) - 10), rel=0.02)
    assert whole == pytest.approx((a * n_a + b * n_b) / n, rel=1e-6)


def test_padding_and_silent_components_have_nothing_to_agree_on(monkeypatch):
    monkeypatch.setattr(_module, "hide", lambda observed, *_: observed)
    found = []
    for weight in (0.0, 5.0):
        monkeypatch.setattr(BRITSNetwork, "disagreement_weight", weight)
        nothing = make_series(16, 1).with_values(
            np.r_[np.full(12, np.nan), np.ones(4)].astype(np.float32)[:, None, None]
        )
        model = make_model(BRITSModel, 12, 4, optimizer_kwargs={"lr": 0.0}).fit([make_series(16, 1), nothing])
        module, logged = model.model, {}
        batch = next(iter(module.trainer.train_dataloader))
        silent = batch.past_target.isnan().all(dim=1)[:, 0]
        part = rows_of(batch, silent)
        module.log = lambda name, value, logged=logged, **_: logged.setdefault(name, float(value.detach()))
        module.training_step(part, 0)
        found.append(logged["train_imputation_loss"])
    assert found == [0.0, 0.0]
