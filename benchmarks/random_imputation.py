"""Gaps of any shape: `impute` returns finite values wherever it promises them, and leaves what was observed alone.

`python -m benchmarks.random_imputation --n 2000` draws shapes, gaps and options at random, has one of 64 fitted
models (all of the family, with options of their own) fill the gaps, and checks each result. It prints one line; the
first result that is not as promised ends it with an error and the seed to repeat it with (`--only SEED`).
"""

import argparse
import logging
import os
import time
import warnings
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.utils.likelihood_models import CauchyLikelihood, GaussianLikelihood, PoissonLikelihood, QuantileRegression

from benchmarks.quiet import QUIET_TRAINER
from birnn_forecast import BiGRUModel, BiLSTMModel, BiRNNModel, BRITSModel, CNNBiLSTMModel, GRINModel, URNNModel

# the last one has most options
MODELS = (BiRNNModel, BiGRUModel, BiLSTMModel, CNNBiLSTMModel, URNNModel, *[BRITSModel] * 2, *[GRINModel] * 3)
POOL = 64
LIKELIHOODS = {
    "quantiles": lambda: QuantileRegression([0.1, 0.5, 0.9]),
    "normal": GaussianLikelihood,
    "cauchy": CauchyLikelihood,
    "poisson": PoissonLikelihood,
}
INDEXES = ("h", "MS", "7min", "B", "W-WED", 1, 3)
# some are above the float32 integers, some far below 1
LEVELS = ((100.0, 10.0), (0.0, 1.0), (5.0, 0.01), (-1e6, 1e4), (1e-4, 1e-5))


class Fitted(NamedTuple):
    """A model of the pool, and what its series look like."""

    model: Any
    components: int
    dtype: type
    level: float
    scale: float
    covariates: tuple[int, int]
    likelihood: str | None
    places: bool
    settings: str

    @property
    def travels(self) -> bool:
        """Whether it takes other components than those of training."""
        return getattr(self.model, "_takes_other_components", False)


def draw_values(rng: np.random.Generator, steps: int, components: int, level: float, scale: float) -> np.ndarray:
    """Return a season, a random walk, noise, or nothing but one value, in each component another."""
    t = np.arange(steps)
    columns = []
    for _ in range(components):
        kind = rng.integers(4)
        column = (np.sin(2 * np.pi * t / 12), rng.normal(size=steps).cumsum() / 4, rng.normal(size=steps), 0 * t)[kind]
        columns.append(level + scale * column)
    return np.stack(columns, axis=1)


def draw_gaps(rng: np.random.Generator, steps: int, components: int) -> np.ndarray:
    """Return what is missing: single values, blocks, ends, whole components, all together, everything, nothing."""
    missing = np.zeros((steps, components), dtype=bool)
    if rng.random() < 0.05:
        return missing
    if rng.random() < 0.03:
        return ~missing
    if rng.random() < 0.6:
        missing |= rng.random(missing.shape) < rng.choice([0.02, 0.2, 0.5, 0.9])
    for _ in range(rng.integers(4)):
        start, length = rng.integers(steps), rng.integers(1, steps + 1)
        chosen = slice(None) if rng.random() < 0.4 else rng.integers(components)
        missing[start : start + length, chosen] = True
    if rng.random() < 0.3:
        missing[: rng.integers(steps + 1), rng.integers(components)] = True
    if rng.random() < 0.3:
        missing[steps - rng.integers(steps + 1) :] = True
    if rng.random() < 0.2:
        missing[:, rng.integers(components)] = True
    return missing


def make_series(
    rng: np.random.Generator, values: np.ndarray, freq: str | int, dtype: type, name: str, places: bool
) -> TimeSeries:
    """Return values as a series that starts anywhere, of components that lie anywhere."""
    if isinstance(freq, int):
        start = int(rng.integers(-50, 50))
        times = pd.RangeIndex(start, start + freq * len(values), freq)
    else:
        times = pd.date_range("1999-12-31", periods=len(values), freq=freq)
    names = [f"{name}{i}" for i in range(values.shape[1])]
    degrees = {"latitude": rng.uniform(-90, 90, len(names)), "longitude": rng.uniform(-180, 180, len(names))}
    table = pd.DataFrame(degrees).astype(dtype) if places else None
    return TimeSeries(times, values.astype(dtype), components=names, static_covariates=table)


