"""Any criterion or Darts likelihood, averaged over observed targets; and what a likelihood's parameters measure."""

from statistics import NormalDist

import torch
import torchmetrics
from darts.utils.likelihood_models.base import LikelihoodType
from darts.utils.likelihood_models.torch import TorchLikelihood
from torch import Tensor
from torch.nn.functional import softplus

from birnn_forecast.masks import fill, masked_mean, masked_var, observed_mask
from birnn_forecast.nn.normalization import InstanceNorm, SeriesStatistics, WindowStatistics, positive

# What each raw parameter (before the likelihood's own link function) becomes when the series changes its unit:
# "location" moves and scales with it, "scale" only scales (by the window's scale), "level" scales by its level, "rate"
# inversely to it, "log" is a location of the logarithm, "log odds" of one over the level, "free" is unaffected. Links
# are softplus wherever the parameter must be positive.
PARAMETER_ROLES: dict[LikelihoodType, tuple[str, ...]] = {
    LikelihoodType.Gaussian: ("location", "scale"),
    LikelihoodType.Laplace: ("location", "scale"),
    LikelihoodType.Cauchy: ("location", "scale"),
    LikelihoodType.Gumbel: ("location", "scale"),
    LikelihoodType.Poisson: ("location",),
    LikelihoodType.NegativeBinomial: ("location", "free"),
    LikelihoodType.HalfNormal: ("level",),
    LikelihoodType.Weibull: ("level", "free"),
    LikelihoodType.Exponential: ("rate",),
    LikelihoodType.Gamma: ("free", "rate"),
    LikelihoodType.LogNormal: ("log", "free"),
    LikelihoodType.Bernoulli: ("free",),
    LikelihoodType.Beta: ("free", "free"),
    LikelihoodType.ContinuousBernoulli: ("free",),
    LikelihoodType.Dirichlet: ("free",),
    LikelihoodType.Geometric: ("log odds",),
}


# Distributions of counts, of shares and of events: their values have no unit that could be changed
WITHOUT_UNIT = {
    LikelihoodType.Poisson,
    LikelihoodType.NegativeBinomial,
    LikelihoodType.Geometric,
    LikelihoodType.Bernoulli,
    LikelihoodType.Beta,
    LikelihoodType.ContinuousBernoulli,
    LikelihoodType.Dirichlet,
}
SMALLEST_UNIT = 0.05
"""Least scale of a window, in that of its series: a still window must not outweigh all others in the loss."""


def has_unit(likelihood: TorchLikelihood | None) -> bool:
    """Return whether it is known how the parameters change with the unit of the series."""
    if likelihood is None or likelihood.type is LikelihoodType.Quantile:
        return True
    return likelihood.type in PARAMETER_ROLES and likelihood.type not in WITHOUT_UNIT


def loss_unit(target: Tensor, observed: Tensor, series: SeriesStatistics | None) -> Tensor:
    """Return the unit ``(batch, 1, components)`` in which the loss of a window and component is measured.

    It is the standard deviation of what is observed in the input chunk, at least ``SMALLEST_UNIT`` of that of the
    series' component, and all of that where less than two values are observed; of a constant series its level. Where
    the series is not known, the whole batch stands for it.

    Parameters
    ----------
    target, observed
        Input chunks ``(batch, time, components)`` in the series' unit, and what may be read of them.
    series
        What the windows' series have shown.
    """
    mean = masked_mean(target, observed)
    scale = masked_var(target, observed, mean).sqrt()
    if series is None:
        flat, seen = target.flatten(0, 1)[None], observed.flatten(0, 1)[None]
        whole_mean = masked_mean(flat, seen).expand_as(mean)
        whole = masked_var(flat, seen, whole_mean[:1]).sqrt().expand_as(mean)
    else:
        whole_mean, whole = torch.nan_to_num(series.mean), torch.nan_to_num(series.scale)
    known = observed.sum(dim=1, keepdim=True) > 1
    return positive(torch.where(known, torch.maximum(scale, SMALLEST_UNIT * whole), whole), whole_mean)


