import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from darts.models import BlockRNNModel
from darts.utils.serialization import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals
from pytorch_lightning.callbacks import Callback, EarlyStopping

from birnn_forecast import BiGRUModel, budget
from birnn_forecast.callbacks import WeightEMA
from birnn_forecast.training import RestartingEarlyStopping, TimeBudget, trainer_kwargs
from tests.conftest import make_model, make_series, quiet_trainer

SERIES = make_series(60, missing=0.1)
VAL = make_series(40, seed=1)


def cpu(*args, **kwargs):
    return trainer_kwargs("cpu", *args, progress_bar=False, **kwargs)


def epochs_until_stop(model):
    """Fit on for up to 8 epochs and return after how many the trainer stopped."""
    return model.fit(SERIES, val_series=VAL, epochs=8).epochs_trained


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be on a machine with these devices."""

    def pretend(cuda=False, mps=False, bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        # without hardware for it torch emulates
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation
        )

    return pretend


@pytest.mark.parametrize(
    ("devices", "accelerator", "precision"),
    [
        ({"cuda": True, "mps": True, "bf16": True}, "cuda", "bf16-mixed"),
        ({"cuda": True}, "cuda", None),
        ({"mps": True}, "mps", "32-true"),
        ({}, "cpu", None),
    ],
)
def test_auto_takes_the_first_device_and_what_it_computes_in(machine, devices, accelerator, precision):
    machine(**devices)
    kwargs = trainer_kwargs()
    assert kwargs["accelerator"] == accelerator
    assert kwargs.get("precision") == precision
    assert kwargs["devices"] == 1


def test_named_device_and_precision_are_taken(machine):
    machine(cuda=True, bf16=True)
    assert trainer_kwargs("cpu")["accelerator"] == "cpu"
    assert "precision" not in trainer_kwargs("cpu")
    assert trainer_kwargs("cuda", "64-true")["precision"] == "64-true"


def test_defaults_leave_the_rest_to_darts():
    # a "logger" here would override Darts' `log_tensorboard`
    assert set(trainer_kwargs("cpu")) == {
        "accelerator",
        "devices",
        "enable_progress_bar",
        "enable_model_summary",
        "gradient_clip_val",
    }
    assert "gradient_clip_val" not in trainer_kwargs("cpu", gradient_clip=None)


def test_progress_bar_switches_what_lightning_prints():
    for shown in (True, False):
        kwargs = trainer_kwargs("cpu", progress_bar=shown)
        assert (kwargs["enable_progress_bar"], kwargs["enable_model_summary"]) == (shown, shown)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"accelerator": "tpu"}, "`accelerator` must be one of 'auto', 'gpu', 'cuda', 'mps', 'cpu', got 'tpu'"),
        ({"accelerator": None}, "`accelerator` must be one of"),
        ({"accelerator": ["cpu"]}, "`accelerator` must be one of"),
        ({"accelerator": "cuda"}, r"`accelerator` must be a device of this machine \('cpu'\) or 'auto', got 'cuda'"),
        ({"precision": "half"}, "`precision` must be one of 'auto', '32-true', '64-true', .*, got 'half'"),
        ({"precision": 32}, "`precision` must be one of .*, got 32"),
        ({"precision": "16-mixed"}, "`precision` must not be '16-mixed' on 'cpu'.*use 'bf16-mixed'"),
        ({"patience": 0}, "`patience` must be an integer >= 1 or None, got 0"),
        ({"patience": True}, "`patience` must be an integer >= 1"),
        ({"patience": 2.5}, "`patience` must be an integer >= 1"),
        ({"gradient_clip": 0}, "`gradient_clip` must be a finite number > 0, got 0"),
        ({"gradient_clip": float("nan")}, "`gradient_clip` must be a finite number > 0"),
        ({"gradient_clip": "norm"}, "`gradient_clip` must be a finite number > 0"),
        ({"min_delta": -1, "patience": 1}, "`min_delta` must be a finite number >= 0, got -1"),
        ({"monitor": None, "patience": 1}, "`monitor` must be the name of a logged quantity"),
        ({"ema": 1.0}, "`ema` must be a decay above 0 and below 1, such as 0.99, or None, got 1.0"),
        ({"ema": True}, "`ema` must be a decay"),
        ({"swa": 0.5}, "`swa` must be True or False, got 0.5"),
        ({"swa": True, "ema": 0.9}, "`ema` must be None with `swa=True`, got 0.9"),
        ({"swa": True, "patience": 3}, "`patience` must be None with `swa=True`.*, got 3: use `ema` instead"),
        ({"compile": 3}, "`compile` must be True, False, the name of a backend, or a dictionary .*, got 3"),
        (
            {"compile": {"speed": 1}},
            "`compile` must be .* a dictionary with keys among .*'backend'.*, got {'speed': 1}",
        ),
        ({"compile": "fast"}, "The backend of `compile` must be one of .*'eager'.*, got 'fast'"),
        ({"log_every_n_steps": 0}, "`log_every_n_steps` must be an integer >= 1 or None, got 0"),
    ],
)
def test_wrong_values_are_named(machine, kwargs, message):
    machine()
    with pytest.raises(ValueError, match=message):
        trainer_kwargs(**kwargs)


def test_float64_on_mps_says_what_to_do(machine):
    machine(mps=True)
    with pytest.raises(ValueError, match=r"`precision` must not be '64-true' on 'mps'.*series.astype\(np.float32\)"):
        trainer_kwargs(precision="64-true")


def test_patience_makes_an_early_stopper():
    assert "callbacks" not in trainer_kwargs("cpu")
    (stopper,) = trainer_kwargs("cpu", patience=3, monitor="val_forecast_loss", min_delta=0.5)["callbacks"]
    assert isinstance(stopper, EarlyStopping)
    assert (stopper.monitor, stopper.patience, stopper.mode) == ("val_forecast_loss", 3, "min")
    assert abs(stopper.min_delta) == 0.5


@pytest.mark.parametrize("monitor", ["val_loss", "train_loss"])
def test_training_stops_after_patience(monitor):
    # no improvement is large enough after the first epoch
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(patience=2, monitor=monitor, min_delta=1e6))
    assert epochs_until_stop(model) == 3


def test_training_stops_by_either_task():
    for monitor in ("val_forecast_loss", "val_imputation_loss"):
        model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(patience=2, monitor=monitor, min_delta=1e6))
        assert epochs_until_stop(model) == 3


@pytest.mark.parametrize("monitor", ["val_loss", "val_mae"])
def test_what_is_not_logged_cannot_stop_training(monitor):
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(patience=2, monitor=monitor))
    validated = {"val_series": VAL} if monitor == "val_mae" else {}
    with pytest.raises(ValueError, match=f"`monitor` must be .*'train_loss'.*, got '{monitor}': give `fit` a `val_ser"):
        model.fit(SERIES, **validated)


def test_validation_every_other_epoch_is_waited_for():
    kwargs = {"nr_epochs_val_period": 2, "pl_trainer_kwargs": cpu(patience=1, min_delta=1e6)}
    assert epochs_until_stop(make_model(BiGRUModel, **kwargs)) == 4


def test_training_goes_on_without_patience():
    assert epochs_until_stop(make_model(BiGRUModel, pl_trainer_kwargs=cpu())) == 8


def test_each_fit_starts_with_a_fresh_early_stopper():
    kwargs = cpu(patience=2, min_delta=1e6)
    model = make_model(BiGRUModel, pl_trainer_kwargs=kwargs)
    assert epochs_until_stop(model) == 3
    assert epochs_until_stop(model) == 3
    assert epochs_until_stop(make_model(BiGRUModel, pl_trainer_kwargs=kwargs)) == 3
    (stopper,) = kwargs["callbacks"]
    assert (stopper.patience, abs(stopper.min_delta)) == (2, 1e6)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_resumed_training_remembers_the_early_stopper(tmp_path):
    params = {"work_dir": str(tmp_path), "model_name": "m", "save_checkpoints": True, "force_reset": True}
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(patience=4, min_delta=1e6), n_epochs=3, **params)
    model.fit(SERIES, val_series=VAL)
    resumed = BiGRUModel.load_from_checkpoint("m", work_dir=str(tmp_path), best=False)
    # 1 epoch that set the best value and 4 without progress, 3 of all of them before the break
    assert epochs_until_stop(resumed) == 5


class GradientNorm(Callback):
    """Note the norm of the gradient that the optimizer sees."""

    def __init__(self):
        self.norms = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            self.norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())


def largest_gradient(**kwargs):
    kwargs = cpu(**kwargs)
    recorder = GradientNorm()
    model = make_model(BiGRUModel, n_epochs=2, pl_trainer_kwargs=kwargs | {"callbacks": [recorder]})
    model.fit(SERIES)
    return max(recorder.norms)


def test_gradient_is_clipped_to_the_norm():
    assert largest_gradient(gradient_clip=0.01) == pytest.approx(0.01, rel=1e-3)
    assert largest_gradient(gradient_clip=None) > 1.0
    assert largest_gradient() == pytest.approx(1.0, rel=1e-3)


def test_every_model_trains_and_predicts_in_bfloat16(model_class):
    assert_trains_and_predicts(model_class, SERIES, "bf16-mixed")


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", np.float32), ("64-true", np.float64)])
def test_other_precisions_of_a_cpu(precision, dtype):
    assert_trains_and_predicts(BiGRUModel, SERIES.astype(dtype), precision)


def assert_trains_and_predicts(cls, series, precision):
    model = make_model(cls, pl_trainer_kwargs=cpu(precision)).fit(series)
    assert model.trainer.precision == precision
    assert all(torch.isfinite(p).all() for p in model.model.parameters())
    assert np.isfinite(model.predict(6, series).values()).all()


def test_copies_have_early_stoppers_of_their_own():
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(patience=2, min_delta=1e6))
    assert epochs_until_stop(model) == 3
    for copied in (deepcopy(model), model.untrained_model()):
        assert copied.trainer_params["callbacks"][-1] is not model.trainer_params["callbacks"][-1]
        assert epochs_until_stop(copied) == 3


LOAD = """
import sys
import numpy as np
import birnn_forecast
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel

