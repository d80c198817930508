"""Loader, one epoch, prediction against Darts' own path: ``python -m benchmarks.speed_windows``.

Interleaved medians in milliseconds on one thread. "loader" is Darts' dataset with and without batches cut at once; the
rest is Darts' BlockRNN GRU against ours of one direction that does not impute.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.models import BlockRNNModel
from darts.utils.data import SequentialTorchTrainingDataset
from darts.utils.data.torch_datasets.utils import _batch_collate_fn_train
from torch.utils.data import DataLoader

from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast import BiGRUModel
from birnn_forecast.data.batches import collate_training, in_batches


def make(length: int, seed: int = 0) -> TimeSeries:
    times = pd.date_range("2020-01-01", periods=length, freq="h")
    return TimeSeries(times, np.random.default_rng(seed).normal(size=(length, 1)).astype(np.float32))


def interleaved(darts: Callable, ours: Callable, repeats: int) -> tuple[float, float]:
    """Return the median seconds of each, after one unmeasured call of both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(repeats + 1):
        for function, found in zip((darts, ours), seconds, strict=True):
            start = time.perf_counter()
            function()
            if round_:
                found.append(time.perf_counter() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


def loader_case(batch_size: int) -> tuple[Callable, Callable]:
    dataset = SequentialTorchTrainingDataset(make(4000), input_chunk_length=96, output_chunk_length=24)

    def read(dataset, collate):
        for _ in DataLoader(dataset, batch_size, shuffle=True, collate_fn=collate):
            pass

    batches = in_batches(dataset)
    return lambda: read(dataset, _batch_collate_fn_train), lambda: read(batches, collate_training)


def models(**options) -> tuple:
    params = {"input_chunk_length": 48, "output_chunk_length": 12, "hidden_dim": 32, "n_epochs": 1, "random_state": 0}
    params |= {"pl_trainer_kwargs": QUIET_TRAINER, **options}
    ours = BiGRUModel(**params, bidirectional=False, imputation_weight=0.0)
    return BlockRNNModel(model="GRU", **params), ours


def measure(repeats: int = 7) -> Iterator[tuple[str, float, float]]:
    """Yield each case with the median seconds of Darts and of ours."""
    many, long = [make(200, seed) for seed in range(500)], make(500)
    fitted = models()
    for model in fitted:
        model.fit(many[:5])
    history = {"retrain": False, "forecast_horizon": 12, "last_points_only": False}
    cases = {f"loader alone, batch {size}": loader_case(size) for size in (32, 256)}
    for size in (32, 256):
        cases[f"fit, one epoch, batch {size}"] = tuple(
            lambda i=i, size=size: models(batch_size=size)[i].fit(long) for i in (0, 1)
        )
    for name, run in {
        "predict 500 series": lambda model: model.predict(12, many),
        "historical_forecasts": lambda model: model.historical_forecasts(long, **history),
        "predict one series": lambda model: model.predict(12, many[0]),
    }.items():
        cases[name] = tuple(lambda model=model, run=run: run(model) for model in fitted)
    for name, (darts, ours) in cases.items():
        yield name, *interleaved(darts, ours, repeats)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args(argv).repeats
    torch.set_num_threads(1)
    print(f"{'':30}{'Darts':>10}{'ours':>10}{'ratio':>8}")
    with quiet():
        for name, before, after in measure(repeats):
            print(f"{name:30}{before * 1e3:10.1f}{after * 1e3:10.1f}{before / after:8.2f}")


if __name__ == "__main__":
    main()
