"""Fast ways through Darts' workflows: batches cut at once, one trainer for all predictions, forecasts made together."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import pytorch_lightning as pl
from darts.utils.utils import _build_tqdm_iterator

from birnn_forecast.data.batches import collate_inference, collate_training, in_batches
from birnn_forecast.data.forecasts import Indices, forecast_series


if TYPE_CHECKING:
    from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel as Base
else:
    Base = object


class KeptTrainer(NamedTuple):
    """The trainer of the last prediction, and what it was made from."""

    settings: dict[str, Any]
    trainer: pl.Trainer


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
        return params

    def _setup_for_predict(self, *args, trainer=None, verbose=None, dataloader_kwargs=None, **kwargs):
        options = _collate_with(collate_inference, dataloader_kwargs)
        # what fails or tunes a trainer on the way does not leave it to the next prediction
        kept, self._kept_trainer = self._kept_trainer, None
        settings = {**self.trainer_params, "callbacks": [*(self.trainer_params.get("callbacks") or [])]}
        settings |= {"verbose": verbose, "epochs": self.n_epochs}
        own = trainer is None
        if own and kept is not None and kept.settings == settings:
            trainer = kept.trainer
        params = super()._setup_for_predict(
            *args, trainer=trainer, verbose=verbose, dataloader_kwargs=options, **kwargs
        )
        if options["collate_fn"] is collate_inference:
            datamodule = params["datamodule"]
            datamodule.predict_dataset = in_batches(datamodule.predict_dataset)
        # several processes are started anew
        if own and params["trainer"].world_size == 1:
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
        found = super()._predict(trainer, model, datamodule, verbose=verbose, values_only=True)
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
