"""Train on many workers with Ray Train, lose one of them, and predict on one machine.

    python examples/03_many_machines.py [folder for the results] [address of a Ray cluster]

Runs in about two minutes on a CPU: two workers on this machine, or those of a cluster, which must all reach the folder
(a shared file system). Training is shared; prediction is not: it needs no other machine, only the saved model. Needs
`pip install 'birnn-forecast[ray]'`. Nothing is downloaded: the series are generated.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import ray
import ray.train
from darts import TimeSeries
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchConfig, TorchTrainer

from birnn_forecast import BiGRUModel

WEEK = 7


def make_series(shops: int = 40, days: int = 20 * WEEK) -> list[TimeSeries]:
    """Return the daily sales of shops, a tenth of them missing."""
    times, found = pd.date_range("2024-01-01", periods=days), []
    for shop in range(shops):
        rng = np.random.default_rng(shop)
        week = rng.gamma(20, 1, WEEK)
        values = np.tile(week, days // WEEK) * np.linspace(1, rng.uniform(0.8, 1.3), days) + rng.normal(0, 1, days)
        values[rng.random(days) < 0.1] = np.nan
        found.append(TimeSeries.from_times_and_values(times, values[:, None].astype(np.float32)))
    return found


class Curve(pl.Callback):
    """Writes the loss of each epoch, and when asked to ends its own process, once, as a machine that fails would."""

    def __init__(self, folder: Path, dies_in: int | None):
        self.path, self.died, self.dies_in = folder / "curve.jsonl", folder / "died", dies_in

    def on_train_epoch_end(self, trainer, module):
        if trainer.is_global_zero:
            line = {"epoch": trainer.current_epoch, "loss": float(trainer.callback_metrics["train_loss"])}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        elif trainer.current_epoch == self.dies_in and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def train(config: dict) -> None:
    """Train: each worker runs this, on all series, of whose windows it gets its share."""
    folder = Path(config["folder"])
    model = BiGRUModel(
        4 * WEEK,
        2 * WEEK,
        hidden_dim=16,
        season_length=WEEK,
        batch_size=32,  # a worker
        n_epochs=config["n_epochs"],
        random_state=0,
    )
    trainer = pl.Trainer(
        max_epochs=config["n_epochs"],
        accelerator="auto",
        devices="auto",
        strategy=RayDDPStrategy(),
        # the report saves a checkpoint after every epoch; it comes last
        callbacks=[Curve(folder, config["dies_in"]), RayTrainReportCallback()],
        plugins=[RayLightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        gradient_clip_val=1.0,
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:  # after a failure
        model.load_ckpt_path = os.path.join(checkpoint.to_directory(), RayTrainReportCallback.CHECKPOINT_NAME)
    model.fit(make_series(), trainer=prepare_trainer(trainer))
    # all workers save, which they do together, and the first worker's is kept
    first = ray.train.get_context().get_world_rank() == 0
    with tempfile.TemporaryDirectory() as elsewhere:
        model.save(str((folder if first else Path(elsewhere)) / "model.pt"), clean=True)


def main(out: Path, n_epochs: int = 6, dies_in: int | None = 3, address: str | None = None, workers: int = 2) -> None:
    # 1. The cluster: the one at the address, or one on this machine.
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **({} if address else {"num_cpus": workers}))

    # 2. Train. A worker is killed in an epoch: all of them start again, from the newest checkpoint.
    folder = Path(tempfile.mkdtemp(prefix="run_", dir=out))
    trainer = TorchTrainer(
        train,
        train_loop_config={"folder": str(folder), "n_epochs": n_epochs, "dies_in": dies_in},
        torch_config=TorchConfig(backend="gloo"),  # "nccl" for GPUs
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=False),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    trainer.fit()
    ray.shutdown()
    curve = pd.read_json(folder / "curve.jsonl", lines=True)
    killed = "one was killed" if (folder / "died").exists() else "none was killed"
    again = int(curve["epoch"].duplicated().sum())
    print(f"{workers} workers, {n_epochs} epochs; {killed}, {again} epochs ran twice.")
    first, last = curve["loss"].iloc[[0, -1]]
    print(f"Loss of the last batch: {first:.2f} in the first epoch, {last:.2f} in the last.")

    # 3. Predict, here: on one machine, in one process, without Ray.
    model = BiGRUModel.load(str(folder / "model.pt"), pl_trainer_kwargs={"logger": False})
    series = make_series()
    forecasts = model.predict(2 * WEEK, series, verbose=False)
    print(f"{len(forecasts)} forecasts of {len(forecasts[0])} days on one machine.")

    # 4. Plot.
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
    left.plot(curve["loss"].to_numpy(), "o-")
    left.set(title="Loss, as the epochs ran", xlabel="run", ylabel="loss of the last batch")
    left.set_xticks(range(len(curve)), [f"epoch {epoch}" for epoch in curve["epoch"]], rotation=45)
    series[0][-6 * WEEK :].plot(ax=right, label="sales of shop 0")
    forecasts[0].plot(ax=right, label="forecast")
    right.figure.tight_layout()
    right.figure.savefig(out / "many_machines.png", dpi=100)
    print(f"Plot: {out / 'many_machines.png'}")


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path("birnn_forecast_demo"),
        address=sys.argv[2] if len(sys.argv) > 2 else None,
    )
