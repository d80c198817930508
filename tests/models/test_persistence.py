"""Saving and loading, here and in a process of its own, with Darts' safe loading as it is by default."""

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from darts.models import ConformalNaiveModel, NaiveDrift, NaiveEnsembleModel
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel
from darts.utils.likelihood_models import GaussianLikelihood
from darts.utils.serialization import clear_safe_globals, safe_globals
from pytorch_lightning.callbacks import EarlyStopping

from birnn_forecast import BiGRUModel, GRINModel
from birnn_forecast.models._base import _family
from tests.conftest import MODELS, make_model, make_series, quiet_trainer
from tests.models.contract_helpers import FUTURE, PAST, assert_same, differs, fitted, two_models, with_statics

COVARIATES = {"past_covariates": PAST, "future_covariates": FUTURE}


@pytest.fixture
def full_model(model_class, tmp_path):
    """A fitted model with everything that a file may hold: likelihood, covariates, checkpoints, encoders."""
    return fitted(
        model_class,
        with_statics(make_series(60, 2, missing=0.2), 1.0),
        fit=COVARIATES
        | {
            "val_series": with_statics(make_series(60, 2, seed=1), 1.0),
            "val_past_covariates": PAST,
            "val_future_covariates": FUTURE,
        },
        likelihood=GaussianLikelihood(),
        use_reversible_instance_norm={"affine": True},
        hidden_fc_sizes=[4],
        lr_scheduler_cls=torch.optim.lr_scheduler.ExponentialLR,
        lr_scheduler_kwargs={"gamma": 0.5},
        add_encoders={"cyclic": {"future": ["month"]}},
        model_name="full",
        work_dir=str(tmp_path),
        save_checkpoints=True,
        n_epochs=2,
    )


def parameters(model, series=None):
    return model.predict(4, series, predict_likelihood_parameters=True, **COVARIATES)


def test_save_and_load(full_model, model_class, tmp_path):
    expected = parameters(full_model)
    path = str(tmp_path / "model.pt")
    full_model.save(path)
    loaded = model_class.load(path)
    assert type(loaded) is model_class
    assert dict(loaded.model_params) == dict(full_model.model_params)
    assert_same(parameters(loaded), expected)
    assert_same(parameters(TorchForecastingModel.load(path)), expected)
    full_model.save(path, clean=True)
    clean = model_class.load(path, pl_trainer_kwargs=quiet_trainer())
    assert_same(parameters(clean, full_model.training_series), expected)
    with pytest.raises(ValueError, match="must be provided"):
        clean.predict(4)


def test_load_from_checkpoint(full_model, model_class, tmp_path):
    loaded = model_class.load_from_checkpoint("full", str(tmp_path), best=False)
    assert_same(parameters(loaded, full_model.training_series), parameters(full_model))
    best = model_class.load_from_checkpoint("full", str(tmp_path))
    assert np.isfinite(parameters(best, full_model.training_series).values()).all()


def test_training_resumes_from_a_checkpoint(full_model, model_class, tmp_path):
    loaded = model_class.load_from_checkpoint("full", str(tmp_path), best=False)
    series = full_model.training_series
    validation = {"val_series": series, "val_past_covariates": PAST, "val_future_covariates": FUTURE}
    loaded.fit(series, **COVARIATES, **validation, epochs=4)
    assert loaded.epochs_trained == 4
    assert loaded.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**4)
    assert not torch.equal(loaded.model.network.decoder.output.weight, full_model.model.network.decoder.output.weight)


def test_load_weights(full_model, model_class, tmp_path):
    path = str(tmp_path / "model.pt")
    full_model.save(path)
    series = full_model.training_series
    new = model_class(**full_model.model_params | {"model_name": "new", "random_state": 5, "batch_size": 3})
    new.load_weights(path)
    assert_same(parameters(new, series), parameters(full_model))
    again = model_class(**full_model.model_params | {"model_name": "again", "random_state": 5})
    again.load_weights_from_checkpoint("full", str(tmp_path), best=False)
    assert_same(parameters(again, series), parameters(full_model))


def test_wrong_parameters_are_named(full_model, model_class, tmp_path):
    path = str(tmp_path / "model.pt")
    full_model.save(path)
    for name, value in {"hidden_dim": 9, "pooling": "mean", "skip": None, "dropout": 0.5}.items():
        wrong = model_class(**full_model.model_params | {"model_name": "wrong", name: value, "force_reset": True})
        with pytest.raises(ValueError, match=f"incorrect :\n.*found {name}={value}, should be {name}="):
            wrong.load_weights(path)


@two_models
def test_second_model_of_a_name(full_model, model_class):
    with pytest.raises(ValueError, match="already exists for `model_name` 'full'"):
        model_class(**full_model.model_params)
    model_class(**full_model.model_params | {"force_reset": True})


