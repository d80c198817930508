"""Cells: the unit of a benchmark is one model on one task with one seed and one budget, and it gives one row.

A cell is known by a hash of all that can change its figures, so that nothing finished is computed twice:

- the task's settings and the values that were loaded, truth included. The code that loads them is left out: as long as
  it gives the same values, a task that is added leaves the rows of the others alone;
- the model's name and configuration, and for a model that is trained the seed and the budget. Other models spend no
  budget and need one seed for given data, so their cells of several seeds fall into one;
- the code: ``benchmarks/metrics.py`` and the modules that hold the model's functions, with every module of
  ``benchmarks`` and ``birnn_forecast`` that these import from, comments and docstrings left out. For peers the package
  as a whole (``import birnn_forecast``) is left out, so that they keep their rows when only our models change.

This module and the engines only carry figures around and are left out; ``VERSION`` is raised should that change.
"""

import functools
import hashlib
import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from darts import TimeSeries
from pytorch_lightning import seed_everything

from benchmarks.interface import Budget, Model, Task, TaskData
from benchmarks.metrics import score
from benchmarks.models import MODELS
from benchmarks.quiet import quiet
from benchmarks.sources import code_version, modules_of
from benchmarks.store import SCHEMA, Store
from benchmarks.tasks import TASKS
from benchmarks.threads import one_thread

VERSION = 1
# whose versions can change a figure
LIBRARIES = ("darts", "numpy", "pytorch-lightning", "scikit-learn", "statsforecast", "statsmodels", "torch")
# what a method that is not trained may be expected to take, unless told otherwise
MOST_SECONDS = 2 * 3600.0


class Cell(NamedTuple):
    """One model on one task; one that is not trained and would take longer than `most_seconds` is not run."""

    task: str
    model: str
    seed: int
    budget: Budget
    most_seconds: float = MOST_SECONDS


@dataclass(frozen=True)
class Job:
    """A cell, its hash, and the CPU seconds that it is expected to take."""

    cell: Cell
    hash: str
    fingerprint: str
    expected: float

    @property
    def not_run(self) -> bool:
        return self.expected > self.cell.most_seconds and not MODELS[self.cell.model].trained

    @property
    def cost(self) -> float:
        """CPU seconds to come: none for a cell that is listed as not run."""
        return 0.0 if self.not_run else self.expected


def plan(
    tasks: list[str],
    models: list[str],
    seeds: list[int],
    budget: Budget,
    data_dir: Path | None,
    most_seconds: float = MOST_SECONDS,
) -> list[Job]:
    """Return the cells of `models`, and of each task's baseline, on the `tasks`, longest first.

    The baseline is always there: its score stands for that of a model that fails.
    """
    jobs: dict[str, Job] = {}
    for name in tasks:
        task = TASKS[name]
        fitting = [model for model in dict.fromkeys([*models, task.baseline]) if MODELS[model].kind == task.kind]
        for seed in seeds:
            data = load(name, seed, data_dir)
            digest = data_digest(data)
            for model in fitting:
                cell = Cell(name, model, seed, budget, most_seconds)
                hash_ = cell_hash(cell, digest)
                jobs.setdefault(hash_, Job(cell, hash_, data.fingerprint, expected_seconds(cell)))
    return sorted(jobs.values(), key=lambda job: (-job.expected, job.cell.task, job.cell.model, job.cell.seed))


def expected_seconds(cell: Cell) -> float:
    """Return the CPU seconds that a cell is expected to take."""
    return float(MODELS[cell.model].expected_seconds(*TASKS[cell.task].sizes, cell.budget))


def load(task: str, seed: int, data_dir: Path | None) -> TaskData:
    """Return a task's data; the last few are kept, for cells of one task often follow each other."""
    return _load(TASKS[task].load, data_dir, seed)


@functools.lru_cache(maxsize=4)
def _load(function: Callable[..., TaskData], data_dir: Path | None, seed: int) -> TaskData:
    return function(data_dir, seed)