def covariate(rng: np.random.Generator, series: TimeSeries, width: int, dtype: type) -> TimeSeries | None:
    """Return a covariate with gaps of its own that covers a series, and more."""
    if not width:
        return None
    before, after = rng.integers(4, size=2)
    values: np.ndarray = rng.normal(size=(before + len(series) + after, width)).astype(dtype)
    values[rng.random(values.shape) < rng.choice([0.0, 0.2, 1.0], p=[0.5, 0.4, 0.1])] = np.nan
    start = series.start_time() - int(before) * series.freq
    if series.has_datetime_index:
        times = pd.date_range(start, periods=len(values), freq=series.freq)
    else:
        times = pd.RangeIndex(start, start + series.freq * len(values), series.freq)
    return TimeSeries(times, values)


def fit_one(seed: int) -> Fitted:
    """Return a model with random options after one short epoch."""
    rng = np.random.default_rng(seed)
    cls = MODELS[seed % len(MODELS)]
    window, horizon = int(rng.choice([1, 2, 3, 5, 8, 12, 24, 48])), int(rng.integers(1, 5))
    components = int(rng.integers(1, 7))
    dtype = (np.float32, np.float32, np.float64)[rng.integers(3)]
    level, scale = LEVELS[rng.integers(len(LEVELS))]
    likelihood = (None, None, "quantiles", "normal", "cauchy", "poisson")[rng.integers(6)]
    if likelihood == "poisson":
        level, scale = 100.0, 10.0
    covariates = (int(rng.integers(1, 3)), 0) if rng.random() < 0.2 else (0, int(rng.integers(1, 3)))
    covariates = covariates if rng.random() < 0.4 else (0, 0)
    options: dict[str, Any] = {
        "hidden_dim": int(rng.choice([1, 4, 8])),
        "decoder_dim": 4,
        "n_rnn_layers": int(rng.integers(1, 3)),
        "dropout": float(rng.choice([0.0, 0.2])),
        "masking_rate": float(rng.choice([0.1, 0.5, 0.9])),
        "imputation_weight": float(rng.choice([0.1, 1.0])),
        "season_length": int(rng.integers(1, window + 1)) if rng.random() < 0.4 else None,
        "use_reversible_instance_norm": [True, True, False, {"affine": True}, {"affine": False}][rng.integers(5)],
    }
    if cls is BRITSModel:
        del options["n_rnn_layers"]
    if cls is GRINModel:
        ring = [[float(abs(i - j) == 1) for j in range(components)] for i in range(components)]
        options |= {
            "graph": ["correlation", "learned", "distance", "distance", None, ring][rng.integers(6)],
            "recurrence": str(rng.choice(["stacked", "stacked", "feedback"])),
            "cross_gate": str(rng.choice(["none", "scalar", "vector"])),
        }
        options["node_embedding_dim"] = int(rng.choice([1, 4] if options["graph"] == "learned" else [0, 4]))
    places = options.get("graph") == "distance"
    settings = f"{cls.__name__}({window}, {horizon}, likelihood={likelihood!r}, {options})"
    values = draw_values(rng, 40 + window + horizon, components, level, scale)
    values[rng.random(values.shape) < 0.2] = np.nan
    if likelihood == "poisson":
        values = np.round(np.abs(values))
    series = make_series(rng, values, "h", dtype, "c", places)
    past = covariate(rng, series, covariates[0], dtype)
    future = covariate(rng, series.append_values(np.zeros((horizon, components), dtype)), covariates[1], dtype)
    model = cls(
        window,
        horizon,
        likelihood=LIKELIHOODS[likelihood]() if likelihood else None,
        n_epochs=1,
        batch_size=int(rng.choice([8, 64])),
        random_state=seed,
        pl_trainer_kwargs=QUIET_TRAINER,
        **options,
    )
    model.fit(series, past_covariates=past, future_covariates=future)
    return Fitted(model, components, dtype, level, scale, covariates, likelihood, places, settings)


def check(full: TimeSeries, series: TimeSeries, promised: np.ndarray) -> None:
    """Raise unless the series is back as it was, with a finite value wherever one was promised."""
    values, observed = full.all_values(), ~np.isnan(series.values())
    if not (full.time_index.equals(series.time_index) and full.freq == series.freq):
        raise AssertionError("another time index")
    if list(full.components) != list(series.components) or full.dtype != series.dtype:
        raise AssertionError("other components or another dtype")
    kept = np.ascontiguousarray(values[observed])
    expected = np.ascontiguousarray(np.repeat(series.all_values()[observed], values.shape[2], axis=1))
    if kept.tobytes() != expected.tobytes():
        raise AssertionError("an observed value is another")
    if not np.isfinite(values[promised]).all():
        raise AssertionError(f"not finite at {np.argwhere(~np.isfinite(values).all(axis=2) & promised)[0]}")
    left = ~observed & ~promised
    if not np.isnan(values[left]).all():
        raise AssertionError("a gap is filled that was to be left")


