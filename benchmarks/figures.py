"""Figures of the report, each as a `data:` address that an <img> holds: SVG for lines, PNG for what has many points."""

import base64
import io
import math
import warnings

import matplotlib
import numpy as np
import pandas as pd
import scikit_posthocs
from matplotlib.figure import Figure

COLOURS = {
    "ours": "#1f5fbf",
    "statistical": "#4d4d4d",
    "imputer": "#4d4d4d",
    "darts": "#d9822b",
    "extra": "#8e4ec6",
    "baseline": "#9a9a9a",
}
NAMES = {
    "ours": "ours",
    "statistical": "statistical",
    "imputer": "imputers",
    "darts": "Darts' nets",
    "extra": "other packages' nets",
    "baseline": "baseline",
}
GAP_LENGTHS = ("1", "2–6", "7–24", "> 24")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


def styled(draw):
    """Draw with the report's style, whatever style the user has set."""

    def drawn(*args, **kwargs) -> str:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def embed(figure: Figure, kind: str = "svg") -> str:
    """The figure as a `data:` address, the same bytes for the same figure."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        # a figure with a layout of its own fits already
        box = "tight" if figure.get_layout_engine() is None else None
        figure.savefig(file, format=kind, dpi=100, bbox_inches=box, metadata=metadata)
    mime = {"svg": "svg+xml", "png": "png"}[kind]
    return f"data:image/{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


@styled
def skill(board: pd.DataFrame) -> str:
    """Skill scores with their intervals, the best on top."""
    figure = Figure(figsize=(7.5, 0.6 + 0.24 * len(board)))
    axes = figure.subplots()
    for place, (_, row) in enumerate(board[::-1].iterrows()):
        colour = COLOURS[row["family"]]
        axes.plot([100 * row["skill_score_lower"], 100 * row["skill_score_upper"]], [place] * 2, color=colour, lw=2)
        axes.plot(100 * row["skill_score"], place, "o", color=colour, ms=5)
    axes.axvline(0, color="#999999", lw=0.8)
    axes.set_yticks(range(len(board)), board["model"][::-1])
    axes.set_ylim(-0.7, len(board) - 0.3)
    axes.set_xlabel("skill score, % better than the baseline (95 % interval over tasks)")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    _legend_of_families(axes, board["family"])
    return embed(figure)


@styled
def critical_difference(ranks: pd.Series, pairs: pd.DataFrame, families: pd.Series) -> str:
    """Mean ranks; a bar joins models that do not differ beyond chance."""
    figure = Figure(figsize=(9, 1.0 + 0.13 * len(ranks)))
    axes = figure.subplots()
    with warnings.catch_warnings():
        # its own layout of labels, not ours
        warnings.simplefilter("ignore", UserWarning)
        scikit_posthocs.critical_difference_diagram(
            ranks,
            pairs,
            ax=axes,
            label_fmt_left="{label} ({rank:.1f})\N{NO-BREAK SPACE}",
            label_fmt_right="\N{NO-BREAK SPACE}({rank:.1f}) {label}",
            color_palette={model: COLOURS[families[model]] for model in ranks.index},
            label_props={"size": 9},
            text_h_margin=0.03,
            crossbar_props={"color": "#222222", "linewidth": 2.5},
        )
    return embed(figure)


def pareto_front(cost: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Which points no other point beats in both: at most its cost and at least its gain, one of them better."""
    front = np.ones(len(cost), bool)
    for i in range(len(cost)):
        no_worse = (cost <= cost[i]) & (gain >= gain[i])
        front[i] = not np.any(no_worse & ((cost < cost[i]) | (gain > gain[i])))
    return front


@styled
def cost(board: pd.DataFrame) -> str:
    """Skill against CPU seconds, with the Pareto front."""
    board = board.assign(cost=(board["fit_seconds"].fillna(0) + board["predict_seconds"].fillna(0)).clip(lower=1e-3))
    front = pareto_front(board["cost"].to_numpy(), board["skill_score"].to_numpy())
    figure = Figure(figsize=(7.5, 3.6 + 0.06 * len(board)))
    axes = figure.subplots()
    for family, rows in board.groupby("family"):
        axes.scatter(
            rows["cost"], 100 * rows["skill_score"], s=28, color=COLOURS[family], label=NAMES[family], zorder=3
        )
    best = board[front].sort_values("cost")
    axes.step(best["cost"], 100 * best["skill_score"], where="post", color="#2a9d5c", lw=1.2, label="Pareto front")
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.1)
    _label_points(axes, board.assign(front=front))
    axes.set_xlabel("CPU seconds of training and inference, median over tasks")
    axes.set_ylabel("skill score, %")
    axes.grid()
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return embed(figure)