def cell_hash(cell: Cell, digest: str) -> str:
    """Return the hash of a cell on data with the `digest`."""
    task, model = TASKS[cell.task], MODELS[cell.model]
    settings = {
        "version": VERSION,
        "task": {name: value for name, value in vars(task).items() if name not in ("load", "sizes", "suites")},
        "data": digest,
        "model": [model.name, model.family, model.ablation_of, model.config],
        "code": model_code(model),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    if model.trained:
        settings |= {"seed": cell.seed, "budget": asdict(cell.budget)}
    return hashlib.sha256(_json(settings).encode()).hexdigest()[:32]


def model_code(model: Model) -> str:
    """Return the hash of the source files that can change what `model` scores."""
    without = () if model.family == "ours" else ("birnn_forecast",)
    return code_version(frozenset(modules_of(model.run) | {"benchmarks.metrics"}), without=without)


def data_digest(data: TaskData) -> str:
    """Return the hash of everything that a model sees and is scored on."""
    digest = hashlib.blake2b(digest_size=16)

    def add(name: str, value: Any) -> None:
        digest.update(name.encode())
        if isinstance(value, TimeSeries):
            index = value.time_index
            digest.update(f"{index[0]} {index[-1]} {len(index)} {index.dtype} {list(value.components)}".encode())
            digest.update(str(value.static_covariates.to_dict() if value.has_static_covariates else "").encode())
            value = value.all_values(copy=False)
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, list):
            for one in value:
                add("-", one)
        else:
            digest.update(str(value).encode())

    for name, value in [*vars(data.view).items(), ("truth", data.truth), ("scales", data.scales)]:
        add(name, value)
    return digest.hexdigest()


def run_cell(cell: Cell, data_dir: Path | None, out: str | Path, data: TaskData | None = None) -> dict[str, Any]:
    """Run a cell on one thread, write its forecasts and its row to `out`, and return the row.

    A model that fails gives a row, too, with the end of the traceback. `data` is the loaded task, if it is at hand.
    """
    data = load(cell.task, cell.seed, data_dir) if data is None else data
    task, model, digest = TASKS[cell.task], MODELS[cell.model], data_digest(data)
    job = Job(cell, cell_hash(cell, digest), data.fingerprint, expected_seconds(cell))
    if job.not_run:
        row, arrays = blank_row(job, "not run", f"expected to take {job.expected / 3600:.1f} CPU hours"), None
    else:
        row, arrays = _attempt(job, task, model, data, digest)
    Store(out).write_cell(row, arrays)
    return row


def _attempt(
    job: Job, task: Task, model: Model, data: TaskData, digest: str
) -> tuple[dict[str, Any], dict[str, np.ndarray] | None]:
    try:
        with one_thread(), quiet():
            seed_everything(job.cell.seed, verbose=False)
            answer = model.run(data.view, job.cell.budget, job.cell.seed)
            measured = score(task, data, answer)
        if data_digest(data) != digest:
            _load.cache_clear()
            raise ValueError(f"{model.name} changed the data that it was given.")
    except Exception as error:  # whatever it is, it belongs in the row, and the other cells go on
        return blank_row(job, "failed", describe(error)), None
    row = blank_row(job, "ok", "") | measured
    row |= {
        "fit_seconds": float(answer.fit_seconds),
        "predict_seconds": float(answer.predict_seconds),
        "n_parameters": float("nan" if answer.n_parameters is None else answer.n_parameters),
        "notes": _json(answer.notes),
    }
    arrays = {"values": answer.values, "quantiles": answer.quantiles, "truth": data.truth, "scales": data.scales}
    return row, {name: np.empty(0) if array is None else array for name, array in arrays.items()}


def blank_row(job: Job, status: str, error: str) -> dict[str, Any]:
    """Return the row of a cell, without figures."""
    task, model = TASKS[job.cell.task], MODELS[job.cell.model]
    n_series, n_forecasts = task.sizes
    row: dict[str, Any] = {field.name: float("nan") for field in SCHEMA if field.type == "double"}
    row |= {"error_by_step": [], "coverage": []}
    row |= {name: getattr(task, name) for name in ("kind", "dataset", "horizon", "season", "metric", "baseline")}
    row |= {"task": task.name, "random_walk": task.random_walk, "n_series": n_series, "n_forecasts": n_forecasts}
    row |= {"model": model.name, "family": model.family, "ablation_of": model.ablation_of or "", "seed": job.cell.seed}
    row |= {"cannot": _json(model.cannot), "config": _json(model.config), "code": model_code(model)}
    # a model that is not trained gives the same row under any budget
    row["budget"] = _json(asdict(job.cell.budget) if model.trained else {"seconds": None, "steps": None})
    row |= {"fingerprint": job.fingerprint, "cell": job.hash, "notes": "{}", "status": status, "error": error}
    return row


def describe(error: BaseException) -> str:
    """Return the error and the last places of its traceback, without the paths of this machine."""
    places = [
        f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    return "".join(traceback.format_exception_only(error)).strip()[:2000] + "".join(f"\n  {one}" for one in places[-5:])


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """Return numbers and arrays of numpy as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON.")