path = sys.argv[1]
for cls in (TorchForecastingModel, birnn_forecast.BiGRUModel):
    model = cls.load(path)
    np.save(f"{path}.{cls.__name__}.npy", model.predict(6).values())
    model.fit(model.training_series, val_series=model.training_series, epochs=8)
    assert model.epochs_trained == 3, model.epochs_trained
"""


def test_a_fresh_process_loads_safely_and_trains_on(tmp_path):
    path = str(tmp_path / "model.pt")
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(patience=2, min_delta=1e6)).fit(SERIES, val_series=VAL)
    model.save(path)
    subprocess.run([sys.executable, "-c", LOAD, path], check=True)
    for loader in ("TorchForecastingModel", "BiGRUModel"):
        np.testing.assert_allclose(np.load(f"{path}.{loader}.npy"), model.predict(6).values(), rtol=1e-6)


def test_loading_works_after_clear_safe_globals(tmp_path):
    path = str(tmp_path / "model.pt")
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(patience=2)).fit(SERIES, val_series=VAL)
    model.save(path)
    allowed = get_safe_globals()
    clear_safe_globals()
    try:
        BiGRUModel.load(path)
    finally:
        add_safe_globals(allowed)


def test_preset_serves_darts_own_models():
    series = make_series(60)
    model = BlockRNNModel(12, 4, n_epochs=8, random_state=0, pl_trainer_kwargs=cpu(patience=2, min_delta=1e6))
    model.fit(series, val_series=VAL)
    assert model.epochs_trained == 3


@pytest.mark.parametrize(("cuda", "mps", "device"), [(True, False, "cuda"), (False, True, "mps"), (True, True, "cuda")])
def test_gpu_is_lightnings_name_for_either(monkeypatch, cuda, mps, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **kwargs: True)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert trainer_kwargs("gpu")["accelerator"] == device


def test_gpu_without_one_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match="`accelerator` must be a device of this machine"):
        trainer_kwargs("gpu")


class Rates(Callback):
    """Keeps the learning rate of every step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, trainer, *args):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_time_budget_stops_and_follows_a_cosine(monkeypatch):
    clock = iter(np.arange(0, 1000, 0.5))  # two looks at it a step
    monkeypatch.setitem(budget.CLOCKS, "cpu", lambda: next(clock))
    rates = Rates()
    model = make_model(
        BiGRUModel,
        n_epochs=1000,
        optimizer_kwargs={"lr": 0.1},
        pl_trainer_kwargs=quiet_trainer(callbacks=[TimeBudget(20.0, warmup=0.2), rates]),
    )
    model.fit(SERIES)
    assert len(rates.rates) == 20
    assert np.argmax(rates.rates) in (3, 4)  # a fifth of it
    shares = (np.arange(20) + 0.5) / 20
    expected = 0.1 * 0.5 * (1 + np.cos(np.pi * shares)) * np.minimum(1, shares / 0.2)
    np.testing.assert_allclose(rates.rates, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "`seconds` must be a finite number > 0, got 0"),
        ({"seconds": 5, "warmup": 1.0}, "`warmup` must be a share"),
        ({"seconds": 5, "clock": "gpu"}, "`clock` must be one of 'cpu', 'wall', got 'gpu'"),
    ],
)
def test_time_budget_errors(options, message):
    with pytest.raises(ValueError, match=message):
        TimeBudget(**options)


