"""Averages of the weights, sparse logging and compiled networks, in Darts' workflows."""

import csv
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from darts.models import BlockRNNModel
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from birnn_forecast import BiGRUModel, callbacks
from birnn_forecast.callbacks import SparseLogging, WeightEMA
from birnn_forecast.models._module import GapAwareModule
from tests.conftest import make_model, make_series
from tests.test_training import SERIES, VAL, cpu

AVERAGES = {"ema": {"ema": 0.8}, "swa": {"swa": True}}


def vector(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


class Trace(Callback):
    """Keep the weights after each step and epoch, and those that are validated."""

    def __init__(self):
        self.steps, self.epochs, self.validated = [], [], []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.last = vector(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.steps.append(vector(pl_module))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(vector(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *args):
        self.validated.append(vector(pl_module))


def traced(trace, **options):
    kwargs = cpu(**options)
    kwargs["callbacks"] = [*kwargs.get("callbacks", []), trace]
    return kwargs


def fit_traced(model, epochs, trace=None):
    """Fit, and return the weights on the way."""
    trace = next(c for c in model.trainer_params["callbacks"] if isinstance(c, Trace))
    trace.__init__()
    model.fit(SERIES, val_series=VAL, epochs=epochs)
    return trace


def moving_average(weights, decay):
    average = weights[0]
    for n, new in enumerate(weights[1:], start=1):
        d = min(decay, (n + 1) / (n + 10))
        average = d * average + (1 - d) * new
    return average


def test_ema_is_that_of_all_steps_in_each_fit():
    model = make_model(BiGRUModel, pl_trainer_kwargs=traced(Trace(), ema=0.5))
    for _ in range(2):
        trace = fit_traced(model, 3)
        assert len(trace.steps) == 9
        expected = moving_average(trace.steps, 0.5)
        torch.testing.assert_close(vector(model.model), expected, rtol=0, atol=1e-6)
        assert not torch.allclose(expected, trace.steps[-1], atol=1e-5)
        per_epoch = len(trace.steps) // 3
        torch.testing.assert_close(
            trace.validated[-1], moving_average(trace.steps[: 3 * per_epoch], 0.5), rtol=0, atol=1e-6
        )
        # the steps go on from their own weights
        assert not torch.allclose(trace.validated[-1], trace.steps[-1], atol=1e-5)


def test_swa_is_the_mean_after_each_of_the_last_epochs_in_each_fit():
    model = make_model(BiGRUModel, pl_trainer_kwargs=traced(Trace(), swa=True))
    for epochs, last in ((10, 2), (1, 1), (6, 2)):
        trace = fit_traced(model, epochs)
        # before there is an average
        assert torch.equal(trace.validated[-1], trace.steps[-1]) == (last == 1)
        expected = torch.stack(trace.epochs[-last:]).mean(0)
        torch.testing.assert_close(vector(model.model), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
def test_an_average_does_not_change_the_steps(average):
    plain, averaged = (
        fit_traced(make_model(BiGRUModel, pl_trainer_kwargs=traced(Trace(), **options)), 3)
        for options in ({}, AVERAGES[average])
    )
    torch.testing.assert_close(plain.steps[-1], averaged.steps[-1], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize("average", AVERAGES)
def test_checkpoints_hold_the_average_and_training_goes_on_from_them(average, tmp_path):
    params = {"work_dir": str(tmp_path), "model_name": "m", "save_checkpoints": True, "force_reset": True}
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(**AVERAGES[average]), n_epochs=5, **params)
    model.fit(SERIES, val_series=VAL)
    last = BiGRUModel.load_from_checkpoint("m", work_dir=str(tmp_path), best=False)
    torch.testing.assert_close(vector(last.model), vector(model.model))
    last.fit(SERIES, val_series=VAL, epochs=7)
    assert last.epochs_trained == 7
    # as if it had not been interrupted, the loader's order apart
    assert torch.isfinite(vector(last.model)).all()
    assert not torch.allclose(vector(last.model), vector(model.model), atol=1e-5)


def test_resumed_training_goes_on_from_the_weights_and_the_average(tmp_path):
    params = {"work_dir": str(tmp_path), "model_name": "m", "save_checkpoints": True, "force_reset": True}
    kwargs = traced(Trace(), ema=0.99)
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(ema=0.99), n_epochs=3, **params)
    model.fit(SERIES, val_series=VAL)
    start = next(c for c in model.trainer_params["callbacks"] if isinstance(c, WeightEMA))
    weights = torch.load(next(tmp_path.rglob("last-*.ckpt")), weights_only=False)["current_model_state"]
    resumed = BiGRUModel.load_from_checkpoint("m", work_dir=str(tmp_path), best=False)
    resumed.trainer_params["callbacks"].append(kwargs["callbacks"][-1])
    trace = fit_traced(resumed, 4)
    first = torch.cat([weights[name].flatten() for name, _ in resumed.model.named_parameters()])
    # one step of Adam moves no weight much further than the learning rate
    assert (trace.steps[0] - first).abs().max() < 1.4e-3 < (trace.steps[0] - vector(model.model)).abs().max()
    average, done = vector(model.model), int(start._average_model.n_averaged)
    for n, new in enumerate(trace.steps, start=done):
        d = min(0.99, (n + 1) / (n + 10))
        average = d * average + (1 - d) * new
    torch.testing.assert_close(vector(resumed.model), average, rtol=0, atol=1e-6)


LOAD = """
import sys
import numpy as np
from birnn_forecast import BiGRUModel

path = sys.argv[1]
model = BiGRUModel.load(path)
np.save(path + ".npy", model.predict(6).values())
model.fit(model.training_series, val_series=model.training_series, epochs=7)
assert model.epochs_trained == 7, model.epochs_trained
assert len(model.trainer_params["callbacks"]) == int(sys.argv[2])
"""


@pytest.mark.parametrize(
    "options", [{"ema": 0.9}, {"swa": True}, {"log_every_n_steps": 5}], ids=lambda options: next(iter(options))
)
def test_a_fresh_process_loads_safely_and_trains_on(options, tmp_path):
    path = str(tmp_path / "model.pt")
    model = make_model(BiGRUModel, n_epochs=5, pl_trainer_kwargs=cpu(**options)).fit(SERIES, val_series=VAL)
    model.save(path)
    subprocess.run([sys.executable, "-c", LOAD, path, "1"], check=True)
    np.testing.assert_allclose(np.load(path + ".npy"), model.predict(6).values(), rtol=1e-6)


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"swa": True}, {"log_every_n_steps": 5}])
def test_copies_have_callbacks_of_their_own(options):
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(**options)).fit(SERIES)
    (own,) = model.trainer_params["callbacks"]
    for copied in (deepcopy(model), model.untrained_model()):
        (other,) = copied.trainer_params["callbacks"]
        assert other is not own
        assert type(other) is type(own)
        assert getattr(other, "_average_model", None) is None
        copied.fit(SERIES, epochs=1)


