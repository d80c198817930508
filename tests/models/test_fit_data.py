"""What a fit is given: weights, validation, datasets, repeated fits, frozen weights."""

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from tests.conftest import make_model, make_series, quiet_trainer
from tests.models.contract_helpers import (
    FUTURE,
    PAST,
    Recorder,
    assert_finite_weights,
    assert_same,
    change,
    fitted,
    two_models,
)

LABELS = slice(56, 60)  # the last output chunk of 60 steps: no input chunk holds them


def weights(model) -> dict[str, torch.Tensor]:
    """Return a copy of the parameters."""
    return {name: value.detach().clone() for name, value in model.model.named_parameters()}


def assert_same_weights(one, other, same=True):
    one, other = weights(one), weights(other)
    assert all(torch.equal(one[name], other[name]) for name in one) is same


def weight(series, where, components=1):
    """Return weights of 1 that are 0 at the numpy index `where`."""
    values = np.ones((len(series), components), series.dtype)
    values[where] = 0
    return (series if components == series.n_components else series["0"]).with_values(values)


def test_zero_weight_has_no_influence(model_class):
    series = make_series(60)
    fit = {"sample_weight": weight(series, LABELS)}
    one = fitted(model_class, series, fit=fit)
    assert_same_weights(one, fitted(model_class, change(series, LABELS, 1e3), fit=fit))
    assert_same_weights(one, fitted(model_class, change(series, LABELS, 1e3)), same=False)


def test_weight_of_a_missing_target_has_no_influence(model_class):
    series = change(make_series(60), LABELS, np.nan)
    model = fitted(model_class, series, fit={"sample_weight": weight(series, LABELS)})
    assert_finite_weights(model)
    assert_same_weights(model, fitted(model_class, series, fit={"sample_weight": weight(series, slice(0, 0))}))


def test_weights_of_components(model_class):
    series = make_series(60, 2)
    fit = {"sample_weight": weight(series, (LABELS, 0), components=2)}
    one = fitted(model_class, series, fit=fit)
    assert_same_weights(one, fitted(model_class, change(series, (LABELS, 0), 1e3), fit=fit))
    assert_same_weights(one, fitted(model_class, change(series, (LABELS, 1), 1e3), fit=fit), same=False)


@two_models
@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_built_in_weights(model_class, kind):
    series = make_series(60, 2, missing=0.2)
    model = fitted(model_class, [series, series], fit={"sample_weight": kind})
    assert_finite_weights(model)
    assert_same_weights(model, fitted(model_class, [series, series]), same=False)


@two_models
def test_weights_of_validation(model_class):
    series, validation = make_series(60, missing=0.2), make_series(60, seed=1, missing=0.2)
    losses = []
    for where in (slice(0, 0), slice(0, 30)):
        fit = {
            "val_series": validation,
            "sample_weight": weight(series, slice(0, 0)),
            "val_sample_weight": weight(validation, where),
        }
        losses.append(float(fitted(model_class, series, fit=fit).trainer.callback_metrics["val_loss"]))
    assert losses[1] < 0.9 * losses[0]


class HiddenTargets(Callback):
    """Notes whether a validation forecast depends on the values it is measured by."""

    def __init__(self):
        self.differences = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *args, **kwargs):
        inputs = batch.to_module_input(stage=None)
        changed = inputs.replace(future_target=inputs.future_target * 0)
        self.differences.append((pl_module(inputs).prediction - pl_module(changed).prediction).abs().max().item())


def test_validation_does_not_see_its_targets(model_class):
    callback = HiddenTargets()
    fitted(
        model_class,
        make_series(60),
        fit={"val_series": make_series(60, seed=1)},
        pl_trainer_kwargs=quiet_trainer(callbacks=[callback]),
    )
    assert max(callback.differences) == 0


def test_validation_with_gaps_and_covariates(model_class):
    series, validation = make_series(60, missing=0.2), make_series(60, seed=1, missing=0.5)
    fit = {
        "past_covariates": PAST,
        "future_covariates": FUTURE,
        "val_series": change(validation, slice(20, 60), np.nan),
        "val_past_covariates": PAST,
        "val_future_covariates": FUTURE,
    }
    model = fitted(model_class, series, fit=fit)
    assert torch.isfinite(model.trainer.callback_metrics["val_loss"])


