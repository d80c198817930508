"""95 % intervals for ratios of scores: bootstrap over forecasts and seeds, or over seeds where no forecasts are kept.

Models are compared on the same forecasts: each draw of the bootstrap takes the same forecasts for both. Windows of one
series that overlap, and the hours of a series with gaps, do not err independently, so they are drawn in blocks.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.rows import read_array

DRAWS = 1000
# metrics that are means over forecasts, so that forecasts can be drawn
METRICS = ("mase", "mae", "mse")
# more blocks than this are joined: it costs memory and changes nothing
MOST_BLOCKS = 500
# from fewer blocks no interval can be drawn that deserves the name
FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Losses:
    """Sum of the losses, and their number, by seed, block and component: ``(seed, block, component)``.

    A seed's score is their quotient over all blocks, mean over the components of which anything is known, as in
    ``benchmarks.metrics``; an imputation counts as one component.
    """

    total: np.ndarray
    count: np.ndarray
    seeds: tuple[int, ...]


def losses_of(folder: Path, cell: str, metric: str) -> np.ndarray | None:
    """Losses of all that a cell forecast or imputed, in the shape of the truth, NaN where nothing is scored."""
    values, truth = read_array(folder, cell, "values"), read_array(folder, cell, "truth")
    if values is None or truth is None:
        return None
    error = np.abs(values.astype(np.float64) - truth)
    if metric == "mse":
        return error**2
    if metric == "mase":
        scales = read_array(folder, cell, "scales")
        # a constant history has no scale
        return None if scales is None else error / np.where(scales > 0, scales, np.nan)[:, None, :]
    return error


def block_length(row: pd.Series, units: int) -> int:
    """Forecasts, or time steps of an imputation, that are drawn together."""
    if row["kind"] == "impute":
        length = max(24, 2 * int(row["season"]))
        length = min(length, units // FEWEST_BLOCKS)
    else:
        windows = units / max(int(row["n_series"]), 1)
        length = min(int(row["horizon"]), int(windows) // FEWEST_BLOCKS)
    return max(length, 1, -(-units // MOST_BLOCKS))


def block_losses(folder: Path, rows: pd.DataFrame, metric: str) -> Losses | None:
    """Losses of the cells of one model on one task, one cell a seed; None if one of them kept no forecasts."""
    rows = rows[rows["status"] == "ok"].sort_values("seed")
    if metric not in METRICS or rows.empty:
        return None
    totals, counts = [], []
    for _, row in rows.iterrows():
        losses = losses_of(folder, row["cell"], metric)
        if losses is None:
            return None
        losses = losses.reshape(len(losses), -1, 1 if row["kind"] == "impute" else losses.shape[-1])
        starts = np.arange(0, len(losses), block_length(row, len(losses)))
        totals.append(np.add.reduceat(np.nansum(losses, axis=1), starts))
        counts.append(np.add.reduceat((~np.isnan(losses)).sum(axis=1), starts))
    if len({total.shape for total in totals}) > 1:
        return None
    return Losses(np.stack(totals), np.stack(counts), tuple(rows["seed"]))


def ratio_interval(a: Losses | None, b: Losses | None, scores_a: np.ndarray, scores_b: np.ndarray) -> tuple:
    """Interval of the score of ``a`` over that of ``b``.

    ``scores_a`` and ``scores_b`` are the scores of the seeds; they alone are drawn where losses are not known, are of
    different forecasts, or of too few. NaN if there is nothing to draw from.
    """
    rng = np.random.default_rng(0)
    if a is not None and b is not None and FEWEST_BLOCKS <= a.total.shape[1] == b.total.shape[1]:
        blocks = a.total.shape[1]
        draws = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=DRAWS).astype(float)
        weights_a = _draw_seeds(rng, len(a.seeds))
        weights_b = weights_a if a.seeds == b.seeds else _draw_seeds(rng, len(b.seeds))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = _drawn_scores(a, draws, weights_a) / _drawn_scores(b, draws, weights_b)
    elif len(scores_a) > 1 or len(scores_b) > 1:
        ratios = (_draw_seeds(rng, len(scores_a)) @ scores_a) / (_draw_seeds(rng, len(scores_b)) @ scores_b)
    else:
        return float("nan"), float("nan")
    low, high = np.nanquantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _draw_seeds(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n


def _drawn_scores(losses: Losses, draws: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Score in each draw: the mean over the seeds drawn of the score over the blocks drawn."""
    total, count = (np.einsum("db,sbc->dsc", draws, part, optimize=True) for part in (losses.total, losses.count))
    known = count > 0
    scores = np.divide(total, count, out=np.zeros_like(total), where=known).sum(axis=2) / known.sum(axis=2)
    return (scores * weights).sum(axis=1)


class Ratios:
    """Ratios of scores within a folder; the losses that they need are read once."""

    def __init__(self, folder: Path, rows: pd.DataFrame):
        self.folder = folder
        self.rows = rows
        self._losses: dict[tuple[str, str, str], Losses | None] = {}

    def of(self, task: str, model: str) -> pd.DataFrame:
        """The finished cells of a model on a task."""
        rows = self.rows
        return rows[(rows["task"] == task) & (rows["model"] == model) & (rows["status"] == "ok")].sort_values("seed")

    def losses(self, task: str, model: str, metric: str) -> Losses | None:
        key = (task, model, metric)
        if key not in self._losses:
            self._losses[key] = block_losses(self.folder, self.of(task, model), metric)
        return self._losses[key]

    def __call__(self, task: str, model: str, against: str, metric: str | None = None) -> tuple[float, float, float]:
        """Score of a model over that of another one on a task, with its interval; NaN if one of them has none."""
        a, b = self.of(task, model), self.of(task, against)
        if a.empty or b.empty:
            return float("nan"), float("nan"), float("nan")
        metric = metric or a["metric"].iloc[0]
        scores_a, scores_b = a[metric].to_numpy(float), b[metric].to_numpy(float)
        losses = self.losses(task, model, metric), self.losses(task, against, metric)
        return float(scores_a.mean() / scores_b.mean()), *ratio_interval(*losses, scores_a, scores_b)