@pytest.mark.parametrize("average", AVERAGES)
def test_averages_of_every_model(model_class, average):
    model = make_model(model_class, n_epochs=2, pl_trainer_kwargs=cpu(**AVERAGES[average])).fit(SERIES, val_series=VAL)
    assert np.isfinite(model.predict(6).values()).all()


class Logged(Callback):
    """Note all that a module logs in training steps, by name: values and weights."""

    def __init__(self):
        self.epochs, self.means = [], []

    def on_train_start(self, trainer, pl_module):
        log = pl_module.log

        def noted(name, value, *args, batch_size=None, **kwargs):
            if batch_size is not None and "_loss" in name and "on_epoch" not in kwargs and trainer.training:
                self.epochs[-1].setdefault(name, []).append((value.item(), batch_size))
            log(name, value, *args, batch_size=batch_size, **kwargs)

        pl_module.__dict__["log"] = noted

    def on_train_epoch_start(self, *args):
        self.epochs.append({})

    def on_train_end(self, trainer, pl_module):
        pl_module.__dict__.pop("log", None)


class Metrics(Callback):
    """Note what callbacks such as early stopping see at each epoch's end."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({name: value.item() for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize(
    "make",
    [
        lambda kwargs: make_model(BiGRUModel, n_epochs=3, batch_size=7, pl_trainer_kwargs=kwargs),
        lambda kwargs: BlockRNNModel(12, 4, n_epochs=3, batch_size=7, random_state=0, pl_trainer_kwargs=kwargs),
    ],
    ids=["ours", "darts"],
)
@pytest.mark.parametrize("every", [1, 3, 100])
def test_epoch_means_are_exact_and_the_fit_is_the_same(make, every):
    series = make_series(60) if "Block" in type(make({})).__name__ else SERIES
    logged, plain_metrics, metrics = Logged(), Metrics(), Metrics()
    plain = make(cpu() | {"callbacks": [logged, plain_metrics]}).fit(series, val_series=VAL)
    kwargs = cpu(log_every_n_steps=every)
    sparse = make(kwargs | {"callbacks": [*kwargs["callbacks"], metrics]}).fit(series, val_series=VAL)
    logged, plain_metrics = plain.trainer_params["callbacks"][-2:]
    metrics = sparse.trainer_params["callbacks"][-1]
    assert torch.equal(vector(plain.model), vector(sparse.model))
    assert len(logged.epochs) == 3
    for steps, before, after in zip(logged.epochs, plain_metrics.epochs, metrics.epochs, strict=True):
        assert before.keys() == after.keys()
        for name, values in steps.items():
            losses, weights = zip(*values, strict=True)
            assert len({*weights}) > 1
            assert after[name] == pytest.approx(np.average(losses, weights=weights), rel=1e-6)
            assert after[name] != pytest.approx(losses[-1], rel=1e-3)
            assert before[name] == pytest.approx(losses[-1])  # Lightning's
        for name in (name for name in before if name.startswith("val")):
            assert after[name] == pytest.approx(before[name], rel=1e-6)


def test_a_logger_gets_some_steps_and_the_means(tmp_path):
    kwargs = cpu(log_every_n_steps=4) | {"logger": CSVLogger(str(tmp_path))}
    make_model(BiGRUModel, n_epochs=1, batch_size=4, pl_trainer_kwargs=kwargs).fit(SERIES)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    steps = -(-(60 - 16 + 1) // 4)
    assert len([row for row in rows if row["train_loss"]]) == steps // 4 + 1


def test_lightning_is_called_for_some_steps_only(monkeypatch):
    calls = []
    original = GapAwareModule.log
    monkeypatch.setattr(
        GapAwareModule, "log", lambda self, name, *a, **k: calls.append(name) or original(self, name, *a, **k)
    )
    model = make_model(BiGRUModel, batch_size=4, pl_trainer_kwargs=cpu(log_every_n_steps=5)).fit(SERIES)
    assert calls.count("train_loss") == 12 // 5 + 1
    assert "log" not in vars(model.model)


def test_a_failed_fit_leaves_the_module_as_it_was():
    modules = []

    class Fail(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            modules.append((pl_module, "log" in vars(pl_module)))
            raise RuntimeError("enough")

    kwargs = cpu(log_every_n_steps=5)
    model = make_model(BiGRUModel, pl_trainer_kwargs=kwargs | {"callbacks": [*kwargs["callbacks"], Fail()]})
    with pytest.raises(RuntimeError, match="enough"):
        model.fit(SERIES)
    ((module, stood_between),) = modules
    assert stood_between
    assert "log" not in vars(module)


def test_the_progress_bar_is_redrawn_as_often(capsys):
    kwargs = cpu(log_every_n_steps=6) | {"enable_progress_bar": True}
    model = make_model(BiGRUModel, batch_size=4, pl_trainer_kwargs=kwargs).fit(SERIES)
    assert model.trainer.progress_bar_callback.refresh_rate == 6
    assert "train_loss" in capsys.readouterr().out


def test_training_loss_is_monitored_by_its_mean():
    kinds = [type(callback) for callback in cpu(patience=2, monitor="train_loss")["callbacks"]]
    assert kinds[0] is SparseLogging
    assert len(kinds) == 2
    assert SparseLogging not in [type(callback) for callback in cpu(patience=2)["callbacks"]]


COMPILE = """
import sys
from copy import deepcopy
import numpy as np
import torch
from darts import TimeSeries
from darts.models import BlockRNNModel
import birnn_forecast
from birnn_forecast.training import trainer_kwargs

