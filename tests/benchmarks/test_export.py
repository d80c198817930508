"""Tasks in the form of fev: the same forecasts, scored by fev, have the figures of our rows."""

import datasets
import fev
import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.cells import load
from benchmarks.export import fev_predictions
from benchmarks.interface import Budget
from benchmarks.metrics import score
from benchmarks.models import MODELS
from benchmarks.tasks import TASKS


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The smoke tasks, read back by fev from what the command wrote."""
    out = tmp_path_factory.mktemp("fev")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", out / "cache")
    assert main(["export", "--suite", "smoke", "--out", str(out)]) == 0
    tasks = {task.task_name: task for task in fev.Benchmark.from_yaml(str(out / "tasks.yaml")).tasks}
    yield tasks
    patch.undo()


FORECASTING = [name for name, task in TASKS.items() if "smoke" in task.suites and task.kind == "forecast"]


def test_all_forecasting_tasks_are_there(exported):
    assert list(exported) == FORECASTING


@pytest.mark.parametrize("name", FORECASTING)
def test_fev_gives_the_same_figures(name, exported):
    data = load(name, 1, None)
    answer = MODELS["seasonal naive"].run(data.view, Budget(steps=1), 1)
    row = score(TASKS[name], data, answer)
    found = exported[name].evaluation_summary(fev_predictions(exported[name], answer.values, answer.quantiles), "any")
    for metric, column in {"MAE": "mae", "MSE": "mse", "WQL": "wql"}.items():
        np.testing.assert_allclose(found[metric], row[column], rtol=1e-9, err_msg=metric)
    # visible values are float32, the scale of ours is that of the values as recorded
    np.testing.assert_allclose(found["test_error"], row["score"], rtol=1e-6)


def test_fev_shows_a_model_what_ours_see(exported):
    view = load("El Nino, calendar", 1, None).view
    past, future = exported["El Nino, calendar"].get_window(0).get_input_data()
    for number, context in enumerate(view.contexts):
        np.testing.assert_allclose(past[number]["value"], context.values()[:, 0])
        coming = view.future_covariates[number][-view.horizon :]
        np.testing.assert_allclose(future[number]["month_sin"], coming["month_sin"].values()[:, 0])
    assert set(future.features) == {"id", "timestamp", "month_sin", "month_cos"}


def test_a_task_without_forecasts_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", "--suite", "smoke", "--tasks", "El Nino, points 25 %", "--out", str(tmp_path)])
    assert "--tasks must name a forecasting task" in capsys.readouterr().err