def test_a_resumed_time_budget_begins_with_the_first_learning_rate(tmp_path, monkeypatch):
    clock = iter(np.arange(0, 1000, 0.5))
    monkeypatch.setitem(budget.CLOCKS, "cpu", lambda: next(clock))

    def fit(model, **kwargs):
        rates = Rates()
        model.trainer_params["callbacks"] = [*model.trainer_params["callbacks"], rates]
        model.fit(SERIES, **kwargs)
        return rates.rates

    options = quiet_trainer(callbacks=[TimeBudget(20.0)])
    saved = {"save_checkpoints": True, "work_dir": str(tmp_path), "model_name": "m"}
    model = make_model(BiGRUModel, n_epochs=1000, optimizer_kwargs={"lr": 0.1}, pl_trainer_kwargs=options, **saved)
    first = fit(model, val_series=VAL)
    with safe_globals([Rates]):
        loaded = BiGRUModel.load_from_checkpoint("m", str(tmp_path), best=False)
    again = fit(loaded, epochs=2000, val_series=VAL)
    assert max(first) > 0.05
    assert first[-1] < 0.01
    assert max(again) > 0.05


def test_callbacks_of_a_user_come_beside_the_presets():
    own = Rates()
    kinds = [type(one) for one in cpu(patience=2, ema=0.9, callbacks=[own])["callbacks"]]
    assert kinds == [Rates, WeightEMA, RestartingEarlyStopping]
    assert cpu(callbacks=[own])["callbacks"] == [own]