backend, path = sys.argv[1:]
torch.set_num_threads(1)
names, compile_ = [], torch.nn.Module.compile
torch.nn.Module.compile = lambda self, **k: names.append(type(self).__name__) or compile_(self, **k)
rng = np.random.default_rng(0)
series = TimeSeries.from_values((np.sin(np.arange(60) / 2) + rng.normal(size=60)).astype(np.float32))
gaps = series.with_values(np.where(rng.random((60, 1, 1)) < 0.1, np.nan, series.all_values()).astype(np.float32))

def weights(model):
    return torch.cat([p.detach().flatten() for p in model.model.parameters()])

def fit(name, compile, series=gaps, **kwargs):
    cls = getattr(birnn_forecast, name, BlockRNNModel)
    model = cls(12, 4, hidden_dim=8, hidden_fc_sizes=[6], batch_size=16, n_epochs=2, random_state=0, pl_trainer_kwargs=
        trainer_kwargs("cpu", progress_bar=False, compile=compile) | {"logger": False}, **kwargs)
    return model.fit(series)

found = {"BiGRUModel": {"HorizonDecoder", "StepHead"}, "CNNBiLSTMModel": {"HorizonDecoder", "StepHead"},
    "GRINModel": {"HorizonDecoder"}, "BlockRNNModel": {"_BlockRNNModule"}}
