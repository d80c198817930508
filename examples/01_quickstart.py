"""Forecast a series with gaps: fit, predict, plot, backtest. Runs in less than a minute on a CPU.

    python examples/01_quickstart.py [folder for the plot]

Nothing is downloaded: the series ships with statsmodels.
"""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
from darts import TimeSeries
from darts.metrics import mase, mic
from darts.utils.likelihood_models import QuantileRegression
from statsmodels.datasets import co2

from birnn_forecast import BiGRUModel
from birnn_forecast.plots import plot_forecast
from birnn_forecast.training import trainer_kwargs

QUANTILES = [0.1, 0.25, 0.5, 0.75, 0.9]
HORIZON = 12
TEST = 24


# Lightning's remarks on the machine
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"pytorch_lightning|torch\.")


def main(out: Path, n_epochs: int = 20) -> None:
    # 1. A series with gaps: monthly CO2 at Mauna Loa. Five months are missing; we hide one to five more every 17
    # months, and the last two before the forecast. The last two years are for the test.
    frame = co2.load_pandas().data.resample("MS").mean()
    complete = TimeSeries.from_times_and_values(frame.index, frame.to_numpy(np.float32), columns=["co2"])
    values = complete.values(copy=True)
    rng = np.random.default_rng(1)
    for start in range(10, len(values) - TEST - 12, 17):
        values[start : start + rng.integers(1, 6)] = np.nan
    values[-TEST - 2 : -TEST] = np.nan
    series = complete.with_values(values)
    train = series[:-TEST]
    print(f"{len(train)} months, {int(np.isnan(train.values()).sum())} of them missing, the last two among them.")

    # 2. Fit. NaN needs no preparation; the band comes from Darts' quantile regression.
    model = BiGRUModel(
        input_chunk_length=36,
        output_chunk_length=HORIZON,
        hidden_dim=16,
        likelihood=QuantileRegression(QUANTILES),
        n_epochs=n_epochs,
        random_state=0,
        optimizer_kwargs={"lr": 1e-2},
        pl_trainer_kwargs=trainer_kwargs("cpu", progress_bar=False) | {"logger": False},
    )
    model.fit(train)

    # 3. Predict, as quantiles (or as samples: `num_samples=500`).
    forecast = model.predict(HORIZON, predict_likelihood_parameters=True)
    print(f"MASE of the next {HORIZON} months: {mase(complete, forecast, train, m=12, q=0.5):.2f}")

    # 4. Plot: gaps shaded, 80 % band, what came as dots.
    axes = plot_forecast(train[-120:], forecast, complete[-TEST : HORIZON - TEST], ylabel="CO$_2$ (ppm)")
    out.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(out / "quickstart.png", dpi=100)
    print(f"Plot: {out / 'quickstart.png'}")

    # 5. Backtest with the weights as they are, through the gaps, over the last two years.
    forecasts = model.historical_forecasts(
        series,
        start=-TEST,
        start_format="position",
        forecast_horizon=HORIZON,
        stride=2,
        retrain=False,
        last_points_only=False,
        predict_likelihood_parameters=True,
    )
    errors = [mase(complete, f, series, m=12, q=0.5) for f in forecasts]
    coverage = [mic(complete, f, q_interval=(0.1, 0.9)) for f in forecasts]
    print(f"{len(forecasts)} forecasts of {HORIZON} months: MASE {np.mean(errors):.2f} on average,")
    print(f"and {np.mean(coverage):.0%} of what was observed lies in the 80 % band.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("birnn_forecast_demo"))
