"""A bidirectional layer of ours against torch's own (``nn.GRU(bidirectional=True)``, say), in one process, in turns.

    python -m benchmarks.speed_recurrence [--cell GRU] [--hidden 64] [--features 8] [--threads 1]

One row a shape: milliseconds of torch's and of ours, and their ratio, for a training step (forward and backward) and
for inference. Exit status 1 where a training step or inference is slower than torch's, or a goal is missed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import nn

from benchmarks.goals import of_speed
from birnn_forecast.nn.recurrent import CELLS, BidirectionalEncoder

HIDDEN, LENGTHS, BATCHES = (32, 64, 128), (24, 96, 336), (32, 128, 512)
# training step, by (cell, hidden, length, batch)
GOALS = {("GRU", 64, 96, batch): of_speed()[f"GRU layer, training step, batch {batch}"] for batch in BATCHES}


def seconds_in_turns(functions: Sequence[Callable[[], object]], budget: float = 1.5) -> list[float]:
    """Return the median of each function's seconds, called in turns, at least three times after a first call."""
    # another process on the same core does not count against a single thread
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in functions]
    begin = time.perf_counter()
    while len(times[0]) < 4 or (time.perf_counter() - begin < budget and len(times[0]) < 40):
        for own, function in zip(times, functions, strict=True):
            start = clock()
            function()
            own.append(clock() - start)
    return [statistics.median(own[1:]) for own in times]


def compare(features: int, hidden: int, length: int, batch: int, cell: str = "GRU") -> list[float]:
    """Return the seconds of a training step and of inference, torch's and ours."""
    theirs = CELLS[cell](features, hidden, batch_first=True, bidirectional=True)
    ours = BidirectionalEncoder(features, hidden, cell=cell)
    x, start = torch.randn(batch, length, features), torch.zeros(batch, dtype=torch.long)
    gradient = torch.randn(batch, length, 2 * hidden)

    def train(run: Callable[[], torch.Tensor], network: nn.Module) -> None:
        torch.autograd.grad(run(), list(network.parameters()), gradient)

    def infer(run: Callable[[], torch.Tensor]) -> None:
        with torch.no_grad():
            run()

    runs = (lambda: theirs(x)[0]), (lambda: ours(x, start)[0])
    return [
        *seconds_in_turns([lambda: train(runs[0], theirs), lambda: train(runs[1], ours)]),
        *seconds_in_turns([lambda: infer(runs[0]), lambda: infer(runs[1])]),
    ]


def all_shapes(
    features: int,
    cells: Sequence[str],
    hidden: Sequence[int] = HIDDEN,
    lengths: Sequence[int] = LENGTHS,
    batches: Sequence[int] = BATCHES,
) -> Iterator[tuple[tuple[str, int, int, int], list[float]]]:
    """Yield each cell, hidden size, length and batch with the seconds of :func:`compare`."""
    for cell, *shape in product(cells, hidden, lengths, batches):
        yield (cell, *shape), compare(features, *shape, cell)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN)
    parser.add_argument("--length", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    print("cell hidden length batch |    torch     ours ratio (train) |    torch     ours ratio (infer), ms")
    missed = []
    grid = options.cell, options.hidden, options.length, options.batch
    for shape, seconds in all_shapes(options.features, *grid):
        cell, hidden, length, batch = shape
        train, infer = seconds[0] / seconds[1], seconds[2] / seconds[3]
        t = [1000 * s for s in seconds]
        print(
            f"{cell:4} {hidden:6} {length:6} {batch:5} | {t[0]:8.1f} {t[1]:8.1f} {train:5.2f}         "
            f"| {t[2]:8.1f} {t[3]:8.1f} {infer:5.2f}",
            flush=True,
        )
        goal = GOALS.get(shape, 1.0) if options.threads == 1 else 1.0
        if train < goal:
            missed.append(f"{shape}: training step {train:.2f}, goal {goal}")
        if infer < 1:
            missed.append(f"{shape}: inference {infer:.2f}, goal 1")
    for line in missed:
        print("MISS", line)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
