"""Never worse than interpolation: nine data sets, six patterns of gaps, one minute of training each.

`python -m benchmarks.gate_never_worse --data-dir DIR` trains GRINModel for 60 CPU seconds on each cell, with the
settings for the frequency of the data, and prints its MAE on the hidden test points over that of linear
interpolation, of seasonal-linear interpolation (the phases' means plus the interpolated rest), of each phase
interpolated by itself, and of ridge regression on lags and the other components. Verdicts are against `goals.toml`;
the exit status is 1 if a goal is missed. `--jobs` runs cells side by side, one thread each.
"""

import argparse
import json
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.gate_imputation import make_model
from benchmarks.imputation import DATA, PATTERNS, linear, mae_mse, make_task, ridge, seasonal_linear
from benchmarks.quiet import quiet
from birnn_forecast.imputation import SeasonalLinearImputer

SETS = ("AQI-36", *DATA)
CELLS = [(name, pattern) for name in SETS for pattern in PATTERNS if pattern != "official"]


def run(name: str, pattern: str, folder: Path, seconds: float, seed: int) -> dict[str, float]:
    """Return the MAE of the model and of the simple imputers on one cell."""
    task = make_task(name, pattern, folder, seed)
    model = make_model(task, seconds, seed, name == "AQI-36")
    started = time.process_time()
    model.fit(task.train)
    row = {"fit s": time.process_time() - started, "model": mae_mse(model.impute(task.test), task.truth)[0]}
    row["linear"] = mae_mse([linear(one) for one in task.test], task.truth)[0]
    if task.season:
        profile = SeasonalLinearImputer(task.season, method="profile")
        row["seasonal"] = mae_mse([linear(profile.impute(one)) for one in task.test], task.truth)[0]
        row["phase"] = mae_mse([seasonal_linear(one, task.season) for one in task.test], task.truth)[0]
    row["ridge"] = mae_mse(ridge(task), task.truth)[0]
    return row


def judge(name: str, pattern: str, row: dict[str, float]) -> tuple[bool, str]:
    """Return whether the cell's goals are met, and its line."""
    goals = tomllib.loads((Path(__file__).parent / "goals.toml").read_text())["never_worse"]
    ratio = row["model"] / min(row["linear"], row.get("seasonal", np.inf))
    met = ratio <= goals["everywhere"]["value"]
    line = f"{name:16s} {pattern:14s} model {row['model']:7.4f}  over best of linear, seasonal-linear {ratio:5.3f}"
    line += f"  over phase {row['model'] / row['phase']:5.3f}" if "phase" in row else " " * 18
    against_ridge = row["model"] / row["ridge"]
    line += f"  over ridge {against_ridge:5.3f}"
    if "seasonal" in row and pattern.startswith("blocks"):
        met &= ratio <= goals["seasonal_blocks"]["value"] and against_ridge <= goals["against_ridge"]["value"]
    return met, f"{'ok  ' if met else 'MISS'} {line}"


def main(arguments: list[str] | None = None) -> int:
    """Print a line per cell; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=[p for p in PATTERNS if p != "official"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one cell's figures as JSON, and nothing else")
    args = parser.parse_args(arguments)
    if args.json:
        torch.set_num_threads(1)
        with quiet():
            print(json.dumps(run(args.sets[0], args.patterns[0], args.data_dir, args.seconds, args.seed)))
        return 0
    cells = [(name, pattern) for name, pattern in CELLS if name in args.sets and pattern in args.patterns]

    def child(cell: tuple[str, str]) -> tuple[bool, str]:
        command = [sys.executable, "-m", "benchmarks.gate_never_worse", "--json", "--data-dir", str(args.data_dir)]
        command += ["--sets", cell[0], "--patterns", cell[1], "--seconds", str(args.seconds), "--seed", str(args.seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{cell} failed:\n{done.stderr[-2000:]}")
        met, line = judge(*cell, json.loads(done.stdout.splitlines()[-1]))
        print(line, flush=True)
        return met, line

    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(child, cells))
    print(f"{sum(met for met, _ in results)} of {len(results)} cells met")
    return int(not all(met for met, _ in results))


if __name__ == "__main__":
    sys.exit(main())
