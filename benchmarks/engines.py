"""Engines run cells, the longest first, and give their rows back as they come: on this machine, or on a Ray cluster."""

import copy
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import benchmarks
import birnn_forecast
from benchmarks.cells import Job, blank_row, load, run_cell
from benchmarks.interface import TaskData
from benchmarks.store import Store
from benchmarks.threads import ONE_THREAD

Rows = Iterator[dict[str, Any]]


def run_local(jobs: list[Job], data_dir: Path | None, out: str, workers: int = 1) -> Rows:
    """Run cells in `workers`, processes that are started for it, or with 0 in this one.

    A worker that dies, for lack of memory say, costs its cell, which gets a row with status "failed", and no other.
    """
    if workers == 0:
        for job in jobs:
            yield run_cell(job.cell, data_dir, out)
        return
    waiting = list(reversed(jobs))
    crew: dict[Connection, tuple[Any, Job]] = {}

    def hire() -> None:
        if waiting:
            here, there = _SPAWN.Pipe()
            process = _SPAWN.Process(target=_work, args=(there, data_dir, out), daemon=True)
            process.start()
            there.close()
            give(here, process)

    def give(pipe: Connection, process: Any) -> None:
        crew[pipe] = (process, waiting.pop())
        pipe.send(crew[pipe][1].cell)

    try:
        for _ in range(workers):
            hire()
        while crew:
            for pipe in wait(list(crew)):
                process, job = crew.pop(pipe)
                try:
                    row = pipe.recv()
                except EOFError:
                    process.join()
                    yield _lost(job, f"The worker process ended with exit code {process.exitcode}.", out)
                    hire()
                    continue
                if isinstance(row, BaseException):
                    raise row
                if waiting:
                    give(pipe, process)
                else:
                    pipe.close()
                yield row
    finally:
        for process, _ in crew.values():
            process.kill()


_SPAWN = multiprocessing.get_context("spawn")


def _work(pipe: Connection, data_dir: Path | None, out: str) -> None:
    """Run the cells that come through a pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            cell = pipe.recv()
            try:
                row: Any = run_cell(cell, data_dir, out)
            except Exception as error:  # not the model's: the disk is full, data are missing
                row = error
            pipe.send(row)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _lost(job: Job, error: str, out: str) -> dict[str, Any]:
    row = blank_row(job, "failed", error)
    Store(out).write_cell(row, None)
    return row


def run_ray(jobs: list[Job], data_dir: Path | None, out: str, address: str | None = None) -> Rows:
    """Run each cell as a task of Ray, on the cluster at `address` or on one that is started here.

    The data of each task are put into the object store once. Workers write to `out`, which all nodes must reach: a
    shared folder or a URL of fsspec. A cell whose worker dies is tried again, three times.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("`--engine ray` needs Ray: pip install 'birnn-forecast[ray]'.") from error

    started = not ray.is_initialized()
    if started:
        environment: dict[str, Any] = {"env_vars": ONE_THREAD}
        if address is not None:
            environment["py_modules"] = [package.__path__[0] for package in (benchmarks, birnn_forecast)]
        ray.init(
            address, runtime_env=environment, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    try:
        remote = ray.remote(num_cpus=1, max_retries=3)(_run_copy)
        data: dict[tuple[str, int], Any] = {}
        pending: dict[Any, Job] = {}
        for job in jobs:
            key = (job.cell.task, job.cell.seed)
            if key not in data:
                data[key] = ray.put(load(*key, data_dir))
            pending[remote.remote(job.cell, out, data[key])] = job
        while pending:
            (done,), _ = ray.wait(list(pending))
            job = pending.pop(done)
            try:
                yield ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                yield _lost(job, f"{type(error).__name__}: {error}", out)
    finally:
        if started:
            ray.shutdown()


def _run_copy(cell: Any, out: str, data: TaskData) -> dict[str, Any]:
    # what comes out of the object store cannot be written to, which some libraries cannot bear
    return run_cell(cell, None, out, copy.deepcopy(data))
