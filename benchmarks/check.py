"""Goals against results: ``python -m benchmarks check DIR --goals goals.toml``.

A goal is a table of the goals file::

    [[goal]]
    name = "quarterly series better than statistics"
    task = "M3 quarterly"
    model = "BiGRU"
    against = "best statistical"  # or the name of a model; without it the figure is the model's own
    metric = "mase"               # the metric that ranks the task's models if left out
    value = 1.0                   # largest figure that passes
    least = 0.0                   # smallest figure that passes; one of the two may be left out

The figure is the mean over seeds, a ratio of two means if there is an `against`. The verdict goes by the figure alone;
an interval that covers the bound is called inconclusive.
"""

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.intervals import Ratios
from benchmarks.rows import CLASSICAL, best_classical, read_rows

BEST = "best statistical"
KEYS = {"name", "task", "model", "against", "metric", "value", "least"}


def check(folder: Path, goals: Path) -> int:
    """Print figure, interval and verdict of each goal; return 1 if one is missed or cannot be computed, else 0."""
    wanted = tomllib.loads(Path(goals).read_text()).get("goal", [])
    if not wanted:
        raise ValueError(f"`--goals` must be a file with [[goal]] tables, got {goals}, which has none.")
    for goal in wanted:
        _complain(goal)
    rows = read_rows(Path(folder))
    elsewhere = [goal for goal in wanted if goal["task"] not in set(rows["task"])]
    wanted = [goal for goal in wanted if goal not in elsewhere]
    if not wanted:
        raise ValueError(f"`--goals` must have a goal for a task of {folder}; {goals} has none.")
    ratios = Ratios(Path(folder), rows)
    missed = 0
    for goal in wanted:
        against, reason = _reference(goal, rows)
        if reason:
            print(f"MISS {'–':>7} {_bounds(goal):<22} {'':<17} {goal['name']}: {reason}")
            missed += 1
            continue
        figure, low, high = _figure(goal, ratios, against)
        passed = goal.get("least", -math.inf) <= figure <= goal.get("value", math.inf)
        missed += not passed
        print(
            f"{'ok  ' if passed else 'MISS'} {figure:7.3f} {_bounds(goal):<22} {_interval(low, high):<17} "
            f"{goal['name']}: {goal['model']}{f' / {against}' if against else ''}, {goal['task']}"
            f"{_doubt(goal, low, high)}"
        )
    others = f"; {len(elsewhere)} are of tasks that this run does not have" if elsewhere else ""
    print(f"{len(wanted) - missed} of {len(wanted)} goals met{others}")
    return int(missed > 0)


def _complain(goal: dict[str, Any]) -> None:
    name = goal.get("name", goal)
    if missing := {"name", "task", "model"} - set(goal):
        raise ValueError(f"Goal {name!r} must say {', '.join(sorted(missing))}.")
    if unknown := set(goal) - KEYS:
        raise ValueError(f"Goal {name!r} has unknown keys {sorted(unknown)}; known are {sorted(KEYS)}.")
    if not {"value", "least"} & set(goal):
        raise ValueError(f"Goal {name!r} must have a `value` or a `least`.")


def _reference(goal: dict[str, Any], rows: pd.DataFrame) -> tuple[str | None, str]:
    """Name of the model to compare with, and why the figure cannot be computed if it cannot."""
    task, model, against = goal["task"], goal["model"], goal.get("against")
    if against == BEST:
        against = best_classical(rows).get(task)
        if against is None:
            return None, f"no finished cell of {task!r} by a model of the families {', '.join(CLASSICAL)}"
    metric = goal.get("metric", "score")
    if metric not in rows:
        return None, f"no metric {metric!r} in the rows"
    for name in (model, against):
        if name is None:
            continue
        cells = rows[(rows["task"] == task) & (rows["model"] == name)]
        if cells.empty:
            return None, f"missing cell: {task!r}, {name!r}"
        unfinished = cells[cells["status"] != "ok"]
        if len(unfinished):
            first = unfinished.iloc[0]
            reason = first["error"].partition("\n")[0]
            return None, f"cell {task!r}, {name!r}, seed {first['seed']} is {first['status']}: {reason}"
        if cells[metric].isna().any():
            return None, f"{metric!r} is not defined for {task!r}, {name!r}"
    return against, ""


def _figure(goal: dict[str, Any], ratios: Ratios, against: str | None) -> tuple[float, float, float]:
    if against is not None:
        return ratios(goal["task"], goal["model"], against, goal.get("metric"))
    scores = ratios.of(goal["task"], goal["model"])[goal.get("metric", "score")].to_numpy(float)
    if len(scores) < 2:
        return float(scores.mean()), math.nan, math.nan
    drawn = np.random.default_rng(0).choice(scores, (1000, len(scores))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(scores.mean()), float(low), float(high)


def _bounds(goal: dict[str, Any]) -> str:
    bounds = [f">= {goal['least']:g}"] if "least" in goal else []
    bounds += [f"<= {goal['value']:g}"] if "value" in goal else []
    return " and ".join(bounds)


def _interval(low: float, high: float) -> str:
    return "[no interval]" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]"


def _doubt(goal: dict[str, Any], low: float, high: float) -> str:
    """Whether the interval leaves the verdict open."""
    bounds = [goal[key] for key in ("value", "least") if key in goal]
    return " (inconclusive)" if any(low < bound < high for bound in bounds) else ""
