"""What stands in the sections of the report, as plain values for the template."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import figures
from benchmarks.intervals import DRAWS, Ratios, losses_of
from benchmarks.leaderboard import leaderboard
from benchmarks.rows import best_classical, mean_scores, read_array
from benchmarks.significance import FEWEST_MODELS, FEWEST_TASKS, LEVEL, model_confidence_set, ranks_over_tasks

METRICS = {
    "forecast": ("mase", "mse", "mae", "rmse", "smape", "wql", "crps", "coverage_80"),
    "impute": ("mae", "mse", "rmse", "mre", "wql", "crps", "coverage_80"),
}
KINDS = {"forecast": "Forecasting", "impute": "Imputation"}
# most and fewest time steps of an imputation that a picture of the gallery shows
WINDOWS = (24, 96)


def best_of_ours(rows: pd.DataFrame, board: pd.DataFrame) -> str | None:
    """Our model with the highest skill score, which the report follows; ablations stand back."""
    ours = board[(board["family"] == "ours") & ~board["model"].isin(rows.loc[rows["ablation_of"] != "", "model"])]
    return None if ours.empty else str(ours["model"].iloc[0])


def boards(rows: pd.DataFrame) -> list[dict]:
    """Leaderboard, its figures and the test of ranks, for each kind of task. Ablations are not contenders."""
    rows = rows[rows["ablation_of"] == ""]
    whole = leaderboard(rows)
    kinds = []
    for kind, board in whole.groupby("kind", sort=False) if len(whole) else ():
        of_kind = rows[rows["kind"] == kind]
        ranked = ranks_over_tasks(of_kind)
        kinds.append(
            {
                "kind": kind,
                "title": KINDS[kind],
                "board": board,
                "n_tasks": of_kind["task"].nunique(),
                "left_out": sorted(_without_baseline(of_kind)),
                "baselines": " / ".join(sorted(of_kind["baseline"].unique())),
                "skill": figures.skill(board),
                "cost": figures.cost(board),
                "ranks": _ranks(ranked, of_kind),
                "too_few": f"needs {FEWEST_TASKS} tasks and {FEWEST_MODELS} models.",
            }
        )
    return kinds


def _without_baseline(rows: pd.DataFrame) -> set[str]:
    return set(rows["task"]) - set(rows.loc[(rows["model"] == rows["baseline"]) & (rows["status"] == "ok"), "task"])


def _ranks(ranked, rows: pd.DataFrame) -> dict | None:
    if ranked is None:
        return None
    ranks, pairs, overall = ranked
    families = rows.drop_duplicates("model").set_index("model")["family"]
    return {
        "p": overall,
        "alike": overall >= LEVEL,
        "figure": figures.critical_difference(ranks, pairs, families),
    }


def tasks(rows: pd.DataFrame, ratios: Ratios) -> list[dict]:
    """For each task a table of all models with all metrics, the best first."""
    reference = best_classical(rows)
    tables = []
    for task, of_task in rows.groupby("task", sort=False):
        first = of_task.iloc[0]
        against = reference.get(task)
        known = [metric for metric in METRICS[first["kind"]] if of_task[metric].notna().any()]
        within = model_confidence_set(ratios, task)
        lines = []
        for model, cells in of_task.groupby("model", sort=False):
            ok = cells[cells["status"] == "ok"]
            ratio, low, high = ratios(task, model, against) if against is not None else (np.nan,) * 3
            lines.append(
                {
                    "model": model,
                    "family": cells["family"].iloc[0],
                    "ablation": cells["ablation_of"].iloc[0] != "",
                    "score": ok["score"].mean(),
                    "spread": ok["score"].std() if len(ok) > 1 else np.nan,
                    "seeds": len(ok),
                    "failed": int((cells["status"] == "failed").sum()),
                    "not_run": bool((cells["status"] == "not run").all()),
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "is_reference": model == against,
                    "within": model in within,
                    "seconds": (ok["fit_seconds"] + ok["predict_seconds"]).mean(),
                    "metrics": {metric: ok[metric].mean() for metric in known},
                }
            )
        lines.sort(key=lambda line: (np.isnan(line["score"]), line["score"]))
        tables.append(
            {
                "task": task,
                "kind": first["kind"],
                "metric": first["metric"],
                "horizon": int(first["horizon"]),
                "season": int(first["season"]),
                "n_series": int(first["n_series"]),
                "n_forecasts": int(first["n_forecasts"]),
                "baseline": first["baseline"],
                "random_walk": bool(first["random_walk"]),
                "reference": against,
                "metrics": known,
                "lines": lines,
                "has_set": bool(within),
                "marks": _marks({line["model"]: line["score"] for line in lines if not line["ablation"]}),
            }
        )
    return tables


def _marks(scores: dict[str, float]) -> dict[str, str]:
    """``best`` and ``second`` by the smallest score."""
    order = [model for model in sorted(scores, key=scores.get) if not np.isnan(scores[model])]
    return dict(zip(order[:2], ("best", "second"), strict=False))


def overview(tables: list[dict], kind: str) -> dict:
    """Models x tasks: ratio to the best classical model of each task; ``best`` and ``second`` marked."""
    tables = [table for table in tables if table["kind"] == kind]
    lines: dict[str, dict] = {}
    for table in tables:
        for line in table["lines"]:
            if not line["ablation"]:
                entry = lines.setdefault(line["model"], {"model": line["model"], "family": line["family"], "cells": {}})
                mark = table["marks"].get(line["model"], "")
                entry["cells"][table["task"]] = line | {"mark": mark}
    ordered = sorted(lines.values(), key=lambda entry: _mean_log([c["ratio"] for c in entry["cells"].values()]))
    return {"title": KINDS[kind], "kind": kind, "tasks": tables, "lines": ordered}


def _mean_log(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(np.log(known))) if known else float("inf")


def verdicts(kinds: list[dict], tables: list[dict], rows: pd.DataFrame) -> list[dict]:
    """For our best model of each kind: its place, and the tasks on which a model of others is better."""
    found = []
    for kind in kinds:
        model = best_of_ours(rows, kind["board"])
        if model is None:
            continue
        place = int(np.flatnonzero(kind["board"]["model"] == model)[0]) + 1
        lines = [
            (table, line)
            for table in tables
            if table["kind"] == kind["kind"]
            for line in table["lines"]
            if line["model"] == model and np.isfinite(line["ratio"])
        ]
        loses = []
        for table, line in lines:
            best = next(other for other in table["lines"] if not other["ablation"])
            if best["family"] != "ours":
                loses.append(
                    {
                        "task": table["task"],
                        "best": best["model"],
                        "ratio": line["score"] / best["score"],
                        "classical": table["reference"],
                        "to_classical": line["ratio"],
                        "low": line["low"],
                        "high": line["high"],
                    }
                )
        found.append(
            {
                "title": kind["title"],
                "model": model,
                "place": place,
                "contenders": len(kind["board"]),
                "row": kind["board"].iloc[place - 1],
                "n_tasks": len(lines),
                "beats": sum(line["ratio"] < 1 for _, line in lines),
                "surely": sum(line["high"] < 1 for _, line in lines),
                "loses": loses,
                "failed": [
                    table["task"]
                    for table in tables
                    for line in table["lines"]
                    if line["model"] == model and line["failed"]
                ],
            }
        )
    return found


def random_walks(rows: pd.DataFrame, ratios: Ratios) -> list[dict]:
    """Whether any model beats the baseline beyond chance on the tasks where no skill is to be expected."""
    found = []
    walks = rows[rows["random_walk"].astype(bool) & (rows["ablation_of"] == "")]
    for task, of_task in walks.groupby("task", sort=False):
        baseline = of_task["baseline"].iloc[0]
        lines = []
        for model in of_task.loc[(of_task["status"] == "ok") & (of_task["model"] != baseline), "model"].unique():
            ratio, low, high = ratios(task, model, baseline)
            family = of_task.loc[of_task["model"] == model, "family"].iloc[0]
            lines.append({"model": model, "family": family, "ratio": ratio, "low": low, "high": high})
            lines[-1]["verdict"] = _skill(low, high)
        lines.sort(key=lambda line: line["ratio"])
        found.append({"task": task, "baseline": baseline, "lines": lines})
    return found


def _skill(low: float, high: float) -> str:
    if np.isnan(low):
        return "no interval"
    if high < 1:
        return "skill"
    return "worse" if low > 1 else "no skill"


def steps(rows: pd.DataFrame, ours: dict[str, str | None]) -> str | None:
    """Error by horizon step or length of gap: ours against the best of each other family and the baseline."""
    scores = mean_scores(rows[rows["ablation_of"] == ""], impute=False)
    panels = []
    for task, of_task in rows.groupby("task", sort=False):
        ok = of_task[(of_task["status"] == "ok") & (of_task["error_by_step"].map(len) > 0)]
        families = ok.drop_duplicates("model").set_index("model")["family"]
        chosen = [ours.get(of_task["kind"].iloc[0])]
        for group in (("statistical", "imputer"), ("darts",), ("extra",), ("baseline",)):
            names = [m for m in families.index if families[m] in group and m in scores and scores.notna().loc[task, m]]
            chosen += [scores.loc[task, names].idxmin()] if names else []
        lines = {}
        for model in dict.fromkeys(chosen):
            if model in families.index:
                errors = np.mean(np.stack(list(ok.loc[ok["model"] == model, "error_by_step"])), axis=0)
                lines[model] = (families[model], errors)
        if lines:
            panels.append((task, of_task["kind"].iloc[0], lines))
    return figures.error_by_step(panels) if panels else None


def calibration(rows: pd.DataFrame) -> list[dict]:
    """Nominal against covered, mean over tasks and seeds, for each kind: a figure and the 80 % band by task."""
    found = []
    ok = rows[(rows["status"] == "ok") & (rows["coverage"].map(len) == 4) & (rows["ablation_of"] == "")]
    for kind, of_kind in ok.groupby("kind", sort=True):
        covered = {
            model: (cells["family"].iloc[0], np.mean(np.stack(list(cells["coverage"])), axis=0))
            for model, cells in of_kind.groupby("model", sort=False)
        }
        table = mean_scores(of_kind, "coverage_80", impute=False)
        found.append({"title": KINDS[kind], "figure": figures.calibration(covered, kind), "table": table.T})
    return found


def ablations(rows: pd.DataFrame) -> list[dict]:
    """Score without a part over the score with it, geometric mean over tasks and seeds; above 1 the part helps."""
    ok = rows[rows["status"] == "ok"]
    found = []
    for (full, without), cells in ok[ok["ablation_of"] != ""].groupby(["ablation_of", "model"], sort=False):
        pairs = cells.merge(ok[ok["model"] == full], on=["task", "seed"], suffixes=("", "_full"))
        if pairs.empty:
            continue
        logs = np.log(pairs["score"].to_numpy(float) / pairs["score_full"].to_numpy(float))
        drawn = np.random.default_rng(0).choice(logs, (DRAWS, len(logs))).mean(axis=1)
        low, high = np.exp(np.quantile(drawn, (0.025, 0.975))) if len(logs) > 1 else (np.nan, np.nan)
        by_task = np.exp(pd.Series(logs).groupby(pairs["task"].to_numpy()).mean())
        found.append(
            {
                "full": full,
                "without": without,
                "ratio": float(np.exp(logs.mean())),
                "low": float(low),
                "high": float(high),
                "pairs": len(logs),
                "by_task": by_task.to_dict(),
            }
        )
    return found


def gallery(rows: pd.DataFrame, folder: Path, ours: dict[str, str | None], ratios: Ratios) -> list[dict]:
    """For each task the best, the median and the worst forecast or imputation of our best model."""
    reference = best_classical(rows)
    found = []
    for task, of_task in rows.groupby("task", sort=False):
        kind = of_task["kind"].iloc[0]
        model = ours.get(kind)
        cells = ratios.of(task, model) if model else of_task.iloc[:0]
        losses = losses_of(folder, cells["cell"].iloc[0], "mae" if kind == "impute" else "mase") if len(cells) else None
        if losses is None:
            continue
        peer = reference.get(task)
        peers = ratios.of(task, peer) if peer else of_task.iloc[:0]
        pick = _pick_windows if kind == "impute" else _pick_forecasts
        arrays = {name: read_array(folder, cells["cell"].iloc[0], name) for name in ("values", "quantiles", "truth")}
        peer_values = read_array(folder, peers["cell"].iloc[0], "values") if len(peers) else None
        if peer_values is not None and peer_values.shape != arrays["truth"].shape:
            peer_values = None
        panels = []
        for rank, place, title in pick(losses):
            panel = {"title": f"{rank}: {title}", "name": model, "peer_name": peer}
            panel |= {"truth": arrays["truth"][place], "value": arrays["values"][place]}
            if arrays["quantiles"] is not None:
                panel |= {"low": arrays["quantiles"][place][..., 0], "high": arrays["quantiles"][place][..., -1]}
            if peer_values is not None:
                panel["peer"] = peer_values[place]
            panels.append(panel)
        if panels:
            found.append({"task": task, "model": model, "figure": figures.gallery(panels, kind)})
    return found


def _ranked(losses: np.ndarray) -> list[tuple[str, int]]:
    """Places of the smallest, the median and the largest of the losses that are known."""
    order = np.argsort(losses, kind="stable")[: int(np.isfinite(losses).sum())]
    if len(order) == 0:
        return []
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    # of one or two there is no median
    return [(rank, place) for rank, place in places.items() if rank != "median" or len(order) > 2][: len(order)]


def _pick_forecasts(losses: np.ndarray):
    """Forecasts by their mean scaled error: ``losses`` is ``(context, horizon, component)``."""
    known = np.isfinite(losses)
    means = np.where(known, losses, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    for rank, flat in _ranked(means.ravel()):
        context, component = np.unravel_index(flat, means.shape)
        title = f"forecast {context + 1}" + (f", component {component + 1}" if means.shape[1] > 1 else "")
        yield rank, (context, slice(None), component), f"{title}, MASE {means[context, component]:.2f}"


def _pick_windows(losses: np.ndarray):
    """Windows of imputations by their mean error, of those with at least five scored values."""
    length = int(np.clip(len(losses) // 6, *WINDOWS))
    starts = np.arange(0, max(len(losses) - length, 0) + 1, length)
    windows = np.stack([losses[start : start + length] for start in starts])
    count = np.isfinite(windows).sum(axis=1)
    means = np.where(count >= 5, np.nansum(windows, axis=1) / np.maximum(count, 1), np.nan)
    for rank, flat in _ranked(means.ravel()):
        window, component = np.unravel_index(flat, means.shape)
        place = slice(starts[window], starts[window] + length)
        yield (
            rank,
            (place, component),
            f"series {component + 1} from {starts[window]}, MAE {means[window, component]:.2f}",
        )


def cannot(rows: pd.DataFrame) -> list[dict]:
    """What models cannot do, as they say themselves."""
    first = rows.drop_duplicates("model")
    said = [
        {"model": r["model"], "family": r["family"], "cannot": json.loads(r["cannot"])} for _, r in first.iterrows()
    ]
    return [entry for entry in said if entry["cannot"]]


def missing(rows: pd.DataFrame) -> tuple[list[dict], list[dict]]:
    """Failed cells with their errors; tasks that a model did not run on, with the reason."""
    failed = rows[rows["status"] == "failed"]
    failures = [
        {"task": r["task"], "model": r["model"], "seed": r["seed"], "error": r["error"]} for _, r in failed.iterrows()
    ]
    skipped = rows[rows["status"] == "not run"].drop_duplicates(["task", "model"])
    not_run = [{"task": r["task"], "model": r["model"], "reason": r["error"]} for _, r in skipped.iterrows()]
    for _, row in rows[rows["status"] == "ok"].iterrows():
        if fallen := json.loads(row["notes"] or "{}").get("fallbacks"):
            reason = f"a fit failed {fallen} times on {row['n_series']} series: seasonal naive stood in"
            not_run.append({"task": row["task"], "model": row["model"], "reason": reason})
    for _, of_kind in rows.groupby("kind"):
        there = set(zip(of_kind["task"], of_kind["model"], strict=True))
        for model in of_kind["model"].unique():
            absent = [task for task in of_kind["task"].unique() if (task, model) not in there]
            not_run += [{"task": task, "model": model, "reason": "not asked for"} for task in absent]
    return failures, not_run


def classical(kind: str) -> str:
    """What the reference of a task is called."""
    return "best statistical model" if kind == "forecast" else "best classical imputer"
