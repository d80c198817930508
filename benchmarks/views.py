"""From true values to what a model may see of them, what it is scored on, and the scales of its errors.

Nothing that a model gets shares memory with the true values: each training part, context and covariate is a copy that
ends where its sight ends.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries

from benchmarks import imputation
from benchmarks.interface import ForecastView, ImputationView, TaskData


class Known(NamedTuple):
    """A series as it was recorded.

    Attributes
    ----------
    values
        True values, ``(time, component)``, NaN where nothing was recorded.
    times
        Their regular index.
    components
        Names of the components.
    covariates
        Values known in advance at the same times, or None.
    """

    values: np.ndarray
    times: pd.DatetimeIndex
    components: tuple[str, ...] = ("value",)
    covariates: pd.DataFrame | None = None


class Cut(NamedTuple):
    """Where a series is cut: the end of its training part, and the first step of each forecast."""

    train_end: int
    origins: np.ndarray


@dataclass(frozen=True)
class Forecasting:
    """The `load` of a forecasting task: reads series, cuts them, and hides what is not to be seen.

    Attributes
    ----------
    read
        ``read(data_dir)`` returns the series as recorded.
    cut
        Where a series of a given length is cut.
    horizon, season, max_context, metric
        As in the view.
    hide
        ``hide(series, seed)`` returns a copy with values missing, for training parts and contexts alike. The truth and
        the scales stay as recorded.
    scale_rows
        Number of first rows whose mean and standard deviation z-score all of the series, None for values as recorded.
    """

    read: Callable[[Path | None], list[Known]]
    cut: Callable[[int], Cut]
    horizon: int
    season: int
    max_context: int | None = None
    hide: Callable[[TimeSeries, int], TimeSeries] | None = None
    scale_rows: int | None = None
    metric: str = "mase"

    def __call__(self, data_dir: Path | None, seed: int) -> TaskData:
        return self.build(self.read(data_dir), seed)

    def build(self, known: list[Known], seed: int) -> TaskData:
        """Return the view, the truth and the scales of recorded series."""
        known = [one._replace(values=self._scaled(one.values)) for one in known]
        cuts = [self.cut(len(one.values)) for one in known]
        visible = [self._visible(one, seed) for one in known]
        forecasts = [(number, origin) for number, cut in enumerate(cuts) for origin in cut.origins]

        def start(origin: int) -> int:
            return 0 if self.max_context is None else max(0, origin - self.max_context)

        with_covariates = known[0].covariates is not None
        view = ForecastView(
            train=[
                _series(one, values, 0, cut.train_end) for one, values, cut in zip(known, visible, cuts, strict=True)
            ],
            contexts=[_series(known[i], visible[i], start(origin), origin) for i, origin in forecasts],
            series_of=[i for i, _ in forecasts],
            horizon=self.horizon,
            season=self.season,
            max_context=self.max_context,
            metric=self.metric,
            train_future_covariates=(
                [_covariates(one, 0, cut.train_end) for one, cut in zip(known, cuts, strict=True)]
                if with_covariates
                else None
            ),
            future_covariates=(
                [_covariates(known[i], start(origin), origin + self.horizon) for i, origin in forecasts]
                if with_covariates
                else None
            ),
        )
        truth = np.concatenate(
            [_windows(one.values, cut.origins, self.horizon) for one, cut in zip(known, cuts, strict=True)]
        )
        scales = np.concatenate(
            [seasonal_scale(one.values, self.season, cut.origins) for one, cut in zip(known, cuts, strict=True)]
        )
        return TaskData(view, truth, scales, fingerprint(one.values for one in known))

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        if self.scale_rows is None:
            return values
        first = values[: self.scale_rows]
        return (values - np.nanmean(first, axis=0)) / np.nanstd(first, axis=0)

    def _visible(self, known: Known, seed: int) -> np.ndarray:
        values = known.values.astype(np.float32)
        if self.hide is None:
            return values
        return self.hide(TimeSeries(known.times, values, components=list(known.components)), seed).values()


@dataclass(frozen=True)
class Imputing:
    """The `load` of an imputation task of ``benchmarks.imputation``.

    Attributes
    ----------
    folder
        ``folder(data_dir)`` returns the folder to read from, its files checked; None for data that a dependency ships.
    name, pattern
        Names in ``benchmarks.imputation.DATA`` (or AQI-36) and ``PATTERNS``.
    """

    folder: Callable[[Path | None], Path | None]
    name: str
    pattern: str

    def __call__(self, data_dir: Path | None, seed: int) -> TaskData:
        task = imputation.make_task(self.name, self.pattern, self.folder(data_dir), seed)
        # the validation part is for models to stop by: it follows the training part, unless it is the training part
        # seen once more, as for AQI-36
        train = (
            task.train
            if self.pattern == "official"
            else [a.append(b) for a, b in zip(task.train, task.validation, strict=True)]
        )
        truth = np.concatenate([one.values() for one in task.truth]).astype(np.float64)
        visible = [one.values(copy=False) for one in (*train, *task.test)]
        return TaskData(
            ImputationView([one.copy() for one in train], [one.copy() for one in task.test], task.season or 1),
            truth,
            None,
            fingerprint([truth, *visible]),
        )


def seasonal_scale(values: np.ndarray, season: int, ends: np.ndarray) -> np.ndarray:
    """Return the mean absolute seasonal naive error within the first `ends` values, one row for each end.

    Pairs with a missing value do not count. Without any pair, or for a series that repeats itself exactly, the scale is
    NaN: such a forecast has no MASE and is left out of means, as fev and the M competitions do.
    """
    difference = np.abs(values[season:] - values[:-season]).astype(np.float64)
    known = ~np.isnan(difference)
    zero = np.zeros((1, values.shape[1]))
    total = np.concatenate([zero, np.cumsum(np.where(known, difference, 0.0), axis=0)])
    count = np.concatenate([zero, np.cumsum(known, axis=0)])
    pairs = np.clip(np.asarray(ends) - season, 0, None)
    total, count = total[pairs], count[pairs]
    return np.divide(total, count, out=np.full_like(total, np.nan), where=(count > 0) & (total > 0))


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """Return a hash of arrays and their shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _series(known: Known, values: np.ndarray, start: int, end: int) -> TimeSeries:
    return TimeSeries(known.times[start:end], values[start:end], components=list(known.components), copy=True)


def _covariates(known: Known, start: int, end: int) -> TimeSeries:
    part = known.covariates.iloc[start:end]
    return TimeSeries(known.times[start:end], part.to_numpy(np.float32), components=list(part.columns), copy=True)


def _windows(values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Return what follows each origin, ``(origin, horizon, component)``, without copying it."""
    windows = np.lib.stride_tricks.sliding_window_view(values, horizon, axis=0).swapaxes(1, 2)
    steps = np.unique(np.diff(origins))
    if len(steps) == 1:
        return windows[origins[0] : origins[-1] + 1 : steps[0]]
    return windows[origins]
