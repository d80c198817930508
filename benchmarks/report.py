"""The report of a folder of results: one page that needs no network, and the leaderboard in Markdown."""

import json
import math
from pathlib import Path

import jinja2

from benchmarks import sections
from benchmarks.figures import NAMES
from benchmarks.intervals import Ratios
from benchmarks.rows import read_manifest, read_rows


def report(folder: Path) -> Path:
    """Write ``report.html`` and ``leaderboard.md`` into the folder; return the path of the page."""
    folder = Path(folder)
    content = collect(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html", "jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"num": number, "pct": percent, "cpu": seconds, "count": count}
    environment.tests["known"] = lambda value: value is not None and not math.isnan(value)
    page = folder / "report.html"
    page.write_text(environment.get_template("report.html.jinja").render(content), encoding="utf-8")
    (folder / "leaderboard.md").write_text(markdown(content), encoding="utf-8")
    return page


def collect(folder: Path) -> dict:
    """All that the page shows."""
    rows = read_rows(folder)
    ratios = Ratios(folder, rows)
    kinds = sections.boards(rows)
    ours = {kind["kind"]: sections.best_of_ours(rows, kind["board"]) for kind in kinds}
    tables = sections.tasks(rows, ratios)
    failures, not_run = sections.missing(rows)
    manifest = read_manifest(folder)
    return {
        "kinds": kinds,
        "verdicts": sections.verdicts(kinds, tables, rows),
        "tables": tables,
        "overviews": [sections.overview(tables, kind["kind"]) for kind in kinds],
        "random_walks": sections.random_walks(rows, ratios),
        "steps": sections.steps(rows, ours),
        "calibration": sections.calibration(rows),
        "ablations": sections.ablations(rows),
        "gallery": sections.gallery(rows, folder, ours, ratios),
        "cannot": sections.cannot(rows),
        "failures": failures,
        "not_run": not_run,
        "manifest": json.dumps(manifest, indent=2, ensure_ascii=False),
        "families": NAMES,
        "classical": sections.classical,
        "n_cells": len(rows),
        "n_models": rows["model"].nunique(),
        "seeds": sorted(int(seed) for seed in rows["seed"].unique()),
    }


def markdown(content: dict) -> str:
    """The leaderboard, where ours lose, and the random walks."""
    lines = []
    for kind in content["kinds"]:
        lines += [
            f"## {kind['title']}",
            "",
            f"{kind['n_tasks']} {'task' if kind['n_tasks'] == 1 else 'tasks'}, skill against {kind['baselines']}.",
            "",
        ]
        lines += ["| model | family | skill score, % | win rate, % | failed | not run | fit, CPU s | predict, CPU s |"]
        lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
        for _, row in kind["board"].iterrows():
            name = f"**{row['model']}**" if row["family"] == "ours" else row["model"]
            figures = [
                f"{percent(row[figure])} ({percent(row[f'{figure}_lower'])} to {percent(row[f'{figure}_upper'])})"
                for figure in ("skill_score", "win_rate")
            ]
            times = [seconds(row["fit_seconds"]), seconds(row["predict_seconds"])]
            cells = [name, NAMES[row["family"]], *figures, str(row["failures"]), str(row["not_run"]), *times]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    for verdict in content["verdicts"]:
        for lost in verdict["loses"]:
            lines.append(f"- {verdict['model']} loses on {lost['task']}: {number(lost['ratio'])} of {lost['best']}.")
    for walk in content["random_walks"]:
        skilled = [line["model"] for line in walk["lines"] if line["verdict"] == "skill"]
        says = f"better than {walk['baseline']}: {', '.join(skilled)}" if skilled else "no skill"
        lines.append(f"- {walk['task']} (random walk): {says}.")
    return "\n".join(lines).rstrip() + "\n"


def number(value: float) -> str:
    """Three significant digits, at most three decimals."""
    if value is None or math.isnan(value):
        return "–"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}"


def percent(share: float) -> str:
    """A share in %, one decimal."""
    return "–" if math.isnan(share) else f"{100 * share:.1f}".replace("-", "−")


def seconds(value: float) -> str:
    """CPU seconds, two digits."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else "< 0.1"


def count(value: float) -> str:
    """A number of parameters, in thousands or millions."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.0f} k" if value >= 1e3 else f"{value:.0f}"
