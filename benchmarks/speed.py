"""Speed beside peers, in one run: ``python -m benchmarks run --suite speed --out DIR``.

Each row is a median of runs taken in turns on one thread, in this process, best with nothing else running. Cells,
budgets and seeds have no place here: a figure is a ratio of two times, and holds for the manifest's machine only.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch

from benchmarks import speed_recurrence, speed_windows
from benchmarks.quiet import quiet
from benchmarks.store import Store

# hidden size and length of the layer, and batches
LAYER, BATCHES = (64, 96), (32, 128, 512)
FEATURES = 8


def measure(repeats: int = 7) -> Iterator[dict[str, Any]]:
    """Yield a row a case: who the peer is, its seconds, ours, and how many times as fast ours is."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with quiet():
        for case, who, peer, ours in speed_windows.measure(repeats):
            yield _row(case, who, peer, ours)
        for batch in BATCHES:
            train_peer, train, infer_peer, infer = speed_recurrence.compare(FEATURES, *LAYER, batch)
            yield _row(f"layer, training step, batch {batch}", "nn.GRU(bidirectional=True)", train_peer, train)
            yield _row(f"layer, inference, batch {batch}", "nn.GRU(bidirectional=True)", infer_peer, infer)


def run(out: str, repeats: int = 7) -> pd.DataFrame:
    """Measure, print and write ``speed.csv`` and the manifest; return the table."""
    rows = []
    print(f"{'':40}{'peer, ms':>10}{'ours, ms':>10}{'ratio':>8}")
    for row in measure(repeats):
        rows.append(row)
        print(
            f"{row['case']:40}{row['peer_ms']:10.1f}{row['ours_ms']:10.1f}{row['ratio']:8.2f}  {row['peer']}",
            flush=True,
        )
    table = pd.DataFrame(rows)
    store = Store(out)
    store.write("speed.csv", table.to_csv(index=False, float_format="%.4g").encode())
    store.write_manifest(suite="speed", threads=1, repeats=repeats)
    return table


def _row(case: str, peer: str, peer_seconds: float, seconds: float) -> dict[str, Any]:
    return {
        "case": case,
        "peer": peer,
        "peer_ms": 1e3 * peer_seconds,
        "ours_ms": 1e3 * seconds,
        "ratio": peer_seconds / seconds,
    }