options = {"CNNBiLSTMModel": {"tbptt_length": 5}, "BlockRNNModel": {"series": series}}
for name, parts in found.items():
    plain = fit(name, False, **options.get(name, {}))
    assert not names
    model = fit(name, backend, **options.get(name, {}))
    assert parts <= {*names}, names
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-4)
    expected = plain.predict(6, series).values()
    np.testing.assert_allclose(model.predict(6, series).values(), expected, rtol=1e-3, atol=1e-4)
    assert model.model.state_dict().keys() == plain.model.state_dict().keys()
    n = len(names)
    model.fit(series, epochs=1)  # is compiled already
    assert len(names) == n
    deepcopy(model)
    model.save(path + name)
    again = type(model).load(path + name)
    expected = model.predict(6, series).values()
    np.testing.assert_allclose(again.predict(6, series).values(), expected, rtol=1e-3, atol=1e-4)
    again.fit(series, epochs=4)
    names.clear()
print("all compiled")
"""


# in a process of its own: torch's compiler does not take the tests' checks of shapes
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_models_train_predict_and_load_the_same(backend, tmp_path):
    if backend == "inductor" and callbacks.compile_error(torch.device("cpu"), {}) is not None:
        pytest.skip("no compiler here")
    command = [sys.executable, "-c", COMPILE, backend, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "all compiled" in done.stdout, done.stderr


def test_what_cannot_be_compiled_is_left_alone_with_a_warning(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

    monkeypatch.setattr(callbacks.torch, "compile", fail)
    model = make_model(BiGRUModel, pl_trainer_kwargs=cpu(compile=True))
    with pytest.warns(UserWarning, match=r"`compile` has no effect.*\(InvalidCxxCompiler: .* found\)\. Install"):
        model.fit(SERIES)
    assert all(module._compiled_call_impl is None for module in model.model.modules())
    assert np.isfinite(model.predict(4).values()).all()


def test_compile_takes_a_backend_or_options(monkeypatch):
    for given, options in (("eager", {"backend": "eager"}), ({"dynamic": True}, {"dynamic": True}), (True, {})):
        (callback,) = cpu(compile=given)["callbacks"]
        assert callback.options == options


@pytest.mark.parametrize("ends", [{"max_steps": 3}, {"max_epochs": -1, "max_steps": 3}])
def test_an_average_that_never_begins_is_told_of(ends):
    kwargs = cpu(swa=True) | ends
    model = make_model(BiGRUModel, n_epochs=100, pl_trainer_kwargs=kwargs)
    with pytest.warns(UserWarning, match="`swa` has no effect"):
        model.fit(make_series(40))