def parameter_roles(likelihood: TorchLikelihood | None) -> tuple[str, ...]:
    """Return the role of each raw parameter; a deterministic forecast, a quantile, or an unknown one is a location."""
    if likelihood is None:
        return ("location",)
    return PARAMETER_ROLES.get(likelihood.type, ("location",) * likelihood.num_parameters)


def initial_offsets(likelihood: TorchLikelihood | None) -> tuple[float, ...]:
    """Return where each raw parameter starts in a normalised window: quantiles as a normal's (sd 1/2), else at 0."""
    if likelihood is None or likelihood.type is not LikelihoodType.Quantile:
        return (0.0,) * (1 if likelihood is None else likelihood.num_parameters)
    return tuple(0.5 * NormalDist().inv_cdf(quantile) for quantile in likelihood.quantiles)


def denormalise(raw: Tensor, statistics: WindowStatistics, norm: InstanceNorm | None, roles: tuple[str, ...]) -> Tensor:
    """Bring raw parameters ``(batch, time, components, parameters)`` from a normalised window to the series' unit.

    Without a `norm`, only level and scale are applied.
    """
    mean, scale = statistics.mean, statistics.scale
    affine = norm if norm is not None and norm.affine else None
    if all(role == "location" for role in roles):  # all at once
        mean, scale = mean[..., None], scale[..., None]
        if affine is not None:
            scale = scale / affine.safe_weight[:, None]
            mean = mean - affine.affine_bias[:, None] * scale
        return raw * scale + mean
    # a positive level for parameters that only make sense on positive series
    level = torch.where(mean > 0, mean, positive(scale, mean))
    out = []
    for role, y in zip(roles, raw.unbind(-1), strict=True):
        if role == "location":
            y = (y if affine is None else affine.undo_affine(y)) * scale + mean
        elif role == "scale":
            unit = scale if affine is None else scale / affine.safe_weight.abs()
            y = inverse_softplus(softplus(y) * unit)
        elif role == "level":
            y = inverse_softplus(softplus(y) * level)
        elif role == "rate":
            y = inverse_softplus(softplus(y) / level)
        elif role == "log":
            y = y + level.log()
        elif role == "log odds":
            y = y - level.log()
        out.append(y)
    return torch.stack(out, dim=-1)


def in_order(raw: Tensor, likelihood: TorchLikelihood | None) -> Tensor:
    """Return raw parameters whose quantiles do not cross: sorted, as by Chernozhukov et al. (2010)."""
    if likelihood is None or likelihood.type is not LikelihoodType.Quantile:
        return raw
    return raw.sort(dim=-1).values


def inverse_softplus(y: Tensor) -> Tensor:
    """Return x with ``softplus(x) = y`` for ``y > 0``, without overflow."""
    y = y.clamp(min=torch.finfo(y.dtype).tiny)
    return torch.where(y > 20, y, torch.log(torch.expm1(y.clamp(max=20))))


def masked_loss(
    prediction: Tensor,
    target: Tensor,
    criterion: torch.nn.Module,
    likelihood: TorchLikelihood | None,
    sample_weight: Tensor | None,
) -> Tensor:
    """Return the loss over observed targets: what Darts computes had the missing ones not been there.

    Parameters
    ----------
    prediction
        Raw parameters, ``(batch, time, components, parameters)``.
    target
        ``(batch, time, components)``, NaN where missing.
    criterion
        Loss of the deterministic forecast; elementwise up to its reduction. With `sample_weight`, its reduction must
        be "none" (Darts sees to that).
    likelihood
        Takes the criterion's place unless None.
    sample_weight
        ``(batch, time, 1 or components)``, or None.
    """
    observed = observed_mask(target)
    if likelihood is not None and likelihood.type is LikelihoodType.Dirichlet:  # one density for all components
        observed = observed.all(dim=-1, keepdim=True).expand_as(target)
    count = observed.sum()
    if count == 0:
        return prediction.sum() * 0.0
    if likelihood is None:
        loss = criterion(prediction.squeeze(-1)[observed], target[observed])
        if sample_weight is not None:
            loss = (loss * sample_weight.expand_as(target)[observed]).mean()
        return loss
    weight = observed.to(target.dtype) * (observed.numel() / count)
    if sample_weight is not None:  # may be missing where the target is
        weight = fill(weight * sample_weight, observed, 0.0)
    if parameter_roles(likelihood) == ("location", "scale"):
        # a value of another window may be so far off that its density overflows, and nothing times that is no number
        target = torch.where(observed, target, prediction[..., 0].detach())
    else:
        target = fill(target, observed, _inside_support(target, observed))
    if likelihood.type is LikelihoodType.Dirichlet:
        weight = weight.mean(dim=-1)
    return likelihood.compute_loss(prediction, target, weight)


