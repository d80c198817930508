"""A whole folder of results, made up: five tasks, nine models, two seeds, some failures, as `run` would leave it."""

import json
from pathlib import Path

import numpy as np
from scipy.stats import norm

from benchmarks.interface import LEVELS
from benchmarks.store import Store

# name, kind, horizon, season, metric, baseline, random walk, (contexts or time steps, series), components
TASKS = [
    ("M3 monthly", "forecast", 18, 12, "mase", "SeasonalNaive", False, (60, 60), 1),
    ("M4 hourly", "forecast", 48, 24, "mase", "SeasonalNaive", False, (40, 40), 1),
    ("ETTh1-96", "forecast", 96, 24, "mse", "SeasonalNaive", False, (150, 1), 3),
    ("exchange rate", "forecast", 30, 1, "mase", "Naive", True, (80, 8), 1),
    ("AQI-36", "impute", 0, 24, "mae", "Linear", False, (900, 1), 4),
]
# name, family, kind, error, parameters, CPU seconds, ablation of, gives quantiles
MODELS = [
    ("SeasonalNaive", "baseline", "forecast", 1.0, None, 0.02, "", False),
    ("Naive", "baseline", "forecast", 1.1, None, 0.02, "", False),
    ("Theta", "statistical", "forecast", 0.84, None, 3.0, "", True),
    ("AutoETS", "statistical", "forecast", 0.87, None, 31.0, "", True),
    ("BiGRU", "ours", "forecast", 0.80, 87_000, 60.0, "", True),
    ("BiGRU, one direction", "ours", "forecast", 0.86, 44_000, 58.0, "BiGRU", True),
    ("N-HiTS", "darts", "forecast", 0.91, 410_000, 61.0, "", True),
    ("Linear", "baseline", "impute", 1.0, None, 0.01, "", False),
    ("Kalman", "imputer", "impute", 0.8, None, 40.0, "", True),
    ("GRIN", "ours", "impute", 0.62, 191_000, 90.0, "", True),
]
CANNOT = {"BiGRU": ["forecast beyond what it was trained for in one step"], "Theta": ["covariates", "gaps"]}
SEEDS = (1, 2)
FAILED = {("N-HiTS", "M4 hourly", 2): "ValueError: loss is NaN after 40 steps"}
NOT_RUN = {("AutoETS", "ETTh1-96"): "expected to take 3.1 CPU hours, more than 2"}


def write_folder(folder: Path, factor: dict[str, float] | None = None, tasks: list[str] | None = None) -> Path:
    """Write rows, cells, forecasts and a manifest; ``factor`` multiplies the errors of some models."""
    store = Store(folder)
    for task in TASKS:
        if tasks is None or task[0] in tasks:
            truth, scales = _truth(task)
            for model in MODELS:
                if model[2] == task[1]:
                    for seed in SEEDS:
                        store.write_cell(*_cell(task, model, seed, truth, scales, factor or {}))
    store.join([])
    manifest = {"revision": "0123abc", "seeds": list(SEEDS), "packages": {"darts": "0.48.1", "torch": "2.13.0"}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"threads": 1, "processor": "made up"}))
    return folder


def _truth(task):
    name, kind, horizon, season, _, _, random_walk, (units, _), components = task
    rng = np.random.default_rng(len(name))
    if kind == "impute":
        time = np.arange(units)[:, None]
        truth = 40 + 15 * np.sin(2 * np.pi * time / season)
        truth = truth + 0.5 * rng.normal(size=(units, components)).cumsum(0)
        hidden = np.zeros_like(truth, bool)
        for start in range(20, units - 30, 60):
            hidden[start : start + rng.integers(1, 30), rng.integers(components)] = True
        return np.where(hidden, truth, np.nan), None
    steps = np.arange(horizon)[None, :, None]
    level = rng.normal(0, 1, (units, 1, components))
    truth = level + rng.normal(0, 0.3, (units, horizon, components))
    if random_walk:
        truth = level + rng.normal(0, 0.3, (units, horizon, components)).cumsum(1)
    elif season > 1:
        truth = truth + np.sin(2 * np.pi * (steps + rng.integers(0, season, (units, 1, 1))) / season) + 0.01 * steps
    return truth, np.full((units, components), 0.4)


