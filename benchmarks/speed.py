"""Speed beside peers, in one run: ``python -m benchmarks run --suite speed --out DIR [--grin-reference DIR]``.

Each row is a median of runs taken in turns on one thread, in this process, best with nothing else running. Cells,
budgets and seeds have no place here: a figure is a ratio of two times, and holds for the manifest's machine only. Goals
are those of ``goals.toml``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import speed_peers, speed_recurrence, speed_windows
from benchmarks.goals import of_speed
from benchmarks.quiet import quiet
from benchmarks.store import Store

# hidden size and length of the layer, and batches
LAYER, BATCHES = (64, 96), (32, 128, 512)
FEATURES = 8
# of the results of networks with the same weights
LARGEST_DIFFERENCE = 1e-5


def measure(repeats: int = 7, grin: Path | None = None, shapes: bool = True) -> Iterator[dict[str, Any] | str]:
    """Yield a row a case: who the peer is, its milliseconds, ours, how many times as fast ours is, and the goal.

    What cannot be run here is a line that says why. Without `shapes`, layers are timed in a few shapes only.
    """
    goals = of_speed()

    def row(case: str, peer: str, theirs: float, ours: float, difference: float | None = None) -> dict[str, Any]:
        times = {"peer_ms": 1e3 * theirs, "ours_ms": 1e3 * ours, "ratio": theirs / ours}
        goal = goals.get(case)
        met = theirs / ours >= (goal or 0) and (difference or 0) <= LARGEST_DIFFERENCE
        return {"case": case, "peer": peer, **times, "goal": goal, "difference": difference, "met": met}

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with quiet():
        for case in speed_windows.measure(repeats):
            yield row(*case)
        for batch in BATCHES:
            peer, ours, infer_peer, infer = speed_recurrence.compare(FEATURES, *LAYER, batch)
            yield row(f"GRU layer, training step, batch {batch}", "nn.GRU(bidirectional=True)", peer, ours)
            yield row(f"GRU layer, inference, batch {batch}", "nn.GRU(bidirectional=True)", infer_peer, infer)
        if shapes:
            yield from (row(*case) for case in slowest_shapes())
        for found in speed_peers.measure(repeats, grin):
            yield found if isinstance(found, str) else row(*found)


def slowest_shapes() -> Iterator[tuple[str, str, float, float]]:
    """Yield, for training and inference with each cell, the shape in which ours does worst beside torch."""
    for cell in speed_recurrence.CELLS:
        found = list(speed_recurrence.all_shapes(FEATURES, [cell]))
        for kind, first in (("training step", 0), ("inference", 2)):
            (_, hidden, length, batch), seconds = min(found, key=lambda one: one[1][first] / one[1][first + 1])
            where = f"hidden {hidden}, {length} steps, batch {batch}"
            peer, ours = seconds[first : first + 2]
            yield f"{cell} layer, {kind}, worst of {len(found)}", f"nn.{cell}, {where}", peer, ours


def run(out: str, repeats: int = 7, grin: Path | None = None, shapes: bool = True) -> pd.DataFrame:
    """Measure, print and write ``speed.csv`` and the manifest; return the table."""
    rows = []
    print(f"{'':42}{'peer, ms':>10}{'ours, ms':>10}{'ratio':>7}{'goal':>6}")
    for row in measure(repeats, grin, shapes):
        if isinstance(row, str):
            print(row, flush=True)
            continue
        rows.append(row)
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        missed = "" if row["met"] else " MISS"
        off = "" if row["difference"] is None else f", off by {row['difference']:.0e}"
        times = f"{row['peer_ms']:10.1f}{row['ours_ms']:10.1f}{row['ratio']:7.2f}"
        print(f"{row['case']:42}{times}{goal:>6}  {row['peer']}{off}{missed}", flush=True)
    table = pd.DataFrame(rows)
    goals = of_speed()
    of_goals = table[table["case"].isin(goals)]
    print(f"{of_goals['met'].sum()} of {len(goals)} goals met, {len(goals) - len(of_goals)} not run")
    store = Store(out)
    store.write("speed.csv", table.to_csv(index=False, float_format="%.4g").encode())
    store.write_manifest(suite="speed", threads=1, repeats=repeats)
    return table
