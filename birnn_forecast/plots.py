"""Pictures of series with gaps: forecasts or imputations with their bands, beside what was observed."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from darts import TimeSeries
from matplotlib.axes import Axes

from birnn_forecast.checks import check_finite, check_grid, one_series, series_list
from birnn_forecast.quantiles import levels_of_one

HISTORY_COLOR, TRUTH_COLOR, GAP_COLOR = "0.25", "black", "0.86"


def plot_forecast(
    history: TimeSeries,
    forecasts: TimeSeries | Sequence[TimeSeries] | Mapping[str, TimeSeries],
    truth: TimeSeries | None = None,
    *,
    interval: tuple[float, float] = (0.1, 0.9),
    ylabel: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a series with gaps and what was forecast of it.

    Parameters
    ----------
    history
        Series of one component; each run of missing values (NaN) is shaded.
    forecasts
        One forecast, several, or several by name (the name goes into the legend). Each is deterministic, sampled
        (``predict(num_samples=500)``) or made of quantiles (``predict_likelihood_parameters=True`` with
        ``QuantileRegression``). Drawn are the median and, if there is one, the band between the two quantiles.
    truth
        What was observed in the time of the forecasts, as dots.
    interval
        The two quantiles that limit the band.
    ylabel
        Name and unit of the values; default: the component's name.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; ``ax.figure.savefig("forecast.png")`` saves the picture.

    Raises
    ------
    ValueError
        If the history or the truth has more than one component, a forecast lacks the median or a quantile of the
        interval, the interval is the wrong way round, steps do not fall together, or a value is infinite.
    TypeError
        If something is no ``TimeSeries``.
    """
    _check_series("history", history, truth)
    named = _named("forecasts", forecasts, "forecast")
    for forecast in named.values():
        check_grid("Each of `forecasts`", forecast, "`history`", history)
        _check_estimate("forecasts", forecast, history, interval)
    ax = _draw_series(history, "history", ylabel, ax)
    for number, (name, forecast) in enumerate(named.items()):
        _draw_estimate(ax, forecast, history, name, interval, f"C{number}")
    if truth is not None:
        ax.plot(truth.time_index, truth.values()[:, 0], ".", color=TRUTH_COLOR, ms=3, label="observed", zorder=4)
    return _finish(ax, loc="upper left")


