"""Fast ways through Darts' workflows: batches cut at once, one trainer for all predictions, forecasts made together."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import pytorch_lightning as pl
import torch
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel, _DartsCheckpointIO
from darts.utils.utils import _build_tqdm_iterator
from lightning_fabric.utilities.apply_func import move_data_to_device
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy

from birnn_forecast.checks import check_trained
from birnn_forecast.data.batches import collate_inference, collate_training, in_batches
from birnn_forecast.data.forecasts import Indices, forecast_series
from birnn_forecast.data.shards import SharedDataModule
from birnn_forecast.models._checks import check_integer
from birnn_forecast.models._devices import on_one_device
from birnn_forecast.models._lean import overrides

if TYPE_CHECKING:
    from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel as Base
else:
    Base = object


class KeptTrainer(NamedTuple):
    """The trainer of the last prediction, and what it was made from."""

    settings: dict[str, Any]
    trainer: pl.Trainer


class Shortcut(NamedTuple):
    """Does what a trainer does for a prediction where it would do nothing else: without its loop, hooks and checks."""

    trainer: pl.Trainer

    @classmethod
    def serves(cls, trainer: Any, model: pl.LightningModule) -> bool:
        """Return whether the trainer has predicted with this model, and has nothing else to do in a prediction."""
        return (
            trainer.lightning_module is model
            and type(trainer.strategy) is SingleDeviceStrategy
            and trainer.strategy.root_device == model.device == torch.device("cpu")
            and type(trainer.precision_plugin) is Precision
            and isinstance(trainer.profiler, PassThroughProfiler)
            and trainer.limit_predict_batches == 1.0
            and trainer.predict_loop.inference_mode
            and not any(_has_a_say(callback) for callback in trainer.callbacks)
        )

    @torch.inference_mode()
    def predict(self, model: pl.LightningModule, datamodule: pl.LightningDataModule) -> list:
        """Return what ``trainer.predict`` would."""
        training = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            model.on_predict_start()
            return [
                model.predict_step(move_data_to_device(batch, model.device), number)
                for number, batch in enumerate(datamodule.predict_dataloader())
            ]
        finally:
            model.on_predict_end()
            for module, mode in training:
                module.training = mode


def _has_a_say(callback: pl.Callback) -> bool:
    """Return whether a callback (a progress bar, a user's own) does anything in a prediction."""
    hooks = [name for name in vars(pl.Callback) if name.startswith("on_predict")]
    if not type(callback).__module__.startswith(("pytorch_lightning.", "birnn_forecast.")):
        hooks += ["setup", "teardown"]
    return any(overrides(callback, name) for name in hooks)


class BatchesMixin(Base):
    """Overrides what every workflow of Darts passes through; results are Darts'."""

    _kept_trainer: KeptTrainer | None = None

    def _setup_for_train(self, train_dataset, val_dataset=None, *args, dataloader_kwargs=None, **kwargs):
        options = _collate_with(collate_training, dataloader_kwargs)
        params = super()._setup_for_train(train_dataset, val_dataset, *args, dataloader_kwargs=options, **kwargs)
        if options["collate_fn"] is collate_training:
            datamodule = params["datamodule"]
            datamodule.train_dataset = in_batches(datamodule.train_dataset)
            datamodule.val_dataset = in_batches(datamodule.val_dataset)
        params["datamodule"] = SharedDataModule.like(params["datamodule"])
        return params

    def _train(self, trainer, model, *args, **kwargs):
        strategy = trainer.strategy
        # a user's own trainer reads a checkpoint as Darts' does, which holds more than tensors
        if self.load_ckpt_path and type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = _DartsCheckpointIO()
        # where the training runs in other processes, their weights would be rounded to the type of this one's
        trainer.precision_plugin.convert_module(model)
        super()._train(trainer, model, *args, **kwargs)
        # ... and copies of the loss have been set back
        model.on_fit_end()

    @wraps(TorchForecastingModel.predict_from_dataset)
    def predict_from_dataset(self, n, dataset, trainer=None, batch_size=None, *args, **kwargs):
        if batch_size is not None:
            check_integer("batch_size", batch_size)
        if self.model is not None:
            check_trained(self.model)
        return super().predict_from_dataset(n, dataset, trainer, batch_size, *args, **kwargs)

    def _setup_for_predict(self, *args, trainer=None, verbose=None, dataloader_kwargs=None, **kwargs):
        options = _collate_with(collate_inference, dataloader_kwargs)
        # what fails or tunes a trainer on the way does not leave it to the next prediction
        kept, self._kept_trainer = self._kept_trainer, None
        # several processes would each predict a part
        alone = on_one_device(self.trainer_params)
        settings = {**alone, "callbacks": [*(alone.get("callbacks") or [])]}
        settings |= {"verbose": verbose, "epochs": self.n_epochs}
        own = trainer is None
        if own and kept is not None and kept.settings == settings:
            trainer = kept.trainer
        given, self.trainer_params = self.trainer_params, alone
        try:
            params = super()._setup_for_predict(
                *args, trainer=trainer, verbose=verbose, dataloader_kwargs=options, **kwargs
            )
        finally:
            self.trainer_params = given
        if options["collate_fn"] is collate_inference:
            datamodule = params["datamodule"]
            datamodule.predict_dataset = in_batches(datamodule.predict_dataset)
        if own:
            params["settings"] = settings
        return params

    def _predict(
        self,
        trainer,
        model,
        datamodule,
        n_jobs=1,
        verbose=None,
        values_only=False,
        predict_likelihood_parameters=False,
        settings=None,
    ):
        shortcut = settings is not None and Shortcut.serves(trainer, model)
        found = super()._predict(
            Shortcut(trainer) if shortcut else trainer, model, datamodule, verbose=verbose, values_only=True
        )
        if settings is not None:
            self._kept_trainer = KeptTrainer(settings, trainer)
        if values_only:
            return found
        forecasts, schemas, starts = found
        return forecast_series(
            _build_tqdm_iterator(
                zip(forecasts, schemas, starts, strict=True), verbose, total=len(starts), desc="Generating TimeSeries"
            ),
            Indices(schemas, starts, forecasts.shape[1]),
            self.likelihood.component_names if predict_likelihood_parameters else None,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_kept_trainer"}


def _collate_with(collate: Callable, dataloader_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    return {"collate_fn": collate, **(dataloader_kwargs or {})}
