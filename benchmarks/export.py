"""Forecasting tasks in the form of fev, so that any model with a wrapper for fev can run them, without a network.

A task becomes a parquet file and an entry of ``tasks.yaml``, which ``fev.Benchmark.from_yaml`` reads. Each forecast is
a series of its own: what a model may see before the origin, then the truth. So fev's single evaluation window holds all
forecasts, whatever their origins, and its errors are those of our rows. Its MASE is scaled by what is visible: where
values are hidden, or the context is shorter than the history, ours takes the true history instead.
"""

import re
from pathlib import Path

import fev
import numpy as np
import pandas as pd
import yaml

from benchmarks.cells import load
from benchmarks.interface import LEVELS, ForecastView, Task, TaskData
from benchmarks.tasks import TASKS

TASK_FILE = "tasks.yaml"


def export(names: list[str], folder: Path, data_dir: Path | None, seed: int = 1) -> Path:
    """Write the forecasting tasks among `names` to `folder` and return the path of the list of them."""
    forecasting = [TASKS[name] for name in names if TASKS[name].kind == "forecast"]
    if not forecasting:
        raise ValueError(f"--tasks must name a forecasting task, for fev has no others; got {', '.join(names)}.")
    folder.mkdir(parents=True, exist_ok=True)
    entries = [fev_task(task, load(task.name, seed, data_dir), folder).to_dict() for task in forecasting]
    path = folder / TASK_FILE
    path.write_text(yaml.safe_dump({"tasks": entries}, sort_keys=False))
    return path


def fev_task(task: Task, data: TaskData, folder: Path) -> fev.Task:
    """Write the series of a task to `folder` and return it as fev's."""
    view = data.view
    assert isinstance(view, ForecastView)
    file = folder / f"{re.sub('[^a-z0-9]+', '_', task.name.lower()).strip('_')}.parquet"
    _frame(view, data.truth).to_parquet(file)
    components = list(view.train[0].components)
    known = view.train_future_covariates
    return fev.Task(
        dataset_path=str(file),
        horizon=task.horizon,
        seasonality=task.season,
        eval_metric=task.metric.upper(),
        extra_metrics=[name for name in ("MASE", "MAE", "MSE", "WQL", "SMAPE") if name != task.metric.upper()],
        quantile_levels=list(LEVELS),
        target=components if len(components) > 1 else components[0],
        known_dynamic_columns=[] if known is None else list(known[0].components),
        task_name=task.name,
    )


def _frame(view: ForecastView, truth: np.ndarray) -> pd.DataFrame:
    width = len(str(len(view.contexts)))
    rows = []
    for number, (context, coming) in enumerate(zip(view.contexts, truth, strict=True)):
        values = np.concatenate([context.values().astype(np.float64), coming])
        times = pd.date_range(context.start_time(), periods=len(values), freq=context.freq)
        row = {"id": f"{number:0{width}d}", "timestamp": list(times)}
        row |= dict(zip(context.components, values.T.tolist(), strict=True))
        if view.future_covariates is not None:
            covariates = view.future_covariates[number]
            row |= dict(zip(covariates.components, covariates.values().T.tolist(), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def fev_predictions(task: fev.Task, values: np.ndarray, quantiles: np.ndarray | None) -> list[dict[str, list[dict]]]:
    """Return forecasts, ``(context, horizon, component)``, as fev takes them; without quantiles the values stand for
    them.
    """
    if quantiles is None:
        quantiles = np.repeat(values[..., None], len(LEVELS), axis=-1)
    return [
        {
            component: [
                {"predictions": one[:, j]} | {str(level): levels[:, j, k] for k, level in enumerate(LEVELS)}
                for one, levels in zip(values, quantiles, strict=True)
            ]
            for j, component in enumerate(task.target_columns)
        }
    ]
