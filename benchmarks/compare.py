"""Two folders of results against each other: ``python -m benchmarks compare A B``."""

import math
from pathlib import Path

from benchmarks.intervals import block_losses, ratio_interval
from benchmarks.rows import read_rows


def compare(a: Path, b: Path) -> int:
    """Print the ratio of each score in `b` to the one in `a`, with a 95 % interval; return 1 on a regression, else 0.

    Where both kept their forecasts the interval is a bootstrap over the same forecasts of both. A regression is an
    interval above 1, an improvement one below 1; what was finished in `a` and fails in `b` is a regression, too.
    """
    folders = Path(a), Path(b)
    rows = [read_rows(folder) for folder in folders]
    regressions = 0
    pairs = rows[0].drop_duplicates(["task", "model"])[["task", "model"]].itertuples(index=False)
    width = max(
        (len(f"{task}, {model}") for task, model in rows[0][["task", "model"]].itertuples(index=False)), default=0
    )
    for task, model in pairs:
        cells = [r[(r["task"] == task) & (r["model"] == model)] for r in rows]
        finished = [c[c["status"] == "ok"].sort_values("seed") for c in cells]
        label = f"{task}, {model}".ljust(width)
        if cells[1].empty or finished[0].empty:
            continue
        if finished[1].empty:
            first = cells[1].iloc[0]
            print(
                f"{label}  finished before, now {first['status']}: {first['error'].partition(chr(10))[0]}  REGRESSION"
            )
            regressions += 1
            continue
        metric = finished[0]["metric"].iloc[0]
        scores = [f[metric].to_numpy(float) for f in finished]
        losses = [block_losses(folder, f, metric) for folder, f in zip(folders, finished, strict=True)]
        low, high = ratio_interval(losses[1], losses[0], scores[1], scores[0])
        verdict = _verdict(low, high)
        regressions += verdict == "REGRESSION"
        interval = "[no interval]" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]"
        print(f"{label}  {scores[1].mean() / scores[0].mean():6.3f}  {interval:<16}  {verdict}".rstrip())
    known = [set(r[["task", "model"]].itertuples(index=False, name=None)) for r in rows]
    for folder, only in zip(folders, (known[0] - known[1], known[1] - known[0]), strict=True):
        for task in sorted({task for task, _ in only}):
            print(f"only in {folder}: {task}: {', '.join(sorted(model for of, model in only if of == task))}")
    print(f"{regressions} regressions in {len(known[0] & known[1])} pairs of task and model")
    return int(regressions > 0)


def _verdict(low: float, high: float) -> str:
    if low > 1:
        return "REGRESSION"
    return "improvement" if high < 1 else ""
