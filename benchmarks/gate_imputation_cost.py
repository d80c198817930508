"""What imputing costs: the time for a month of 36 stations, and the memory of training on 2000 nodes.

`python -m benchmarks.gate_imputation_cost [--only time|memory]` prints both with a verdict against `goals.toml`; the
exit status is 1 if a goal is missed. Data are random walks with gaps; times are CPU seconds on one thread, the median
of five repeats after a warm-up. Memory is the largest resident size of a process that does nothing else, less what it
had before the model was made.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries

from benchmarks.gate_imputation import verdict
from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast import GRINModel


def walks(steps: int, nodes: int, missing: float = 0.25) -> TimeSeries:
    """Return random walks on an hourly index, a share of their values missing."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(steps, nodes)).cumsum(axis=0)
    values[rng.random(values.shape) < missing] = np.nan
    index = pd.date_range("2020-01-01", periods=steps, freq="h")
    return TimeSeries.from_times_and_values(index, values.astype(np.float32))


def impute_seconds() -> float:
    """Return the CPU seconds of imputing 720 hours of 36 nodes, with overlapping windows."""
    series = walks(720, 36)
    places = pd.DataFrame({"latitude": np.linspace(39, 40, 36), "longitude": np.linspace(116, 117, 36)})
    series = series.with_static_covariates(places.astype(np.float32))
    model = GRINModel(96, 1, graph="distance", season_length=24, n_epochs=1, pl_trainer_kwargs=QUIET_TRAINER)
    model.fit(series[:100])
    model.impute(series)
    seconds = []
    for _ in range(5):
        started = time.process_time()
        model.impute(series)
        seconds.append(time.process_time() - started)
    return float(np.median(seconds))


def training_gigabytes() -> float:
    """Return the memory that training on 2000 nodes takes: three steps with windows of 96 steps, batch 4."""
    nodes = 2000
    series = walks(100, nodes)
    rng = np.random.default_rng(1)
    edges = [(i, int(j)) for i in range(nodes) for j in rng.choice(nodes, 8, replace=False) if i != j]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = GRINModel(96, 1, graph=edges, season_length=24, n_epochs=1, batch_size=4, pl_trainer_kwargs=QUIET_TRAINER)
    model.fit(series)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


MEASURES = {"time": ("impute s", impute_seconds), "memory": ("training GB", training_gigabytes)}


def main(arguments: list[str] | None = None) -> int:
    """Print figures and verdicts; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MEASURES)
    only = parser.parse_args(arguments).only
    if only:
        torch.set_num_threads(1)
        key, measure = MEASURES[only]
        with quiet():
            print(f"{key}: {measure():.3g}")
        return 0
    met = True
    for name, (key, _) in MEASURES.items():
        command = [sys.executable, "-m", "benchmarks.gate_imputation_cost", "--only", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        value = float(done.stdout.strip().rpartition(" ")[2])
        for passed, line in verdict("cost", {key: value}):
            print(line, flush=True)
            met &= passed
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
