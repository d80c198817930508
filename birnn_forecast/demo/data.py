"""The demo's series: weekly CO2 of Mauna Loa, what is hidden of it in either half, and where forecasts start."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries

from birnn_forecast.imputation import make_missing

SEASON = 52
HORIZON = 52
TEST_WEEKS = 104
LATE_WEEKS = 6
# (weeks before the end of the training part, weeks hidden)
HIDDEN_BLOCKS = ((204, 10), (120, 13), (65, 8))
# of the observed weeks: shares hidden in outages and one by one, and the shortest and longest outage
BLOCK_SHARE, SINGLE_SHARE, BLOCK_WEEKS = 0.15, 0.05, (4, 26)
HIDING_SEED = 1


def load_co2() -> TimeSeries:
    """Return the weekly mean CO2 of Mauna Loa, 1958-2001, in ppm, NaN in its 59 missing weeks (float32)."""
    from statsmodels.datasets import co2

    frame = co2.load_pandas().data
    return TimeSeries.from_times_and_values(
        pd.DatetimeIndex(frame.index), frame.to_numpy(np.float32), freq="W-SAT", columns=["co2"]
    )


class Task(NamedTuple):
    """What every model is given, and what it is scored on.

    Attributes
    ----------
    train
        The series up to the test part, with all gaps; the last weeks are among them.
    histories
        For each forecast origin, the series up to it: with the gaps of `train`, and again without its last weeks.
    truths
        For each origin, what came in the horizon.
    """

    train: TimeSeries
    histories: list[TimeSeries]
    truths: list[TimeSeries]


def make_task(series: TimeSeries, n_origins: int = 5) -> Task:
    """Split a series and hide some of it.

    The first origin is the end of the training part, the last one leaves just one horizon to the end of the series.
    """
    n_train = len(series) - TEST_WEEKS
    values = series.values(copy=True)
    for back, length in HIDDEN_BLOCKS:
        values[n_train - back : n_train - back + length] = np.nan
    with_gaps = series.with_values(values)
    origins = np.linspace(n_train, len(series) - HORIZON, n_origins).astype(int)
    return Task(
        train=_late(with_gaps[:n_train]),
        histories=[_late(with_gaps[:origin]) for origin in origins],
        truths=[series[origin : origin + HORIZON] for origin in origins],
    )


def _late(history: TimeSeries) -> TimeSeries:
    """Return a history of which the last weeks have not arrived yet."""
    values = history.values(copy=True)
    values[-LATE_WEEKS:] = np.nan
    return history.with_values(values)


def hide_weeks(series: TimeSeries, random_state: int = HIDING_SEED) -> TimeSeries:
    """Hide a fifth of the observed weeks: outages of a month to half a year, and single weeks."""
    with_outages = make_missing(series, "blocks", BLOCK_SHARE, random_state, block_length=BLOCK_WEEKS)
    return make_missing(with_outages, "points", SINGLE_SHARE, random_state)


def n_missing(series: TimeSeries) -> int:
    """Return the number of missing values."""
    return int(np.isnan(series.values()).sum())