def plot_imputation(
    series: TimeSeries,
    imputed: TimeSeries | Sequence[TimeSeries] | Mapping[str, TimeSeries],
    truth: TimeSeries | None = None,
    *,
    interval: tuple[float, float] = (0.1, 0.9),
    ylabel: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a series with gaps and how they were filled.

    Parameters
    ----------
    series
        Series of one component; each run of missing values (NaN) is shaded.
    imputed
        One imputation, several, or several by name (the name goes into the legend), with the time steps of the series.
        Each is deterministic, sampled (``impute(num_samples=500)``) or made of quantiles
        (``impute(predict_likelihood_parameters=True)`` with ``QuantileRegression``). Drawn are, in the gaps and to the
        observed values beside them, the median and, if there is one, the band between the two quantiles.
    truth
        What was hidden, as dots: a series with values in the gaps, as that from which :func:`make_missing` hid some.
    interval
        The two quantiles that limit the band.
    ylabel
        Name and unit of the values; default: the component's name.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; ``ax.figure.savefig("imputation.png")`` saves the picture.

    Raises
    ------
    ValueError
        If the series or the truth has more than one component, an imputation lacks the median or a quantile of the
        interval or has other time steps, the interval is the wrong way round, the steps of the truth do not fall on
        those of the series, or a value is infinite.
    TypeError
        If something is no ``TimeSeries``.
    """
    _check_series("series", series, truth)
    named = _named("imputed", imputed, "imputed")
    for estimate in named.values():
        if not estimate.time_index.equals(series.time_index):
            raise ValueError(
                f"Each of `imputed` must have the time steps of `series`, {series.start_time()} to "
                f"{series.end_time()}, got {estimate.start_time()} to {estimate.end_time()}."
            )
        _check_estimate("imputed", estimate, series, interval)
    ax = _draw_series(series, "observed", ylabel, ax)
    missing = np.isnan(series.values()[:, 0])
    # the observed values on either side of a gap, so that the line joins them
    drawn = missing | np.append(missing[1:], False) | np.append(False, missing[:-1])
    for number, (name, estimate) in enumerate(named.items()):
        _draw_estimate(ax, estimate, series, name, interval, f"C{number}", drawn)
    if truth is not None:
        times, values = truth.slice_intersect(series).time_index, truth.slice_intersect_values(series)[:, 0, 0]
        hidden = missing[series.time_index.isin(times)]
        ax.plot(times[hidden], values[hidden], ".", color=TRUTH_COLOR, ms=3, label="hidden", zorder=4)
    return _finish(ax, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)  # gaps may be anywhere


def quantile_of(forecast: TimeSeries, quantile: float, component: str | None = None) -> np.ndarray | None:
    """Return one quantile of an estimate of one component over time, or None if the estimate does not have it.

    A deterministic forecast or imputation counts as its own median. One component is a single quantile only if its
    name is Darts' for a quantile of `component`.
    """
    if forecast.is_stochastic:
        return np.quantile(forecast.all_values()[:, 0], quantile, axis=-1)
    levels = levels_of_one(forecast.components, component) or [0.5]
    found = np.flatnonzero(np.isclose(levels, quantile, atol=5e-4))
    return forecast.values()[:, found[0]] if len(found) else None


def _check_series(name: str, series: TimeSeries, truth: TimeSeries | None) -> None:
    for which, one in ((name, series), ("truth", truth)):
        if one is None and which == "truth":
            continue
        one = one_series(which, one)
        if one.n_components != 1:
            raise ValueError(
                f"`{which}` must have one component, got {one.n_components}: choose one, as in `{which}['name']`."
            )
        check_finite(f"`{which}`", one)
    if truth is not None:
        check_grid("`truth`", truth, f"`{name}`", series)


def _check_estimate(argument: str, estimate: TimeSeries, series: TimeSeries, interval: tuple[float, float]) -> None:
    check_finite(f"Each of `{argument}`", estimate)
    pair = isinstance(interval, tuple | list) and len(interval) == 2
    if not pair or any(isinstance(q, bool) or not isinstance(q, int | float | np.number) for q in interval):
        raise ValueError(f"`interval` must be the two quantiles that limit the band, got {interval!r}.")
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"`interval` must be two quantiles from 0 to 1, the lower one first, got {interval!r}.")
    names = [*map(str, estimate.components)]
    levels = levels_of_one(names, series.components[0])
    if len(names) > 1 and levels is None:
        raise ValueError(f"Each of `{argument}` must have one component or quantiles of it, got {names}.")
    if levels is None or estimate.is_stochastic:
        return
    if not np.isclose(levels, 0.5).any():
        raise ValueError(f"Each of `{argument}` must hold the median, got {names}.")
    if levels != [0.5] and any(not np.isclose(levels, q, atol=5e-4).any() for q in interval):
        raise ValueError(
            f"`interval` must be two of the quantiles that each of `{argument}` holds, {levels}, got {interval!r}."
        )


def _draw_series(series: TimeSeries, name: str, ylabel: str | None, ax: Axes | None) -> Axes:
    """Draw what was observed, and shade the gaps."""
    if ax is None:
        ax = plt.subplots(figsize=(10, 4.2), layout="constrained")[1]
    values = series.values()[:, 0]
    ax.plot(series.time_index, values, color=HISTORY_COLOR, lw=1.0, label=name)
    for number, (start, end) in enumerate(_gaps(values)):
        # from the last observed time step before the gap to the first one after it
        left = series.time_index[max(start - 1, 0)]
        right = series.time_index[end] if end < len(values) else series.end_time() + series.freq
        ax.axvspan(left, right, color=GAP_COLOR, lw=0, zorder=0, label=None if number else "missing")
    ax.set_ylabel(str(series.components[0]) if ylabel is None else ylabel)
    return ax


def _draw_estimate(
    ax: Axes,
    estimate: TimeSeries,
    series: TimeSeries,
    name: str,
    interval: tuple[float, float],
    color: str,
    drawn: np.ndarray | None = None,
) -> None:
    """Draw median and band, where `drawn` if given."""
    component = str(series.components[0])
    low, median, high = (quantile_of(estimate, q, component) for q in (interval[0], 0.5, interval[1]))
    assert median is not None
    times: Any = estimate.time_index
    if low is not None and high is not None and (low != high).any():
        ax.fill_between(times, low, high, where=drawn, color=color, alpha=0.25, lw=0, zorder=2)
        name = f"{name}, {100 * (interval[1] - interval[0]):.0f} % band"
    if drawn is not None:
        median = np.where(drawn, median, np.nan)
    ax.plot(times, median, color=color, lw=1.6, label=name, zorder=3)


def _finish(ax: Axes, **legend) -> Axes:
    ax.margins(x=0.01)
    ax.legend(edgecolor="none", framealpha=0.9, **legend)
    return ax


def _named(
    argument: str, estimates: TimeSeries | Sequence[TimeSeries] | Mapping[str, TimeSeries], default: str
) -> Mapping[str, TimeSeries]:
    """Return the estimates by name, checked to be series."""
    if isinstance(estimates, Mapping):
        return {str(name): one_series(f"{argument}[{name!r}]", one) for name, one in estimates.items()}
    many = series_list(argument, estimates)
    if isinstance(estimates, TimeSeries):
        return {default: estimates}
    return {f"{default} {number}": estimate for number, estimate in enumerate(many, start=1)}


def _gaps(values: np.ndarray) -> list[tuple[int, int]]:
    """Return the first index of each run of NaN and the index after its last."""
    missing = np.concatenate([[False], np.isnan(values), [False]])
    edges = np.flatnonzero(missing[1:] != missing[:-1])
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