def _label_points(axes, board: pd.DataFrame) -> None:
    """Names beside their points, moved up or down until they no longer cover one another, the front's first."""
    figure = axes.figure
    figure.draw_without_rendering()
    edges = axes.get_window_extent()
    taken = [axes.transData.transform((row["cost"], 100 * row["skill_score"])) for _, row in board.iterrows()]
    boxes = [(x - 4, y - 4, x + 4, y + 4) for x, y in taken]
    order = np.lexsort((-board["skill_score"].to_numpy(), ~board["front"].to_numpy()))
    for i in order:
        row = board.iloc[i]
        x, y = taken[i]
        width = 4.9 * len(row["model"]) * figure.dpi / 72
        height = 10 * figure.dpi / 72
        for shift, left in [(s, side) for s in (10, -10, 0, 19, -19, 28, -28) for side in (False, True)]:
            x0 = x - width - 8 if left else x + 8
            y0 = y + shift - height / 2
            box = (x0, y0, x0 + width, y0 + height)
            inside = edges.x0 <= box[0] and box[2] <= edges.x1
            if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes):
                break
        else:
            continue  # no room: the table names it
        boxes.append(box)
        axes.annotate(
            row["model"],
            (row["cost"], 100 * row["skill_score"]),
            xytext=((-6 if left else 6), shift * 72 / figure.dpi),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=8,
            color=COLOURS[row["family"]],
            fontweight="bold" if row["front"] else "normal",
        )


@styled
def error_by_step(panels: list[tuple[str, str, dict[str, tuple[str, np.ndarray]]]]) -> str:
    """One panel a task: ``(task, kind, {model: (family, errors)})``."""
    columns = min(3, len(panels))
    figure = Figure(figsize=(3.9 * columns, 2.7 * math.ceil(len(panels) / columns)), layout="constrained")
    grid = np.atleast_1d(figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False)).ravel()
    for axes, (task, kind, lines) in zip(grid, panels, strict=False):
        for number, (model, (family, errors)) in enumerate(lines.items()):
            style = "-" if number == 0 else ("--", "-.", ":", (0, (5, 1)))[(number - 1) % 4]
            steps = np.arange(1, len(errors) + 1)
            marker = "o" if kind == "impute" or len(errors) < 8 else ""
            axes.plot(steps, errors, style, color=COLOURS[family], label=model, marker=marker, ms=3)
        axes.set_title(task)
        # room for the legend above the lines
        axes.set_ylim(0, 1.4 * np.nanmax([np.nanmax(errors) for _, errors in lines.values()]))
        axes.grid()
        if kind == "impute":
            axes.set_xticks(range(1, 5), GAP_LENGTHS)
            axes.set_xlim(0.7, 4.3)
            axes.set_xlabel("length of the gap, steps")
            axes.set_ylabel("mean absolute error")
        else:
            axes.set_xlabel("step of the horizon")
            axes.set_ylabel("mean scaled error")
        axes.legend(loc="upper left", fontsize=7, ncols=2)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return embed(figure)


@styled
def calibration(covered: dict[str, tuple[str, np.ndarray]], kind: str) -> str:
    """Covered against nominal: ``{model: (family, shares)}``."""
    figure = Figure(figsize=(4.4, 3.6))
    axes = figure.subplots()
    nominal = np.array([20, 40, 60, 80])
    axes.plot([0, 100], [0, 100], color="#999999", lw=0.8)
    seen: dict[str, int] = {}
    for model, (family, shares) in covered.items():
        marker = "osD^vPX*<>"[seen.get(family, 0) % 10]
        seen[family] = seen.get(family, 0) + 1
        axes.plot(nominal, 100 * shares, color=COLOURS[family], marker=marker, ms=4, lw=1, label=model)
    axes.set_title("forecasts" if kind == "forecast" else "imputations")
    axes.set(xlim=(10, 90), ylim=(0, 100), xlabel="nominal, %", ylabel="covered, %")
    axes.grid()
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), ncols=1 + len(covered) // 18, fontsize=7)
    return embed(figure)


@styled
def gallery(panels: list[dict], kind: str) -> str:
    """Best, median and worst of one model on one task, side by side.

    Each panel has ``title``, ``truth``, ``value`` and, where known, ``low`` and ``high`` (the 80 % band) and ``peer``.
    """
    figure = Figure(figsize=(3.9 * len(panels), 2.2), layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels), squeeze=False)).ravel(), panels, strict=True):
        steps = np.arange(1, len(panel["truth"]) + 1)
        if panel.get("low") is not None:
            axes.fill_between(steps, panel["low"], panel["high"], color=COLOURS["ours"], alpha=0.18, lw=0, label="80 %")
        if panel.get("peer") is not None:
            axes.plot(steps, panel["peer"], color=COLOURS["darts"], lw=1, ls="--", label=panel["peer_name"])
        axes.plot(steps, panel["value"], color=COLOURS["ours"], label=panel["name"])
        if kind == "impute":
            axes.plot(steps, panel["truth"], "o", color="#111111", ms=2.2, label="hidden truth")
        else:
            axes.plot(steps, panel["truth"], color="#111111", lw=1.1, label="truth")
        axes.set_title(panel["title"], fontsize=8.5)
        axes.tick_params(labelsize=7)
    figure.axes[0].legend(fontsize=7, loc="best")
    return embed(figure, "png")


def _legend_of_families(axes, families: pd.Series) -> None:
    for family in families.unique():
        axes.plot([], [], "o", color=COLOURS[family], label=NAMES[family], ms=5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
