"""In every workflow batches are cut at once, and what comes of it is what comes of Darts' own path."""

import copy
import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from darts.utils.data import SequentialTorchInferenceDataset, SequentialTorchTrainingDataset
from darts.utils.data.torch_datasets.utils import _batch_collate_fn_predict, _batch_collate_fn_train
from darts.utils.likelihood_models.torch import GaussianLikelihood

from birnn_forecast import BiGRUModel, GRINModel
from birnn_forecast.data import batches, shards
from birnn_forecast.data.batches import InferenceBatch, TrainingBatch
from birnn_forecast.models._batches import BatchesMixin, Shortcut
from birnn_forecast.models._devices import on_one_device
from birnn_forecast.models._module import GapAwareModule
from tests.conftest import make_model, make_series, quiet_trainer

SERIES = [make_series(60 + 7 * i, 2, seed=i, missing=0.1) for i in range(3)]
PAST = [make_series(90, 1, seed=9)] * 3
FUTURE = [make_series(90, 2, seed=8)] * 3


@pytest.fixture(autouse=True)
def batches_as_darts_has_them(monkeypatch):
    """Leave out of training what Darts' batches do not say: what the series of a window has shown."""
    monkeypatch.setattr(batches._Shown, "whole", lambda self, numbers: None)


@pytest.fixture
def darts_path(monkeypatch):
    """Take our overrides out again."""

    def remove():
        for name in ("_setup_for_train", "_setup_for_predict", "_predict", "predict_from_dataset"):
            monkeypatch.delattr(BatchesMixin, name)

    return remove


@pytest.fixture
def seen(monkeypatch) -> set:
    """Return the types of the batches that reach the module."""
    types = set()
    for name in ("training_step", "validation_step", "predict_step"):
        step = getattr(GapAwareModule, name)

        def noting(self, batch, *args, step=step, **kwargs):
            types.add(type(batch))
            return step(self, batch, *args, **kwargs)

        monkeypatch.setattr(GapAwareModule, name, noting)
    return types


def fitted(cls=BiGRUModel, method="fit", **options):
    model = make_model(cls, n_epochs=2, **options.pop("params", {}))
    arguments = {
        "past_covariates": PAST,
        "future_covariates": FUTURE,
        "val_series": SERIES,
        "val_past_covariates": PAST,
        "val_future_covariates": FUTURE,
        "sample_weight": "linear",
        "stride": 2,
        **options,
    }
    if method == "fit":
        return model.fit(SERIES, **arguments)
    arguments = {k: v for k, v in arguments.items() if k in ("dataloader_kwargs", "epochs")}
    dataset = SequentialTorchTrainingDataset(SERIES, PAST, FUTURE, 12, 4)
    return model.fit_from_dataset(dataset, dataset, **arguments)


def weights(model) -> dict:
    return model.model.state_dict()


def assert_equal_weights(one, other) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("cls", [BiGRUModel, GRINModel])
@pytest.mark.parametrize("method", ["fit", "fit_from_dataset"])
def test_fit(cls, method, seen, darts_path):
    ours = fitted(cls, method)
    assert seen == {TrainingBatch}
    loss = ours.trainer.callback_metrics["val_loss"]
    darts_path()
    darts = fitted(cls, method)
    assert len(seen) == 2
    assert_equal_weights(ours, darts)
    assert loss == darts.trainer.callback_metrics["val_loss"]


@pytest.mark.parametrize("fits", [True, False])
def test_on_a_device_series_are_kept_while_training_if_they_fit(fits, monkeypatch):
    """The CPU in the place of a GPU."""
    expected, kept = fitted(), []
    start = GapAwareModule.on_train_start

    def noting(self):
        start(self)
        datamodule = self.trainer.datamodule
        kept.extend((datamodule.train_dataset, datamodule.val_dataset))
        assert all((stack.tensor is not None) is fits for one in kept for stack in one.windows.stacks)

    monkeypatch.setattr(GapAwareModule, "on_train_start", noting)
    monkeypatch.setattr(shards, "KEPT_ON", {"cpu"})
    monkeypatch.setattr(batches, "free_memory", lambda device: 1e9 if fits else 1e3)
    assert_equal_weights(fitted(), expected)
    assert len(kept) == 2
    assert all(stack.tensor is None for one in kept for stack in one.windows.stacks)


