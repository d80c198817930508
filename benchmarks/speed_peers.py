"""Peers that need a package or a checkout of their own, beside ours: ``python -m benchmarks run --suite speed``.

PyPOTS (the loop of BRITS with the same weights, and SAITS, another network for the same task), NeuralForecast (a fit of
its GRU) and the authors' GRIN. Where one is not there, its cases are listed as not run.
"""

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from pytorch_lightning.callbacks import Callback

from benchmarks import speed_brits, speed_grin
from benchmarks.models.pypots_imputers import library, silent, windows
from benchmarks.quiet import QUIET_TRAINER
from benchmarks.speed_windows import LONG, STEPS, interleaved, make, models
from birnn_forecast import BRITSModel


class Case(NamedTuple):
    """What is timed, beside whom: medians of seconds, and how far results of the same maths differ (else None)."""

    name: str
    peer: str
    seconds_of_peer: float
    seconds: float
    difference: float | None = None


def measure(repeats: int, grin: Path | None) -> Iterator[Case | str]:
    """Yield the cases, or the name of what cannot be run here and why."""
    if find_spec("pypots") is None:
        yield "BRITS and SAITS against PyPOTS: not run, PyPOTS is not installed"
    else:
        for features, length in speed_brits.SHAPES:
            name = f"BRITS, training step, {features} x {length}"
            yield Case(name, "PyPOTS BRITS", *two(speed_brits.compare(features, length, repeats)))
        yield Case("imputer's training step, 36 x 48", "PyPOTS SAITS", *interleaved(*saits_case(36, 48), repeats))
    if find_spec("neuralforecast") is None:
        yield "a fit against NeuralForecast: not run, NeuralForecast is not installed"
    else:
        yield Case("fit, 150 steps, batch 32", "NeuralForecast GRU", *interleaved(*neuralforecast_case(), repeats))
    if grin is None:
        yield "GRIN against its authors' code: not run, give a checkout by --grin-reference"
    else:
        found = speed_grin.compare(grin, repeats)
        assert found.reference is not None
        assert found.outputs is not None
        assert found.gradients is not None
        yield Case(
            "GRIN with feedback, training step",
            "authors' GRIN",
            found.reference,
            found.ours,
            max(found.outputs, found.gradients),
        )


def two(found: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Return both times and the largest difference."""
    peer, ours, estimates, gradients = found
    return peer, ours, max(estimates, gradients)


def neuralforecast_case(batch_size: int = 32) -> tuple[Callable[[], float], Callable[[], Any]]:
    """A fit on one long series with as many steps as an epoch of ours has; without the time to set it up."""
    with silent():
        from neuralforecast import NeuralForecast
        from neuralforecast.losses.pytorch import MSE
        from neuralforecast.models import GRU

    steps = STEPS[batch_size]
    series = make(LONG["input_chunk_length"] + LONG["output_chunk_length"] - 1 + batch_size * steps)
    table = pd.DataFrame({"unique_id": "a", "ds": np.arange(len(series)), "y": series.values()[:, 0]})

    def peer() -> float:
        with silent():
            model = GRU(
                h=LONG["output_chunk_length"],
                input_size=LONG["input_chunk_length"],
                encoder_hidden_size=LONG["hidden_dim"],
                encoder_n_layers=1,
                decoder_layers=1,
                decoder_hidden_size=16,
                loss=MSE(),
                max_steps=steps,
                batch_size=1,
                windows_batch_size=batch_size,
                scaler_type="standard",
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            start = time.process_time()
            NeuralForecast(models=[model], freq=1).fit(table)
            return time.process_time() - start

    return peer, lambda: models(**LONG, batch_size=batch_size)[1].fit(series)


class Keep(Callback):
    """Keeps the last batch."""

    batch: Any = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.batch = batch


def saits_case(features: int, length: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Whole training steps: of PyPOTS' SAITS with 64 units and two layers, and of BRITSModel with 64 units."""
    rows, size = speed_brits.BATCH, speed_brits.HIDDEN
    rng = np.random.default_rng(0)
    data = rng.normal(size=(length * rows + 1, features))
    data[rng.random(data.shape) < 0.25] = np.nan
    with silent():
        options = {"n_layers": 2, "d_model": size, "n_heads": 4, "d_k": size // 4, "d_v": size // 4, "d_ffn": 2 * size}
        saits = library().imputation.SAITS(
            n_steps=length, n_features=features, batch_size=rows, device="cpu", verbose=False, **options
        )
        from pypots.imputation.saits.data import DatasetForSAITS

        chunks = {"X": windows(data, length, length)[:rows]}
        loader = torch.utils.data.DataLoader(DatasetForSAITS(chunks, False, False), batch_size=rows)
        batch_of_peer = next(iter(loader))
    saits.model.train()

    def peer() -> None:
        inputs = saits._assemble_input_for_training(batch_of_peer)
        saits.optimizer.zero_grad()
        saits.model(inputs, calc_criterion=True)["loss"].sum().backward()
        saits.optimizer.step()

    keep = Keep()
    model = BRITSModel(
        length,
        1,
        hidden_dim=size,
        batch_size=rows,
        n_epochs=1,
        random_state=0,
        pl_trainer_kwargs=QUIET_TRAINER | {"callbacks": [keep], "max_steps": 1},
    )
    model.fit(TimeSeries.from_values(data.astype(np.float32)))
    module: Any = model.model.train()
    module.log = lambda *args, **kwargs: None
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def ours() -> None:
        optimizer.zero_grad()
        module.training_step(keep.batch, 0).backward()
        optimizer.step()

    return peer, ours