@two_models
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_corrupt_file(model_class, tmp_path, damage):
    path = tmp_path / "model.pt"
    fitted(model_class, make_series(60)).save(str(path))
    checkpoint = Path(f"{path}.ckpt")
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2] if damage == "cut" else bytes(len(content)))
    with pytest.raises((RuntimeError, OSError, ValueError)):
        model_class.load(str(path))


@two_models
def test_callbacks_and_trainer_options(model_class, tmp_path):
    path = str(tmp_path / "model.pt")
    stopper = EarlyStopping("train_loss", patience=3)
    model = fitted(model_class, make_series(60), pl_trainer_kwargs=quiet_trainer(callbacks=[stopper]))
    model.save(path)
    loaded = model_class.load(path, pl_trainer_kwargs=quiet_trainer(callbacks=[stopper]))
    assert loaded.trainer_params["callbacks"] == [stopper]
    assert_same(loaded.predict(4), model.predict(4))


def test_copies_of_what_is_not_fitted(model_class):
    model = make_model(model_class)
    twin = copy.deepcopy(model)
    series = make_series(60, missing=0.2)
    assert dict(twin.model_params) == dict(model.model_params)
    assert_same(twin.fit(series).predict(4), model.fit(series).predict(4), rtol=0)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, through_pickle])
def test_copies_of_what_is_fitted(full_model, make, tmp_path):
    expected, series = parameters(full_model), full_model.training_series
    filled = full_model.impute(**COVARIATES)
    twin = make(full_model)
    assert twin.trainer is None
    assert_same(twin.impute(**COVARIATES), filled, rtol=0)
    assert_same(parameters(twin), expected, rtol=0)
    # a copy of a copy, saved before and after it has a trainer
    for other in (make(full_model), twin):
        for clean in (False, True):
            other.save(str(tmp_path / "twin.pt"), clean=clean)
            loaded = make(type(twin).load(str(tmp_path / "twin.pt"), pl_trainer_kwargs=quiet_trainer()))
            assert_same(parameters(loaded, series), expected)
    # it learns on, and the model that it was copied from does not
    validation = {"val_series": series, "val_past_covariates": PAST, "val_future_covariates": FUTURE}
    twin.fit(series, **COVARIATES, **validation)
    assert differs(parameters(twin), expected)
    assert_same(parameters(full_model), expected, rtol=0)
    assert_same(full_model.impute(**COVARIATES), filled, rtol=0)


def test_a_copy_without_its_file_is_saved_whole(tmp_path):
    model = fitted(BiGRUModel, make_series(60))
    expected = model.predict(4)
    (tmp_path / "one").mkdir()
    model.save(str(tmp_path / "one" / "model.pt"))
    twin = copy.deepcopy(BiGRUModel.load(str(tmp_path / "one" / "model.pt")))
    for path in (tmp_path / "one").iterdir():
        path.unlink()
    assert not twin.untrained_model().model_created
    twin.save(str(tmp_path / "two.pt"))
    assert_same(BiGRUModel.load(str(tmp_path / "two.pt")).predict(4), expected)


def predicted_and_filled(model):
    return model.predict(4).values(), model.impute().values()


def test_other_processes():
    model = fitted(BiGRUModel, make_series(60, missing=0.2))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(predicted_and_filled, model).result()
    for one, expected in zip(found, predicted_and_filled(model), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-6)


@two_models
def test_files_hold_the_weights_once(model_class, tmp_path):
    def sizes(hidden_dim):
        name = f"m{hidden_dim}"
        model = fitted(
            model_class,
            make_series(60),
            hidden_dim=hidden_dim,
            model_name=name,
            work_dir=str(tmp_path),
            save_checkpoints=True,
            fit={"val_series": make_series(60)},
        )
        model.save(str(tmp_path / "model.pt"))
        model.save(str(tmp_path / "clean.pt"), clean=True)
        files = [tmp_path / "model.pt", tmp_path / "clean.pt", tmp_path / name / "_model.pth.tar"]
        return [path.stat().st_size for path in files], (tmp_path / "model.pt.ckpt").stat().st_size

    small, large = sizes(8), sizes(64)
    assert large[1] > small[1] + 50_000
    np.testing.assert_allclose(large[0], small[0], atol=200)


@two_models
def test_reset_and_to_cpu(model_class, tmp_path):
    model = fitted(model_class, make_series(60), model_name="reset", work_dir=str(tmp_path))
    model.to_cpu()
    assert model.trainer_params["accelerator"] == "cpu"
    model.reset_model()
    assert not model.model_created


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_survives(model_class, tmp_path, dtype):
    model = fitted(model_class, make_series(60, missing=0.2, dtype=dtype))
    model.save(str(tmp_path / "model.pt"))
    loaded = model_class.load(str(tmp_path / "model.pt"))
    assert loaded.model.dtype == model.model.dtype == {np.float32: torch.float32, np.float64: torch.float64}[dtype]
    assert_same(loaded.predict(6), model.predict(6), rtol=0)


