"""Training in two processes (gloo, CPU): the curve of one process with twice the batch, and a model that predicts."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from darts.utils.serialization import safe_globals
from pytorch_lightning.callbacks import Callback

from birnn_forecast import BiGRUModel, BRITSModel, GRINModel
from birnn_forecast.callbacks import SparseLogging
from birnn_forecast.models import _module
from birnn_forecast.training import TimeBudget
from tests.conftest import make_model, make_series, quiet_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Grad strides do not match bucket view strides:UserWarning",  # from torch, about its own buffers
)
# 11 windows each: 44 together, which batches of eight do not divide
SERIES = [make_series(26, seed=i, missing=0.3, dtype=np.float64) for i in range(4)]
ROOT = Path(__file__).parents[2]
TWO = {"devices": 2, "strategy": "ddp_fork"}


class Diary(Callback):
    """Writes a line for each step of each process: what `note` says."""

    def __init__(self, folder: Path, note):
        self.folder, self.note = str(folder), note

    def on_train_batch_end(self, trainer, module, *args):
        with Path(self.folder, str(trainer.global_rank)).open("a") as file:
            file.write(json.dumps(self.note(trainer, module)) + "\n")


def read(folder: Path, rank: int = 0) -> list:
    return [json.loads(line) for line in (folder / str(rank)).read_text().splitlines()]


def train_loss(trainer, module):
    return float(trainer.callback_metrics["train_loss"])


def sum_of_weights(trainer, module):
    return float(sum(parameter.detach().double().abs().sum() for parameter in module.parameters()))


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """Fit a model of some class, and return it with its diary's folder."""
    # Lightning's `seed_everything` leaves it, and processes that start begin with that seed instead of the model's
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)

    def fit(cls, name, note=train_loss, callbacks=(), series=SERIES, fit=None, trainer=None, **params):
        folder = tmp_path / name
        folder.mkdir()
        callbacks = [Diary(folder, note), *callbacks]
        model = make_model(cls, pl_trainer_kwargs=quiet_trainer(callbacks=callbacks, **(trainer or {})), **params)
        return model.fit(series, **(fit or {})), folder

    return fit


