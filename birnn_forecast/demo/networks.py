"""The demo's two networks: the package's BiGRU on the series with its gaps, Darts' BlockRNN on the interpolated one."""

from math import ceil
from typing import Any

import torch
from darts import TimeSeries
from darts.models import BlockRNNModel
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel
from darts.utils.likelihood_models.torch import QuantileRegression
from pytorch_lightning import Callback

from birnn_forecast.demo.data import HORIZON, LATE_WEEKS
from birnn_forecast.demo.forecasters import QUANTILES, Forecaster, Tick, interpolated
from birnn_forecast.models import BiGRUModel

# Settings were chosen on 13 origins from 1995-12 to 1998-12, fitted once on the weeks before 1996, with gaps as in the
# demo. Mean absolute error in ppm:
# BiGRU, 18 epochs: masking rate .2 (as below), seeds 0, 1, 2 .70 .71 .72; seed 0 with .1 .78, .5 .87, 0 .83; with gaps
#   filled along the season .79 .82 .78. Before there was masking, on two copies with
#   more gaps and 6 epochs .78, on one copy and 8 epochs .81; that with a learning rate of .005 .82, of .02 .86,
#   with dropout .82, with skip="seasonal" .88. With an earlier decoder, where it had .75: batches of 128 .81, 48 units
#   .80, an input of 156 weeks .90, attention pooling .75 in half as much time again.
# BlockRNN, seeds 0, 1, 2: 30 epochs .81 .84 .84; seed 0: 16 epochs .87, 8 epochs .94; 16 epochs with a learning rate of
#   .003 .93, with 64 units .86.
# The other models there: UnobservedComponents .65, Holt-Winters .77, seasonal naive 2.13.
INPUT_WEEKS = 104
BATCH_SIZE = 64


class BiGRU(Forecaster):
    """The package's ``BiGRUModel``; NaN is an ordinary input."""

    name = "BiGRU (this package)"
    gaps = "as they are"
    plotted = True

    def __init__(self, epochs: int | None = None, seed: int = 0):
        self.epochs = epochs or 18
        self.seed = seed

    @property
    def steps(self) -> int:
        """One tick an epoch."""
        return self.epochs

    def fit(self, train: TimeSeries, tick: Tick) -> None:
        """Train on the series as it is."""
        self.model = BiGRUModel(
            INPUT_WEEKS,
            HORIZON,
            hidden_dim=32,
            skip="linear",
            masking_rate=0.2,
            **network_params(self.epochs, self.seed, n_batches(train, HORIZON), tick),
        )
        self.model.fit(train)

    def forecast(self, histories: list[TimeSeries], tick: Tick) -> list[TimeSeries]:
        """Return the quantiles, with the weights as they are."""
        forecasts = self.model.predict(HORIZON, series=histories, predict_likelihood_parameters=True)
        for _ in histories:
            tick()
        return forecasts


class BlockRNN(Forecaster):
    """Darts' ``BlockRNNModel`` with the same input, loss, optimiser and reversible instance normalisation."""

    name = "Darts BlockRNN (GRU)"
    gaps = "interpolated, end cut"

    def __init__(self, epochs: int | None = None, seed: int = 0):
        self.epochs = epochs or 30
        self.seed = seed

    @property
    def steps(self) -> int:
        """One tick an epoch."""
        return self.epochs

    def fit(self, train: TimeSeries, tick: Tick) -> None:
        """Train on the interpolated series, to forecast the weeks that are late as well."""
        series, horizon = interpolated(train), HORIZON + LATE_WEEKS
        self.model: TorchForecastingModel = BlockRNNModel(
            INPUT_WEEKS,
            horizon,
            model="GRU",
            hidden_dim=32,
            use_reversible_instance_norm=True,
            **network_params(self.epochs, self.seed, n_batches(series, horizon), tick),
        )
        self.model.fit(series)

    def forecast(self, histories: list[TimeSeries], tick: Tick) -> list[TimeSeries]:
        """Return the quantiles, with the weights as they are."""
        forecasts = self.model.predict(
            HORIZON + LATE_WEEKS, series=[interpolated(h) for h in histories], predict_likelihood_parameters=True
        )
        for _ in histories:
            tick()
        return [forecast[-HORIZON:] for forecast in forecasts]


def network_params(epochs: int, seed: int, batches: int, tick: Tick) -> dict[str, Any]:
    """Return the parameters that both networks share."""
    return {
        "likelihood": QuantileRegression(QUANTILES),
        "n_epochs": epochs,
        "batch_size": BATCH_SIZE,
        "random_state": seed,
        "optimizer_kwargs": {"lr": 1e-2},
        "lr_scheduler_cls": torch.optim.lr_scheduler.OneCycleLR,
        "lr_scheduler_kwargs": {"max_lr": 1e-2, "total_steps": epochs * batches, "interval": "step"},
        "pl_trainer_kwargs": {
            "accelerator": "cpu",
            "callbacks": [EpochTick(tick)],
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "gradient_clip_val": 1.0,
            "logger": False,
        },
    }


def n_batches(series: TimeSeries, horizon: int) -> int:
    """Return the number of batches of one epoch."""
    return ceil((len(series) - INPUT_WEEKS - horizon + 1) / BATCH_SIZE)


class EpochTick(Callback):
    """Moves the demo's progress bar on after each epoch."""

    def __init__(self, tick: Tick):
        self.tick = tick

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        """Tick."""
        self.tick()
