"""Memory and time of training on long inputs, with and without `tbptt_length`: python -m benchmarks.long_inputs.

Each row is a process of its own that fits a model for some steps; its memory is the highest resident set less that
after a fit on a short input. The first step is not timed. glibc is told to give freed memory back at once, of which it
would otherwise keep what lies in pieces (with and without `tbptt_length`).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from darts import TimeSeries
from pytorch_lightning.callbacks import Callback

import birnn_forecast
from benchmarks.quiet import QUIET_TRAINER, quiet

HORIZON, WARM = 24, 1
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}


class StepTimes(Callback):
    def __init__(self):
        self.times = []

    def on_train_batch_start(self, *args):
        self.started = time.perf_counter()

    def on_train_batch_end(self, *args):
        self.times.append(time.perf_counter() - self.started)


def fit(args, length: int, tbptt_length: int | None, steps: int) -> list[float]:
    rng = np.random.default_rng(0)
    n = length + HORIZON + args.batch_size * steps - 1
    values = np.sin(np.arange(n) / 12)[:, None] + 0.1 * rng.normal(size=(n, 1))
    series = TimeSeries.from_values(values.astype(np.float32))
    times = StepTimes()
    kwargs = QUIET_TRAINER | {"callbacks": [times]}
    model = getattr(birnn_forecast, args.model)(
        length, HORIZON, tbptt_length=tbptt_length, hidden_dim=args.hidden_dim, n_rnn_layers=args.n_rnn_layers,
        batch_size=args.batch_size, n_epochs=1, random_state=0, pl_trainer_kwargs=kwargs,
    )  # fmt: skip
    model.fit(series)
    return times.times


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 2**10)


def measure(args, length: int, tbptt_length: int | None) -> None:
    torch.set_num_threads(args.threads)
    fit(args, 2 * HORIZON, HORIZON, 1)
    before = peak_mib()
    seconds = fit(args, length, tbptt_length, WARM + args.steps)
    print(json.dumps({"mib": peak_mib() - before, "seconds": float(np.median(seconds[WARM:]))}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="BiGRUModel")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--tbptt-length", type=int, default=250)
    parser.add_argument("--hidden-dim", type=int, default=32)
    parser.add_argument("--n-rnn-layers", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        length, tbptt_length = args.measure
        measure(args, length, tbptt_length or None)
        return
    print(f"{args.model}, hidden_dim {args.hidden_dim}, n_rnn_layers {args.n_rnn_layers}, batch {args.batch_size}")
    print(f"{'steps of input':>14} {'tbptt_length':>12} {'memory, MiB':>11} {'s / step':>8}")
    for length in args.lengths:
        for tbptt_length in (0, args.tbptt_length):
            command = [sys.executable, "-m", "benchmarks.long_inputs", *sys.argv[1:]]
            done = subprocess.run(
                [*command, "--measure", str(length), str(tbptt_length)],
                capture_output=True,
                text=True,
                env=os.environ | GIVE_BACK,
            )
            if done.returncode:
                print(f"{length:14} {tbptt_length or None!s:>12} {done.stderr.strip().splitlines()[-1:]}")
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{length:14} {tbptt_length or None!s:>12} {found['mib']:11.0f} {found['seconds']:8.2f}", flush=True)


if __name__ == "__main__":
    with quiet():
        main()
