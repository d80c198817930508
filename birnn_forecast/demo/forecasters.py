"""The demo's five models behind one interface: fitted once, then asked for quantiles from each forecast origin."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.models import ExponentialSmoothing, NaiveSeasonal
from darts.utils.likelihood_models.base import quantile_names
from darts.utils.missing_values import fill_missing_values
from scipy.stats import norm
from statsmodels.tools.sm_exceptions import ConvergenceWarning
from statsmodels.tsa.api import UnobservedComponents

from birnn_forecast.demo.data import HORIZON, LATE_WEEKS, SEASON

QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
Tick = Callable[[], None]


class Forecaster(ABC):
    """A model of the demo.

    Attributes
    ----------
    name, gaps
        What the table says of the model and of how it deals with gaps.
    plotted
        Whether its last forecast is in the picture.
    fit_seconds, forecast_seconds
        Wall clock of the last :meth:`run`: of the fit, and of all forecasts.
    """

    name: ClassVar[str]
    gaps: ClassVar[str]
    plotted: ClassVar[bool] = False
    fit_seconds: float = 0.0
    forecast_seconds: float = 0.0

    def run(self, train: TimeSeries, histories: list[TimeSeries], tick: Tick) -> list[TimeSeries]:
        """Fit on `train`, then return the forecast from the end of each history; call `tick` at each of the `steps`."""
        start = time.perf_counter()
        self.fit(train, tick)
        fitted = time.perf_counter()
        forecasts = self.forecast(histories, tick)
        self.fit_seconds, self.forecast_seconds = fitted - start, time.perf_counter() - fitted
        return forecasts

    @property
    def steps(self) -> int:
        """Number of ticks of the fit."""
        return 1

    @abstractmethod
    def fit(self, train: TimeSeries, tick: Tick) -> None:
        """Fit on a series with gaps."""

    @abstractmethod
    def forecast(self, histories: list[TimeSeries], tick: Tick) -> list[TimeSeries]:
        """Return, for each history (with gaps), one series whose components are quantiles, or only the median."""


class StateSpace(Forecaster):
    """Level and slope that wander, a yearly cycle of four harmonics; the Kalman filter skips what is missing.

    Parameters are estimated once, on the training part; the filter then runs over each history.
    """

    # On origins of 1995-12 to 1998-12, mean absolute error in ppm: .65 as it is and with 6 harmonics, .66 with an AR(1)
    # error; with a smooth instead of a wandering level .85
    name = "UnobservedComponents"
    gaps = "as they are"
    plotted = True

    def fit(self, train: TimeSeries, tick: Tick) -> None:
        """Estimate the variances by maximum likelihood."""
        model = UnobservedComponents(
            _to_pandas(train), "local linear trend", freq_seasonal=[{"period": 365.25 / 7, "harmonics": 4}]
        )
        with warnings.catch_warnings():
            # a variance at its bound of 0 leaves no direction to go, which counts as a failure
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.results = model.fit(disp=False, maxiter=200, method="bfgs")
        tick()

    def forecast(self, histories: list[TimeSeries], tick: Tick) -> list[TimeSeries]:
        """Return the quantiles of the normal predictive distribution."""
        forecasts = []
        for history in histories:
            prediction = self.results.apply(_to_pandas(history)).get_forecast(HORIZON)
            mean, scale = prediction.predicted_mean.to_numpy(), prediction.se_mean.to_numpy()
            forecasts.append(to_series(history, mean[:, None] + scale[:, None] * norm.ppf(QUANTILES)))
            tick()
        return forecasts


class SeasonalNaive(Forecaster):
    """The value of a year ago, by Darts' ``NaiveSeasonal``; it states no uncertainty."""

    name = "Seasonal naive"
    gaps = "interpolated, end cut"

    def fit(self, train: TimeSeries, tick: Tick) -> None:
        """Do nothing: there is nothing to estimate."""
        tick()

    def forecast(self, histories: list[TimeSeries], tick: Tick) -> list[TimeSeries]:
        """Return the median only."""
        forecasts = []
        for history in histories:
            forecast = NaiveSeasonal(SEASON).fit(interpolated(history)).predict(HORIZON + LATE_WEEKS)
            forecasts.append(forecast[-HORIZON:].with_columns_renamed("co2", quantile_names(0.5, "co2")))
            tick()
        return forecasts


class HoltWinters(Forecaster):
    """Darts' ``ExponentialSmoothing``, additive trend and season, fitted anew at each origin; simulated paths."""

    # The last 10 years: on origins of 1995-12 to 1998-12 a mean absolute error of .77 ppm, .83 with 15 years, 1.04 with
    # a damped trend, about twice as much when the missing end is filled with the last value instead of forecast as well
    name = "Holt-Winters"
    gaps = "interpolated, end cut"
    years = 10

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, train: TimeSeries, tick: Tick) -> None:
        """Do nothing: it has to be fitted at each origin."""
        tick()

    def forecast(self, histories: list[TimeSeries], tick: Tick) -> list[TimeSeries]:
        """Return the quantiles of 1000 simulated paths."""
        forecasts = []
        for history in histories:
            model = ExponentialSmoothing(seasonal_periods=SEASON, random_state=self.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(interpolated(history)[-self.years * SEASON :])
                paths = model.predict(HORIZON + LATE_WEEKS, num_samples=1000).all_values()[-HORIZON:, 0]
            forecasts.append(to_series(history, np.quantile(paths, QUANTILES, axis=1).T))
            tick()
        return forecasts


def interpolated(history: TimeSeries) -> TimeSeries:
    """Return a history without gaps: linear inside, and cut at its last observed value.

    The models that need this then forecast the missing end as well. Carrying the last value on to the end, which is
    what interpolation alone would do, was far worse for them.
    """
    observed = np.flatnonzero(~np.isnan(history.values()[:, 0]))
    return fill_missing_values(history[: int(observed[-1]) + 1])


def to_series(history: TimeSeries, quantiles: np.ndarray) -> TimeSeries:
    """Return ``(time, quantile)`` as the series of the weeks after a history."""
    times = pd.date_range(history.end_time() + history.freq, periods=len(quantiles), freq=history.freq)
    return TimeSeries.from_times_and_values(times, quantiles, columns=quantile_names(QUANTILES, "co2"))


def _to_pandas(series: TimeSeries) -> pd.Series:
    return pd.Series(series.values()[:, 0].astype(float), index=series.time_index)
