"""Training for a given time."""

import math
import time
from collections.abc import Callable
from typing import Any

from darts.utils.serialization import add_safe_globals
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


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
        check_number("seconds", seconds, positive=True)
        if not isinstance(warmup, int | float) or not 0 <= warmup < 1:
            raise ValueError(f"`warmup` must be a share of at least 0 and below 1, got {warmup!r}.")
        if clock not in CLOCKS:
            raise ValueError(f"`clock` must be one of {listed(*CLOCKS)}, got {clock!r}.")
        self.seconds, self.warmup, self.clock = seconds, warmup, clock
        self.started = 0.0
        self.rates: list[list[float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and note the optimizers' learning rates."""
        self.started = CLOCKS[self.clock]()
        if trainer.ckpt_path is None or not self.rates:  # a checkpoint's optimizer has come to the end of the cosine
            self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rates that it began with."""
        return {"rates": self.rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin again with the learning rates of a checkpoint."""
        self.rates = state_dict["rates"]

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


def check_number(name: str, value: float, positive: bool = False) -> None:
    """Raise unless `value` is a finite number of at least 0, or above it."""
    valid = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not valid or value < 0 or (positive and value == 0):
        raise ValueError(f"`{name}` must be a finite number {'> 0' if positive else '>= 0'}, got {value!r}.")


def listed(*names: str) -> str:
    """Return the names, quoted and separated by commas."""
    return ", ".join(map(repr, names))


add_safe_globals([TimeBudget])
