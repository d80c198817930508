"""One picture of a forecast: the history with its gaps, forecasts with their bands, and what came."""

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
    if history.n_components != 1:
        raise ValueError(
            f"`history` must have one component, got {history.n_components}: choose one, as in `series['name']`."
        )
    if ax is None:
        ax = plt.subplots(figsize=(10, 4.2), layout="constrained")[1]
    values = history.values()[:, 0]
    ax.plot(history.time_index, values, color=HISTORY_COLOR, lw=1.0, label="history")
    for number, (start, end) in enumerate(_gaps(values)):
        # from the last observed time step before the gap to the first one after it
        left = history.time_index[max(start - 1, 0)]
        right = history.time_index[end] if end < len(values) else history.end_time() + history.freq
        ax.axvspan(left, right, color=GAP_COLOR, lw=0, zorder=0, label=None if number else "missing")
    for number, (name, forecast) in enumerate(_named(forecasts).items()):
        _draw_forecast(ax, forecast, name, interval, f"C{number}")
    if truth is not None:
        ax.plot(truth.time_index, truth.values()[:, 0], ".", color=TRUTH_COLOR, ms=3, label="observed", zorder=4)
    ax.set_ylabel(str(history.components[0]) if ylabel is None else ylabel)
    ax.margins(x=0.01)
    ax.legend(edgecolor="none", framealpha=0.9, loc="upper left")
    return ax


def quantile_of(forecast: TimeSeries, quantile: float) -> np.ndarray | None:
    """Return one quantile of a forecast of one component over time, or None if the forecast does not have it.

    A deterministic forecast counts as its own median.
    """
    if forecast.is_stochastic:
        return np.quantile(forecast.all_values()[:, 0], quantile, axis=-1)
    names = [QUANTILE_NAME.search(str(name)) for name in forecast.components]
    levels = [float(name[1]) if name else 0.5 for name in names]
    found = np.flatnonzero(np.isclose(levels, quantile))
    return forecast.values()[:, found[0]] if len(found) else None


def _draw_forecast(ax: Axes, forecast: TimeSeries, name: str, interval: tuple[float, float], color: str) -> None:
    low, median, high = (quantile_of(forecast, q) for q in (interval[0], 0.5, interval[1]))
    if median is None:
        raise ValueError(f"Each of `forecasts` must hold the median, got {list(forecast.components)}.")
    times: Any = forecast.time_index
    if low is not None and high is not None and (low != high).any():
        ax.fill_between(times, low, high, color=color, alpha=0.25, lw=0, zorder=2)
        name = f"{name}, {100 * (interval[1] - interval[0]):.0f} % band"
    ax.plot(times, median, color=color, lw=1.6, label=name, zorder=3)


def _named(forecasts: TimeSeries | Sequence[TimeSeries] | Mapping[str, TimeSeries]) -> Mapping[str, TimeSeries]:
    if isinstance(forecasts, TimeSeries):
        return {"forecast": forecasts}
    if isinstance(forecasts, Mapping):
        return forecasts
    return {f"forecast {number}": forecast for number, forecast in enumerate(forecasts, start=1)}


def _gaps(values: np.ndarray) -> list[tuple[int, int]]:
    """Return the first index of each run of NaN and the index after its last."""
    missing = np.concatenate([[False], np.isnan(values), [False]])
    edges = np.flatnonzero(missing[1:] != missing[:-1])
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
