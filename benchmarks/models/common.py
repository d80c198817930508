"""What the models of all families share: the clock, interpolation, and normal quantiles."""

import os
from statistics import NormalDist

import numpy as np
from darts import TimeSeries

from benchmarks.interface import LEVELS
from birnn_forecast.imputation import LinearImputer, SeasonalLinearImputer

SCORES = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def cpu_seconds() -> float:
    """Return the processor time that this process and its ended children have used."""
    return sum(os.times()[:4])


def interpolated(values: np.ndarray, season: int) -> np.ndarray:
    """Return ``(time, component)`` without gaps: along the season's profile, or by straight lines if it is unknown.

    A component without any observed value becomes 0.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values
    seasonal = season > 1 and (~missing).sum(axis=0).min() >= 2 * season
    imputer = SeasonalLinearImputer(season, "profile") if seasonal else LinearImputer()
    return np.nan_to_num(imputer.impute(TimeSeries.from_values(values)).values())


def normal_quantiles(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the quantiles of ``LEVELS`` on a new last axis."""
    return mean[..., None] + deviation[..., None] * SCORES
