"""The Lightning module of the family: masks, normalisation, loss and metrics around a plain torch network."""

from dataclasses import fields
from typing import Any, NamedTuple

import torch
import torchmetrics
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import (
    ModuleStage,
    PLModuleInput,
    PLModuleOutput,
    TorchInferenceBatch,
    TorchTrainingBatch,
)
from darts.utils.torch import MonteCarloDropout
from torch import Tensor, nn
from torch.utils.data import DataLoader

from birnn_forecast.losses import (
    absolute_errors,
    denormalise,
    has_unit,
    in_order,
    initial_offsets,
    loss_unit,
    masked_loss,
    parameter_roles,
    snapped,
    update_metrics,
)
from birnn_forecast.masks import fill, hide, masked_mean, masked_var, observed_mask
from birnn_forecast.models._lean import LeanTraining
from birnn_forecast.nn.brits import BRITSNetwork
from birnn_forecast.nn.grin import GraphNetwork
from birnn_forecast.nn.networks import Encoding, ForecastNetwork, Sizes, Window
from birnn_forecast.nn.normalization import (
    MaskedInstanceNorm,
    SeriesStatistics,
    ShrunkInstanceNorm,
    WindowStatistics,
    rounding_of,
)

NETWORKS: dict[str, Any] = {"joint": ForecastNetwork, "nodes": GraphNetwork, "brits": BRITSNetwork}
# in whose unit each part of a window is read
COVARIATES = {
    "past_covariates": "past_covariates",
    "historic_future_covariates": "future_covariates",
    "future_covariates": "future_covariates",
}
VALIDATION_SEED = 0
MIXTURE_WINDOWS = 96


class Normalised(NamedTuple):
    """A batch of windows, and what undoes their normalisation."""

    window: Window
    statistics: WindowStatistics | None


class Reading(NamedTuple):
    """A batch of windows, normalised and encoded."""

    window: Window
    encoding: Encoding
    statistics: WindowStatistics | None


class Predicted(tuple):
    """Forecasts of a batch, and their labels, which Lightning would copy in moving them from the device."""

    __slots__ = ()

    def to(self, device: torch.device):
        """Return the same with the forecasts on `device`."""
        return type(self)((self[0].to(device), *self[1:]))


