"""Small made-up tasks and models; ``python -m tests.benchmarks.fakes run ...`` is the command line with them.

Processes that the local engine starts import this module again, and so know them, too.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
from darts import TimeSeries

from benchmarks.interface import LEVELS, Answer, Budget, ForecastView, ImputationView, Model, Task, TaskData

HORIZON = 4


def load_forecast(data_dir, seed):
    """Three series, the same for every seed."""
    values = np.random.default_rng(0).normal(size=(3, 40)).cumsum(axis=1).astype(np.float32)
    times = pd.date_range("2000-01-01", periods=40, freq="MS")
    train = [TimeSeries.from_times_and_values(times[:-HORIZON], one[:-HORIZON]) for one in values]
    scales = np.abs(np.diff(values[:, :-HORIZON])).mean(axis=1)[:, None]
    view = ForecastView(train, train, [0, 1, 2], HORIZON, 1)
    return TaskData(view, values[:, -HORIZON:, None].astype(float), scales.astype(float), "made up")


def load_gaps(data_dir, seed):
    """One series, of which the seed draws what is hidden."""
    values = np.sin(np.arange(60.0)).astype(np.float32)[:, None]
    hidden = np.random.default_rng(seed).random(values.shape) < 0.2
    series = [TimeSeries.from_values(np.where(hidden, np.nan, values).astype(np.float32))]
    return TaskData(ImputationView(series, series, 1), np.where(hidden, values, np.nan).astype(float), None, "made up")


def last(view, budget, seed):
    values = np.stack([np.repeat(one.values()[-1:], view.horizon, axis=0) for one in view.contexts]).astype(float)
    return Answer(values, predict_seconds=0.1)


def noise(view, budget, seed):
    """Takes a while, so that a run can be killed on the way."""
    time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
    shape = (len(view.contexts), view.horizon, 1)
    values = np.random.default_rng([seed, budget.steps or 0]).normal(size=shape)
    quantiles = values[..., None] + np.array(LEVELS) - 0.5
    return Answer(values, quantiles, time.process_time(), 0.1, 7, {"steps": np.int64(3)})


def zeros(view, budget, seed):
    return Answer(np.zeros((sum(map(len, view.series)), 1)))


def broken(view, budget, seed):
    raise RuntimeError("no convergence")


def dies(view, budget, seed):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(view, budget, seed):
    marker = Path(os.environ["FAKE_MARKER"])
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return noise(view, budget, seed)


def meddles(view, budget, seed):
    view.contexts[0]._values[-1] = 0.0
    return last(view, budget, seed)


def half_empty(view, budget, seed):
    answer = last(view, budget, seed)
    answer.values[0] = np.nan
    return answer


def _model(name, run, family="ours", kind="forecast", **kwargs):
    return Model(name, family, kind, run, {"name": name}, **kwargs)


TASKS = {
    one.name: one
    for one in (
        Task("fake one", "forecast", "made", ("fake",), HORIZON, 1, "mase", "last", load_forecast, (3, 3)),
        Task("fake two", "forecast", "made", ("fake",), HORIZON, 1, "mae", "last", load_forecast, (3, 3), True),
        Task("fake gaps, 20 %", "impute", "made", ("fake",), 0, 1, "mae", "zeros", load_gaps, (1, 1)),
    )
}
MODELS = {
    one.name: one
    for one in (
        _model("last", last, "baseline", cannot=("learn",)),
        _model("zeros", zeros, "baseline", "impute"),
        _model("noise", noise, trained=True, expected_seconds=lambda series, forecasts, budget: 5.0),
        _model("noise, other", noise, trained=True, ablation_of="noise"),
        _model("broken", broken),
        _model("dies", dies, trained=True, expected_seconds=lambda series, forecasts, budget: 9.0),
        _model("dies once", dies_once, trained=True, expected_seconds=lambda series, forecasts, budget: 9.0),
        _model("meddles", meddles),
        _model("half empty", half_empty),
        _model("endless", last, "statistical", expected_seconds=lambda series, forecasts, budget: 9000.0),
    )
}
BUDGET = Budget(steps=3)


def register():
    """Put the tasks and models where the benchmarks look for theirs."""
    import benchmarks.models
    import benchmarks.tasks

    benchmarks.tasks.TASKS.update(TASKS)
    benchmarks.tasks.SUITES["fake"] = list(TASKS)
    benchmarks.models.MODELS.update(MODELS)
    benchmarks.models.SUITE_MODELS["fake"] = ["noise", "noise, other", "broken", "zeros"]


if __name__ in ("__main__", "__mp_main__"):
    register()
if __name__ == "__main__":
    from benchmarks.__main__ import start

    start()
