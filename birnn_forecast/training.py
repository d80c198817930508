"""Presets of Darts' ``pl_trainer_kwargs``: device, precision, gradient clipping and early stopping."""

from collections.abc import Callable
from typing import Any

import torch
from darts.utils.serialization import add_safe_globals
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping

from birnn_forecast.budget import TimeBudget, check_number, listed

__all__ = ["RestartingEarlyStopping", "TimeBudget", "trainer_kwargs"]

# in the order in which "auto" tries them
ACCELERATORS: dict[str, Callable[[], bool]] = {
    "cuda": lambda: torch.cuda.is_available(),
    "mps": lambda: torch.backends.mps.is_available(),
    "cpu": lambda: True,
}
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
        check_number("gradient_clip", gradient_clip, positive=True)
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


def _early_stopping(patience: int, monitor: str, min_delta: float) -> EarlyStopping:
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise ValueError(f"`patience` must be an integer >= 1 or None, got {patience!r}.")
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"`monitor` must be the name of a logged quantity such as 'val_loss', got {monitor!r}.")
    check_number("min_delta", min_delta)
    return RestartingEarlyStopping(monitor, patience=patience, min_delta=min_delta, mode="min")


add_safe_globals([RestartingEarlyStopping])
