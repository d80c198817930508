"""What any imputer says of the values hidden from it: the middle and, where it can give them, quantiles."""

from collections.abc import Sequence
from copy import deepcopy
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from darts import TimeSeries
from darts.utils.likelihood_models.base import LikelihoodType

from birnn_forecast.checks import one_series
from birnn_forecast.imputation.imputer import Imputer
from birnn_forecast.quantiles import quantile_levels

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))


class Estimate(NamedTuple):
    """Estimates of `n` hidden values: their middle, shape ``(n,)``, and quantiles ``(n, len(LEVELS))`` or None."""

    middle: np.ndarray
    quantiles: np.ndarray | None


def estimate(
    imputer: Any,
    visible: Sequence[TimeSeries],
    hidden: Sequence[np.ndarray],
    covariates: dict[str, list[TimeSeries]],
    num_samples: int,
    random_state: int | None,
) -> list[Estimate]:
    """Return for each series what `imputer` says of its hidden values.

    Parameters
    ----------
    imputer
        A model of the family, fitted or not, a Darts transformer or pipeline, fitted or not, an object with ``impute``,
        or a callable. What is not fitted is fitted, as a copy, to `visible`.
    visible
        The series without the hidden values: all that the imputer gets to see.
    hidden
        Masks ``(time, components)``, True where a value was hidden.
    covariates
        "past_covariates" and "future_covariates", for models of the family only.
    num_samples
        Number of samples of a model whose quantiles have to be estimated from samples.
    random_state
        Seed of the samples.
    """
    if hasattr(imputer, "transform"):
        results = _transform(imputer, visible, covariates, num_samples)
    elif hasattr(imputer, "impute") and hasattr(imputer, "untrained_model"):
        if not imputer._fit_called:
            imputer = imputer.untrained_model().fit(list(visible), **covariates)
        options = uncertainty(imputer, num_samples)
        if "num_samples" in options:
            options["random_state"] = random_state
        results = imputer.impute(list(visible), **covariates, **options)
    elif hasattr(imputer, "impute"):
        options = {"quantiles": LEVELS} if "quantiles" in signature(imputer.impute).parameters else {}
        results = [imputer.impute(series, **options) for series in visible]
    elif callable(imputer):
        results = [imputer(series) for series in visible]
    else:
        raise TypeError(
            f"An imputer must be a model or transformer, have `impute`, or be callable, got {type(imputer).__name__}."
        )
    return [_read(*case) for case in zip(results, visible, hidden, strict=True)]


def uncertainty(model: Any, num_samples: int) -> dict[str, Any]:
    """Return the options of ``impute`` that make a model's estimates as informative as its likelihood allows."""
    likelihood = getattr(model, "likelihood", None)
    if likelihood is None:
        return {}
    if likelihood.type is LikelihoodType.Quantile:
        return {"predict_likelihood_parameters": True}
    return {"num_samples": num_samples}


def _transform(
    transformer: Any, visible: Sequence[TimeSeries], covariates: dict[str, list[TimeSeries]], num_samples: int
) -> list[TimeSeries]:
    ours = isinstance(transformer, Imputer)
    if not getattr(transformer, "_fit_called", True):
        transformer = deepcopy(transformer)
        transformer.fit(list(visible), **(covariates if ours else {}))
    if not ours:
        return transformer.transform(list(visible))
    # to some columns only nothing can be added, and forwards there is one value only
    plain = transformer.columns is not None or transformer.direction == "forward"
    options = {} if plain else uncertainty(transformer.model, num_samples)
    each = [{name: many[i] for name, many in covariates.items()} for i in range(len(visible))]
    return [transformer.transform(one, **own, **options) for one, own in zip(visible, each, strict=True)]


def _read(result: TimeSeries, visible: TimeSeries, hidden: np.ndarray) -> Estimate:
    """Take the hidden values out of a deterministic, a sampled or a quantile series."""
    one_series("what an imputer returns", result)
    if len(result) != len(visible) or not result.time_index.equals(visible.time_index):
        raise ValueError("An imputer must return the series' own time steps.")
    values = result.all_values(copy=False)
    levels, quantiles = np.array(LEVELS), None
    if result.is_stochastic:
        quantiles = np.quantile(values[hidden], levels, axis=-1).T
    elif result.n_components != visible.n_components:
        known, at_known = _quantile_components(result, visible)
        weights = np.stack([np.interp(levels, known, one) for one in np.eye(len(known))])
        quantiles = at_known[hidden] @ weights
    middle = values[..., 0][hidden] if quantiles is None else quantiles[:, LEVELS.index(0.5)]
    if np.isnan(middle).any():
        raise ValueError(f"An imputer must fill every gap, but left {np.isnan(middle).sum()} hidden values missing.")
    return Estimate(middle, quantiles)


def _quantile_components(result: TimeSeries, visible: TimeSeries) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels and the quantiles ``(time, components, levels)`` of a series made of them."""
    levels = quantile_levels(result.components, visible.components)
    if levels is None:
        raise ValueError(
            f"An imputer must return the components {list(visible.components)} or quantiles of each, got "
            f"{list(result.components)}."
        )
    return np.array(levels), result.values(copy=False).reshape(len(result), visible.n_components, len(levels))