@two_models
def test_load_best_takes_the_weights_of_the_best_epoch(model_class, tmp_path):
    recorder = Recorder()
    model = fitted(
        model_class,
        make_series(60, missing=0.2),
        fit={"val_series": make_series(60, seed=1, missing=0.2), "load_best": True},
        n_epochs=4,
        optimizer_kwargs={"lr": 1.0},
        model_name="best",
        work_dir=str(tmp_path),
        save_checkpoints=True,
        pl_trainer_kwargs=quiet_trainer(callbacks=[recorder]),
    )
    best = int(np.argmin([logged["val_loss"] for logged in recorder.logged]))
    for name, value in weights(model).items():
        assert torch.equal(value, recorder.weights[best][name]), name
    assert any(not torch.equal(value, recorder.weights[best - 1][name]) for name, value in weights(model).items())


def test_fit_goes_on_where_it_stopped(model_class):
    series = make_series(60, missing=0.2)
    model = fitted(model_class, series)
    before = weights(model)
    model.fit(series)
    assert model.epochs_trained == 1
    assert any(not torch.equal(value, before[name]) for name, value in weights(model).items())
    model.fit(series, epochs=3)
    assert model.epochs_trained == 3


def test_fit_from_dataset_is_fit(model_class, tmp_path):
    series = [make_series(60, missing=0.2), make_series(60, seed=1)]
    covariates = ([PAST, PAST], [FUTURE, FUTURE])
    # one batch, and the same weights to start from: nothing is left to chance
    params = {"batch_size": 1000, "masking_rate": 0.0}
    start = make_model(model_class, **params).fit(series, *covariates)
    start.save(str(tmp_path / "start.pt"))
    one, other = make_model(model_class, **params), make_model(model_class, **params)
    one.load_weights(str(tmp_path / "start.pt"))
    other.load_weights(str(tmp_path / "start.pt"))
    one.fit(series, *covariates)
    other.fit_from_dataset(other._build_train_dataset(series, *covariates, None, None))
    assert_same_weights(one, start, same=False)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value)
    dataset = other._build_inference_dataset(4, series, *covariates)
    assert_same(other.predict_from_dataset(4, dataset), one.predict(4, series, *covariates))


@two_models
@pytest.mark.parametrize("option", [{"max_samples_per_ts": 3}, {"stride": 4}])
def test_fewer_windows(model_class, option):
    windows = []

    class Counter(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            windows.append(len(batch.past_target))

    series = make_series(60)
    fitted(model_class, series, fit=option, pl_trainer_kwargs=quiet_trainer(callbacks=[Counter()]))
    assert sum(windows) == {"max_samples_per_ts": 3, "stride": 12}[next(iter(option))]


@two_models
def test_dataloader_options(model_class):
    series = make_series(60)
    drop = fitted(model_class, series, fit={"dataloader_kwargs": {"drop_last": True}}, batch_size=40)
    assert drop.trainer.num_training_batches == 1
    assert_same(drop.predict(4, dataloader_kwargs={"shuffle": False}), drop.predict(4))


FREEZING = {
    "freeze": ({"freeze": ["network.encoder*"]}, lambda name: not name.startswith("network.encoder")),
    "unfreeze": ({"unfreeze": ["network.decoder.output*"]}, lambda name: name.startswith("network.decoder.output")),
    "none": (False, lambda name: False),
    "all": (True, lambda name: True),
}


@pytest.mark.parametrize("kind", FREEZING)
def test_frozen_weights_stay(model_class, kind, tmp_path):
    switch, trains = FREEZING[kind]
    series = make_series(60, missing=0.2)
    options = {"pooling": "attention", "activation": "Tanh"}
    first = fitted(model_class, series, **options)
    first.save(str(tmp_path / "model.pt"))
    model = make_model(model_class, enable_finetuning=switch, optimizer_kwargs={"lr": 0.1}, **options)
    model.load_weights(str(tmp_path / "model.pt"))
    assert_same(model.predict(4, series), first.predict(4))
    model.fit(make_series(60, seed=3, missing=0.2))
    for name, value in model.model.named_parameters():
        assert value.requires_grad is trains(name), name
        assert torch.equal(value, weights(first)[name]) is not trains(name), name
