"""What the demo says: the scores of each model, a table of them, and who wins."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from darts import TimeSeries
from darts import metrics as darts_metrics

from birnn_forecast.demo.data import SEASON, Task
from birnn_forecast.demo.forecasters import QUANTILES

BAND = (0.1, 0.9)
TIE = 0.05


class Score(NamedTuple):
    """Means over all forecasts of one model; None where it states no uncertainty.

    Attributes
    ----------
    mase
        Mean absolute error of the median, by that of the seasonal naive forecast in the history (observed pairs only).
    smape
        Symmetric mean absolute percentage error of the median, in percent.
    wql
        Weighted quantile loss: twice the pinball loss, mean over the quantiles, by the mean observed value; in percent.
    coverage
        Percentage of what was observed that lies in the 80 % band.
    """

    mase: float
    smape: float
    wql: float | None
    coverage: float | None


def score(forecasts: Sequence[TimeSeries], task: Task) -> Score:
    """Score quantile forecasts, one for each origin, with Darts' metrics."""
    truths, forecasts = list(task.truths), list(forecasts)
    mase = darts_metrics.mase(truths, forecasts, task.histories, m=SEASON, q=0.5)
    smape = darts_metrics.smape(truths, forecasts, q=0.5)
    if forecasts[0].n_components == 1:
        return Score(float(np.mean(mase)), float(np.mean(smape)), None, None)
    loss = np.mean(darts_metrics.mql(truths, forecasts, q=QUANTILES))
    level = np.mean([np.abs(truth.values()).mean() for truth in truths])
    coverage = darts_metrics.mic(truths, forecasts, q_interval=BAND)
    return Score(float(np.mean(mase)), float(np.mean(smape)), 100 * float(loss / level), 100 * float(np.mean(coverage)))


class Row(NamedTuple):
    """One line of the table."""

    name: str
    gaps: str
    score: Score
    seconds: float


HEADER = ("model", "gaps", "MASE", "sMAPE %", "WQL %", "80 % band covers", "seconds")


def table(rows: Sequence[Row]) -> str:
    """Return the table, best MASE first, the best of each column marked with a star."""
    rows = sorted(rows, key=lambda row: row.score.mase)
    columns = [[row.name for row in rows], [row.gaps for row in rows]]
    for values, form in (
        ([row.score.mase for row in rows], "{:.3f}"),
        ([row.score.smape for row in rows], "{:.3f}"),
        ([row.score.wql for row in rows], "{:.4f}"),
    ):
        columns.append(starred(values, values, form))
    coverages = [row.score.coverage for row in rows]
    columns.append(starred(coverages, [None if c is None else abs(c - 80) for c in coverages], "{:.0f} %"))
    columns.append([f"{row.seconds:.1f}" for row in rows])
    return lay_out(HEADER, columns, n_names=2)


def verdict(rows: Sequence[Row]) -> str:
    """Return a sentence that names the winner by MASE, and who is so near that it is a tie."""
    winner, *others = sorted(rows, key=lambda row: row.score.mase)
    near = [row.name for row in others if row.score.mase < (1 + TIE) * winner.score.mase]
    if not near:
        return f"{winner.name} wins by MASE."
    names = " and ".join(near)
    return f"{winner.name} has the best MASE, with {names} within {100 * TIE:.0f} % of it: on one series, a tie."


def starred(values: Sequence[float | None], badness: Sequence[float | None], form: str) -> list[str]:
    """Return the values as text, with a star where the badness is least."""
    best = min((b for b in badness if b is not None), default=None)
    return [
        "-" if value is None else form.format(value) + ("*" if bad == best else "")
        for value, bad in zip(values, badness, strict=True)
    ]


def lay_out(header: Sequence[str], columns: Sequence[Sequence[str]], n_names: int) -> str:
    """Return a table of columns, the first `n_names` of which hold names."""
    lines = [list(header), *(list(line) for line in zip(*columns, strict=True))]
    widths = [max(len(line[column].rstrip("* ")) for line in lines) for column in range(len(header))]
    return "\n".join(_line(line, widths, n_names) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], n_names: int) -> str:
    """Names to the left, numbers to the right; a star stands in the space between the columns."""
    out = [cell.ljust(width) for cell, width in zip(cells[:n_names], widths[:n_names], strict=True)]
    for cell, width in zip(cells[n_names:], widths[n_names:], strict=True):
        number, star = cell.removesuffix("*"), "*" if cell.endswith("*") else " "
        out.append(number.rjust(width) + star)
    return "  ".join(out).rstrip()
