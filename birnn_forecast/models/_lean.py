"""Training steps without what nobody reads: losses are logged where something looks, and Adam takes a step at once."""

import inspect
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, ModelSummary, RichProgressBar, TQDMProgressBar
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor

if TYPE_CHECKING:
    from darts.models.forecasting.pl_forecasting_module import PLForecastingModule as Base
else:
    Base = object

# which of an optimizer's ways of taking a step is used
WAYS = {"foreach", "fused", "capturable", "differentiable"}
# when, within an epoch, a callback may read what a step has logged
WITHIN_EPOCH = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


class LeanTraining(Base):
    """A module of Darts that does less between two optimizer steps; weights and logged values are the same.

    - What a training step logs is passed on to Lightning where it is read: at the steps that a logger writes, in the
      last step of an epoch or of training, and before a validation; in every step if a progress bar is shown or a
      callback, other than those known not to read it, is called within the epoch.
    - On the CPU, optimizers of torch that can take the step of all weights at once (``fused``) do so, unless
      ``optimizer_kwargs`` says how.
    """

    optimizer_kwargs: dict[str, Any]
    _current_fx_name: str | None
    _read_in_every_step = True
    _kept_back: dict[str, tuple[Any, dict[str, Any]]]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the name of the hook that runs, set some forty times a step, is no parameter or module."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def on_train_start(self) -> None:
        """Find out who reads what steps log."""
        super().on_train_start()
        self._kept_back = {}
        self._read_in_every_step = is_read_in_every_step(self.trainer)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log a value as Lightning does; that of a training step alone only if something reads it."""
        of_step = self._current_fx_name == "training_step" and not args and not kwargs.get("on_epoch")
        if not of_step or self._read_in_every_step or is_read_now(self.trainer):
            super().log(name, value, *args, **kwargs)
        else:
            self._kept_back[name] = (value.detach() if isinstance(value, Tensor) else value, kwargs)

    def on_train_batch_end(self, *args: Any) -> None:
        """Log what the step has kept back if a callback has stopped training after it."""
        super().on_train_batch_end(*args)
        kept, self._kept_back = self._kept_back, {}
        if kept and self.trainer.should_stop:
            fx, self._current_fx_name = self._current_fx_name, "training_step"
            for name, (value, kwargs) in kept.items():
                super().log(name, value, **kwargs)
            self._current_fx_name = fx

    def configure_optimizers(self) -> Any:
        """Return what Darts does, fused on the CPU."""
        given = self.optimizer_kwargs
        fusible = "fused" in inspect.signature(self.optimizer_cls).parameters and not WAYS & given.keys()
        # with mixed precision Lightning does not clip the gradients of fused optimizers
        mixed = isinstance(self.trainer.precision_plugin, MixedPrecision)
        if fusible and not mixed and all(p.device.type == "cpu" and p.is_floating_point() for p in self.parameters()):
            self.optimizer_kwargs = {**given, "fused": True}
        try:
            return super().configure_optimizers()
        finally:
            self.optimizer_kwargs = given


def is_read_in_every_step(trainer: Any) -> bool:
    """Return whether what a step logs may be read before the next one."""
    return (
        # processes average what they log: none may leave it out, whatever its own callbacks are
        trainer.world_size > 1
        or trainer._val_check_time_interval is not None
        or any(config.interval == "step" for config in trainer.lr_scheduler_configs)
        or any(reads_within_epoch(callback) for callback in trainer.callbacks)
    )


def reads_within_epoch(callback: Any) -> bool:
    """Return whether a callback may read metrics within an epoch: a progress bar, a user's own."""
    if isinstance(callback, TQDMProgressBar | RichProgressBar):
        return callback.is_enabled
    if type(callback).__module__.startswith("birnn_forecast.") or type(callback) in (EarlyStopping, ModelSummary):
        return False
    if (
        isinstance(callback, ModelCheckpoint)
        and type(callback).on_train_batch_end is ModelCheckpoint.on_train_batch_end
    ):
        return callback._every_n_train_steps > 0 or callback._train_time_interval is not None
    return any(overrides(callback, hook) for hook in WITHIN_EPOCH)


def overrides(callback: Any, hook: str) -> bool:
    """Return whether a callback has a hook of its own, of its class or, as a ``LambdaCallback``, itself."""
    method = getattr(callback, hook)
    return getattr(method, "__func__", method) is not getattr(pl.Callback, hook)


def is_read_now(trainer: Any) -> bool:
    """Return whether what this step logs is read after it: a logger writes it, an epoch or training ends with it."""
    loop = trainer.fit_loop.epoch_loop
    every, check = trainer.log_every_n_steps, trainer.val_check_batch
    return (
        trainer.is_last_batch
        or trainer.should_stop
        or loop.global_step + 1 in (1, trainer.max_steps)
        or (every > 0 and (loop._batches_that_stepped + 1) % every == 0)
        or (trainer.enable_validation and any((i + 1) % check == 0 for i in (loop.batch_idx, loop.total_batch_idx)))
    )