def test_allow_list_cleared_by_the_user(full_model, model_class, tmp_path):
    path = str(tmp_path / "model.pt")
    full_model.save(path)
    clear_safe_globals()
    model_class.load(path)
    model_class.load_from_checkpoint("full", str(tmp_path), best=False)
    options = full_model.model_params | {"force_reset": True, "model_name": "new"}
    model_class(**options).load_weights(path)
    model_class(**options).load_weights_from_checkpoint("full", str(tmp_path), best=False)


FRESH = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from darts import TimeSeries
from darts.utils.serialization import clear_safe_globals
from birnn_forecast import BiGRUModel, GRINModel
from tests.conftest import MODELS, make_model, make_series, quiet_trainer

folder, clear = sys.argv[1], sys.argv[2] == "clear"
for name, cls in MODELS.items():
    if clear:
        clear_safe_globals()
    expected = np.load(f"{folder}/{name}.npy")
    series = make_series(60, missing=0.2)
    new = cls(12, 4, hidden_dim=8, decoder_dim=4, activation="Tanh", pl_trainer_kwargs=quiet_trainer())
    new.load_weights(f"{folder}/{name}.pt")
    resumed = cls.load_from_checkpoint(name, folder, best=False)
    for model in (cls.load(f"{folder}/{name}.pt"), resumed, new):
        np.testing.assert_allclose(model.predict(6, series).values(), expected, rtol=1e-5)
    resumed.fit(series, epochs=2)
    assert resumed.epochs_trained == 2
    print(name, "as saved")
"""


@pytest.mark.slow
@pytest.mark.parametrize("clear", ["keep", "clear"])
def test_fresh_process(tmp_path, clear):
    series = make_series(60, missing=0.2)
    for name, cls in MODELS.items():
        model = fitted(
            cls, series, model_name=name, work_dir=str(tmp_path), save_checkpoints=True, fit={"val_series": series}
        )
        model.save(str(tmp_path / f"{name}.pt"))
        np.save(tmp_path / f"{name}.npy", model.predict(6).values())
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path), clear], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{name} as saved" for name in MODELS]


def test_a_users_trainer_resumes_from_a_checkpoint(tmp_path):
    def fit(epochs, checkpoint=None):
        model = make_model(BiGRUModel, n_epochs=epochs)
        model.load_ckpt_path = checkpoint
        trainer = pl.Trainer(**quiet_trainer(max_epochs=epochs, enable_checkpointing=False))
        return model.fit(make_series(60), trainer=trainer), trainer

    _, first = fit(1)
    first.save_checkpoint(tmp_path / "one.ckpt")
    resumed, trainer = fit(3, str(tmp_path / "one.ckpt"))
    steps_an_epoch = first.global_step
    assert trainer.global_step == 3 * steps_an_epoch
    assert resumed.epochs_trained == 3


PLAIN = """
import sys, warnings
warnings.simplefilter("ignore")
{imports}
assert ("birnn_forecast.models" in sys.modules) is {early}
model = TorchForecastingModel.load(sys.argv[1])
assert type(model).__name__ == sys.argv[2], type(model)
assert model.predict(4).n_timesteps == 4
"""
DARTS = "from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel"


@pytest.mark.parametrize(
    ("imports", "early"),
    [
        (f"import birnn_forecast\n{DARTS}", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (f"{DARTS}\nimport birnn_forecast", False),
                (f"from birnn_forecast import BiGRUModel\n{DARTS}", True),
                (f"import birnn_forecast.callbacks\n{DARTS}", False),
                (f"import birnn_forecast\nfrom birnn_forecast.imputation import Imputer\n{DARTS}", True),
            ]
        ),
    ],
)
def test_darts_loads_what_the_plain_import_registers(tmp_path, imports, early):
    cls = GRINModel if early else BiGRUModel
    path = str(tmp_path / "model.pt")
    fitted(cls, make_series(60)).save(path)
    code = PLAIN.format(imports=imports, early=early)
    done = subprocess.run(
        [sys.executable, "-c", code, path, cls.__name__],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_ensembles_and_wrappers_are_saved_and_loaded(tmp_path):
    """Darts pickles what holds the model, and writes the weights to a file of their own."""
    series = make_series(60)
    held = {
        NaiveEnsembleModel: NaiveEnsembleModel([make_model(BiGRUModel), NaiveDrift()]).fit(series),
        ConformalNaiveModel: ConformalNaiveModel(make_model(BiGRUModel).fit(series[:40]), quantiles=[0.1, 0.5, 0.9]),
    }
    for cls, model in held.items():
        path = str(tmp_path / f"{cls.__name__}.pkl")
        model.save(path)
        with safe_globals(_family()):  # other tests clear the list
            loaded = cls.load(path)
        np.testing.assert_allclose(loaded.predict(4, series).values(), model.predict(4, series).values(), rtol=1e-5)
