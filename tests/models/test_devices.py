"""Which device `impute` and `predict` use: the one that the trainer of the fit used, in whatever way it was named."""

import numpy as np
import pytest
import torch
from lightning_fabric.accelerators import cuda
from lightning_fabric.utilities.device_parser import _parse_gpu_ids
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from birnn_forecast import BiGRUModel
from birnn_forecast.models import _imputing
from birnn_forecast.models._devices import device_of, on_one_device
from tests.conftest import make_series, quiet_trainer
from tests.models.contract_helpers import change, fitted

SEVERAL = [torch.device("cuda", 2), torch.device("cuda", 3)]


@pytest.fixture
def machine(monkeypatch):
    """Make torch believe that it runs on a machine with these."""

    def believe(has_cuda, has_mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)

    return believe


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "trainer", "expected"),
    [
        (False, False, {}, "cpu"),
        (False, False, {"accelerator": "gpu"}, "cpu"),
        (False, False, {"devices": "1,"}, "cpu"),
        (True, False, {}, "cuda:0"),
        (True, False, {"accelerator": "cpu"}, "cpu"),
        (True, False, {"accelerator": CPUAccelerator()}, "cpu"),
        (True, False, {"accelerator": CUDAAccelerator(), "devices": "1,"}, "cuda:1"),
        (True, False, {"accelerator": "tpu"}, "cpu"),
        (True, False, {"strategy": "ddp", "devices": 2}, "cuda:0"),
        (True, False, {"strategy": SingleDeviceStrategy(torch.device("cuda", 1))}, "cuda:1"),
        (True, False, {"strategy": SingleDeviceStrategy("cuda")}, "cuda:0"),
        (True, False, {"strategy": SingleDeviceStrategy("cpu")}, "cpu"),
        (True, False, {"strategy": DDPStrategy(parallel_devices=SEVERAL)}, "cuda:2"),
        (True, False, {"strategy": DDPStrategy(), "devices": "3,1"}, "cuda:3"),
        (False, True, {}, "mps"),
        (False, True, {"accelerator": "auto", "devices": "auto"}, "mps"),
        (False, True, {"accelerator": "mps", "devices": [0]}, "mps"),
        (False, True, {"accelerator": MPSAccelerator()}, "mps"),
        (False, True, {"accelerator": "gpu"}, "mps"),
        (False, True, {"accelerator": "cuda"}, "cpu"),
        (False, True, {"accelerator": "cpu"}, "cpu"),
    ],
)
def test_device_of_the_trainer(has_cuda, has_mps, trainer, expected, machine):
    machine(has_cuda, has_mps)
    assert str(device_of(trainer)) == expected


@pytest.mark.parametrize(
    "accelerator", ["auto", "gpu", "cuda", CUDAAccelerator()], ids=["auto", "gpu", "cuda", "CUDAAccelerator"]
)
@pytest.mark.parametrize(
    "devices", [1, 3, -1, "1", "2", "-1", "1,", "2,", "0,1", "3, 1", "2,0,", [1], [3, 0], (2,)], ids=repr
)
def test_devices_are_read_as_lightning_reads_them(devices, accelerator, machine, monkeypatch):
    machine(True, False)
    monkeypatch.setattr(cuda, "_get_all_visible_cuda_devices", lambda: [0, 1, 2, 3])
    theirs = _parse_gpu_ids(devices, include_cuda=True)[0]
    params = {"accelerator": accelerator, "devices": devices, "max_epochs": 3}
    assert device_of(params) == torch.device("cuda", theirs)
    one = on_one_device(params)
    # the same again, and nothing else
    assert device_of(one) == torch.device("cuda", theirs)
    assert _parse_gpu_ids(one["devices"], include_cuda=True) == [theirs]
    assert one.get("strategy", "auto") == "auto"
    assert one["max_epochs"] == 3


def test_devices_of_strategies_are_those_of_predictions(machine):
    machine(True, False)
    for strategy, expected in (
        (SingleDeviceStrategy(torch.device("cuda", 1)), {"accelerator": "cuda", "devices": [1]}),
        (DDPStrategy(parallel_devices=SEVERAL), {"accelerator": "cuda", "devices": [2]}),
        (SingleDeviceStrategy("cpu"), {"accelerator": "cpu", "devices": 1}),
        ("ddp_fork", {"devices": 1}),
    ):
        assert on_one_device({"strategy": strategy}) == {**expected, "strategy": "auto", "num_nodes": 1}


@pytest.mark.parametrize(
    "trainer", [{}, {"devices": "1"}, {"strategy": SingleDeviceStrategy("cpu")}], ids=["none", "one", "strategy"]
)
def test_impute_and_predict_on_the_trainers_device(trainer, monkeypatch):
    params = {**quiet_trainer(), **trainer}
    if "strategy" in trainer:
        del params["accelerator"]
    series = change(make_series(40), slice(20, 23), float("nan"))
    model = fitted(BiGRUModel, series, pl_trainer_kwargs=params)
    monkeypatch.setattr(_imputing, "device_of", lambda params: asked.append(params) or device_of(params))
    asked = []
    assert np.isfinite(model.impute(calibrate=False).values()).all()
    assert asked == [model.trainer_params]
    model.predict(4)
    assert model.trainer.strategy.root_device == torch.device("cpu")
