"""Time and memory over the number of series, beside Darts: ``python -m benchmarks.growth``.

Short series (60 steps, one in ten missing; complete for Darts' BlockRNN). Each row is a process of its own, on one
thread: seconds to make the series, to lay out their values ("store": what happens once per ``fit`` before the first
step), to train 50 steps of 256 windows, to predict all series, to forecast their history (all points, every third
origin), and the largest resident memory after each, in MiB beyond what the imports take.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.models import BlockRNNModel
from darts.utils.data import SequentialTorchTrainingDataset

from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast import BiGRUModel
from birnn_forecast.data.batches import in_batches

MODELS = ("BiGRU", "BlockRNN")
LENGTH, CHUNK, HORIZON = 60, 24, 6
STEPS, BATCH = 50, 256
PARTS = ("series", "store", "fit", "predict", "history")
LARGEST_HISTORY = 10_000


def make_series(number: int, missing: float) -> list[TimeSeries]:
    """Return daily series on one shared time index."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=LENGTH)
    found = []
    for _ in range(number):
        values = rng.normal(100, 10, (LENGTH, 1)).astype(np.float32)
        values[rng.random(LENGTH) < missing] = np.nan
        found.append(TimeSeries(times, values, copy=False))
    return found


def make_model(name: str) -> Any:
    options: dict[str, Any] = {"input_chunk_length": CHUNK, "output_chunk_length": HORIZON, "hidden_dim": 32}
    options |= {"batch_size": BATCH, "n_epochs": 10_000, "random_state": 0}
    options["pl_trainer_kwargs"] = QUIET_TRAINER | {"max_steps": STEPS}
    return BiGRUModel(**options) if name == "BiGRU" else BlockRNNModel(model="GRU", **options)


def peak() -> float:
    """Return the largest resident memory so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, number: int) -> dict[str, Any]:
    """Return seconds and memory of each part, for a model and a number of series."""
    torch.set_num_threads(1)
    row: dict[str, Any] = {"model": name, "number": number}

    def timed(part: str, function: Callable) -> Any:
        start = time.perf_counter()
        result = function()
        row[part], row[f"{part} MiB"] = time.perf_counter() - start, peak() - base
        return result

    model, few = make_model(name), make_series(4, 0.0)
    # compiles kernels, imports what is imported late
    make_model(name).fit(few, epochs=1).predict(HORIZON, few)
    base = peak()
    series = timed("series", lambda: make_series(number, 0.1 if name == "BiGRU" else 0.0))
    if name == "BiGRU":
        timed("store", lambda: in_batches(SequentialTorchTrainingDataset(series, None, None, CHUNK, HORIZON)))
    timed("fit", lambda: model.fit(series))
    timed("predict", lambda: model.predict(HORIZON, series, verbose=False))
    if number <= LARGEST_HISTORY:
        history = {"retrain": False, "forecast_horizon": HORIZON, "last_points_only": False, "stride": 3}
        timed("history", lambda: model.historical_forecasts(series, **history, verbose=False))
    return row


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000, 100_000])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--largest-peer", type=int, default=10_000, help="number of series up to which BlockRNN is run")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a row")
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    args = parser.parse_args(argv)
    if args.one:
        with quiet():
            print(json.dumps(measure(args.models[0], args.numbers[0])))
        return
    print(f"{'':10}{'series':>8}" + "".join(f"{part:>18}" for part in PARTS))
    for number in args.numbers:
        for name in args.models:
            if name == "BlockRNN" and number > args.largest_peer:
                continue
            command = [sys.executable, "-m", "benchmarks.growth", "--one", "--models", name, "--numbers", str(number)]
            try:
                done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=args.timeout)
            except subprocess.TimeoutExpired:
                print(f"{name:10}{number:8}  more than {args.timeout:.0f} s", flush=True)
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            cells = [f"{row[p]:.2f} s {row[f'{p} MiB']:6.0f} M" if p in row else "-" for p in PARTS]
            print(f"{name:10}{number:8}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