@pytest.mark.parametrize("cls", [BiGRUModel, BRITSModel, GRINModel])
def test_the_same_curve_and_weights_as_one_process_with_twice_the_batch(cls, fitted):
    # 33 windows of validation, which two processes cannot share evenly
    options = {"masking_rate": 0.0, "n_epochs": 2, "fit": {"val_series": SERIES[:3]}}
    # Adam would make weights of what rounding leaves of a gradient of 0
    options |= {"optimizer_cls": torch.optim.SGD, "optimizer_kwargs": {"lr": 1e-4}}
    one, curve = fitted(cls, "one", batch_size=8, **options)
    two, same = fitted(cls, "two", batch_size=4, trainer=TWO, **options)
    assert len(read(curve)) == 12
    # to the rounding of sums in another order
    np.testing.assert_allclose(read(same), read(curve), rtol=1e-8)
    assert read(same, 1) == read(same, 0)
    metrics = [float(model.trainer.callback_metrics["val_loss"]) for model in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-8)
    other = dict(two.model.named_parameters())
    for name, weight in one.model.named_parameters():
        torch.testing.assert_close(
            other[name], weight, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_exact_means_of_epochs_are_those_of_one_process(fitted):
    """Gaps differ by process; so do the numbers of values that a mean is over."""
    apart = [make_series(26, seed=i, missing=m, dtype=np.float64) for i, m in enumerate((0.0, 0.6, 0.0, 0.6))]
    options = {"masking_rate": 0.0, "n_epochs": 1, "series": apart, "optimizer_cls": torch.optim.SGD}
    options |= {"optimizer_kwargs": {"lr": 1e-4}, "callbacks": [SparseLogging(100)], "note": lambda *_: 0}
    means = []
    for name, more in (("one", {"batch_size": 8}), ("two", {"batch_size": 4, "trainer": TWO})):
        model, _ = fitted(BiGRUModel, name, **options, **more)
        means.append(float(model.trainer.callback_metrics["train_loss"]))
    assert means[0] == pytest.approx(means[1], rel=1e-6)


def test_a_process_without_hidden_values_does_not_keep_the_others_waiting(fitted):
    """One window each, of which one shows nothing that could be hidden."""
    empty = make_series(16).with_values(np.r_[np.full(12, np.nan), np.ones(4)].astype(np.float32)[:, None, None])
    options = {"callbacks": [SparseLogging(100)], "note": lambda *_: 0, "trainer": TWO, "batch_size": 1}
    model, _ = fitted(BiGRUModel, "two", series=[make_series(16), empty], masking_rate=0.5, **options)
    assert np.isfinite(float(model.trainer.callback_metrics["train_imputation_loss"]))


@pytest.mark.filterwarnings(r"ignore:You called `self.log\(.*but have no logger configured:UserWarning")
def test_a_metric_of_which_one_process_saw_nothing_is_left_out_by_both(fitted):
    """Else one would wait for the other for ever."""
    whole = make_series(16, 2)
    half = whole.with_values(np.where([True, False], whole.values(), np.nan).astype(np.float32))
    metrics = torchmetrics.MetricCollection([torchmetrics.R2Score(), torchmetrics.MeanAbsoluteError()])
    options = {"note": lambda *_: 0, "trainer": TWO, "batch_size": 1, "torch_metrics": metrics}
    model, _ = fitted(BiGRUModel, "two", series=[whole, half], **options)
    assert "train_MeanAbsoluteError" in model.trainer.callback_metrics
    assert "train_R2Score" not in model.trainer.callback_metrics


def test_the_parent_has_the_trained_model_and_predicts_alone(fitted, tmp_path):
    options = {
        "masking_rate": 0.0,
        "series": [s.astype(np.float32) for s in SERIES],
        "fit": {"sample_weight": "linear"},
    }
    before = make_model(BiGRUModel, masking_rate=0.0, n_epochs=0).fit(SERIES[0].astype(np.float32))
    model, _ = fitted(BiGRUModel, "two", trainer=TWO, **options)
    weights = model.model.state_dict()
    assert any(not torch.equal(value, weights[name]) for name, value in before.model.state_dict().items())
    forecasts = model.predict(4, options["series"])
    assert model.trainer.world_size == 1
    # which several processes would have parted among them
    assert len(forecasts) == 4
    model.save(str(tmp_path / "model.pt"))
    with safe_globals([Diary, train_loss]):
        assert BiGRUModel.load(str(tmp_path / "model.pt")).predict(4, options["series"]) == forecasts
    # weights ask for a loss without a mean, no weights for one with it
    assert model.model.train_criterion.reduction == "mean"


def test_each_hides_values_of_its_own_and_all_have_the_same_weights(fitted, monkeypatch):
    hidden = []
    hide = _module.hide

    def noting(observed, *args, **kwargs):
        hidden.append(hide(observed, *args, **kwargs))
        return hidden[-1]

    monkeypatch.setattr(_module, "hide", noting)

    def note(trainer, module):
        return {"hidden": hidden[-1].int().tolist(), "weights": sum_of_weights(trainer, module)}

    whole = [make_series(26, seed=i) for i in range(4)]
    _, folder = fitted(GRINModel, "two", note, series=whole, trainer=TWO, batch_size=4, masking_rate=0.6)
    first, second = read(folder, 0), read(folder, 1)
    assert len(first) == len(second) > 4
    assert [step["weights"] for step in first] == [step["weights"] for step in second]
    assert all(a["hidden"] != b["hidden"] for a, b in zip(first, second, strict=True))


def test_each_reads_all_of_its_own_series_on_request(fitted):
    trainer = TWO | {"use_distributed_sampler": False}
    _, folder = fitted(BiGRUModel, "two", trainer=trainer, batch_size=4)
    assert len(read(folder, 0)) == len(read(folder, 1)) == 11


def test_a_time_budget_gives_all_the_same_rates_and_end(fitted):
    def rate(trainer, module):
        time.sleep(0.01 * (1 + trainer.global_rank))
        return trainer.optimizers[0].param_groups[0]["lr"]

    budget = TimeBudget(1.0, clock="wall")
    _, folder = fitted(BiGRUModel, "two", rate, [budget], trainer=TWO, n_epochs=1000)
    assert read(folder, 0) == read(folder, 1)
    assert 1 < len(set(read(folder))) < 1000


SCRIPT = """
import sys

import numpy as np
import pytorch_lightning as pl

from birnn_forecast import BiGRUModel
from tests.conftest import quiet_trainer
from tests.models.test_processes import SERIES, Diary, train_loss

if __name__ == "__main__":
    folder, strategy, how = sys.argv[1:]
    options = quiet_trainer(callbacks=[Diary(folder, train_loss)], devices=2, strategy=strategy, max_epochs=2)
    model = BiGRUModel(
        12, 4, hidden_dim=8, decoder_dim=4, masking_rate=0.0, random_state=0, batch_size=4, n_epochs=2,
        pl_trainer_kwargs=None if how == "trainer" else options,
    )
    model.fit(SERIES, trainer=pl.Trainer(**options, precision="64-true") if how == "trainer" else None)
    rank = model.trainer.global_rank
    np.save(f"{folder}/forecast{rank}", np.stack([one.values() for one in model.predict(4, SERIES)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "how", "launcher"),
    [
        ("ddp", "kwargs", []),
        ("ddp", "trainer", ["-m", "torch.distributed.run", "--nproc_per_node", "2"]),
        ("ddp_spawn", "kwargs", []),
    ],
    ids=["script", "torchrun", "spawn"],
)
def test_other_ways_to_start_two_processes(strategy, how, launcher, fitted, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "two").mkdir()
    command = [sys.executable, *launcher, tmp_path / "script.py", tmp_path / "two", strategy, how]
    subprocess.run(command, check=True, timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    one, curve = fitted(BiGRUModel, "one", batch_size=8, masking_rate=0.0, n_epochs=2)
    np.testing.assert_allclose(read(tmp_path / "two"), read(curve), rtol=1e-6)
    expected = np.stack([forecast.values() for forecast in one.predict(4, SERIES)])
    found = sorted(tmp_path.glob("two/forecast*.npy"))
    assert len(found) == (1 if strategy == "ddp_spawn" else 2)
    for path in found:
        np.testing.assert_allclose(np.load(path), expected, rtol=1e-6)


@pytest.mark.slow
def test_every_model_trains_in_two_processes(model_class, fitted):
    two, folder = fitted(model_class, "two", sum_of_weights, trainer=TWO, batch_size=4, n_epochs=2)
    assert read(folder, 0) == read(folder, 1)
    assert len(set(read(folder))) == len(read(folder))
    assert np.isfinite(two.predict(4, SERIES[0]).values()).all()