def snapped(raw: Tensor, target: Tensor, roles: tuple[str, ...]) -> Tensor:
    """Return raw parameters whose locations equal the target where they differ by no more than rounding.

    An estimate may hit a value exactly (between two equal values, say). At its kink a loss such as that of quantiles
    would otherwise take a side by rounding, and another one in another unit.

    Parameters
    ----------
    raw
        ``(batch, time, components, parameters)``, in the unit of the loss.
    target
        ``(batch, time, components)`` in that unit, NaN where missing.
    roles
        Those of the parameters.
    """
    aim = target[..., None]
    near = (raw.detach() - aim).abs() <= 64 * torch.finfo(raw.dtype).eps * (aim.abs() + 1)  # False for NaN
    if "location" not in roles:
        return raw
    if any(role != "location" for role in roles):
        near = near & torch.tensor([role == "location" for role in roles], device=raw.device)
    return torch.where(near, raw + (aim - raw).detach(), raw)


def absolute_errors(estimates: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return the sum over several estimates of the mean absolute error over observed targets.

    Parameters
    ----------
    estimates
        ``(estimates, batch, time, components)``.
    target
        ``(batch, time, components)``, NaN where missing.
    weight
        Of each target, or None.
    """
    observed = observed_mask(target)
    counted = observed.to(target.dtype) if weight is None else fill(weight, observed, 0.0)
    errors = estimates - fill(target, observed, 0.0)
    # what equals the target up to rounding has no gradient, in any unit
    errors = fill(errors, errors.abs() > 64 * torch.finfo(errors.dtype).eps * (estimates.abs() + 1), 0.0)
    errors = errors.abs() * counted
    return errors.sum() / observed.sum().clamp(min=1)


def _inside_support(target: Tensor, observed: Tensor) -> Tensor:
    """Return ``(1, 1, components)``: an observed value of the same component, of any component if it has none."""
    flat, seen = target.flatten(0, 1), observed.flatten(0, 1)
    value = torch.gather(flat, 0, seen.float().argmax(dim=0, keepdim=True)).squeeze(0)
    return torch.where(seen.any(dim=0), value, target[observed][0])[None, None]


# metrics that are a function of sums over single values, so that any subset of values will do
ELEMENTWISE_METRICS = (
    torchmetrics.MeanAbsoluteError,
    torchmetrics.MeanSquaredError,
    torchmetrics.MeanAbsolutePercentageError,
    torchmetrics.SymmetricMeanAbsolutePercentageError,
    torchmetrics.WeightedMeanAbsolutePercentageError,
    torchmetrics.MeanSquaredLogError,
    torchmetrics.LogCoshError,
)


def update_metrics(metrics: torchmetrics.MetricCollection, prediction: Tensor, target: Tensor) -> None:
    """Update each metric with what is observed of ``(values, components)``.

    Metrics over single values take every observed value, the others the steps at which all components were observed.
    """
    observed = observed_mask(target)
    complete = observed.all(dim=-1)
    for metric in metrics.values():
        by_value = isinstance(metric, ELEMENTWISE_METRICS) and getattr(metric, "num_outputs", 1) == 1
        if by_value and observed.any():
            metric.update(prediction[observed], target[observed])
        elif not by_value and complete.any():
            metric.update(prediction[complete], target[complete])
