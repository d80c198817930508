"""Impute series with gaps: fill, score, put it into a pipeline, find anomalies, several series that know of each other.

    python examples/02_impute.py [folder for the plot]

Runs in less than two minutes on a CPU. Nothing is downloaded: the series are generated.
"""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.ad import FilteringAnomalyModel, NormScorer
from darts.dataprocessing.pipeline import Pipeline
from darts.dataprocessing.transformers import Scaler
from darts.utils.likelihood_models import QuantileRegression

from birnn_forecast import BiGRUModel, GRINModel
from birnn_forecast.imputation import BidirectionalFilter, Imputer, compare_imputers, evaluate_imputer, make_missing
from birnn_forecast.plots import plot_imputation
from birnn_forecast.training import trainer_kwargs

DAY = 24
STATIONS = ["north", "east", "south", "west"]
QUANTILES = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]

# Lightning's remarks on the machine
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"pytorch_lightning|torch\.")


def temperatures(days: int = 45, seed: int = 0) -> TimeSeries:
    """Return hourly temperatures of four stations: the weather they share, a day of their own, and noise."""
    rng = np.random.default_rng(seed)
    hours = np.arange(days * DAY)
    weather, own = np.zeros(len(hours)), np.zeros((len(hours), len(STATIONS)))
    for hour in hours[1:]:
        weather[hour] = 0.98 * weather[hour - 1] + rng.normal(0, 0.5)
        own[hour] = 0.9 * own[hour - 1] + rng.normal(0, 0.25, len(STATIONS))
    cycle = np.sin(2 * np.pi * (hours[:, None] - np.array([9, 9.5, 10, 10.5])) / DAY)
    values = 12 + weather[:, None] + np.array([3, 4, 5, 4]) * cycle + own + rng.normal(0, 0.2, own.shape)
    times = pd.date_range("2024-05-01", periods=len(hours), freq="h")
    return TimeSeries.from_times_and_values(times, values.astype(np.float32), columns=STATIONS)


def settings(n_epochs: int) -> dict:
    """Return the parameters that both models share."""
    return {
        "season_length": DAY,
        "likelihood": QuantileRegression(QUANTILES),
        "n_epochs": n_epochs,
        "random_state": 0,
        "pl_trainer_kwargs": trainer_kwargs("cpu", progress_bar=False) | {"logger": False},
    }


def bigru(n_epochs: int) -> BiGRUModel:
    return BiGRUModel(3 * DAY, DAY // 2, masking_rate=0.5, optimizer_kwargs={"lr": 5e-3}, **settings(n_epochs))


def main(out: Path, n_epochs: int = 10) -> None:
    # 1. Series with gaps: outages of 6 to 30 hours, station by station.
    complete = temperatures()
    series = make_missing(complete, "blocks", rate=0.15, random_state=1, block_length=(6, 30))
    north = series["north"]
    print(f"{len(north)} hours at the station north, {int(np.isnan(north.values()).sum())} of them missing.")

    # 2. Fit and impute. Observed values stay bit by bit; with quantiles, each missing value has a distribution.
    model = bigru(n_epochs)
    model.fit(north)
    filled = model.impute(north)
    quantiles = model.impute(north, predict_likelihood_parameters=True)
    short_only = model.impute(north, max_gap=12)
    error = np.abs(filled.values() - complete["north"].values())[np.isnan(north.values())]
    print(f"Mean absolute error: {error.mean():.2f} degrees; {int(np.isnan(short_only.values()).sum())} hours in gaps")
    print("longer than 12 hours stay missing with max_gap=12.")

    # 3. Plot: gaps shaded, 80 % band, the truth as dots.
    first = int(np.flatnonzero(np.isnan(north.values()[200:]))[0]) + 200 - 2 * DAY
    part = slice(max(first, 0), max(first, 0) + 8 * DAY)
    axes = plot_imputation(north[part], quantiles[part], complete["north"][part], ylabel="degrees")
    out.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(out / "impute.png", dpi=100)
    print(f"Plot: {out / 'impute.png'}")

    # 4. How good is it on your own data? Without a truth, hide further values: a copy is fitted to what is left.
    columns = ["mae", "crps", "coverage_80", "seconds"]
    scores = compare_imputers(
        {"BiGRU": bigru(n_epochs)}, north, "blocks", 0.2, random_state=2, block_length=(6, 30), season_length=DAY
    )
    print(f"\n{scores[columns].round(3)}\n")

    # 5. As a step of a Darts pipeline: fill, then scale.
    scaled = Pipeline([Imputer(model), Scaler()]).fit_transform(north)
    print(f"Filled and scaled: {np.nanmin(scaled.values()):.2f} to {np.nanmax(scaled.values()):.2f}, no gap left.")

    # 6. Anomalies: each value against what all the others say of it. Three hours are off by 4 degrees.
    values = north.values(copy=True)
    wrong = pd.DatetimeIndex(["2024-05-12 10:00", "2024-05-21 22:00", "2024-06-08 04:00"])
    values[[north.get_index_at_point(hour) for hour in wrong]] += 4
    detector = FilteringAnomalyModel(model=BidirectionalFilter(model), scorer=NormScorer())
    anomaly = detector.score(north.with_values(values))
    highest = anomaly.time_index[np.argsort(np.nan_to_num(anomaly.values()[:, 0]))[-3:]]
    print(f"Wrong hours:                  {', '.join(f'{hour:%d %b %H:%M}' for hour in wrong)}")
    print(f"The three highest scores are: {', '.join(f'{hour:%d %b %H:%M}' for hour in sorted(highest))}")

    # 7. Components that know of each other: one node each, gated directions, messages along their correlations.
    epochs = (n_epochs + 1) // 2
    grin = GRINModel(3 * DAY, 1, batch_size=16, hidden_dim=16, optimizer_kwargs={"lr": 5e-3}, **settings(epochs))
    grin.fit(series)
    scores = evaluate_imputer(grin, complete, hidden=series, season_length=DAY)
    print(f"\nGRIN on all four stations, by the length of the gap in hours:\n{scores.round(2).T}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("birnn_forecast_demo"))
