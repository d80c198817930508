"""GRINModel's forecasts: by its decoder, or by taking the horizon for a gap and imputing it.

`python -m benchmarks.grin_forecast --data-dir DIR` trains GRINModel for the given CPU seconds on the training part of
complete series and prints the MAE of both, and of the seasonal naive forecast, over origins in the validation part.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from darts import TimeSeries
from darts.metrics import mae
from darts.models import NaiveSeasonal

from benchmarks.imputation import CHUNKS, DATA
from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast import GRINModel
from birnn_forecast.budget import TimeBudget

SETS, ORIGINS = ("ETTh1", "taylor", "exchange_rate"), 20


def with_gap(series: TimeSeries, steps: int) -> TimeSeries:
    """Return the series with `steps` missing ones after its end."""
    return series.append_values(np.full((steps, series.n_components), np.nan, dtype=series.dtype))


def run(name: str, folder: Path, seconds: float, seed: int) -> dict[str, float]:
    """Return the mean errors of the three forecasts on one data set."""
    data = DATA[name](folder)
    series = data.series
    ends = [int(end if end > 1 else end * len(series)) for end in data.splits]
    values = series.values()
    series = series.with_values((values - values[: ends[0]].mean(axis=0)) / values[: ends[0]].std(axis=0))
    season = data.season or 1
    horizon = data.season or 24
    chunk, batch = CHUNKS[series.freq_str]
    model = GRINModel(
        chunk,
        horizon,
        season_length=data.season,
        batch_size=batch,
        n_epochs=100_000,
        random_state=seed,
        loss_fn=torch.nn.L1Loss(),
        optimizer_kwargs={"lr": 4e-3},
        pl_trainer_kwargs=QUIET_TRAINER
        | {
            "gradient_clip_val": 1.0,
            "callbacks": [TimeBudget(seconds)],
        },
    )
    model.fit(series[: ends[0]])
    errors: dict[str, list[float]] = {"decoder": [], "gap": [], "seasonal naive": []}
    for origin in np.linspace(ends[0], ends[1] - horizon, ORIGINS).astype(int):
        history, truth = series[origin - chunk : origin], series[origin : origin + horizon]
        errors["decoder"].append(mae(truth, model.predict(horizon, history)))
        imputed = model.impute(with_gap(history[horizon:], horizon), calibrate=False)
        errors["gap"].append(mae(truth, imputed[-horizon:]))
        naive = [NaiveSeasonal(season).fit(history[c]).predict(horizon).values() for c in history.components]
        errors["seasonal naive"].append(mae(truth, truth.with_values(np.concatenate(naive, axis=1))))
    return {kind: float(np.mean(found)) for kind, found in errors.items()}


def main(arguments: list[str] | None = None) -> int:
    """Print a line per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with quiet():
        for name in args.sets:
            row = run(name, args.data_dir, args.seconds, args.seed)
            print(f"{name:16s}", *(f"{kind} {value:.3f}" for kind, value in row.items()), sep="  ", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
