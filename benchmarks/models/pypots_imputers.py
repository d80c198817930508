"""Peers of PyPOTS for imputation: BRITS and SAITS, by the protocol of `benchmarks.models.imputers`.

Windows are as long as those of ours, the last tenth of each training part is for validation, the learning rate rises
and falls along a cosine over the budget, and the best weights are put back. Values are standardised by the training
parts. To fill, windows overlap by half, and each step is read from the window in which it is farthest from an end.

PyPOTS goes through a fixed set of windows in epochs and validates after each, so the budget is kept in whole epochs:
training ends when one more would exceed it.
"""

import importlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib.metadata import version
from io import BytesIO, TextIOWrapper
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from darts import TimeSeries

from benchmarks.interface import Answer, Budget, ImputationView, Model
from benchmarks.models.common import cpu_seconds
from benchmarks.models.imputers import chunk_and_batch, joined, split
from benchmarks.models.nets import GRADIENT_CLIP, INTERVAL, PATIENCE
from benchmarks.quiet import quiet
from birnn_forecast.data.windows import window_starts

INSTALL = "pip install 'pypots==1.5' 'transformers>=4.57' 'huggingface_hub<1'"
# Windows of a batch, and the learning rate: the best tried on validation data of ETTh1, 25 % points, 40 CPU s.
# Batches of 32 with PyPOTS' rate of 1e-3 are far behind in that time. BRITS gains hardly any steps by smaller batches.
BATCHES, LEARNING_RATES = {"BRITS": 32, "SAITS": 8}, {"BRITS": 1e-2, "SAITS": 4e-3}
OVERLAP = 4  # training windows that a step is in
WARMUP = 0.05


class PyPOTS(NamedTuple):
    """What is used of the library."""

    imputation: Any
    adam: Any
    set_random_seed: Any


def library() -> PyPOTS:
    """Import PyPOTS without its banner and without the settings that it would write into the home folder."""
    try:
        with redirect_stdout(TextIOWrapper(BytesIO(), "utf-8")), tempfile.TemporaryDirectory() as folder:
            with mock.patch.dict(os.environ, HOME=folder, USERPROFILE=folder):
                importlib.import_module("tsdb")
            imputation, optim, random = (
                importlib.import_module(f"pypots.{name}") for name in ("imputation", "optim", "utils.random")
            )
    except ImportError as error:
        reason = str(error).splitlines()[0].partition(" (/")[0]  # without the paths of this machine
        raise ImportError(f"PyPOTS is needed for this model ({reason}): {INSTALL}") from error
    return PyPOTS(imputation, optim.Adam, random.set_random_seed)