class GapAwareModule(LeanTraining, PLForecastingModule):
    """A forecasting module for which NaN is an ordinary value of target and covariates.

    In training a window is encoded once, with some of its values hidden, and both heads read that. In validation the
    forecast reads all that was observed, as in prediction, and the values to be estimated are hidden in a second
    reading, always the same.

    Parameters
    ----------
    masking_rate
        Rate of :func:`birnn_forecast.masks.hide`.
    imputation_weight
        Weight of the loss over hidden values beside that over the horizon; with 0 nothing is hidden.
    loss_scale
        "window" to measure the loss of each window and component in the unit of :func:`loss_unit`, None to measure it
        in that of the series.
    network
        Name in ``NETWORKS``.
    network_params
        Its parameters, those excepted that the data and the likelihood fix.
    seasons
        Steps of the seasons that its model follows; kept with the weights.
    names
        Names of the components that its model was fitted on; kept with the weights.
    **kwargs
        Those of Darts' ``PLForecastingModule``.
    """

    def __init__(
        self,
        masking_rate: float,
        imputation_weight: float,
        network: str,
        network_params: dict[str, Any],
        loss_scale: str | None = None,
        seasons: tuple[int, ...] = (),
        names: dict[str, Any] | None = None,
        **kwargs,
    ):
        options = kwargs.get("use_reversible_instance_norm", False)
        # Darts would hand the options to its own normalisation
        super().__init__(**kwargs | {"use_reversible_instance_norm": bool(options) or isinstance(options, dict)})
        self.use_reversible_instance_norm = options
        self.rin: Any
        # ... which turns a window with one NaN into NaN
        if self.rin is not None:
            self.rin = NETWORKS[network].Norm(self.n_targets, **(options if isinstance(options, dict) else {}))
        self.masking_rate, self.imputation_weight = masking_rate, imputation_weight
        self.scales_loss = loss_scale is not None and has_unit(self.likelihood)
        self.started: Tensor
        self.register_buffer("started", torch.tensor(False))
        # what the series of the windows that are being forecast have shown
        self._predicted: SeriesStatistics | None = None
        for name in ("past_covariates", "future_covariates"):
            width = self._width(name)
            self.register_buffer(f"unit_of_{name}", torch.tensor([[0.0], [1.0]]).repeat(1, width) if width else None)
        self.roles = parameter_roles(self.likelihood)
        self.network = NETWORKS[network](
            sizes=self._sizes(),
            locations=[role == "location" for role in self.roles],
            offsets=initial_offsets(self.likelihood) if self.rin is not None else (0.0,) * len(self.roles),
            reconstructs=self.reconstructs,
            **network_params,
        )
        _enable_mc_dropout(self.network)

    @property
    def reconstructs(self) -> bool:
        """Whether values are hidden in training, and estimated."""
        return self.masking_rate > 0 and self.imputation_weight > 0

    @property
    def compiled_parts(self) -> list[nn.Module]:
        """What ``torch.compile`` can take: all but the encoder, whose recurrent layers have kernels of their own."""
        heads = (getattr(self.network, name, None) for name in ("pooling", "skip", "decoder", "step_head"))
        return [head for head in heads if head is not None]

    def forward(self, x_in: PLModuleInput) -> PLModuleOutput:
        """Return the raw parameters of the horizon, ``(batch, time, components, parameters)``, in the series' unit."""
        x_in = self._cast(x_in)
        reading = self._read(x_in, observed_mask(x_in.past_target), self._predicted, alone=_every_row(x_in))
        raw = self.network.forecast(reading.window, reading.encoding)
        return PLModuleOutput(prediction=self._answer(raw, reading))

    def estimate(
        self, x_in: PLModuleInput, visible: Tensor, guide: Tensor | None = None, history: Tensor | None = None
    ) -> Tensor:
        """Return the raw parameters of each step of the input chunk, in the series' unit.

        Parameters
        ----------
        x_in
            Input chunks; the future is not read.
        visible
            What may be read of the target, ``(batch, time, components)``. Outputs have no gradient with respect to
            the rest.
        guide
            Where a component shows nothing: what its estimate starts from, in the series' unit, NaN for nothing.
        history
            What the windows' series have shown, ``(batch, 4, components)``, as in :class:`SeriesStatistics`.
        """
        series = None if history is None else SeriesStatistics.of(history.to(self._weights_dtype))
        reading = self._read(self._cast(x_in), visible, series, guide)
        return self._answer(self.network.reconstruct(reading.window, reading.encoding), reading)

    def _answer(self, raw: Tensor, reading: Reading) -> Tensor:
        """Return what is said to a user: constants stay constant, quantiles do not cross."""
        if reading.statistics is not None:
            raw = denormalise(raw, reading.statistics.settled(), self.rin, self.roles)
        return in_order(raw, self.likelihood)

    def _read(
        self,
        x_in: PLModuleInput,
        visible: Tensor,
        series: SeriesStatistics | None,
        guide: Tensor | None = None,
        alone: Tensor | None = None,
    ) -> Reading:
        normalised = self._normalised(x_in, visible, series, guide, alone)
        return Reading(normalised.window, self.network.encode(normalised.window), normalised.statistics)

    def _normalised(
        self,
        x_in: PLModuleInput,
        visible: Tensor,
        series: SeriesStatistics | None,
        guide: Tensor | None = None,
        alone: Tensor | None = None,
    ) -> Normalised:
        target, statistics, common = x_in.past_target, None, None
        if guide is not None:
            known = observed_mask(guide)
            guide = fill(guide.to(target.dtype), known, 0.0)
        if self.rin is not None:
            level = None
            if guide is not None:
                level = torch.where(known.all(dim=1, keepdim=True), guide.mean(dim=1, keepdim=True), float("nan"))
            common = self.rin.common_unit(target, visible, series, alone)
            target, statistics = self.rin(target, visible, level, series, common)
            if guide is not None:
                guide = fill(self.rin.normalise(guide, statistics), known, 0.0)
        window = Window(
            target,
            visible,
            x_in.past_covariates,
            x_in.historic_future_covariates,
            x_in.future_covariates,
            x_in.static_covariates,
            guide,
            None if statistics is None else self.rin.unit(statistics, common),
        )
        return Normalised(window, statistics)

    def _measured(self, raw: Tensor, statistics: WindowStatistics | None, unit: Tensor | None) -> Tensor:
        """Return raw parameters in the unit of the loss; without one, in that of the series."""
        if statistics is not None:
            return denormalise(raw, statistics.in_unit(unit), self.rin, self.roles)
        if unit is None:
            return raw
        nothing = torch.zeros_like(unit)
        return denormalise(raw, WindowStatistics(nothing, 1 / unit, nothing > 0), None, self.roles)

    def _imputation_loss(
        self, reading: Reading, labels: Tensor, unit: Tensor | None, criterion, weights: Tensor | None
    ) -> Tensor:
        """Return the loss of the estimates of what `labels` hold, which are in the unit of the loss."""
        statistics = reading.statistics
        if not self.network.estimates_some:
            raw = self._measured(self.network.reconstruct(reading.window, reading.encoding), statistics, unit)
            raw = raw if unit is None else snapped(raw, labels, self.roles)
            return masked_loss(raw, labels, criterion, self.likelihood, weights)
        steps = observed_mask(labels).any(dim=-1).nonzero(as_tuple=True)
        raw = self.network.reconstruct(reading.window, reading.encoding, steps)
        if statistics is not None:
            statistics = WindowStatistics(*(x[steps[0]] for x in statistics))
        raw = self._measured(raw, statistics, None if unit is None else unit[steps[0]])
        weights = None if weights is None else weights[steps][:, None]
        labels = labels[steps][:, None]
        raw = raw if unit is None else snapped(raw, labels, self.roles)
        return masked_loss(raw, labels, criterion, self.likelihood, weights)

    @property
    def _mixes_units(self) -> bool:
        """Whether the unit of a window depends on what else is known of its series."""
        return isinstance(self.rin, ShrunkInstanceNorm) and not bool(self.rin.shared)

    @property
    def _weights_dtype(self) -> torch.dtype:
        return self.network.decoder.output.weight.dtype

    def _cast(self, x_in: PLModuleInput) -> PLModuleInput:
        """Bring series of another floating-point type (a float64 covariate, say) to that of the weights.

        Covariates come in the unit of those of training.
        """
        dtype = self._weights_dtype
        tensors = {f.name: x for f in fields(x_in) if isinstance(x := getattr(x_in, f.name), Tensor)}
        for name in COVARIATES.keys() & tensors.keys():
            mean, scale = self.unit_of(COVARIATES[name])
            tensors[name] = (tensors[name] - mean) / scale
        others = {name: x.to(dtype) for name, x in tensors.items() if x.dtype != dtype or x is not getattr(x_in, name)}
        return x_in.replace(**others) if others else x_in

    def unit_of(self, covariates: str) -> Tensor:
        """Return level and scale ``(2, components)`` that past or future covariates are read in."""
        return getattr(self, f"unit_of_{covariates}")

    def _width(self, name: str) -> int:
        """Return how many components a part of a training sample has."""
        shapes = self.train_sample_shape
        if shapes is None:
            raise ValueError("`train_sample_shape` must hold the shapes of a training sample, got None.")
        return shapes[name][1] if shapes.get(name) else 0

    def _sizes(self) -> Sizes:
        static = (self.train_sample_shape or {}).get("static_covariates")
        return Sizes(
            input_length=self.input_chunk_length,
            horizon=self.output_chunk_length,
            shift=self.output_chunk_shift,
            targets=self.n_targets,
            past_covariates=self._width("past_covariates"),
            future_covariates=self._width("future_covariates"),
            static_covariates=static[0] * static[1] if static else 0,
            static_width=static[1] if static else 0,
            parameters=len(self.roles),
        )

    def on_train_start(self) -> None:
        """Before the very first step: let a network start from simple estimates of a few batches' hidden values."""
        super().on_train_start()
        if self.trainer.global_rank:
            # each process hides and drops values of its own
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)
        if self.trainer.global_step or self.trainer.ckpt_path or not self.reconstructs or self.started:
            return
        self.started.fill_(True)
        if getattr(self.network, "candidates", None) is None or self.network.step_head is None:
            return
        batches, windows = [], 0
        used: Any = self.trainer.train_dataloader
        # a loader of its own: the trainer's may be read once
        loader = DataLoader(used.dataset, used.batch_size or 1, shuffle=True, collate_fn=used.collate_fn)
        for batch in loader:
            x_in = self._cast(self.transfer_batch_to_device(batch, self.device, 0).to_module_input(ModuleStage.TRAIN))
            observed = observed_mask(x_in.past_target)
            visible = hide(observed, self.masking_rate, self.network.whole)
            series = self._series_of(batch)
            reading = self._normalised(x_in, visible, series)
            # errors count as in the loss
            scale = torch.ones_like(x_in.past_target[:, :1]) if reading.statistics is None else reading.statistics.scale
            unit = self._unit(x_in, observed, series)
            scale = scale if unit is None else scale / unit
            target = fill(x_in.past_target, observed, 0.0)
            if reading.statistics is not None:
                target = fill(self.rin.normalise(target, reading.statistics), observed, 0.0)
            weight = (observed & ~visible).to(target.dtype) * scale
            batches.append((reading.window._replace(target=target), weight))
            windows += len(target)
            if windows >= MIXTURE_WINDOWS:
                break
        self.network.start_as_mixture(batches)
        # one start for all processes
        for parameter in self.network.step_head.parameters():
            parameter.data.copy_(self.trainer.strategy.broadcast(parameter.data))

    def _series_of(self, batch: Any) -> SeriesStatistics | None:
        """Return what the series of a batch's windows have shown; a user's own batches do not say."""
        history = getattr(batch, "history", None)
        return None if history is None else SeriesStatistics.of(history.to(self._weights_dtype))

    def _known_of_hidden(
        self, series: SeriesStatistics | None, target: Tensor, observed: Tensor
    ) -> SeriesStatistics | None:
        """Return what is known of the level and scale of components that training hides as a whole.

        It is the window's own: about as much as `impute` and `predict` know, from the values around the window or just
        before it. The mean of the whole series would leave errors that nothing could be learnt from. Nodes of a graph
        are to find their level by their neighbours.
        """
        if series is None or not isinstance(self.rin, MaskedInstanceNorm):
            return series
        mean, count = masked_mean(target, observed), observed.sum(dim=1, keepdim=True)
        var = masked_var(target, observed, mean)
        varies = (count > 1) & (var > rounding_of(mean).square())
        return series._replace(
            last_mean=torch.where(count > 1, mean, series.last_mean),
            last_scale=torch.where(varies, var.sqrt(), series.last_scale),
        )

    def _unit(self, x_in: PLModuleInput, observed: Tensor, series: SeriesStatistics | None) -> Tensor | None:
        return loss_unit(x_in.past_target, observed, series) if self.scales_loss else None

    def _train_val_step(self, batch: TorchTrainingBatch, stage: ModuleStage, criterion, metrics) -> Tensor:
        x_in, training = self._cast(batch.to_module_input(stage=stage)), stage is ModuleStage.TRAIN
        observed = visible = observed_mask(x_in.past_target)
        if self.reconstructs:
            covariates = x_in.past_covariates is not None or x_in.historic_future_covariates is not None
            whole, seed = (self.network.whole, None) if training else (0.0, VALIDATION_SEED)
            visible = hide(observed, self.masking_rate, whole, covariates, seed)
        series = self._series_of(batch)
        unit = self._unit(x_in, observed, series)
        series = self._known_of_hidden(series, x_in.past_target, observed)
        alone: Tensor | None = _every_row(x_in)
        if training and self.reconstructs:  # windows to impute know their series, windows to forecast from do not
            alone = torch.rand(len(observed), 1, 1, device=observed.device) < 0.5 if self._mixes_units else None
        reading = self._read(x_in, visible if training else observed, series, alone=alone)
        raw = self.network.forecast(reading.window, reading.encoding)
        target = batch.future_target
        measured, label = self._measured(raw, reading.statistics, unit), _in_unit(target, unit)
        output = PLModuleOutput(prediction=measured if unit is None else snapped(measured, label, self.roles))
        loss = self._compute_loss(output, label, criterion, batch.sample_weight)
        # the epoch's mean is over observed targets, too: a batch without any has no say in it
        weight = int(observed_mask(target).sum())
        loss, weight = self._shared(loss, weight, training)
        if len(metrics) and unit is not None:  # metrics are in the unit of the series
            output = PLModuleOutput(prediction=self._measured(raw, reading.statistics, None))
        if self.reconstructs:
            reading = reading if training else self._read(x_in, visible, series)
            scored = observed & ~visible if self.network.sees_own_values else observed
            labels = _in_unit(x_in.past_target.masked_fill(~scored, float("nan")), unit)
            weights = _weight_of_window(batch, labels)
            imputation_loss = self._imputation_loss(reading, labels, unit, criterion, weights)
            imputation_loss = imputation_loss + self._earlier_losses(reading, labels, unit, weights)
            imputation_loss, n_hidden = self._shared(imputation_loss, int(scored.sum()), training)
            self._log_loss(f"{stage.value}_forecast_loss", loss, weight)
            self._log_loss(f"{stage.value}_imputation_loss", imputation_loss, n_hidden)
            loss = loss + self.imputation_weight * imputation_loss
            weight += n_hidden
        self._log_loss(f"{stage.value}_loss", loss, weight, prog_bar=True)
        self._update_metrics(output, target, metrics)
        return loss

    def _log_loss(self, name: str, loss: Tensor, weight: int, prog_bar: bool = False) -> None:
        # a validation's mean over nothing would be not a number; several processes must log the same
        if weight or not name.startswith(ModuleStage.VALIDATE.value) or self._processes > 1:
            self.log(name, loss, prog_bar=prog_bar, sync_dist=True, batch_size=weight)

    def _shared(self, loss: Tensor, count: int, training: bool) -> tuple[Tensor, int]:
        """Return the mean loss over `count` values of this process, and its weight in the epoch's mean.

        In training it is made such that the mean over the processes is the mean over all their values, with the number
        of these for its weight.
        """
        if self._processes == 1:
            return loss, count
        if not training:
            return loss, count * self._processes  # their mean must be a whole number
        total: Any = self.trainer.strategy.reduce(torch.tensor(float(count), device=self.device), reduce_op="sum")
        return loss * (count * self._processes / max(float(total), 1.0)), int(total)

    @property
    def _processes(self) -> int:
        return 1 if self._trainer is None else self._trainer.world_size

    def predict_step(self, batch: TorchInferenceBatch, batch_idx: int, dataloader_idx: int | None = None) -> Predicted:
        """Return the forecasts of a batch, their series' schemas and first times."""
        prediction, *labels = super().predict_step(batch, batch_idx, dataloader_idx)
        back = getattr(batch, "back", None)
        if back is not None:  # into the order of components that the caller has
            each = prediction.unflatten(-1, (back.shape[1], -1))
            index = back[None, :, None, :, None].expand(len(each), -1, each.shape[2], -1, each.shape[-1])
            prediction = each.gather(3, index).flatten(-2)
        return Predicted((prediction, *labels))

    def _get_batch_prediction(self, n: int, input_batch: TorchInferenceBatch, roll_size: int) -> Tensor:
        self._predicted = self._series_of(input_batch)
        try:
            return super()._get_batch_prediction(n, input_batch, roll_size)
        finally:
            self._predicted = None

    def _produce_predict_output(self, x: PLModuleInput) -> PLModuleOutput:
        output = super()._produce_predict_output(x)
        if self._predicted is None:
            return output
        # nothing is invented for a component that has never shown a value
        never = torch.isnan(self._predicted.mean)
        each = output.prediction.unflatten(-1, (never.shape[-1], -1))
        return output.replace(prediction=each.masked_fill(never[..., None], float("nan")).flatten(-2))

    def _earlier_losses(
        self, reading: Reading, labels: Tensor, unit: Tensor | None, weights: Tensor | None
    ) -> Tensor | float:
        """Return the mean absolute errors of the estimates that the last one was made from, if there are any.

        What the directions differ by, where it is to be small, comes on top: summed over all steps of the window, by
        the number of observed values, which is what processes weigh their losses by.
        """
        earlier, disagreement = reading.encoding.earlier_estimates, reading.encoding.disagreement
        if earlier is None:
            return 0.0
        statistics = None if reading.statistics is None else reading.statistics.in_unit(unit)
        if statistics is not None:
            earlier = denormalise(earlier[..., None], statistics, self.rin, ("location",))[..., 0]
        elif unit is not None:
            earlier = earlier / unit
        loss = self.network.earlier_weight * absolute_errors(earlier, labels, weights)
        if disagreement is not None:
            if statistics is not None:
                scale = statistics.scale
                disagreement = disagreement * (scale / self.rin.safe_weight if self.rin.affine else scale)
            elif unit is not None:
                disagreement = disagreement / unit
            observed = observed_mask(labels)
            # steps and components that show nothing at all have nothing to agree on
            compared = reading.encoding.valid[:, :, None] & observed.any(dim=1, keepdim=True)
            off = torch.where(compared, disagreement.abs(), 0.0)
            off = off if weights is None else off * weights
            loss = loss + self.network.disagreement_weight * off.sum() / observed.sum().clamp(min=1)
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
        # one by one: what saw nothing that counts (no observed target, no complete step) has nothing to report
        own = metrics.items(keep_base=True)
        updated: Any = {name: metric for name, metric in own if self._is_updated(metric)}
        super()._compute_metrics(
            torchmetrics.MetricCollection(updated, prefix=metrics.prefix, postfix=metrics.postfix, compute_groups=False)
        )
        metrics.reset()

    def _is_updated(self, metric: torchmetrics.Metric) -> bool:
        """Return whether the metric was updated in this epoch, by every process: some have no shape before."""
        if self._processes == 1:
            return metric.update_called
        updated = torch.tensor(float(metric.update_called), device=self.device)
        total: Any = self.trainer.strategy.reduce(updated, reduce_op="sum")
        return int(total) == self._processes

    @staticmethod
    def configure_torch_metrics(torch_metrics) -> torchmetrics.MetricCollection:
        """Return a collection whose metrics are updated one by one, since gaps concern them differently."""
        metrics = PLForecastingModule.configure_torch_metrics(torch_metrics)
        return torchmetrics.MetricCollection(dict(metrics.items()), compute_groups=False)


def _every_row(x_in: PLModuleInput) -> Tensor:
    return torch.ones_like(x_in.past_target[:, :1, :1], dtype=torch.bool)


def _in_unit(target: Tensor, unit: Tensor | None) -> Tensor:
    return target if unit is None else target / unit


def _weight_of_window(batch: TorchTrainingBatch, target: Tensor) -> Tensor | None:
    """Return the weight of each value of the input chunk: that of the observed targets after it, on average."""
    if batch.sample_weight is None:
        return None
    weight = batch.sample_weight.expand_as(batch.future_target)
    return masked_mean(weight, observed_mask(batch.future_target)).expand_as(target)


def _enable_mc_dropout(module: nn.Module) -> None:
    """Let Darts' ``predict(mc_dropout=True)`` switch on every dropout inside."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, MonteCarloDropout(child.p))
        _enable_mc_dropout(child)
