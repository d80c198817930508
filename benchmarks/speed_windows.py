"""Loader, one epoch, prediction against Darts' own path: ``python -m benchmarks.speed_windows``.

Interleaved medians in milliseconds of one thread's processor time. "loader" is Darts' dataset with and without batches
cut at once; the rest is Darts' BlockRNN GRU against ours of one direction that does not impute, and ``fit`` against our
own network in a loop without Darts and Lightning.
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
from darts.utils.data.torch_datasets.utils import PLModuleInput, _batch_collate_fn_train
from torch.utils.data import DataLoader

from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast import BiGRUModel
from birnn_forecast.data.batches import collate_training, in_batches


def make(length: int, seed: int = 0) -> TimeSeries:
    times = pd.date_range("2020-01-01", periods=length, freq="h")
    return TimeSeries(times, np.random.default_rng(seed).normal(size=(length, 1)).astype(np.float32))


def interleaved(darts: Callable, ours: Callable, repeats: int) -> tuple[float, float]:
    """Return the median CPU seconds of each, as it says itself or else of the call, after one call of both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(repeats + 1):
        for function, found in zip((darts, ours), seconds, strict=True):
            start = time.process_time()
            said = function()
            if round_:
                found.append(said if isinstance(said, float) else time.process_time() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


def loader_case(batch_size: int, epochs: int = 1) -> tuple[Callable, Callable]:
    dataset = SequentialTorchTrainingDataset(make(4000), input_chunk_length=96, output_chunk_length=24)

    def read(dataset, collate):
        for _ in range(epochs):
            for _ in DataLoader(dataset, batch_size, shuffle=True, collate_fn=collate):
                pass

    batches = in_batches(dataset)
    return lambda: read(dataset, _batch_collate_fn_train), lambda: read(batches, collate_training)


def models(**options) -> tuple:
    params = {"input_chunk_length": 48, "output_chunk_length": 12, "hidden_dim": 32, "n_epochs": 1, "random_state": 0}
    params |= {"pl_trainer_kwargs": QUIET_TRAINER, **options}
    ours = BiGRUModel(**params, bidirectional=False, imputation_weight=0.0)
    return BlockRNNModel(model="GRU", **params), ours


# of the nets that are trained; a batch of 256 takes longer series
LONG = {"input_chunk_length": 96, "output_chunk_length": 24, "hidden_dim": 64}
STEPS = {32: 150, 256: 40}


def fit_case(batch_size: int) -> tuple[Callable, Callable]:
    """One epoch on one long series."""
    series = make(119 + batch_size * STEPS[batch_size])
    return tuple(lambda i=i: models(**LONG, batch_size=batch_size)[i].fit(series) for i in (0, 1))  # type: ignore[return-value]


def covariates_case(batch_size: int) -> tuple[Callable, Callable]:
    """One epoch on 200 series with two covariates: future for ours, past for BlockRNN, which takes no others."""
    series = [make(119 + batch_size * STEPS[batch_size] // 200 + 1, seed) for seed in range(200)]
    length = len(series[0]) + 24
    known = [make(length, 1000 + seed).stack(make(length, 2000 + seed)) for seed in range(200)]
    options = LONG | {"hidden_dim": 32, "batch_size": batch_size}
    return (
        lambda: models(**options)[0].fit(series, past_covariates=known),
        lambda: models(**options)[1].fit(series, future_covariates=known),
    )


def bare_case(batch_size: int) -> tuple[Callable, Callable]:
    """Our network in a loop of torch alone, on windows cut before, against one epoch of ``fit``."""
    series = make(119 + batch_size * STEPS[batch_size])
    values = torch.tensor(series.values())
    windows = values.unfold(0, 120, 1).transpose(1, 2)

    def loop() -> float:
        model = models(**LONG, batch_size=batch_size)[1]
        model.fit(series[:120])  # builds the network
        module = model.model.train()
        optimizer = torch.optim.Adam(module.parameters(), fused=True)
        start = time.process_time()
        for rows in torch.randperm(len(windows)).split(batch_size):
            x = windows[rows]
            optimizer.zero_grad()
            found = module(PLModuleInput(past_target=x[:, :96])).prediction.squeeze(-1)
            torch.nn.functional.mse_loss(found, x[:, 96:]).backward()
            optimizer.step()
        return time.process_time() - start

    def fit() -> float:
        model = models(**LONG, batch_size=batch_size)[1]
        start = time.process_time()
        model.fit(series)
        return time.process_time() - start

    return loop, fit


def measure(repeats: int = 7) -> Iterator[tuple[str, str, float, float]]:
    """Yield each case, the peer, its median seconds, and ours."""
    many, long = [make(200, seed) for seed in range(500)], make(500)
    fitted = models()
    for model in fitted:
        model.fit(many[:5])
    history = {"retrain": False, "forecast_horizon": 12, "last_points_only": False}
    cases = {f"loader alone, batch {size}": loader_case(size) for size in (32, 256)}
    # with nothing in between, caches stay warm
    cases |= {f"loader, five epochs in a row, batch {size}": loader_case(size, 5) for size in (32, 256)}
    cases |= {f"fit, one epoch, batch {size}": fit_case(size) for size in (32, 256)}
    cases |= {f"fit, 200 series, covariates, batch {size}": covariates_case(size) for size in (32, 256)}
    for name, run in {
        "predict 500 series": lambda model: model.predict(12, many),
        "historical_forecasts": lambda model: model.historical_forecasts(long, **history),
        "predict one series": lambda model: model.predict(12, many[0]),
    }.items():
        cases[name] = tuple(lambda model=model, run=run: run(model) for model in fitted)  # type: ignore[assignment]
    for name, (darts, ours) in cases.items():
        yield name, "Darts BlockRNN GRU", *interleaved(darts, ours, repeats)
    for size in (32, 256):
        yield (
            f"fit against a bare loop, batch {size}",
            "the same network in torch",
            *interleaved(*bare_case(size), repeats),
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args(argv).repeats
    torch.set_num_threads(1)
    print(f"{'':40}{'peer, ms':>10}{'ours, ms':>10}{'ratio':>8}")
    with quiet():
        for name, peer, before, after in measure(repeats):
            print(f"{name:40}{before * 1e3:10.1f}{after * 1e3:10.1f}{before / after:8.2f}  {peer}", flush=True)


if __name__ == "__main__":
    main()