def test_nothing_is_kept_on_the_cpu_or_where_workers_cut(monkeypatch):
    monkeypatch.setattr(batches.TrainingBatches, "keep_on", lambda self, device: pytest.fail(f"kept on {device}"))
    monkeypatch.setattr(shards.SharedDataModule, "teardown", lambda self, stage: None)
    fitted()
    monkeypatch.setattr(shards, "KEPT_ON", {"cpu"})
    fitted(dataloader_kwargs={"num_workers": 1})


def test_fit_with_max_samples_workers_and_float64(seen, darts_path):
    series = [one.astype(np.float64) for one in SERIES]

    def fit():
        options = {"max_samples_per_ts": 9, "dataloader_kwargs": {"num_workers": 2, "batch_size": 5}}
        return make_model(BiGRUModel, input_chunk_length=(6, 12)).fit(series, PAST, FUTURE, **options)

    ours = fit()
    assert seen == {TrainingBatch}
    darts_path()
    assert_equal_weights(ours, fit())


def test_a_users_collate_fn_gets_samples(seen):
    taken = []

    def collate(samples):
        taken.append(len(samples))
        return _batch_collate_fn_train(samples)

    fitted(dataloader_kwargs={"collate_fn": collate})
    assert taken
    assert TrainingBatch not in seen


def test_a_users_dataset_gives_samples(seen):
    class Own(SequentialTorchTrainingDataset):
        def __getitem__(self, index):
            return super().__getitem__(0)

    make_model(BiGRUModel).fit_from_dataset(Own(SERIES, None, None, 12, 4))
    assert TrainingBatch not in seen


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_tuners(seen, darts_path):
    def tune():
        # Darts leaves the loss in evaluation mode: not the one that is everyone's default
        model = make_model(BiGRUModel, loss_fn=torch.nn.MSELoss())
        found = model.lr_find(SERIES, num_training=8)
        size = model.scale_batch_size(SERIES, max_trials=2, update_model=False)
        model = make_model(BiGRUModel, loss_fn=torch.nn.MSELoss()).fit(SERIES)
        predicted = model.scale_batch_size(SERIES, method="predict", n=4, max_trials=2, update_model=False)
        return found.results["loss"], size, predicted

    ours = tune()
    assert seen == {TrainingBatch, InferenceBatch}
    darts_path()
    assert ours == tune()


@pytest.mark.parametrize(("n", "options"), [(3, {}), (4, {}), (11, {}), (4, {"dataloader_kwargs": {"num_workers": 1}})])
def test_predict(n, options, seen, darts_path):
    model = fitted(val_series=None)
    seen.clear()
    series = [one[:50] for one in SERIES]
    # the first with a trainer, the second by a short cut
    ours = [model.predict(n, series, PAST, FUTURE, **options) for _ in range(2)]
    assert seen == {InferenceBatch}
    darts_path()
    darts = model.predict(n, series, PAST, FUTURE, **options)
    assert ours[0] == ours[1] == darts


def test_predict_samples(darts_path):
    model = make_model(BiGRUModel, likelihood=GaussianLikelihood()).fit(SERIES)
    calls = [
        {"num_samples": 7, "n": 9},
        {"predict_likelihood_parameters": True, "n": 4},
        {"num_samples": 40, "mc_dropout": True, "n": 4},
    ]
    ours = [[model.predict(series=SERIES, random_state=1, **call) for _ in range(2)] for call in calls]
    darts_path()
    for (first, second), call in zip(ours, calls, strict=True):
        assert first == second == model.predict(series=SERIES, random_state=1, **call)


@pytest.mark.parametrize("last_points_only", [True, False])
def test_historical_forecasts(last_points_only, seen, darts_path):
    model = fitted(val_series=None)
    seen.clear()
    options = {
        "retrain": False,
        "stride": 3,
        "forecast_horizon": 4,
        "last_points_only": last_points_only,
        "overlap_end": True,
    }
    # the same series twice: Darts multiplies its schema's frequency in place
    arguments = ([*SERIES, SERIES[0]], [*PAST, PAST[0]], [*FUTURE, FUTURE[0]])
    ours = model.historical_forecasts(*arguments, **options)
    assert seen == {InferenceBatch}
    darts_path()
    darts = model.historical_forecasts(*arguments, **options)
    flat = (lambda x: x) if last_points_only else (lambda x: [one for part in x for one in part])
    for one, other in zip(flat(ours), flat(darts), strict=True):
        assert one.time_index.equals(other.time_index)
        assert one.freq == other.freq
        np.testing.assert_allclose(one.values(), other.values(), rtol=1e-5)


