"""What training leaves out changes neither weights nor what is logged."""

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models import QuantileRegression
from pytorch_lightning.callbacks import Callback, LambdaCallback
from pytorch_lightning.loggers.logger import DummyLogger

from birnn_forecast import BiGRUModel, GRINModel, URNNModel, budget
from birnn_forecast.models import _lean
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.nn.networks import ForecastNetwork
from birnn_forecast.training import TimeBudget
from tests.conftest import make_model, make_series, quiet_trainer

SERIES, VAL = make_series(70), make_series(40, seed=1)


class Recorder(DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))


class Reader(Callback):
    """A user's callback that looks at each step's loss."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, *args):
        self.losses.append(float(trainer.callback_metrics["train_loss"]))


def fitted(cls=BiGRUModel, callbacks=(), trainer=(), **kwargs):
    kwargs = {"n_epochs": 3, "batch_size": 4, **kwargs}
    model = make_model(cls, pl_trainer_kwargs=quiet_trainer(callbacks=list(callbacks), **dict(trainer)), **kwargs)
    return model.fit(SERIES, val_series=VAL)


@pytest.fixture
def logged(monkeypatch):
    """Names of what reaches Lightning's own `log` in training steps."""
    import pytorch_lightning as pl

    names, log = [], pl.LightningModule.log

    def spy(self, name, *args, **kwargs):
        if self._current_fx_name == "training_step":
            names.append(name)
        return log(self, name, *args, **kwargs)

    monkeypatch.setattr(pl.LightningModule, "log", spy)
    return names


@pytest.mark.parametrize("options", [{"log_every_n_steps": 3}, {"val_check_interval": 4, "max_steps": 17}])
def test_loggers_and_callbacks_get_what_they_would(options, monkeypatch, logged):
    runs = []
    for lean in (True, False):
        if not lean:
            monkeypatch.setattr(_lean, "is_read_now", lambda trainer: True)
        recorder = Recorder()
        model = fitted(trainer={"logger": recorder, **options})
        runs.append((recorder.rows, {k: float(v) for k, v in model.trainer.callback_metrics.items()}, len(logged)))
        logged.clear()
    (rows, metrics, calls), (all_rows, all_metrics, all_calls) = runs
    assert rows == all_rows
    assert metrics == all_metrics
    assert {"train_loss", "val_loss"} <= metrics.keys()
    assert calls < all_calls


def test_a_callback_that_looks_sees_every_step(monkeypatch):
    reader, plain = Reader(), Reader()
    fitted(callbacks=[reader])
    monkeypatch.setattr(_lean, "is_read_now", lambda trainer: True)
    monkeypatch.setattr(_lean, "reads_within_epoch", lambda callback: False)
    fitted(callbacks=[plain])
    assert reader.losses == plain.losses
    assert len(set(reader.losses)) > 10


def test_nothing_is_logged_for_nobody(logged):
    model = fitted(imputation_weight=0.0)
    steps = model.trainer.global_step
    # the first step and the last one of each epoch
    assert logged == ["train_loss"] * 4
    assert steps > 20


def test_a_scheduler_of_steps_finds_the_loss():
    scheduler = {"interval": "step", "monitor": "train_loss", "patience": 0, "factor": 0.5, "threshold": 0.0}
    model = fitted(lr_scheduler_cls=torch.optim.lr_scheduler.ReduceLROnPlateau, lr_scheduler_kwargs=scheduler)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] < 1e-4


