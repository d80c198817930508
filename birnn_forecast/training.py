"""Presets of Darts' ``pl_trainer_kwargs``: device, precision, clipping, stopping, averages, logging, compiling."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from darts.utils.serialization import add_safe_globals
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping

from birnn_forecast.budget import TimeBudget, check_number, listed
from birnn_forecast.callbacks import CompiledNetwork, LateAverage, SparseLogging, WeightEMA

# in the order in which "auto" tries them
ACCELERATORS: dict[str, Callable[[], bool]] = {
    "cuda": lambda: torch.cuda.is_available(),
    "mps": lambda: torch.backends.mps.is_available(),
    "cpu": lambda: True,
}
LOG_EVERY_N_STEPS = 50  # Lightning's own choice
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
    ema: float | None = None,
    swa: bool = False,
    compile: bool | str | dict[str, Any] = False,
    log_every_n_steps: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Return ``pl_trainer_kwargs`` for any torch model of Darts.

    Add keys of your own as in ``trainer_kwargs() | {"max_epochs": 5}``, callbacks by the argument. A model keeps the
    device it was made for: on a machine without it, use ``load(path, map_location="cpu")`` and then ``model.to_cpu()``.

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
        Logged quantity of which a decrease is progress. "val_loss" needs a ``val_series``, "train_loss" (here the mean
        of the epoch's batches) does not. "val_loss" is what Darts keeps the best checkpoint by (``load_best``); in a
        model that learns to impute as well, it is the sum of "val_forecast_loss" and ``imputation_weight`` times
        "val_imputation_loss", either of which may be named for a model that is to do one of the two.
    min_delta
        Smallest decrease, in the unit of `monitor`, that counts as progress.
    callbacks
        Callbacks of your own, beside those that the other arguments bring.
    progress_bar
        Whether to show Lightning's progress bar and model summary.
    ema
        Decay, per step, of an exponential moving average of the weights (0.99 for some hundred steps, 0.999 for some
        thousand), which is validated and which training ends with; ``None`` for none.
    swa
        Whether training ends with the mean of the weights after each of the last fifth of the epochs, which is
        validated from there on. A learning rate that stays high to the end suits it.
    compile
        Whether to compile the network by ``torch.compile``, or the name of a backend of it, or a dictionary of its
        arguments. Of this package's networks the heads and the decoder are compiled, not the recurrent layers, which
        it cannot take: it pays on a GPU with large heads, and seldom on a CPU. Where it does not work there is a
        warning, and the network stays as it is.
    log_every_n_steps
        Number of steps from one logged training loss, and one redrawn progress bar, to the next: logging each step
        takes longer than a small network. "train_loss" at the end of an epoch is then the exact mean over all of its
        batches, instead of the last one's. ``None`` leaves both to Lightning.

    Returns
    -------
    dict[str, Any]
        The value of a model's parameter ``pl_trainer_kwargs``.

    Raises
    ------
    ValueError
        If a value is not among the choices, the device is not there or does not have the precision, or two options
        exclude each other.

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
        check_number("gradient_clip", gradient_clip, positive=True)
        kwargs["gradient_clip_val"] = float(gradient_clip)
    if log_every_n_steps is not None:
        _check_steps("log_every_n_steps", log_every_n_steps)
        kwargs["log_every_n_steps"] = log_every_n_steps
    brought = _logging(log_every_n_steps, None if patience is None else monitor)
    brought += _averages(ema, swa, patience) + _compiling(compile)
    if patience is not None:
        brought.append(_early_stopping(patience, monitor, min_delta))
    if brought or callbacks:
        kwargs["callbacks"] = [*callbacks, *brought]
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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the monitored quantity, where it is one of each epoch."""
        if not self._check_on_train_epoch_end or self._is_there(trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the monitored quantity of a validation."""
        if trainer.sanity_checking or self._check_on_train_epoch_end or self._is_there(trainer, pl_module):
            super().on_validation_end(trainer, pl_module)

    def _is_there(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Return whether the monitored quantity was logged; raise if it never will be."""
        if self.monitor in trainer.callback_metrics:
            return True
        whole = self.monitor.replace("_imputation_loss", "_loss").replace("_forecast_loss", "_loss")
        if whole != self.monitor and whole in trainer.callback_metrics and getattr(pl_module, "reconstructs", False):
            warnings.warn(
                f"{self.monitor!r} is over no value at all, so training is not stopped early by it: give `fit` a "
                "longer `val_series`, with values in its input chunks and horizons.",
                stacklevel=2,
            )
            return False
        raise ValueError(
            f"`monitor` must be a quantity that is logged ({listed(*sorted(trainer.callback_metrics))}), got "
            f"{self.monitor!r}: give `fit` a `val_series` for one of validation, or use `monitor='train_loss'`."
        )


def _device(accelerator: str) -> str:
    if accelerator == "gpu":  # Lightning's name for either
        accelerator = "mps" if ACCELERATORS["mps"]() and not ACCELERATORS["cuda"]() else "cuda"
    if accelerator == "auto":
        return next(name for name, available in ACCELERATORS.items() if available())
    if accelerator not in [*ACCELERATORS]:
        raise ValueError(f"`accelerator` must be one of {listed('auto', 'gpu', *ACCELERATORS)}, got {accelerator!r}.")
    if not ACCELERATORS[accelerator]():
        found = listed(*(name for name, available in ACCELERATORS.items() if available()))
        raise ValueError(f"`accelerator` must be a device of this machine ({found}) or 'auto', got {accelerator!r}.")
    return accelerator


def _precision(precision: str, device: str) -> str | None:
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {listed(*PRECISIONS)}, got {precision!r}.")
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


def _logging(every_n_steps: int | None, monitor: str | None) -> list[Callback]:
    # of what is monitored the mean counts, not the last batch
    if every_n_steps is None and not str(monitor).startswith("train"):
        return []
    return [SparseLogging(every_n_steps or LOG_EVERY_N_STEPS)]


def _averages(ema: float | None, swa: bool, patience: int | None) -> list[Callback]:
    if not isinstance(swa, bool):
        raise ValueError(f"`swa` must be True or False, got {swa!r}.")
    if ema is not None and (isinstance(ema, bool) or not isinstance(ema, int | float) or not 0 < ema < 1):
        raise ValueError(f"`ema` must be a decay above 0 and below 1, such as 0.99, or None, got {ema!r}.")
    if swa and ema is not None:
        raise ValueError(f"`ema` must be None with `swa=True`, got {ema!r}: choose one of the two averages.")
    if swa and patience is not None:
        raise ValueError(
            f"`patience` must be None with `swa=True`, which averages over the last of all epochs, got {patience!r}: "
            "use `ema` instead, which may stop anywhere."
        )
    return [LateAverage()] if swa else [] if ema is None else [WeightEMA(ema)]


def _compiling(options: bool | str | dict[str, Any]) -> list[Callback]:
    if isinstance(options, str):
        options = {"backend": options}
    if isinstance(options, bool):
        return [CompiledNetwork()] if options else []
    known = [*inspect.signature(torch.compile).parameters][1:]
    if not isinstance(options, dict) or not options.keys() <= {*known}:
        raise ValueError(
            f"`compile` must be True, False, the name of a backend, or a dictionary with keys among {listed(*known)} "
            f"(those of `torch.compile`), got {options!r}."
        )
    backend = options.get("backend")
    backends = torch.compiler.list_backends(exclude_tags=())
    if isinstance(backend, str) and backend not in backends:
        raise ValueError(
            f"The backend of `compile` must be one of {listed(*backends)}, got {backend!r}: `compile=True` takes "
            "torch's own choice."
        )
    return [CompiledNetwork(options)]


def _early_stopping(patience: int, monitor: str, min_delta: float) -> EarlyStopping:
    _check_steps("patience", patience)
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"`monitor` must be the name of a logged quantity such as 'val_loss', got {monitor!r}.")
    check_number("min_delta", min_delta)
    return RestartingEarlyStopping(monitor, patience=patience, min_delta=min_delta, mode="min")


def _check_steps(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be an integer >= 1 or None, got {value!r}.")


CALLBACKS: list[type] = [
    CompiledNetwork,
    LateAverage,
    RestartingEarlyStopping,
    SparseLogging,
    TimeBudget,
    WeightEMA,
]
add_safe_globals(CALLBACKS)
