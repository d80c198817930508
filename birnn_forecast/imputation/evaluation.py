"""How well imputers fill in values that were hidden from them, beside simple ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.metrics import mae, mic, mql, rmse
from darts.utils.likelihood_models.base import quantile_names

from birnn_forecast.checks import check_grid, check_grids, check_series, series_list
from birnn_forecast.data.windows import gap_lengths as lengths_of_gaps
from birnn_forecast.imputation._estimates import LEVELS, Estimate, estimate
from birnn_forecast.imputation.baselines import baselines as simple_imputers
from birnn_forecast.imputation.missing import make_missing
from birnn_forecast.models._checks import check_integer

BANDS = {"coverage_80": (0.1, 0.9), "coverage_90": (0.05, 0.95)}
ALL = "all"


def evaluate_imputer(
    imputer: Any,
    series: TimeSeries | Sequence[TimeSeries],
    pattern: str = "points",
    rate: float = 0.25,
    random_state: int | None = None,
    *,
    block_length: int | tuple[int, int] | None = None,
    hidden: TimeSeries | Sequence[TimeSeries] | None = None,
    season_length: int | None = None,
    baselines: bool = True,
    scale: bool = False,
    gap_lengths: Sequence[int] = (1, 5, 24),
    past_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
    future_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
    num_samples: int = 200,
) -> pd.DataFrame:
    """Score an imputer on observed values that are hidden from it, by the length of their gaps.

    A model that is already fitted is used as it is. To score it honestly it must not have been fitted to the values
    that are hidden here: fit it to other series, to ``make_missing(...)`` with the same arguments, or leave it
    unfitted, then a copy is fitted to the series without the hidden values.

    Parameters
    ----------
    imputer
        A model of this package, a Darts transformer or pipeline (:class:`Imputer`, ``MissingValuesFiller()``), an
        object with ``impute(series)`` (which may take `quantiles`, see :class:`KalmanImputer`), or a callable that
        takes a ``TimeSeries`` and returns it filled. A stochastic series, or one of quantile components, is scored by
        its median, and as a distribution.
    series
        One series or several, deterministic; may have gaps, which are filled but not scored.
    pattern, rate, random_state, block_length
        What is hidden: see :func:`make_missing`. The seed also serves for samples.
    hidden
        The series with values already hidden, in place of a pattern.
    season_length
        Number of time steps of a season, for the simple imputers.
    baselines
        Whether to add the mean absolute errors of linear and (if there is a season) seasonal interpolation, the last
        value, and Kalman smoothing, which takes by far the most time.
    scale
        Whether to subtract from truth and estimates the mean of the component's visible values and to divide by their
        standard deviation. Else errors are in the series' own unit, and the components (and series) of large values
        count most.
    gap_lengths
        Longest gaps, in steps, of all bins but the last: (1, 5, 24) makes bins of 1, 2 to 5, 6 to 24 and more steps. A
        gap is a run of missing values of one component, natively missing ones included.
    past_covariates, future_covariates
        For models of this package.
    num_samples
        Number of samples that stand for the distribution of a model whose likelihood is not ``QuantileRegression``.

    Returns
    -------
    pandas.DataFrame
        One row "all" and one for each bin of gap lengths that occurs; all hidden values count alike, whatever their
        component and series. Columns: the number "n" of hidden values; "mae", "rmse"; "mre", the sum of absolute errors
        over that of absolute truths; "crps", twice the mean pinball loss at the levels .05, .10 to .95 over the mean
        absolute truth; "coverage_80" and "coverage_90", the shares of truths in the bands between the quantiles .1 and
        .9, .05 and .95. The last three are NaN for an imputer without uncertainty. Then "mae_linear" and so on.

    Raises
    ------
    ValueError
        If an argument is out of its range, nothing is hidden, or the imputer leaves hidden values missing.
    TypeError
        If the imputer is none of the above.
    """
    check_integer("num_samples", num_samples)
    covariates = _covariates(series, past_covariates, future_covariates)
    task = _Task.make(series, pattern, rate, random_state, block_length, hidden, scale, gap_lengths)
    table = task.scores(estimate(imputer, task.visible, task.hidden, covariates, num_samples, random_state))
    for name, simple in (simple_imputers(season_length) if baselines else {}).items():
        column = "mae_" + name.lower().replace(" ", "_").replace("-", "_")
        table[column] = task.scores(estimate(simple, task.visible, task.hidden, {}, num_samples, random_state))["mae"]
    return table


def compare_imputers(
    imputers: Mapping[str, Any] | Sequence[Any],
    series: TimeSeries | Sequence[TimeSeries],
    pattern: str = "points",
    rate: float = 0.25,
    random_state: int | None = None,
    *,
    block_length: int | tuple[int, int] | None = None,
    hidden: TimeSeries | Sequence[TimeSeries] | None = None,
    season_length: int | None = None,
    baselines: bool = True,
    scale: bool = False,
    gap_lengths: Sequence[int] = (1, 5, 24),
    past_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
    future_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
    num_samples: int = 200,
) -> pd.DataFrame:
    """Score several imputers, and simple ones beside them, on the same hidden values.

    Parameters
    ----------
    imputers
        Imputers by name, each as in :func:`evaluate_imputer`; one that is named like a simple imputer ("linear",
        "seasonal-linear", "seasonal profile", "last value", "Kalman") takes its place. Those of a list are named by
        their classes, and numbered where there are several of one.
    series, pattern, rate, random_state, block_length, hidden, season_length, scale, gap_lengths
        As in :func:`evaluate_imputer`.
    baselines
        Whether to score the simple imputers as well.
    past_covariates, future_covariates, num_samples
        As in :func:`evaluate_imputer`.

    Returns
    -------
    pandas.DataFrame
        One row for each imputer, lowest mean absolute error first. Columns: the scores of :func:`evaluate_imputer`, the
        seconds it took (with the fit of what was not fitted), and the mean absolute errors by gap length
        ("mae_gap_2-5").

    Raises
    ------
    ValueError, TypeError
        As in :func:`evaluate_imputer`.
    """
    by_name = _by_name(imputers)
    check_integer("num_samples", num_samples)
    covariates = _covariates(series, past_covariates, future_covariates)
    task = _Task.make(series, pattern, rate, random_state, block_length, hidden, scale, gap_lengths)
    rows = {}
    for name, imputer in ((simple_imputers(season_length) if baselines else {}) | by_name).items():
        start = perf_counter()
        estimates = estimate(imputer, task.visible, task.hidden, covariates, num_samples, random_state)
        seconds = perf_counter() - start
        table = task.scores(estimates)
        by_gap = table["mae"].drop(ALL).add_prefix("mae_gap_")
        rows[name] = pd.concat([table.loc[ALL], pd.Series({"seconds": seconds}), by_gap])
    out = pd.DataFrame(rows).T.sort_values("mae", kind="stable").astype({"n": int})
    return out.rename_axis("imputer")


@dataclass
class _Task:
    """What is visible of some series, and what was hidden of them.

    Attributes
    ----------
    visible
        The series without the hidden values.
    hidden
        Masks ``(time, components)``, True where a value was hidden.
    truth
        The hidden values, ``(n,)``, of all series one after the other.
    offset, unit
        What to subtract from, and divide by, truths and estimates, ``(n,)``.
    gaps
        Length of the gap of each hidden value in steps, ``(n,)``.
    bins
        Longest gaps of all bins but the last.
    """

    visible: list[TimeSeries]
    hidden: list[np.ndarray]
    truth: np.ndarray
    offset: np.ndarray
    unit: np.ndarray
    gaps: np.ndarray
    bins: list[int]

    @classmethod
    def make(cls, series, pattern, rate, random_state, block_length, hidden, scale, gap_lengths) -> "_Task":
        many = series_list("series", series)
        check_series("series", many, deterministic=True)
        if hidden is None:
            visible = make_missing(many, pattern, rate, random_state, block_length=block_length)
        else:
            visible = series_list("hidden", hidden)
            check_series("hidden", visible, deterministic=True)
            _check_hidden(many, visible)
        bins = [*gap_lengths] if isinstance(gap_lengths, Iterable) else [gap_lengths]
        for bound in bins:
            check_integer("gap_lengths", bound)
        if bins != sorted({*bins}):
            raise ValueError(f"`gap_lengths` must be increasing numbers of steps, got {gap_lengths!r}.")
        masks, parts = [], []
        for whole, part in zip(many, visible, strict=True):
            values = part.values(copy=False).astype(np.float64)
            missing = np.isnan(values)
            mask = missing & ~np.isnan(whole.values(copy=False))
            masks.append(mask)
            mean, sd = _mean_and_sd(values) if scale else (np.zeros(values.shape[1]), np.ones(values.shape[1]))
            columns = (whole.values(copy=False), mean, sd, lengths_of_gaps(missing))
            parts.append([np.broadcast_to(column, values.shape)[mask] for column in columns])
        if not any(mask.any() for mask in masks):
            raise ValueError("`hidden` must lack values that are observed in `series`, but nothing is hidden.")
        truth, offset, unit, gaps = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(visible, masks, truth.astype(np.float64), offset, unit, gaps, bins)

    def scores(self, estimates: Sequence[Estimate]) -> pd.DataFrame:
        """Return the scores of all hidden values and of each bin of gap lengths."""
        truth = (self.truth - self.offset) / self.unit
        middle = (np.concatenate([one.middle for one in estimates]) - self.offset) / self.unit
        known = [one.quantiles for one in estimates if one.quantiles is not None]
        quantiles = None
        if len(known) == len(estimates):
            quantiles = (np.concatenate(known) - self.offset[:, None]) / self.unit[:, None]
        number = np.searchsorted(self.bins, self.gaps)
        rows = {ALL: _scores(truth, middle, quantiles)}
        for i in np.unique(number):
            there = number == i
            rows[self._label(int(i))] = _scores(
                truth[there], middle[there], None if quantiles is None else quantiles[there]
            )
        return pd.DataFrame(rows).T.astype({"n": int}).rename_axis("gap")

    def _label(self, number: int) -> str:
        if number == len(self.bins):
            return f">{self.bins[-1]}" if self.bins else ">0"
        first, last = ([0, *self.bins][number] + 1, self.bins[number])
        return str(last) if first == last else f"{first}-{last}"


def _scores(truth: np.ndarray, middle: np.ndarray, quantiles: np.ndarray | None) -> dict[str, float]:
    """Return the metrics of some values, each the next step of one series for Darts."""
    actual, central = TimeSeries.from_values(truth), TimeSeries.from_values(middle)
    size = np.abs(truth).mean() or np.nan  # relative to zero, nothing has a size
    error = mae(actual, central)
    scores = {"n": len(truth), "mae": error, "rmse": rmse(actual, central), "mre": error / size}
    if quantiles is None:
        return scores | {"crps": np.nan} | dict.fromkeys(BANDS, np.nan)
    names = quantile_names(list(LEVELS), str(actual.components[0]))
    spread = TimeSeries.from_values(quantiles, columns=names)
    scores["crps"] = np.mean(mql(actual, spread, q=list(LEVELS))) / size
    return scores | {name: mic(actual, spread, q_interval=band) for name, band in BANDS.items()}


def _mean_and_sd(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each component, 0 and 1 where nothing is visible, 1 for a constant."""
    frame = pd.DataFrame(values)
    return frame.mean().fillna(0.0).to_numpy(), frame.std(ddof=0).replace(0.0, 1.0).fillna(1.0).to_numpy()