@pytest.mark.parametrize("cls", [BiGRUModel, URNNModel, GRINModel])
def test_the_fused_step_is_the_same_step(cls):
    fused, plain = fitted(cls), fitted(cls, optimizer_kwargs={"lr": 1e-3, "fused": False})
    assert fused.trainer.optimizers[0].param_groups[0]["fused"]
    assert not plain.trainer.optimizers[0].param_groups[0]["fused"]
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(fused.model.state_dict()[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    assert "fused" not in fused.model.optimizer_kwargs


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": False}])
def test_optimizer_kwargs_have_the_last_word(options):
    group = fitted(optimizer_kwargs=options, n_epochs=1).trainer.optimizers[0].param_groups[0]
    assert not group["fused"]
    assert all(group[name] is value for name, value in options.items())


def test_optimizers_without_a_fused_step_and_mixed_precision_are_left_alone():
    fitted(optimizer_cls=torch.optim.RMSprop, n_epochs=1)
    model = fitted(trainer={"precision": "bf16-mixed", "gradient_clip_val": 1.0}, n_epochs=1)
    assert not model.trainer.optimizers[0].param_groups[0]["fused"]


def test_a_checkpoint_of_unfused_steps_is_trained_on(tmp_path):
    options = {"save_checkpoints": True, "work_dir": str(tmp_path), "model_name": "m"}
    fitted(optimizer_kwargs={"fused": False}, n_epochs=1, **options)
    loaded = BiGRUModel.load_from_checkpoint("m", str(tmp_path), best=False)
    loaded.model.optimizer_kwargs = {}
    loaded.fit(SERIES, val_series=VAL, epochs=2)
    # what it was made with comes back with the optimizer's state
    assert loaded.trainer.optimizers[0].param_groups[0]["fused"] is False
    assert loaded.epochs_trained == 2
    assert loaded.trainer.global_step > 20


def test_hooks_on_a_callback_itself_count():
    losses = []
    look = LambdaCallback(
        on_train_batch_end=lambda trainer, *_: losses.append(float(trainer.callback_metrics["train_loss"]))
    )
    fitted(callbacks=[look])
    assert len(set(losses)) > 10


def test_the_last_loss_is_there_when_a_callback_ends_training(monkeypatch):
    """A time budget, which says so after the step."""
    losses, clock = [], iter(np.arange(0, 1000, 0.5))
    monkeypatch.setitem(budget.CLOCKS, "cpu", lambda: next(clock))
    loss = GapAwareModule._train_val_step

    def noting(self, **kwargs):
        value = loss(self, **kwargs)
        losses.append(float(value.detach()))
        return value

    monkeypatch.setattr(GapAwareModule, "_train_val_step", noting)
    model = make_model(
        BiGRUModel, n_epochs=9, batch_size=4, pl_trainer_kwargs=quiet_trainer(callbacks=[TimeBudget(8.0)])
    )
    model.fit(SERIES)
    assert model.trainer.global_step == 8
    assert float(model.trainer.callback_metrics["train_loss"]) == pytest.approx(losses[-1], rel=1e-6)


def test_without_validation_the_last_loss_of_an_epoch_is_there(monkeypatch):
    losses, read = [], []
    loss = GapAwareModule._train_val_step

    def noting(self, **kwargs):
        value = loss(self, **kwargs)
        losses.append(float(value.detach()))
        return value

    class AtTheEnd(Callback):
        def on_train_epoch_end(self, trainer, module):
            read.append((losses[-1], float(trainer.callback_metrics["train_loss"])))

    monkeypatch.setattr(GapAwareModule, "_train_val_step", noting)
    make_model(
        BiGRUModel,
        n_epochs=3,
        batch_size=4,
        pl_trainer_kwargs=quiet_trainer(callbacks=[AtTheEnd()], limit_val_batches=0),
    ).fit(SERIES)
    assert len(read) == 3
    for expected, found in read:
        assert found == pytest.approx(expected, rel=1e-6)


def test_means_of_epochs_are_not_left_out(monkeypatch):
    values, step = [], GapAwareModule.training_step

    def logging(self, *args):
        loss = step(self, *args)
        values.append(float(loss.detach()))
        self.log("mean", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    monkeypatch.setattr(GapAwareModule, "training_step", logging)
    model = fitted(n_epochs=1)
    assert float(model.trainer.callback_metrics["mean"]) == pytest.approx(np.mean(values), rel=1e-6)


@pytest.mark.parametrize("likelihood", [None, QuantileRegression([0.1, 0.5, 0.9])])
def test_estimates_of_hidden_steps_alone_teach_the_same(likelihood, monkeypatch):
    # Adam would make weights of what rounding leaves of a gradient of 0
    sgd = {"optimizer_cls": torch.optim.SGD, "optimizer_kwargs": {"lr": 1e-3}}
    kwargs = {"likelihood": likelihood, "n_epochs": 2, "batch_size": 8, **sgd}
    series = make_series(60, 2, missing=0.1, dtype=np.float64)
    some = make_model(BiGRUModel, **kwargs).fit(series, sample_weight="linear")
    monkeypatch.setattr(ForecastNetwork, "estimates_some", False)
    all_steps = make_model(BiGRUModel, **kwargs).fit(series, sample_weight="linear")
    for name, weight in all_steps.model.state_dict().items():
        torch.testing.assert_close(some.model.state_dict()[name], weight, rtol=1e-9, atol=1e-10, msg=name)
