"""What tasks, models and the runner say to each other.

A task gives a *view*: all that a model may see, and nothing else. A model gives back an *answer*: forecasts or
imputations of what the view asks for. The truth stays with the task, which scores the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from darts import TimeSeries

# levels of the quantiles that probabilistic models answer with
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Budget:
    """What each trained net may spend on a fit: CPU seconds, or a number of training steps."""

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self):
        if (self.seconds is None) == (self.steps is None):
            raise ValueError("`budget` must be given either in CPU seconds or in training steps.")


@dataclass(frozen=True)
class ForecastView:
    """What a forecasting model may see.

    Attributes
    ----------
    train
        The training parts, one per series, float32; NaN where a value is missing.
    contexts
        What precedes each forecast, one per forecast: a series that ends at the step before the first one asked for. It
        starts where its series does, or `max_context` steps before its end.
    series_of
        For each context, the number of its series in `train`.
    horizon
        Number of steps to forecast after each context.
    season
        Steps of the season, 1 for none.
    max_context
        Longest context, None if all of the history is given.
    train_future_covariates, future_covariates
        Covariates known in advance: one series per training part, over all of it; and one per context, from its first
        step to the last one of the horizon. None if the task has none.
    metric
        The metric that ranks models: nets are trained for it.
    """

    train: list[TimeSeries]
    contexts: list[TimeSeries]
    series_of: list[int]
    horizon: int
    season: int
    max_context: int | None = None
    train_future_covariates: list[TimeSeries] | None = None
    future_covariates: list[TimeSeries] | None = None
    metric: str = "mase"


@dataclass(frozen=True)
class ImputationView:
    """What an imputing model may see.

    Attributes
    ----------
    train
        The training parts, hidden in the same pattern as the series to fill.
    series
        The series to fill: NaN where missing, and where hidden.
    season
        Steps of the season, 1 for none.
    """

    train: list[TimeSeries]
    series: list[TimeSeries]
    season: int


@dataclass
class Answer:
    """What a model says.

    Attributes
    ----------
    values
        Forecasts: one array, ``(context, horizon, component)``. Imputations: one per series, joined in time,
        ``(time of all series, component)``; what was observed may stand there as it is.
    quantiles
        The same with a last axis for ``LEVELS``, or None for a model without them.
    fit_seconds, predict_seconds
        CPU seconds of training and of predicting, this process and its children.
    n_parameters
        Trained weights of a net, None for other models.
    notes
        What else there is to say: steps trained, the order chosen, series for which a fall-back was used.
    """

    values: np.ndarray
    quantiles: np.ndarray | None = None
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    n_parameters: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A contender.

    Attributes
    ----------
    name
        As in tables and on the command line.
    family
        ``"ours"``, ``"statistical"``, ``"darts"`` (its nets), ``"imputer"``, ``"baseline"`` or ``"extra"`` (needs a
        package that the benchmarks do not install).
    kind
        ``"forecast"`` or ``"impute"``.
    run
        ``run(view, budget, seed) -> Answer``.
    config
        All settings, as JSON can hold them: part of the hash of a cell.
    trained
        Whether it spends the budget.
    expected_seconds
        ``expected_seconds(n_series, n_forecasts, budget) -> float``: CPU seconds that a cell is expected to take.
    ablation_of
        Name of the model that this one is a copy of with one part off, or None.
    cannot
        What it cannot do, in a few words, for the report.
    """

    name: str
    family: str
    kind: str
    run: Callable[[Any, Budget, int], Answer]
    config: dict[str, Any]
    trained: bool = False
    expected_seconds: Callable[[int, int, Budget], float] = lambda n_series, n_forecasts, budget: 1.0
    ablation_of: str | None = None
    cannot: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A task of a suite.

    Attributes
    ----------
    name
        As in tables and on the command line, ``"M3 monthly"``.
    kind
        ``"forecast"`` or ``"impute"``.
    dataset
        Name in ``benchmarks.datasets.DATASETS``.
    suites
        Names of the suites that it belongs to.
    horizon, season
        In steps; the horizon of an imputation task is 0.
    metric
        The metric that ranks models: ``"mase"``, ``"mse"`` or ``"mae"``.
    baseline
        Name of the model that skill is measured against: its score replaces that of a model that fails.
    load
        ``load(data_dir, seed) -> TaskData``; the seed draws what is hidden (gaps, imputation).
    sizes
        ``(number of series, number of forecasts)``, for estimates of time.
    random_walk
        Whether no skill is to be expected.
    """

    name: str
    kind: str
    dataset: str
    suites: tuple[str, ...]
    horizon: int
    season: int
    metric: str
    baseline: str
    load: Callable[..., "TaskData"]
    sizes: tuple[int, int]
    random_walk: bool = False


@dataclass
class TaskData:
    """A loaded task.

    Attributes
    ----------
    view
        What a model may see.
    truth
        Of forecasts ``(context, horizon, component)``, NaN where the truth is unknown; of imputations ``(time of all
        series, component)``, NaN where nothing is scored.
    scales
        Of forecasts ``(context, component)``: what absolute errors are divided by for MASE, the in-sample mean absolute
        error of the seasonal naive forecast on the true values before the origin. Of imputations None.
    fingerprint
        Hash of the values that were loaded.
    """

    view: ForecastView | ImputationView
    truth: np.ndarray
    scales: np.ndarray | None
    fingerprint: str