@contextmanager
def silent() -> Iterator[None]:
    """Silence all below errors: PyPOTS sets the levels of its loggers anew with each model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class Progress:
    """How much of the budget is spent, in CPU seconds or in steps."""

    def __init__(self, budget: Budget):
        self.budget, self.started = budget, cpu_seconds()
        self.steps = self.epochs = 0

    @property
    def share(self) -> float:
        """Share of the budget that is spent."""
        if self.budget.steps is not None:
            return self.steps / self.budget.steps
        return (cpu_seconds() - self.started) / (self.budget.seconds or 1.0)

    @property
    def factor(self) -> float:
        """Factor of the learning rate for the coming step."""
        share = self.share
        if self.budget.steps is not None:
            share = (self.steps + 1) / (self.budget.steps + 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) * min(1.0, share / WARMUP)

    def ended_epoch(self) -> bool:
        """Count an epoch and return whether another one would exceed the budget."""
        self.epochs += 1
        return self.share * (self.epochs + 1) / self.epochs > 1


def net(found: PyPOTS, cls: str, progress: Progress, batches: int, **options: Any) -> Any:
    """Return a net of PyPOTS that trains until the budget is spent."""

    class Adam(found.adam):
        """Adam with the learning rate of the protocol, and clipped gradients."""

        def step(self, closure: Any = None) -> None:
            for group in self.torch_optimizer.param_groups:
                group["lr"] = self.lr * progress.factor
                torch.nn.utils.clip_grad_norm_(group["params"], GRADIENT_CLIP)
            super().step(closure)
            progress.steps += 1

    class Timed(getattr(found.imputation, cls)):
        """The net, stopping in time."""

        def _auto_save_model_if_necessary(self, *args: Any, **kwargs: Any) -> None:
            # called after each epoch, right before PyPOTS looks whether its patience is at an end, and once after all
            if "saving_name" in kwargs and progress.ended_epoch():
                self.patience = 0

    return Timed(
        **options,
        batch_size=BATCHES[cls],
        epochs=1_000_000,  # the budget decides
        patience=max(PATIENCE, PATIENCE * INTERVAL // batches),
        optimizer=Adam(lr=LEARNING_RATES[cls]),
        device="cpu",
        verbose=False,
    )


def windows(table: np.ndarray, chunk: int, step: int) -> np.ndarray:
    """Return ``(window, time, component)``; what is before the start of a short table is a gap."""
    front = np.full((max(0, chunk - len(table)), table.shape[1]), np.nan)
    padded = np.concatenate([front, table])
    return np.stack([padded[a : a + chunk] for a in window_starts(len(padded), chunk, step)]).astype(np.float32)


def hidden(held: np.ndarray) -> np.ndarray:
    """Return validation windows with observed values hidden in the pattern of the gaps half of the time away."""
    flat = np.isnan(held).reshape(-1, held.shape[-1])
    pattern = np.roll(flat, len(flat) // 2, axis=0).reshape(held.shape)
    if not (pattern & ~np.isnan(held)).any():
        pattern = np.random.default_rng(0).random(held.shape) < 0.2
    return np.where(pattern, np.nan, held).astype(np.float32)


def filled(model: Any, table: np.ndarray, chunk: int) -> np.ndarray:
    """Return a table without gaps: each step from the window in which it is farthest from an end."""
    cut = windows(table, chunk, max(1, chunk // 2))
    found = np.asarray(model.impute({"X": cut}))
    missing = max(0, chunk - len(table))
    out, depth = np.empty((len(table) + missing, table.shape[1])), np.full(len(table) + missing, -1)
    inside = np.minimum(np.arange(chunk), np.arange(chunk)[::-1])
    for start, window in zip(window_starts(len(out), chunk, max(1, chunk // 2)), found, strict=True):
        steps = start + np.flatnonzero(inside > depth[start : start + chunk])
        out[steps], depth[steps] = window[steps - start], inside[steps - start]
    return out[missing:]


def run(view: ImputationView, budget: Budget, seed: int, cls: str, options: dict[str, Any]) -> Answer:
    """Train a net of PyPOTS on the training parts, and answer with its imputations."""
    with silent(), quiet():
        found = library()
        torch.set_num_threads(1)
        found.set_random_seed(seed)
        started = cpu_seconds()
        chunk, _ = chunk_and_batch(view)
        centre, scale = _level_and_scale(view.train)
        train, validation = split(view.train, chunk)

        def cut(series: list[TimeSeries], step: int) -> np.ndarray:
            return np.concatenate([windows((one.values() - centre) / scale, chunk, step) for one in series])

        data = cut(train, max(1, chunk // OVERLAP))
        held = cut([one[:chunk] for one in validation], chunk)
        progress, batches = Progress(budget), math.ceil(len(data) / BATCHES[cls])
        model = net(found, cls, progress, batches, n_steps=chunk, n_features=data.shape[2], **options)
        model.fit({"X": data}, {"X": hidden(held), "X_ori": held})
        trained = cpu_seconds()
        tables = [filled(model, (one.values() - centre) / scale, chunk) * scale + centre for one in view.series]
        values, _, notes = joined(view, tables, None)
    notes |= {"steps": progress.steps, "epochs": progress.epochs, "best epoch": model.best_epoch}
    notes |= {"input chunk": chunk, "batch": BATCHES[cls], "windows": len(data), "PyPOTS": version("pypots")}
    return Answer(values, None, trained - started, cpu_seconds() - trained, model.num_params, notes)


def _level_and_scale(train: list[TimeSeries]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each component's observed values; 0 and 1 if there are none."""
    values = np.concatenate([one.values() for one in train]).astype(np.float64)
    count = (~np.isnan(values)).sum(axis=0).clip(min=1)
    centre = np.nansum(values, axis=0) / count
    scale = np.sqrt(np.nansum((values - centre) ** 2, axis=0) / count)
    return centre, np.where(scale > 1e-6 * np.abs(centre), scale, 1.0)


def _seconds(n_series: int, n_forecasts: int, budget: Budget) -> float:
    # the import alone takes some seconds
    return 20.0 + (budget.seconds if budget.seconds is not None else 0.2 * (budget.steps or 0))


def _model(name: str, options: dict[str, Any]) -> Model:
    return Model(
        name=name,
        family="extra",
        kind="impute",
        run=partial(run, cls=name, options=options),
        config={
            "library": "PyPOTS",
            **options,
            "input chunk": "as ours",
            "windows": f"{OVERLAP} to an input chunk, {BATCHES[name]} to a batch",
            "loss": "PyPOTS' own",
            "learning rate": f"{LEARNING_RATES[name]}, Adam, cosine over the budget",
            "gradient clip": GRADIENT_CLIP,
            "validation": "the last tenth of the training parts, after each epoch, best weights",
        },
        trained=True,
        expected_seconds=_seconds,
        cannot=("quantiles: none", "budget: in whole epochs"),
    )


SAITS = {"n_layers": 2, "d_model": 128, "n_heads": 4, "d_k": 32, "d_v": 32, "d_ffn": 128, "dropout": 0.1}
MODELS = {model.name: model for model in (_model("BRITS", {"rnn_hidden_size": 64}), _model("SAITS", SAITS))}
