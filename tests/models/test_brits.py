import numpy as np
import pytest
import torch
from darts import TimeSeries

from birnn_forecast import BRITSModel
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
        BRITSModel, 12, 4, batch_size=1, masking_rate=0.3, optimizer_kwargs={"lr": 0.0}, imputation_weight=2.0
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
    imputation = imputation + 0.1 * (encoding.disagreement * scale).abs().mean()
    assert logged["train_imputation_loss"] == pytest.approx(float(imputation.detach()), rel=1e-4)
    assert loss == pytest.approx(logged["train_forecast_loss"] + 2 * float(imputation.detach()), rel=1e-4)
