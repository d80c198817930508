"""Presets of Darts' ``pl_trainer_kwargs``: device, precision, gradient clipping and early stopping."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from darts.utils.serialization import add_safe_globals
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping

# in the order in which "auto" tries them
ACCELERATORS: dict[str, Callable[[], bool]] = {
    "cuda": lambda: torch.cuda.is_available(),
    "mps": lambda: torch.backends.mps.is_available(),
    "cpu": lambda: True,
}
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
PRECISIONS = ("auto", "32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed")


def trainer_kwargs(
    accelerator: str = "auto",
    precision: str = "auto",
    patience: int | None = None,
    gradient_clip: float | None = 1.0,
    *,
    monitor: str = "val_loss",
    min_delta: float = 0.0,
    progress_bar: bool = True,
) -> dict[str, Any]:
    """Return ``pl_trainer_kwargs`` for any torch model of Darts.

    Add keys of your own as in ``trainer_kwargs() | {"max_epochs": 5}``. A model keeps the device it was made for: on a
    machine without it, use ``load(path, map_location="cpu")`` and then ``model.to_cpu()``.

    Parameters
    ----------
    accelerator
        Device to train and predict on, one of it: "cuda", "mps", "gpu" (either), "cpu", or "auto" for the first of them
        that is there.
    precision
        Lightning's name of a precision: "32-true", "64-true", "bf16-mixed", "bf16-true" or "16-mixed". "auto" is
        "bf16-mixed" on a CUDA device that computes in bfloat16 and "32-true" on "mps", which has no float64; elsewhere
        Darts follows the dtype of the series.
    patience
        Number of validations in a row without progress after which training stops; ``None`` trains all epochs.
    gradient_clip
        Largest norm of the gradient over all weights, larger ones are scaled down to it; ``None`` leaves them alone.
    monitor
        Logged quantity of which a decrease is progress. "val_loss" needs a ``val_series``, "train_loss" does not.
    min_delta
        Smallest decrease, in the unit of `monitor`, that counts as progress.
    progress_bar
        Whether to show Lightning's progress bar and model summary.

    Returns
    -------
    dict[str, Any]
        The value of a model's parameter ``pl_trainer_kwargs``.

    Raises
    ------
    ValueError
        If a value is not among the choices, or the device is not there or does not have the precision.

    Examples
    --------
    >>> from birnn_forecast import BiGRUModel
    >>> from birnn_forecast.training import trainer_kwargs
    >>> model = BiGRUModel(24, 12, n_epochs=100, pl_trainer_kwargs=trainer_kwargs("cpu", patience=5))
    """
    device = _device(accelerator)
    kwargs: dict[str, Any] = {
        "accelerator": device,
        "devices": 1,
        "enable_progress_bar": progress_bar,
        "enable_model_summary": progress_bar,
    }
    if (name := _precision(precision, device)) is not None:
        kwargs["precision"] = name
    if gradient_clip is not None:
        _check_number("gradient_clip", gradient_clip, positive=True)
        kwargs["gradient_clip_val"] = float(gradient_clip)
    if patience is not None:
        kwargs["callbacks"] = [_early_stopping(patience, monitor, min_delta)]
    return kwargs


class RestartingEarlyStopping(EarlyStopping):
    """Early stopping that forgets the previous fit, unless it is resumed from a checkpoint.

    Lightning's remembers its best value: a second model with the same ``pl_trainer_kwargs``, or a second ``fit``, would
    be measured against the first and stop at once.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget, before the first epoch."""
        if trainer.ckpt_path is None:
            self.load_state_dict(type(self)(self.monitor, patience=self.patience, mode=self.mode).state_dict())


class TimeBudget(Callback):
    """Train for a given time: the learning rate rises, then falls along a cosine to 0 by the end, when training stops.

    Takes the place of ``n_epochs`` (set that high) and of a scheduler. Validations, if there are any, count as well.
    Several processes go by the clock of the first.

    Parameters
    ----------
    seconds
        Time to train, in seconds of this process' processor time (all its threads), or of the clock.
    warmup
        Share of the time in which the learning rate rises linearly from 0 to that of the optimizer.
    clock
        "cpu" for processor time, "wall" for the clock's.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
    https://arxiv.org/abs/1608.03983, eq. 5 (without restarts).
    """

    def __init__(self, seconds: float, warmup: float = 0.05, clock: str = "cpu"):
        super().__init__()
        _check_number("seconds", seconds, positive=True)
        if not isinstance(warmup, int | float) or not 0 <= warmup < 1:
            raise ValueError(f"`warmup` must be a share of at least 0 and below 1, got {warmup!r}.")
        if clock not in CLOCKS:
            raise ValueError(f"`clock` must be one of {_listed(*CLOCKS)}, got {clock!r}.")
        self.seconds, self.warmup, self.clock = seconds, warmup, clock
        self.started = 0.0
        self.rates: list[list[float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and note the optimizers' learning rates."""
        self.started = CLOCKS[self.clock]()
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of the coming step."""
        share = min(self._elapsed(trainer) / self.seconds, 1.0)
        factor = 0.5 * (1 + math.cos(math.pi * share)) * min(1.0, share / self.warmup if self.warmup else 1.0)
        for optimizer, rates in zip(trainer.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Stop when the time is over."""
        if self._elapsed(trainer) >= self.seconds:
            trainer.should_stop = True

    def _elapsed(self, trainer: Trainer) -> float:
        # clocks of their own would give each process other learning rates, and another last step
        return trainer.strategy.broadcast(CLOCKS[self.clock]() - self.started)


