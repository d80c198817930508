"""Imputation against the bars of the field: accuracy on hidden points after a given training time.

`python -m benchmarks.gate_imputation --data-dir DIR` trains GRINModel with one set of settings for all hourly data and
prints, for each gate, the figures of each seed (of the mask and of the net), the mean, simple imputers on the same
points, and a verdict against `goals.toml`; the exit status is 1 if a goal is missed. Times are CPU seconds of training
on one thread. `--options` tries other settings of the model, for ablations: `--options "graph=None"`.
"""

import argparse
import ast
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.likelihood_models import QuantileRegression

from benchmarks.imputation import CHUNKS, Task, linear, mae_mse, make_task, seasonal_linear
from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast import GRINModel
from birnn_forecast.budget import TimeBudget

# the same for all data of one frequency: input chunk and windows per batch
QUANTILES = [round(0.05 * i, 2) for i in range(1, 20)]


class Gate(NamedTuple):
    """A task, the seconds to train for, and the seeds."""

    data: str
    pattern: str
    seconds: float
    seeds: tuple[int, ...] = (1, 2, 3)


GATES = {
    "aqi36": Gate("AQI-36", "official", 300),
    "aqi36_long": Gate("AQI-36", "official", 1800, (1,)),
    "aqi36_fast": Gate("AQI-36", "official", 50),
    "etth1_points": Gate("ETTh1", "points 25 %", 300),
    "etth1_blocks": Gate("ETTh1", "blocks 50 %", 300),
    "etth1_blackout": Gate("ETTh1", "blackout 20 %", 300),
    "uci_blocks": Gate("UCI air quality", "blocks 25 %", 300),
}


def make_model(task: Task, seconds: float, seed: int, coordinates: bool, **options: Any) -> GRINModel:
    """Return the model with the settings for the frequency of the task's data."""
    chunk, batch = CHUNKS[task.test[0].freq_str.split("-")[0]]
    params: dict[str, Any] = {
        "input_chunk_length": chunk,
        "output_chunk_length": 1,
        "graph": "distance" if coordinates else "correlation",
        "season_length": task.season,
        "batch_size": batch,
        "imputation_weight": 10.0,  # the forecast, of one step, is not what is asked for
        "n_epochs": 100_000,  # the time decides
        "random_state": seed,
        "loss_fn": torch.nn.L1Loss(),
        "optimizer_cls": torch.optim.AdamW,
        "optimizer_kwargs": {"lr": 4e-3, "betas": (0.9, 0.98), "weight_decay": 1e-2},
        "pl_trainer_kwargs": QUIET_TRAINER
        | {
            "gradient_clip_val": 1.0,
            "callbacks": [TimeBudget(seconds)],
        },
    }
    return GRINModel(**params | options)


def simple(task: Task) -> dict[str, Callable[[TimeSeries], TimeSeries]]:
    """Return the simple imputers by name."""
    found: dict[str, Callable[[TimeSeries], TimeSeries]] = {"linear": linear}
    if task.season:
        season = task.season
        found["seasonal-linear"] = lambda series: seasonal_linear(series, season)
    return found


def run(gate: Gate, folder: Path, seed: int, options: dict[str, Any]) -> dict[str, float]:
    """Return the errors of one seed, of simple imputers beside it, and seconds of training and of imputing."""
    task = make_task(gate.data, gate.pattern, folder, seed)
    model = make_model(task, gate.seconds, seed, gate.data == "AQI-36", **options)
    started = time.process_time()
    model.fit(task.train)
    fitted = time.process_time()
    mae, mse = mae_mse(model.impute(task.test), task.truth)
    row = {"mae": mae, "mse": mse, "steps": model.trainer.global_step}
    row |= {"fit s": fitted - started, "impute s": time.process_time() - fitted}
    for name, imputer in simple(task).items():
        row[f"{name} mae"] = mae_mse([imputer(one) for one in task.test], task.truth)[0]
    return row


