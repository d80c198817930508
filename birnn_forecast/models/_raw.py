"""Raw parameters of a likelihood, as a module gives them: their middle, samples, and what a user gets of them."""

import numpy as np
import torch
from darts.utils.likelihood_models.base import LikelihoodType
from darts.utils.likelihood_models.torch import TorchLikelihood

from birnn_forecast.losses import inverse_softplus, parameter_roles
from birnn_forecast.models._module import GapAwareModule

# values whose distribution is drawn from at once: keeps the memory of long series bounded
SAMPLED_AT_ONCE = 2_000_000


def central_value(raw: np.ndarray, module: GapAwareModule) -> np.ndarray:
    """Return the middle ``(time, components)`` of the distributions that raw parameters stand for.

    The median of quantiles, the location where there is one, else the mean; the value itself without a likelihood.
    """
    likelihood = module.likelihood
    if likelihood is None:
        return raw[..., 0]
    if likelihood.type is LikelihoodType.Quantile:
        return raw[..., likelihood.quantiles.index(0.5)]
    if parameter_roles(likelihood) == ("location", "scale"):
        return raw[..., 0]
    known = ~np.isnan(raw).any(axis=-1)
    if likelihood.type is LikelihoodType.Dirichlet:
        known = np.broadcast_to(known.all(axis=-1, keepdims=True), known.shape)
    x = torch.as_tensor(np.where(known[..., None], raw, 0.0))[None]
    mean = likelihood._distr_from_params(likelihood._params_from_output(x)).mean
    return np.where(known, mean[0].numpy().reshape(known.shape), np.nan)


def moved_to(raw: np.ndarray, center: np.ndarray, module: GapAwareModule) -> np.ndarray:
    """Return raw parameters whose central values are `center` where that is not NaN, as far as they have a location."""
    likelihood = module.likelihood
    locations = np.array([role == "location" for role in module.roles])
    known = ~np.isnan(center)
    if likelihood is not None and likelihood.type in (LikelihoodType.Poisson, LikelihoodType.NegativeBinomial):
        # their location passes through a softplus
        aim = inverse_softplus(torch.as_tensor(np.where(known, center, 1.0))).numpy()
        return np.where(known[..., None] & locations, aim[..., None], raw)
    if not locations.any():
        return raw
    shift = np.where(known, center - central_value(raw, module), 0.0)
    return raw + np.nan_to_num(shift)[..., None] * locations


# raw parameters that become positive by a softplus, and are measured in the unit of the series or its inverse
POSITIVE = ("scale", "level", "rate")


def as_measured(raw: np.ndarray, module: GapAwareModule) -> np.ndarray:
    """Return parameters whose means over windows do not depend on the unit: scales and levels themselves."""
    positive = [role in POSITIVE for role in module.roles]
    if not any(positive):
        return raw
    return np.where(positive, np.logaddexp(0.0, raw), raw)


def as_raw(measured: np.ndarray, module: GapAwareModule) -> np.ndarray:
    """Undo :func:`as_measured`."""
    positive = [role in POSITIVE for role in module.roles]
    if not any(positive):
        return measured
    return np.where(positive, inverse_softplus(torch.as_tensor(measured)).numpy(), measured)


def draw_samples(raw: np.ndarray, likelihood: TorchLikelihood, n: int) -> np.ndarray:
    """Return `n` samples ``(time, components, n)`` of the distributions, NaN where there are no parameters."""
    known = ~np.isnan(raw).any(axis=-1)
    steps = np.flatnonzero(known.any(axis=1))
    samples = np.full((*known.shape, n), np.nan)
    at_once = max(SAMPLED_AT_ONCE // (n * raw[0].size), 1)
    for first in range(0, len(steps), at_once):
        some = steps[first : first + at_once]
        # what is not wanted gets any parameters: those of a wanted component
        x = raw[some]
        filler = np.take_along_axis(x, known[some].argmax(axis=1)[:, None, None], axis=1)
        parameters = torch.as_tensor(np.where(known[some][..., None], x, filler))
        drawn = likelihood.sample(parameters.expand(n, *x.shape))
        samples[some] = drawn.numpy().reshape(n, len(some), -1).transpose(1, 2, 0)
    return np.where(known[..., None], samples, np.nan)


def likelihood_parameters(raw: np.ndarray, values: np.ndarray, likelihood: TorchLikelihood) -> np.ndarray:
    """Return the parameters ``(time, components * parameters)`` as ``predict`` gives them.

    Where a value was observed: every quantile and the location are that value, the scale is 0. The parameters of a
    distribution that cannot stand for a certain value are NaN there.
    """
    known = ~np.isnan(raw).any(axis=-1)
    if likelihood.type is LikelihoodType.Dirichlet:
        known = np.broadcast_to(known.all(axis=-1, keepdims=True), known.shape)
    x = torch.as_tensor(np.where(known[..., None], raw, 0.0))[None]
    parameters = likelihood.predict_likelihood_parameters(x)[0].numpy().reshape(*known.shape, -1)
    roles = parameter_roles(likelihood)
    certain = np.full_like(parameters, np.nan)
    if likelihood.type is LikelihoodType.Quantile:
        certain[:] = values[..., None]
    elif roles == ("location", "scale"):
        certain[..., 0], certain[..., 1] = values, np.where(np.isnan(values), np.nan, 0.0)
    return np.where(known[..., None], parameters, certain).reshape(len(values), -1)