def _device(accelerator: str) -> str:
    if accelerator == "gpu":  # Lightning's name for either
        accelerator = "mps" if ACCELERATORS["mps"]() and not ACCELERATORS["cuda"]() else "cuda"
    if accelerator == "auto":
        return next(name for name, available in ACCELERATORS.items() if available())
    if accelerator not in [*ACCELERATORS]:
        raise ValueError(f"`accelerator` must be one of {_listed('auto', 'gpu', *ACCELERATORS)}, got {accelerator!r}.")
    if not ACCELERATORS[accelerator]():
        found = _listed(*(name for name, available in ACCELERATORS.items() if available()))
        raise ValueError(f"`accelerator` must be a device of this machine ({found}) or 'auto', got {accelerator!r}.")
    return accelerator


def _precision(precision: str, device: str) -> str | None:
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {_listed(*PRECISIONS)}, got {precision!r}.")
    if device == "mps" and precision == "64-true":
        raise ValueError(
            "`precision` must not be '64-true' on 'mps', which has no float64: convert the series with "
            "`series.astype(np.float32)` and leave `precision` at 'auto'."
        )
    if device == "cpu" and precision == "16-mixed":
        raise ValueError("`precision` must not be '16-mixed' on 'cpu', which has no such mode: use 'bf16-mixed'.")
    if precision != "auto":
        return precision
    if device == "cuda":
        # an emulated bfloat16 is slower than float32
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return "32-true" if device == "mps" else None


def _early_stopping(patience: int, monitor: str, min_delta: float) -> EarlyStopping:
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise ValueError(f"`patience` must be an integer >= 1 or None, got {patience!r}.")
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"`monitor` must be the name of a logged quantity such as 'val_loss', got {monitor!r}.")
    _check_number("min_delta", min_delta)
    return RestartingEarlyStopping(monitor, patience=patience, min_delta=min_delta, mode="min")


def _check_number(name: str, value: float, positive: bool = False) -> None:
    valid = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not valid or value < 0 or (positive and value == 0):
        raise ValueError(f"`{name}` must be a finite number {'> 0' if positive else '>= 0'}, got {value!r}.")


def _listed(*names: str) -> str:
    return ", ".join(map(repr, names))


add_safe_globals([RestartingEarlyStopping, TimeBudget])
