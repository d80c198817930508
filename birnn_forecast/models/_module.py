"""The Lightning module of the family: masks, normalisation, loss and metrics around a plain torch network."""

from dataclasses import fields
from typing import Any

import torchmetrics
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import ModuleStage, PLModuleInput, PLModuleOutput, TorchTrainingBatch
from darts.utils.torch import MonteCarloDropout
from torch import Tensor, nn

from birnn_forecast.losses import denormalise, initial_offsets, masked_loss, parameter_roles, update_metrics
from birnn_forecast.masks import hide, observed_mask
from birnn_forecast.nn.networks import ForecastNetwork, Sizes, Window
from birnn_forecast.nn.normalization import MaskedInstanceNorm


class GapAwareModule(PLForecastingModule):
    """A forecasting module for which NaN is an ordinary value of target and covariates.

    Parameters
    ----------
    masking_rate
        Rate of :func:`birnn_forecast.masks.hide` in training.
    network_params
        Parameters of :class:`ForecastNetwork`, those excepted that the data and the likelihood fix.
    **kwargs
        Those of Darts' ``PLForecastingModule``.
    """

    def __init__(self, masking_rate: float, network_params: dict[str, Any], **kwargs):
        super().__init__(**kwargs)
        self.rin: Any
        # Darts' RINorm turns a window with one NaN into NaN
        if self.rin is not None:
            options = self.use_reversible_instance_norm
            self.rin = MaskedInstanceNorm(self.n_targets, **(options if isinstance(options, dict) else {}))
        self.masking_rate = masking_rate
        self.roles = parameter_roles(self.likelihood)
        self.network = ForecastNetwork(
            sizes=self._sizes(),
            locations=[role == "location" for role in self.roles],
            offsets=initial_offsets(self.likelihood) if self.rin is not None else (0.0,) * len(self.roles),
            **network_params,
        )
        _enable_mc_dropout(self.network)

    def forward(self, x_in: PLModuleInput) -> PLModuleOutput:
        """Return the raw parameters of the horizon, ``(batch, time, components, parameters)``, in the series' unit."""
        x_in = self._cast(x_in)
        observed = observed_mask(x_in.past_target)
        if x_in.stage is ModuleStage.TRAIN and self.masking_rate:
            observed = hide(observed, self.masking_rate)
        target, statistics = x_in.past_target, None
        if self.rin is not None:
            target, statistics = self.rin(target, observed)
        raw = self.network(
            Window(
                target,
                observed,
                x_in.past_covariates,
                x_in.historic_future_covariates,
                x_in.future_covariates,
                x_in.static_covariates,
            )
        )
        if statistics is not None:
            raw = denormalise(raw, statistics, self.rin, self.roles)
        return PLModuleOutput(prediction=raw)

    def _cast(self, x_in: PLModuleInput) -> PLModuleInput:
        """Bring series of another floating-point type (a float64 covariate, say) to that of the weights."""
        dtype = self.network.decoder.output.weight.dtype
        names = [f.name for f in fields(x_in) if isinstance(getattr(x_in, f.name), Tensor)]
        return x_in.replace(**{name: getattr(x_in, name).to(dtype) for name in names})

    def _sizes(self) -> Sizes:
        shapes = self.train_sample_shape
        if shapes is None:
            raise ValueError("`train_sample_shape` must hold the shapes of a training sample, got None.")

        def width(name: str) -> int:
            return shapes[name][1] if shapes.get(name) else 0

        static = shapes.get("static_covariates")
        return Sizes(
            input_length=self.input_chunk_length,
            horizon=self.output_chunk_length,
            shift=self.output_chunk_shift,
            targets=self.n_targets,
            past_covariates=width("past_covariates"),
            future_covariates=width("future_covariates"),
            static_covariates=static[0] * static[1] if static else 0,
            parameters=len(self.roles),
        )

    def _train_val_step(self, batch: TorchTrainingBatch, stage: ModuleStage, criterion, metrics) -> Tensor:
        output = self(batch.to_module_input(stage=stage))
        loss = self._compute_loss(output, batch.future_target, criterion, batch.sample_weight)
        # the epoch's mean is over observed targets, too: a batch without any has no say in it
        weight = int(observed_mask(batch.future_target).sum())
        self.log(f"{stage.value}_loss", loss, batch_size=weight, prog_bar=True, sync_dist=True)
        self._update_metrics(output, batch.future_target, metrics)
        return loss

    def _compute_loss(self, output: PLModuleOutput, target: Tensor, criterion, sample_weight: Tensor | None):
        if observed_mask(target).all():
            return super()._compute_loss(output, target, criterion, sample_weight)
        return masked_loss(output.prediction, target, criterion, self.likelihood, sample_weight)

    def _update_metrics(self, output: PLModuleOutput, target: Tensor, metrics: torchmetrics.MetricCollection) -> None:
        if not len(metrics) or observed_mask(target).all():
            super()._update_metrics(output, target, metrics)
            return
        prediction = output.prediction
        prediction = self.likelihood.sample(prediction) if self.likelihood else prediction.squeeze(-1)
        update_metrics(metrics, prediction.reshape(-1, self.n_targets), target.reshape(-1, self.n_targets))

    def _compute_metrics(self, metrics: torchmetrics.MetricCollection):
        # without a single observed target there is nothing to report
        if all(metric.update_called for metric in metrics.values()):
            super()._compute_metrics(metrics)

    @staticmethod
    def configure_torch_metrics(torch_metrics) -> torchmetrics.MetricCollection:
        """Return a collection whose metrics are updated one by one, since gaps concern them differently."""
        metrics = PLForecastingModule.configure_torch_metrics(torch_metrics)
        return torchmetrics.MetricCollection(dict(metrics.items()), compute_groups=False)


def _enable_mc_dropout(module: nn.Module) -> None:
    """Let Darts' ``predict(mc_dropout=True)`` switch on every dropout inside."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, MonteCarloDropout(child.p))
        _enable_mc_dropout(child)
