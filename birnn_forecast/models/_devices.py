"""Which device a trainer's parameters mean: the one place that reads Lightning's ways to name it."""

from typing import Any

import torch
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator

KINDS: dict[Any, str] = {CPUAccelerator: "cpu", CUDAAccelerator: "cuda", MPSAccelerator: "mps"}


def device_of(trainer_params: dict[str, Any]) -> torch.device:
    """Return the first device that a trainer with these parameters would use; the CPU where there is no such one."""
    given = _of_strategy(trainer_params)
    accelerator: Any = trainer_params.get("accelerator", "auto") if given is None else given.type
    accelerator = KINDS.get(type(accelerator), accelerator)
    # in Lightning's order
    if accelerator in ("mps", "gpu", "auto") and torch.backends.mps.is_available():
        return torch.device("mps")
    if accelerator in ("cuda", "gpu", "auto") and torch.cuda.is_available():
        return torch.device("cuda", _first(trainer_params.get("devices", "auto")) if given is None else given.index)
    return torch.device("cpu")


def on_one_device(trainer_params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a trainer with one process, on the first device of these."""
    given = _of_strategy(trainer_params)
    devices = trainer_params.get("devices", "auto")
    if given is None and devices == 1 and "strategy" not in trainer_params and "num_nodes" not in trainer_params:
        return trainer_params
    one = {**trainer_params, "devices": 1, "strategy": "auto", "num_nodes": 1}
    if given is not None:
        one["accelerator"] = given.type
        return one if given.type == "cpu" else {**one, "devices": [given.index]}
    if _are_named(devices):
        one["devices"] = [_first(devices)]
    return one


def _are_named(devices: Any) -> bool:
    """Return whether devices are named by their indices (``[1]``, ``"0,1"``, ``"1,"``), rather than counted."""
    return bool(devices) and (isinstance(devices, list | tuple) or (isinstance(devices, str) and "," in devices))


def _first(devices: Any) -> int:
    """Return the index of the first device: 0 where they are counted (2, "2", "auto", -1 for all)."""
    if not _are_named(devices):
        return 0
    if isinstance(devices, str):
        devices = [number for number in devices.split(",") if number.strip()]
    return int(devices[0])


def _of_strategy(trainer_params: dict[str, Any]) -> torch.device | None:
    """Return the device that a strategy brings with it, if it does."""
    strategy = trainer_params.get("strategy")
    if strategy is None or isinstance(strategy, str):
        return None
    several = getattr(strategy, "parallel_devices", None)
    device = several[0] if several else getattr(strategy, "_root_device", None)
    return None if device is None else torch.device(device.type, device.index or 0)
