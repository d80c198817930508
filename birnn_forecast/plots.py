"""Pictures of series with gaps: forecasts or imputations with their bands, beside what was observed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from darts import TimeSeries
from matplotlib.axes import Axes

QUANTILE_NAME = re.compile(r"_q(\d(?:\.\d+)?)$")
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
        If the history has more than one component, or a forecast lacks the median.
    """
    ax = _draw_series(history, "history", ylabel, ax)
    for number, (name, forecast) in enumerate(_named(forecasts, "forecast").items()):
        _draw_estimate(ax, forecast, name, interval, f"C{number}", "forecasts")
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
        If the series has more than one component, or an imputation lacks the median or has other time steps.
    """
    ax = _draw_series(series, "observed", ylabel, ax)
    missing = np.isnan(series.values()[:, 0])
    # the observed values on either side of a gap, so that the line joins them
    drawn = missing | np.append(missing[1:], False) | np.append(False, missing[:-1])
    for number, (name, estimate) in enumerate(_named(imputed, "imputed").items()):
        if not estimate.time_index.equals(series.time_index):
            raise ValueError(
                f"Each of `imputed` must have the time steps of `series`, {series.start_time()} to "
                f"{series.end_time()}, got {estimate.start_time()} to {estimate.end_time()}."
            )
        _draw_estimate(ax, estimate, name, interval, f"C{number}", "imputed", drawn)
    if truth is not None:
        times, values = truth.slice_intersect(series).time_index, truth.slice_intersect_values(series)[:, 0, 0]
        hidden = missing[series.time_index.isin(times)]
        ax.plot(times[hidden], values[hidden], ".", color=TRUTH_COLOR, ms=3, label="hidden", zorder=4)
    return _finish(ax, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)  # gaps may be anywhere


def quantile_of(forecast: TimeSeries, quantile: float) -> np.ndarray | None:
    """Return one quantile of an estimate of one component over time, or None if the estimate does not have it.

    A deterministic forecast or imputation counts as its own median.
    """
    if forecast.is_stochastic:
        return np.quantile(forecast.all_values()[:, 0], quantile, axis=-1)
    names = [QUANTILE_NAME.search(str(name)) for name in forecast.components]
    levels = [float(name[1]) if name else 0.5 for name in names]
    found = np.flatnonzero(np.isclose(levels, quantile))
    return forecast.values()[:, found[0]] if len(found) else None


def _draw_series(series: TimeSeries, name: str, ylabel: str | None, ax: Axes | None) -> Axes:
    """Draw what was observed, and shade the gaps."""
    if series.n_components != 1:
        which = "history" if name == "history" else "series"
        raise ValueError(
            f"`{which}` must have one component, got {series.n_components}: choose one, as in `series['name']`."
        )
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
    name: str,
    interval: tuple[float, float],
    color: str,
    argument: str,
    drawn: np.ndarray | None = None,
) -> None:
    """Draw median and band, where `drawn` if given."""
    low, median, high = (quantile_of(estimate, q) for q in (interval[0], 0.5, interval[1]))
    if median is None:
        raise ValueError(f"Each of `{argument}` must hold the median, got {list(estimate.components)}.")
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
    estimates: TimeSeries | Sequence[TimeSeries] | Mapping[str, TimeSeries], default: str
) -> Mapping[str, TimeSeries]:
    if isinstance(estimates, TimeSeries):
        return {default: estimates}
    if isinstance(estimates, Mapping):
        return estimates
    return {f"{default} {number}": estimate for number, estimate in enumerate(estimates, start=1)}


def _gaps(values: np.ndarray) -> list[tuple[int, int]]:
    """Return the first index of each run of NaN and the index after its last."""
    missing = np.concatenate([[False], np.isnan(values), [False]])
    edges = np.flatnonzero(missing[1:] != missing[:-1])
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
