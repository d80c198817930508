"""Where rows and forecasts are kept: a folder, or any place that fsspec can write to.

Each cell has files of its own, ``cells/<hash>.parquet`` and ``forecasts/<hash>.npz``; the forecasts are written first,
and either gets its name only when it is complete. So a run that is killed loses the cells in flight and nothing else.
"""

import io
import json
import os
import platform
import subprocess
import uuid
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("task", "kind", "dataset")]
    + [(name, pa.int64()) for name in ("horizon", "season")]
    + [(name, pa.string()) for name in ("metric", "baseline")]
    + [("random_walk", pa.bool_())]
    + [(name, pa.string()) for name in ("model", "family", "ablation_of")]
    + [("seed", pa.int64())]
    + [(name, pa.string()) for name in ("status", "error")]
    + [
        (name, pa.float64())
        for name in ("score", "mase", "smape", "mae", "mse", "rmse", "wql", "mre", "crps", "coverage_80")
    ]
    + [(name, pa.list_(pa.float64())) for name in ("error_by_step", "coverage")]
    + [(name, pa.float64()) for name in ("fit_seconds", "predict_seconds", "n_parameters")]
    + [(name, pa.int64()) for name in ("n_series", "n_forecasts")]
    + [(name, pa.string()) for name in ("notes", "cannot", "fingerprint", "code", "config", "budget", "cell")]
)
# what two runs of the same cell may differ in
# seeds are averaged over rows that agree in these
ONE_WAY = ["code", "config", "budget"]
TIMING = ("fit_seconds", "predict_seconds", "notes")


class Store:
    """The output of a run.

    Parameters
    ----------
    out
        Folder, or a URL of fsspec such as ``"s3://bucket/run"``.
    """

    def __init__(self, out: str | Path):
        self.out = str(out)
        self.fs, self.root = fsspec.core.url_to_fs(self.out)

    def used(self) -> bool:
        """Return whether there is anything in it."""
        return bool(self.fs.exists(self.root) and self.fs.ls(self.root))

    def write(self, name: str, content: bytes) -> None:
        """Write a file that is there as a whole or not at all."""
        path = f"{self.root}/{name}"
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(path, content)  # an object appears when its upload ends
            return
        part = f"{path}.{uuid.uuid4().hex}.part"
        Path(part).write_bytes(content)
        os.replace(part, path)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.fs.exists(f"{self.root}/{name}"):
            self.fs.rm(f"{self.root}/{name}")

    def write_cell(self, row: dict[str, Any], arrays: dict[str, np.ndarray] | None) -> None:
        """Write a row, and before it the forecasts that it was made from."""
        if set(row) != set(SCHEMA.names):
            raise ValueError(f"A row must have the columns of `SCHEMA`; differing: {set(row) ^ set(SCHEMA.names)}.")
        if arrays is not None:
            file = io.BytesIO()
            np.savez_compressed(file, **arrays)
            self.write(f"forecasts/{row['cell']}.npz", file.getvalue())
        self.write(f"cells/{row['cell']}.parquet", _parquet(pa.Table.from_pylist([row], schema=SCHEMA)))

    def cells(self) -> list[str]:
        """Return the hashes of the finished cells, the latest last."""
        if not self.fs.exists(f"{self.root}/cells"):
            return []
        files = [file for file in self.fs.ls(f"{self.root}/cells", detail=True) if file["name"].endswith(".parquet")]
        files.sort(key=lambda file: (str(file.get("mtime", file.get("LastModified", ""))), file["name"]))
        return [file["name"].rpartition("/")[2].removesuffix(".parquet") for file in files]

    def rows(self) -> pd.DataFrame:
        """Return all rows, the latest last."""
        tables = [self._table(cell) for cell in self.cells()]
        return (pa.concat_tables(tables) if tables else SCHEMA.empty_table()).to_pandas()

    def _table(self, cell: str) -> pa.Table:
        with self.fs.open(f"{self.root}/cells/{cell}.parquet", "rb") as file:
            return pq.read_table(file, schema=SCHEMA)

    def join(self, wanted: list[str]) -> pd.DataFrame:
        """Write ``rows.parquet`` and return it.

        It holds one row for each task, model and seed: that of a cell that is `wanted`, else the latest, and of a model
        on a task only rows of one code, settings and budget. What has been superseded stays in ``cells``.
        """
        rows = self.rows()
        rows = rows.iloc[np.argsort(rows["cell"].isin(wanted).to_numpy(), kind="stable")]
        latest = rows.groupby(["task", "model"])[ONE_WAY].transform("last")
        rows = rows[(rows[ONE_WAY].fillna("") == latest.fillna("")).all(axis=1)]
        rows = rows.drop_duplicates(["task", "model", "seed"], keep="last")
        rows = rows.sort_values(["task", "model", "seed"]).reset_index(drop=True)
        self.write("rows.parquet", _parquet(pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False)))
        return rows

    def write_manifest(self, **what: Any) -> None:
        """Write what the run was made with; a run that is resumed keeps the manifests before it as `earlier`."""
        path = f"{self.root}/manifest.json"
        earlier = []
        if self.fs.exists(path):
            before = json.loads(self.fs.cat_file(path))
            earlier = [*before.pop("earlier"), before]
        manifest = {**_machine(), **what, "earlier": earlier}
        self.write("manifest.json", json.dumps(manifest, indent=1).encode())


def _parquet(table: pa.Table) -> bytes:
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    return file.getvalue().to_pybytes()


def _machine() -> dict[str, Any]:
    revision = _git("rev-parse", "HEAD")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": revision,
        "dirty": bool(_git("status", "--porcelain")) if revision else None,
        "python": platform.python_version(),
        "packages": dict(sorted((one.name, one.version) for one in distributions())),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _git(*command: str) -> str | None:
    """Return what git says of this checkout, None for a copy without git."""
    try:
        done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