def _cell(task, model, seed, truth, scales, factor) -> tuple[dict, dict | None]:
    task_name, kind, horizon, season, metric, baseline, random_walk, (units, series), _ = task
    name, family, _, error, parameters, seconds, ablation_of, probabilistic = model
    cell = f"{abs(hash_of(task_name, name, seed)):012x}"
    row = {
        "task": task_name, "kind": kind, "dataset": task_name.split()[0], "horizon": horizon, "season": season,
        "metric": metric, "baseline": baseline, "random_walk": random_walk, "model": name, "family": family,
        "ablation_of": ablation_of, "seed": seed, "status": "ok", "error": "", "n_series": series, "n_forecasts": units,
        "fit_seconds": seconds * 0.9, "predict_seconds": seconds * 0.1,
        "n_parameters": np.nan if parameters is None else float(parameters), "notes": "{}",
        "cannot": json.dumps(CANNOT.get(name, [])), "fingerprint": "f", "code": "c", "config": "{}", "budget": "{}",
        "cell": cell,
    }  # fmt: skip
    metrics = ["score", "mase", "smape", "mae", "mse", "rmse", "wql", "mre", "crps", "coverage_80"]
    row |= dict.fromkeys(metrics, np.nan) | {"error_by_step": [], "coverage": []}
    if (name, task_name, seed) in FAILED:
        return row | {"status": "failed", "error": FAILED[name, task_name, seed], "fit_seconds": np.nan}, None
    if (name, task_name) in NOT_RUN:
        return row | {"status": "not run", "error": NOT_RUN[name, task_name], "fit_seconds": np.nan}, None

    rng = np.random.default_rng(hash_of(task_name, name, seed))
    shared = np.random.default_rng(len(task_name)).normal(size=truth.shape)  # what no model can know
    size = (1.0 if random_walk else error) * factor.get(name, 1.0) * (4.0 if kind == "impute" else 0.5)
    if kind == "forecast":
        size = size * np.sqrt((1 + np.arange(horizon)) / horizon)[None, :, None]
    values = truth + size * (0.9 * shared + 0.45 * rng.normal(size=truth.shape))
    if kind == "impute":
        values = np.where(np.isnan(values), 40.0, values)
    arrays = {"values": values, "truth": truth}
    absolute = np.abs(values - truth)
    row |= {"mae": np.nanmean(absolute), "mse": np.nanmean(absolute**2)}
    row["rmse"] = row["mse"] ** 0.5
    if kind == "forecast":
        arrays["scales"] = scales
        row["mase"] = np.nanmean(absolute / scales[:, None, :])
        row["error_by_step"] = np.nanmean(absolute / scales[:, None, :], axis=(0, 2)).tolist()
    else:
        row["error_by_step"] = [row["mae"] * share for share in (0.5, 0.8, 1.0, 1.4)]
    if probabilistic:
        quantiles = values[..., None] + norm.ppf(LEVELS) * np.asarray(size)[..., None] * 0.8
        arrays["quantiles"] = quantiles
        known = np.isfinite(truth)
        covered = [
            ((truth >= quantiles[..., i]) & (truth <= quantiles[..., 8 - i]))[known].mean() for i in (3, 2, 1, 0)
        ]
        row |= {"coverage": covered, "coverage_80": covered[-1], "wql": row["mae"] * 0.7, "crps": row["mae"] * 0.72}
    return row | {"score": row[metric]}, arrays


def hash_of(*parts) -> int:
    """The same number in every process, unlike `hash`."""
    return int.from_bytes(repr(parts).encode(), "big") % (2**40 - 87)
