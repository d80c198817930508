"""Reading a folder of results: its rows, its manifest, and the forecasts that the rows were scored on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.store import Store

# the best model of these families is what the others have to beat
CLASSICAL = ("statistical", "imputer", "baseline")


def read_rows(folder: Path) -> pd.DataFrame:
    """All rows of a folder; of a run that was killed, the rows of the cells that it had finished."""
    joined = folder / "rows.parquet"
    if joined.exists():
        return pd.read_parquet(joined)
    rows = Store(folder).rows()
    if rows.empty:
        raise ValueError(f"`{folder}` holds neither rows.parquet nor cells/*.parquet; was it written by `run --out`?")
    return rows.drop_duplicates(["task", "model", "seed"], keep="last").reset_index(drop=True)


def read_manifest(folder: Path) -> dict:
    """What the run was made with, or nothing if it was killed before it could say."""
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def read_array(folder: Path, cell: str, name: str) -> np.ndarray | None:
    """One array of a cell's forecasts, None if the cell has none."""
    path = folder / "forecasts" / f"{cell}.npz"
    if not path.exists():
        return None
    with np.load(path) as arrays:
        if name not in arrays or arrays[name].size == 0:
            return None
        return arrays[name]


def mean_scores(rows: pd.DataFrame, column: str = "score", impute: bool = True) -> pd.DataFrame:
    """Tasks x models, the mean over seeds.

    With ``impute``, a failed seed of a model that has others takes the baseline's score. What failed with all its seeds
    stays NaN, as does what was not run.
    """
    rows = rows[rows["status"] != "not run"]
    values = rows[column].astype(float)
    if impute:
        baseline = rows[rows["model"] == rows["baseline"]].groupby("task")[column].mean().astype(float)
        values = values.where(rows["status"] == "ok", rows["task"].map(baseline))
    some = rows.assign(ok=rows["status"] == "ok").groupby(["task", "model"])["ok"].transform("any")
    table = rows.assign(value=values.where(some)).pivot_table(
        index="task", columns="model", values="value", aggfunc="mean", dropna=False
    )
    # in the order in which tasks and models stand in the rows
    return table.reindex(index=rows["task"].unique(), columns=rows["model"].unique())


def best_classical(rows: pd.DataFrame) -> pd.Series:
    """For each task the name of the best statistical model, or classical imputer; tasks without one are left out."""
    table = mean_scores(rows[rows["family"].isin(CLASSICAL)], impute=False)
    table = table.dropna(how="all")
    return table.idxmin(axis=1) if len(table) else pd.Series(dtype=object)
