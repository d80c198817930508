"""Darts' shared parameters as a type, so that editors complete and check them in every model's ``**kwargs``."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
import torchmetrics
from darts.utils.likelihood_models.torch import TorchLikelihood


class TorchModelParams(TypedDict, total=False):
    """The parameters of ``TorchForecastingModel`` and ``PLForecastingModule`` (a test keeps them equal to Darts')."""

    loss_fn: torch.nn.Module
    torch_metrics: torchmetrics.Metric | torchmetrics.MetricCollection | Sequence | dict | None
    likelihood: TorchLikelihood | None
    optimizer_cls: type[torch.optim.Optimizer]
    optimizer_kwargs: dict[str, Any] | None
    lr_scheduler_cls: Callable[..., Any] | None
    lr_scheduler_kwargs: dict[str, Any] | None
    batch_size: int
    n_epochs: int
    model_name: str | None
    work_dir: str
    log_tensorboard: bool
    nr_epochs_val_period: int
    force_reset: bool
    save_checkpoints: bool
    add_encoders: dict[str, Any] | None
    random_state: int | None
    pl_trainer_kwargs: dict[str, Any] | None
    show_warnings: bool
    enable_finetuning: bool | dict[str, list[str]] | None