def _by_name(imputers: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Return the imputers by their names, or by those of their classes."""
    if isinstance(imputers, Mapping):
        return dict(imputers)
    if not isinstance(imputers, list | tuple):
        raise TypeError(
            f"`imputers` must be a dictionary of imputers by name, or a list of them, got {type(imputers).__name__}: "
            "put it into a list, or use `evaluate_imputer`."
        )
    names = [getattr(imputer, "__name__", type(imputer).__name__) for imputer in imputers]
    return {
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}": imputer
        for i, (name, imputer) in enumerate(zip(names, imputers, strict=True))
    }


def _check_hidden(series: Sequence[TimeSeries], hidden: Sequence[TimeSeries]) -> None:
    if len(series) == len(hidden):
        for i, (one, other) in enumerate(zip(series, hidden, strict=True)):
            check_grid(f"`hidden[{i}]`", other, f"`series[{i}]`", one)
    alike = len(series) == len(hidden) and all(
        one.time_index.equals(other.time_index) and one.components.equals(other.components)
        for one, other in zip(series, hidden, strict=True)
    )
    if not alike:
        raise ValueError("`hidden` must have the time steps and components of `series`, and as many series.")
    for whole, part in zip(series, hidden, strict=True):
        values, visible = whole.values(copy=False), part.values(copy=False)
        if (~np.isnan(visible) & (visible != values)).any():
            raise ValueError("`hidden` must be `series` with some of its values replaced by NaN, but values differ.")


def _covariates(
    series: TimeSeries | Sequence[TimeSeries],
    past_covariates: TimeSeries | Sequence[TimeSeries] | None,
    future_covariates: TimeSeries | Sequence[TimeSeries] | None,
) -> dict[str, list[TimeSeries]]:
    """Return those that were given, checked."""
    pairs = {"past_covariates": past_covariates, "future_covariates": future_covariates}
    given = {name: series_list(name, value) for name, value in pairs.items() if value is not None}
    check_grids({"series": series, **given})
    for name, many in given.items():
        check_series(name, many)
    return given