def uncertainty(folder: Path, seconds: float, seed: int, options: dict[str, Any]) -> dict[str, float]:
    """Return what the quantiles on AQI-36 are worth, in one pass.

    CRPS from 19 levels, normalised by the mean absolute truth; what the band of 90 % covers; the rank correlation of
    its width with the distance from the nearest observation.
    """
    task = make_task("AQI-36", "official", folder, seed)
    likelihood = QuantileRegression(QUANTILES)
    model = make_model(task, seconds, seed, True, likelihood=likelihood, **options)
    model.fit(task.train)
    parameters = model.impute(task.test, predict_likelihood_parameters=True)
    levels = np.array(QUANTILES)
    rows = []
    for one, truth, hidden in zip(parameters, task.truth, task.test, strict=True):
        quantiles = one.values().reshape(len(truth), truth.n_components, len(levels))
        scored = ~np.isnan(truth.values())
        rows.append((quantiles[scored], truth.values()[scored], _distance(~np.isnan(hidden.values()))[scored]))
    quantiles, truth, distance = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    quantiles = np.sort(quantiles, axis=1)
    error = truth[:, None] - quantiles
    pinball = np.maximum(levels * error, (levels - 1) * error)
    width = quantiles[:, -1] - quantiles[:, 0]
    return {
        "crps": float(2 * pinball.mean() / np.abs(truth).mean()),
        "coverage": float(((truth >= quantiles[:, 0]) & (truth <= quantiles[:, -1])).mean()),
        "spearman": _spearman(width, distance),
        "median mae": float(np.abs(error[:, len(levels) // 2]).mean()),
    }


def _distance(observed: np.ndarray) -> np.ndarray:
    """Return the steps to the nearest observation of the same component."""
    steps = np.arange(len(observed))[:, None]
    before = np.maximum.accumulate(np.where(observed, steps, -len(observed)), axis=0)
    after = np.minimum.accumulate(np.where(observed, steps, 2 * len(observed))[::-1], axis=0)[::-1]
    return np.minimum(steps - before, after - steps)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def verdict(name: str, figures: dict[str, float]) -> list[tuple[bool, str]]:
    """Return whether each goal of the gate is met, and the line that says so."""
    goals = tomllib.loads((Path(__file__).parent / "goals.toml").read_text())["imputation"]
    lines = []
    for key, goal in goals.get(name, {}).items():
        if not isinstance(goal, dict) or key not in figures:
            continue
        value, low, high = figures[key], goal.get("least", -np.inf), goal.get("value", np.inf)
        limits = (
            (f"{low:g} <= " if np.isfinite(low) else "")
            + f"{value:.4g}"
            + (f" <= {high:g}" if np.isfinite(high) else "")
        )
        met = bool(low <= value <= high)
        lines.append((met, f"{'ok  ' if met else 'MISS'} {limits}  {name}, {key}"))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Print figures and verdicts; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--gates", nargs="+", choices=[*GATES, "uncertainty"], default=[*GATES, "uncertainty"])
    parser.add_argument("--seconds", type=float, help="instead of the gate's own training time")
    parser.add_argument("--seeds", type=lambda s: tuple(int(x) for x in s.split(",")), help="instead of the gate's own")
    parser.add_argument("--options", default="", help="model options, as in 'graph=None, cross_gate=\"none\"'")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    call = ast.parse(f"f({args.options})", mode="eval").body
    assert isinstance(call, ast.Call)
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
    verdicts = []
    with quiet():
        for name in args.gates:
            gate = GATES.get(name, Gate("AQI-36", "official", 300, (1,)))
            seconds, seeds = args.seconds or gate.seconds, args.seeds or gate.seeds
            rows = []
            for seed in seeds:
                if name == "uncertainty":
                    rows.append(uncertainty(args.data_dir, seconds, seed, options))
                else:
                    rows.append(run(gate._replace(seconds=seconds), args.data_dir, seed, options))
                print(f"{name} seed {seed}:", *(f"{k} {v:.4g}" for k, v in rows[-1].items()), sep="  ", flush=True)
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            print(f"{name} mean:  ", *(f"{k} {v:.4g}" for k, v in mean.items()), sep="  ", flush=True)
            verdicts += verdict(name, mean)
    print(*(line for _, line in verdicts), sep="\n")
    return int(not all(met for met, _ in verdicts))


if __name__ == "__main__":
    sys.exit(main())
