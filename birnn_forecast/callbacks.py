"""Callbacks of the trainer: averages of the weights, logging that costs little, compiled networks.

All of them forget the previous fit when the next one starts, unless it is resumed from a checkpoint, and are saved and
copied as they were made, without what they hold of a fit.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, TQDMProgressBar, WeightAveraging
from torch import Tensor, nn


class AveragedWeights(WeightAveraging):
    """Lightning's averages of the weights; until there is one, the module goes its own way.

    The average is what is validated, what checkpoints hold as the model's weights, and what training ends with.
    Buffers, such as running statistics, are those of the last step that went into it.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=self.average)

    def average(self, averaged: Sequence[Tensor], weights: Sequence[Tensor], number: int | Tensor) -> None:
        """Bring the average of `number` weights nearer to further ones, in place."""
        raise NotImplementedError

    @property
    def has_begun(self) -> bool:
        """Whether there is an average."""
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with the steps and epochs of no other fit, unless it is resumed."""
        if stage == "fit" and trainer.ckpt_path is None:
            self._latest_update_step, self._latest_update_epoch = 0, -1
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self.has_begun:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from the module's own weights."""
        if self.has_begun:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End with the average."""
        if self.has_begun:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the model's weights, and these beside it."""
        if self.has_begun:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint that has an average."""
        if self._average_model is not None and "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class WeightEMA(AveragedWeights):
    """Exponential moving average of the weights.

    After step ``n``, ``average = d average + (1 - d) weights`` with ``d = min(decay, n / (n + 9))``, so that the first
    steps are soon forgotten.

    Parameters
    ----------
    decay
        Share of the average that a step leaves as it is, above 0 and below 1.

    References
    ----------
    B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30
    (1992), https://doi.org/10.1137/0330046; the rise of ``d`` is that of TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, decay: float = 0.999):
        super().__init__()
        self.decay = decay

    @torch.no_grad()
    def average(self, averaged: Sequence[Tensor], weights: Sequence[Tensor], number: int | Tensor) -> None:
        """Forget a little, and learn as much."""
        share = 1 - min(self.decay, (int(number) + 1) / (int(number) + 10))
        for average, weight in zip(averaged, weights, strict=True):
            average.lerp_(weight.to(average.dtype), share)

    def __reduce__(self) -> Any:
        return type(self), (self.decay,)


