"""Search hyper-parameters with Ray Tune: trials side by side, and those that fall behind are stopped early.

    python examples/04_search.py [folder for the results] [address of a Ray cluster]

Runs in about two minutes on a CPU. Needs `pip install 'birnn-forecast[ray]'`. Nothing is downloaded: the series ships
with statsmodels.
"""

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
import ray
from darts import TimeSeries
from ray import tune
from statsmodels.datasets import co2

from birnn_forecast import BiGRUModel
from birnn_forecast.training import trainer_kwargs

HORIZON = 12
SPACE = {"hidden_dim": tune.choice([4, 8, 16, 32]), "lr": tune.loguniform(1e-4, 3e-2)}


class Report(pl.Callback):
    """Tells Ray Tune how well a trial does after each epoch, which may end it."""

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            tune.report({"val_loss": float(trainer.callback_metrics["val_loss"])})


def make_model(hidden_dim: int, lr: float, n_epochs: int, callbacks: list) -> BiGRUModel:
    return BiGRUModel(
        36,
        HORIZON,
        hidden_dim=hidden_dim,
        n_epochs=n_epochs,
        random_state=0,
        optimizer_kwargs={"lr": lr},
        pl_trainer_kwargs=trainer_kwargs("cpu", progress_bar=False, callbacks=callbacks) | {"logger": False},
    )


def trial(config: dict, train: TimeSeries, validation: TimeSeries, n_epochs: int) -> None:
    make_model(**config, n_epochs=n_epochs, callbacks=[Report()]).fit(train, val_series=validation)


def main(out: Path, n_epochs: int = 8, trials: int = 6, address: str | None = None, jobs: int = 2) -> None:
    # 1. Monthly CO2 with its gaps: the last years choose, the last months are forecast.
    frame = co2.load_pandas().data.resample("MS").mean()
    series = TimeSeries.from_times_and_values(frame.index, frame.to_numpy(np.float32), columns=["co2"])
    train, validation = series[:-132], series[-168:-HORIZON]

    # 2. Search. A trial that is not among the better half after 2 and 4 epochs ends there.
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **({} if address else {"num_cpus": jobs}))
    tuner = tune.Tuner(
        tune.with_parameters(trial, train=train, validation=validation, n_epochs=n_epochs),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=trials,
            search_alg=tune.search.BasicVariantGenerator(random_state=0),
            scheduler=tune.schedulers.ASHAScheduler(max_t=n_epochs, grace_period=min(2, n_epochs), reduction_factor=2),
        ),
        run_config=tune.RunConfig(name="search", storage_path=tempfile.mkdtemp(prefix="run_", dir=out), verbose=0),
    )
    results = tuner.fit()
    ray.shutdown()
    best = results.get_best_result()
    for result in sorted(results, key=lambda result: result.metrics["val_loss"]):
        epochs, loss = result.metrics["training_iteration"], result.metrics["val_loss"]
        stopped = "stopped early" if epochs < n_epochs else ""
        print(
            f"val_loss {loss:8.4f} after {epochs} epochs, hidden_dim {result.config['hidden_dim']:2d}, "
            f"lr {result.config['lr']:.4f} {stopped}"
        )

    # 3. Fit the best one to all there is, and forecast.
    model = make_model(**best.config, n_epochs=n_epochs, callbacks=[]).fit(series[:-HORIZON])
    forecast = model.predict(HORIZON)
    error = np.nanmean(np.abs(forecast.values() - series[-HORIZON:].values()))
    print(f"Best: {best.config}. Mean absolute error of the last {HORIZON} months: {error:.2f} ppm")

    # 4. Plot.
    _, axes = plt.subplots(figsize=(7, 3.5))
    for result in results:
        table = result.metrics_dataframe
        label = f"{result.config['hidden_dim']} units, lr {result.config['lr']:.4f}"
        axes.semilogy(table["training_iteration"], table["val_loss"], "o-", label=label)
    axes.set(title="Trials", xlabel="epoch", ylabel="val_loss")
    axes.legend()
    axes.figure.savefig(out / "search.png", dpi=100)
    print(f"Plot: {out / 'search.png'}")


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path("birnn_forecast_demo"),
        address=sys.argv[2] if len(sys.argv) > 2 else None,
    )