def test_historical_forecasts_with_retraining(seen, darts_path):
    options = {"retrain": 20, "start": -40, "start_format": "position", "forecast_horizon": 2}
    ours = make_model(BiGRUModel).historical_forecasts(SERIES[0], **options)
    assert seen == {TrainingBatch, InferenceBatch}
    darts_path()
    assert ours == make_model(BiGRUModel).historical_forecasts(SERIES[0], **options)


def test_predict_from_a_users_dataset(seen):
    model = make_model(BiGRUModel).fit(SERIES)

    class Own(SequentialTorchInferenceDataset):
        pass

    seen.clear()
    dataset = Own(SERIES, n=4, input_chunk_length=12, output_chunk_length=4)
    ours = model.predict_from_dataset(4, dataset)
    kwargs = {"collate_fn": _batch_collate_fn_predict}
    assert ours == model.predict(4, SERIES, dataloader_kwargs=kwargs)
    assert InferenceBatch not in seen
    assert ours == model.predict(4, SERIES)
    assert InferenceBatch in seen


class TestKeptTrainer:
    def test_one_for_all_predictions(self, monkeypatch):
        model = make_model(BiGRUModel).fit(SERIES)
        model.predict(4, SERIES)
        trainer = model.trainer
        monkeypatch.setattr(pl.Trainer, "__init__", None)
        monkeypatch.setattr(pl.Trainer, "predict", None)
        model.predict(2, SERIES[:1])
        assert model.trainer is trainer
        assert model.model.training

    def test_not_for_other_settings(self):
        model = make_model(BiGRUModel).fit(SERIES)
        model.predict(4, SERIES)
        trainer = model.trainer
        model.trainer_params["callbacks"].append(pl.Callback())
        model.predict(4, SERIES)
        assert model.trainer is not trainer

    def test_not_after_a_failure(self, monkeypatch):
        model = make_model(BiGRUModel).fit(SERIES)
        model.predict(4, SERIES)
        with pytest.raises(ValueError, match="roll_size"):
            model.predict(4, SERIES, roll_size=9)
        assert model._kept_trainer is None

    def test_a_users_trainer_predicts(self):
        model = make_model(BiGRUModel).fit(SERIES)
        expected = model.predict(4, SERIES)
        trainer = pl.Trainer(**quiet_trainer())
        assert model.predict(4, SERIES, trainer=trainer) == expected
        assert model.trainer is trainer
        assert model.predict(4, SERIES) == expected
        assert model.trainer is not trainer

    def test_callbacks_are_called(self):
        class Counting(pl.Callback):
            batches = 0

            def on_predict_batch_end(self, *args):
                self.batches += 1

        counting = Counting()
        model = make_model(BiGRUModel, pl_trainer_kwargs=quiet_trainer(callbacks=[counting])).fit(SERIES)
        for _ in range(3):
            model.predict(4, SERIES)
        assert counting.batches == 3

    def test_serves_the_model_it_ran(self):
        model = make_model(BiGRUModel).fit(SERIES)
        model.predict(4, SERIES)
        assert Shortcut.serves(model.trainer, model.model)
        assert not Shortcut.serves(model.trainer, copy.deepcopy(model.model))
        model.fit(SERIES)
        assert len(model.predict(4, SERIES)) == 3

    def test_is_not_written(self):
        model = make_model(BiGRUModel).fit(SERIES)
        model.predict(4, SERIES)
        assert "_kept_trainer" not in model.__getstate__()
        assert pickle.loads(pickle.dumps(model))._kept_trainer is None


@pytest.mark.parametrize(("devices", "first"), [("2,", [2]), ("3,1", [3]), ([4, 5], [4]), (2, 1), ("auto", 1), (-1, 1)])
def test_one_process_predicts_on_the_first_device(devices, first):
    assert on_one_device({"devices": devices, "strategy": "ddp"})["devices"] == first
