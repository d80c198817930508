"""The default settings against their alternatives, on validation windows.

`python -m benchmarks.defaults --data-dir DIR` prints the MASE of each setting on each series, fitted on the first 60 %
and forecasting, unscaled, from origins in the next 20 %; the last 20 % are never read. The last column is the geometric
mean over the series. Darts' BlockRNNModel, which has the same budget of steps, is there for orientation.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
from darts.models import BlockRNNModel

from benchmarks.gate_gaps import score
from benchmarks.quiet import QUIET_TRAINER
from benchmarks.series import TASKS
from birnn_forecast import BiGRUModel

STEPS, BATCH = 400, 32
SETTINGS = {
    "default": {},
    "use_reversible_instance_norm=False": {"use_reversible_instance_norm": False},
    "skip=None": {"skip": None},
    "skip='last'": {"skip": "last"},
    "imputation_weight=0": {"imputation_weight": 0.0},
    "imputation_weight=0.3": {"imputation_weight": 0.3},
    "masking_rate=0.5": {"masking_rate": 0.5},
    "hidden_dim=64": {"hidden_dim": 64},
    "pooling='attention'": {"pooling": "attention"},
    "bidirectional=False": {"bidirectional": False},
    "BlockRNN (GRU)": {"model": "GRU", "hidden_dim": 32},
    "BlockRNN (GRU) + RIN": {"model": "GRU", "hidden_dim": 32, "use_reversible_instance_norm": True},
}


def run(setting: str, name: str, folder: Path, seed: int) -> float:
    """Return the MASE of one setting on the validation part of one series."""
    task = TASKS[name]
    series = task.load(folder)
    series = series[: int(0.8 * len(series))]
    cut = int(0.75 * len(series))
    windows = cut - task.input_chunk_length - task.output_chunk_length + 1
    model = (BlockRNNModel if setting.startswith("BlockRNN") else BiGRUModel)(
        input_chunk_length=task.input_chunk_length,
        output_chunk_length=task.output_chunk_length,
        n_epochs=max(1, STEPS * BATCH // windows),
        batch_size=BATCH,
        random_state=seed,
        pl_trainer_kwargs=QUIET_TRAINER,
        **SETTINGS[setting],
    )
    return score(model, series, series, task, cut)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with darts_small/ and rdatasets_small/")
    parser.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    default = [name for name in TASKS if name.split()[0] in ("air", "beer", "milk", "gasoline", "temperature")]
    parser.add_argument("--data-sets", nargs="+", choices=TASKS, default=default)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    for logger in ("pytorch_lightning", "darts"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    print(
        f"{'MASE, seeds ' + str(options.seeds):36s}",
        *(f"{name.split()[0]:>11s}" for name in options.data_sets),
        "   mean",
    )
    for setting in options.settings:
        row = [
            np.mean([run(setting, name, options.data_dir, seed) for seed in options.seeds])
            for name in options.data_sets
        ]
        print(f"{setting:36s}", *(f"{x:11.3f}" for x in row), f"{np.exp(np.mean(np.log(row))):7.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