class LateAverage(AveragedWeights):
    """Stochastic weight averaging: the mean of the weights after each of the last epochs.

    Parameters
    ----------
    start
        Share of all epochs before the average begins; at least the last epoch is in it.

    References
    ----------
    P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018,
    https://arxiv.org/abs/1803.05407
    """

    def __init__(self, start: float = 0.8):
        super().__init__()
        self.start = start
        self.first_epoch: float = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the epoch to begin with."""
        super().setup(trainer, pl_module, stage)
        epochs = trainer.max_epochs or -1
        self.first_epoch = min(int(self.start * epochs), epochs - 1) if epochs > 0 else math.inf

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End with the average, or say that there is none."""
        if not self.has_begun:
            warnings.warn(
                "`swa` has no effect: training ended before the last epochs, of which it is the mean. Leave out what "
                "ends it (a `TimeBudget`, `max_steps`), or use `ema` instead.",
                stacklevel=2,
            )
        super().on_train_end(trainer, pl_module)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether weights go into the average."""
        return epoch_idx is not None and epoch_idx >= self.first_epoch

    @torch.no_grad()
    def average(self, averaged: Sequence[Tensor], weights: Sequence[Tensor], number: int | Tensor) -> None:
        """Add one to a mean."""
        for average, weight in zip(averaged, weights, strict=True):
            average.lerp_(weight.to(average.dtype), 1 / (int(number) + 1))

    def __reduce__(self) -> Any:
        return type(self), (self.start,)


class SparseLogging(Callback):
    """Hand what a training step logs to Lightning only now and then, and the epoch's exact mean at its end.

    Lightning's own bookkeeping takes longer than the step of a small network. With it, what is called "train_loss" at
    the end of an epoch is that of the last batch; with this callback it is the mean over all of the epoch's batches,
    each with the weight that it was logged with (its size). Quantities logged in validation are such means anyway.

    Parameters
    ----------
    every_n_steps
        Number of training steps from one to the next that is logged and drawn in the progress bar.
    """

    def __init__(self, every_n_steps: int = 50):
        super().__init__()
        self.every_n_steps = every_n_steps
        self._forget()

    def _forget(self) -> None:
        self.in_step, self.is_logged = False, False
        self.sums: dict[str, tuple[Tensor, float]] = {}
        self.options: dict[str, dict[str, Any]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stand between the module and Lightning."""
        self._forget()
        log = type(pl_module).log

        def sparse_log(name: str, value: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
            apart = self.in_step and batch_size is not None and not args and not kwargs.get("on_epoch")
            if apart and isinstance(value, Tensor):
                self._add(name, value.detach(), batch_size or 0)
                self.options[name] = {key: kwargs[key] for key in ("prog_bar", "sync_dist") if key in kwargs}
                if not self.is_logged:
                    return
            log(pl_module, name, value, *args, batch_size=batch_size, **kwargs)

        pl_module.__dict__["log"] = sparse_log
        bar = trainer.progress_bar_callback
        if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
            bar._refresh_rate = self.every_n_steps

    def _add(self, name: str, value: Tensor, weight: int) -> None:
        if value.device.type != "mps":
            value = value.double()
        total, weights = self.sums.get(name, (torch.zeros_like(value), 0))
        self.sums[name] = total + value * weight if weight else total, weights + weight

    def on_train_epoch_start(self, *args: Any) -> None:
        """Begin new means."""
        self.sums = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Decide whether the coming step is logged."""
        self.in_step, self.is_logged = True, (batch_idx + 1) % self.every_n_steps == 0

    def on_train_batch_end(self, *args: Any) -> None:
        """Let through what is logged between steps."""
        self.in_step = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means."""
        for name, (total, weight) in self.sums.items():
            if weight:  # the same in all processes: our modules log with the values of all of them
                options = {"on_step": False, "on_epoch": True, "batch_size": weight} | self.options[name]
                pl_module.log(name, (total / weight).to(torch.get_default_dtype()), **options)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step aside."""
        pl_module.__dict__.pop("log", None)
        self._forget()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Step aside."""
        self.on_train_end(trainer, pl_module)

    def __reduce__(self) -> Any:
        return type(self), (self.every_n_steps,)


class CompiledNetwork(Callback):
    """Compile the module with ``torch.compile`` before it is trained, in place: it is saved and loaded as ever.

    Of a module with an attribute ``compiled_parts`` those parts are compiled, of others (Darts' own) their ``forward``.
    Where the compiler does not work, on a CPU without a C++ compiler for example, there is a warning, and the module
    stays as it is.

    Parameters
    ----------
    options
        Arguments of ``torch.compile``.
    """

    def __init__(self, options: dict[str, Any] | None = None):
        super().__init__()
        self.options = dict(options or {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile, if a first attempt works."""
        error = compile_error(pl_module.device, self.options)
        if error is not None:
            warnings.warn(
                f"`compile` has no effect: torch.compile does not work here ({error}). Install what it asks for "
                "(on a CPU, a C++ compiler such as g++), use `compile='eager'`, or leave it out.",
                stacklevel=2,
            )
            return
        parts: Sequence[nn.Module] = getattr(pl_module, "compiled_parts", [pl_module])
        for part in parts:
            if part._compiled_call_impl is None:
                part.compile(**self.options)

    def __reduce__(self) -> Any:
        return type(self), (self.options,)


def compile_error(device: torch.device, options: dict[str, Any]) -> str | None:
    """Return the first line of what ``torch.compile`` says to a small function, None where it works."""
    x = torch.ones(4, device=device, requires_grad=True)
    try:
        torch.compile(lambda x: (2 * x).tanh().sum(), **options)(x).backward()
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