def gap_length(missing: np.ndarray) -> np.ndarray:
    """Return the length of the gap at each missing value, step by step."""
    lengths = np.zeros(missing.shape, dtype=int)
    for i, column in enumerate(missing.T):
        start = 0
        for step in range(len(column) + 1):
            if step == len(column) or not column[step]:
                lengths[start:step, i] = step - start
                start = step + 1
    return lengths


def run_case(seed: int, pool: dict[int, Fitted]) -> tuple[str, int]:
    """Draw a case, run it and check it; return the kind of call and the number of values filled."""
    rng = np.random.default_rng([seed, 1])
    number = int(rng.integers(POOL))
    if number not in pool:
        pool[number] = fit_one(number)
    fitted = pool[number]
    steps = int(rng.choice([rng.integers(1, 5), rng.integers(1, 40), rng.integers(1, 201)]))
    components = int(rng.integers(1, 7)) if fitted.travels else fitted.components
    values = draw_values(rng, steps, components, fitted.level, fitted.scale)
    if fitted.likelihood == "poisson":
        values = np.round(np.abs(values))
    missing = draw_gaps(rng, steps, components)
    values[missing] = np.nan
    series = make_series(rng, values, INDEXES[rng.integers(len(INDEXES))], fitted.dtype, "x", fitted.places)
    past, future = (covariate(rng, series, width, fitted.dtype) for width in fitted.covariates)
    inputs = {"past_covariates": past, "future_covariates": future}
    window = fitted.model.input_chunk_length
    options: dict[str, Any] = {
        "batch_size": int(rng.choice([1, 7, 256])),
        "stride": None if rng.random() < 0.5 else int(rng.integers(1, window + 1)),
    }
    kind = str(rng.choice(["impute", "impute", "impute", "some", "samples", "parameters", "reconstruct", "forward"]))
    if fitted.likelihood is None and kind in ("samples", "parameters"):
        kind = "impute"
    promised, model = missing, fitted.model
    if kind == "forward":
        (full,) = model._impute_forward(series, past, future, batch_size=options["batch_size"])
    elif kind == "reconstruct":
        full = model.reconstruct(series, **inputs, n_passes=int(rng.integers(2, 5)), **options)
        series, promised = series.with_values(np.full_like(series.values(), np.nan)), np.ones_like(missing)
    else:
        options["calibrate"] = bool(rng.random() < 0.7)
        if kind == "some":
            chosen = [str(name) for name in series.components if rng.random() < 0.5]
            max_gap = int(rng.integers(1, 30))
            promised = missing & np.isin(series.components, chosen) & (gap_length(missing) <= max_gap)
            options |= {"components": chosen, "max_gap": max_gap}
        if kind == "samples":
            options |= {"num_samples": int(rng.integers(2, 6)), "random_state": seed}
        if kind == "parameters":
            options["predict_likelihood_parameters"] = True
        full = model.impute(series, **inputs, **options)
    if kind == "parameters":
        parameters = full.values().reshape(steps, components, -1)
        if not np.isfinite(parameters[promised]).all():
            raise AssertionError("a parameter is not finite")
        if fitted.likelihood == "quantiles" and not (parameters[~missing] == series.values()[~missing][:, None]).all():
            raise AssertionError("an observed value has a spread")
        return kind, int(promised.sum())
    check(full, series, promised)
    return kind, int(promised.sum())


def describe(seed: int, pool: dict[int, Fitted]) -> str:
    """Return the settings of a case that went wrong."""
    number = int(np.random.default_rng([seed, 1]).integers(POOL))
    settings = pool[number].settings if number in pool else f"the model of seed {number}, which could not be fitted"
    return f"seed {seed}: {settings}; repeat with --only {seed}"


def main(arguments: list[str] | None = None) -> None:
    """Run the cases and print one line."""
    parser = argparse.ArgumentParser(description="Impute series with gaps of any shape, and check each result.")
    parser.add_argument("--n", type=int, default=2000, help="number of cases")
    parser.add_argument("--only", type=int, help="run the case of this seed alone")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after as many")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    pool: dict[int, Fitted] = {}
    counts: Counter = Counter()
    filled, start = 0, time.perf_counter()
    for seed in [given.only] if given.only is not None else range(given.n):
        done = False
        try:
            kind, number = run_case(seed, pool)
            done = True
        finally:
            if not done:
                print(describe(seed, pool))
        counts[kind] += 1
        filled += number
        if time.perf_counter() - start > given.seconds:
            break
    calls = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    print(
        f"{counts.total()} cases ({calls}) with {len(pool)} models: {filled} values filled, all finite, observed "
        f"values untouched; {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
