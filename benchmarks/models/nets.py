"""Trained forecasters: the one protocol for ours and those of Darts, and those of Darts.

- One model is fitted to all training parts. Components are series of their own, but for the nets that mix them.
- Series are standardised by mean and deviation of their own training part; covariates by those of all of them.
- The input chunk follows from season, horizon and the lengths of the training parts, and is the same for all nets.
- The end of each training part is held out. Every `INTERVAL` steps the loss on its windows is computed; training stops
  when it has not fallen `PATIENCE` times, or when the budget is spent, and the best weights are put back.
- The learning rate rises and falls along a cosine over the budget. Batches, gradient clipping and Adam are the same.
- All nets learn quantiles, except on tasks that the mean squared error ranks: there it is the loss.
- Darts' nets cannot see gaps: they get them interpolated, ours as they are. Contexts shorter than the input chunk are
  continued to the left, for ours by a gap, for Darts' by the first value.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import darts.models
import numpy as np
import torch
from darts import TimeSeries
from darts.utils.likelihood_models import QuantileRegression
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

import birnn_forecast
from benchmarks.interface import LEVELS, Answer, Budget, ForecastView, Model
from benchmarks.models.common import cpu_seconds, interpolated
from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast.budget import TimeBudget

INTERVAL, PATIENCE = 25, 20
VALIDATION_WINDOWS = 256
FEW_WINDOWS, BATCHES = 4000, (32, 256)
SHORTEST_SERIES, LONGEST_CHUNK = 0.2, 336
SAMPLES = 100
LEARNING_RATE, GRADIENT_CLIP = 2e-3, 1.0


class BestWeights(Callback):
    """Keep the weights of the smallest validation loss in memory, stop without progress, and put them back at the end.

    Parameters
    ----------
    monitor
        Names of logged losses, of which the first one that is there counts.
    patience
        Number of validations in a row without progress after which training stops.
    """

    def __init__(self, monitor: Sequence[str] = ("val_loss",), patience: int = PATIENCE):
        self.monitor, self.patience = monitor, patience
        self.best, self.step, self.validations, self.waited = math.inf, 0, 0, 0
        self.trained = 0
        self.weights: dict[str, torch.Tensor] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the weights if they are the best so far."""
        if trainer.sanity_checking:
            return
        self.validations += 1
        loss = next(float(trainer.callback_metrics[name]) for name in self.monitor if name in trainer.callback_metrics)
        self.waited += 1
        if loss < self.best:
            self.best, self.step, self.waited = loss, trainer.global_step, 0
            self.weights = copy.deepcopy(pl_module.state_dict())
        if self.waited >= self.patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back; without any validation the last ones stay."""
        self.trained = trainer.global_step
        if self.weights is not None:
            pl_module.load_state_dict(self.weights)

    def notes(self) -> dict[str, int]:
        """Return what there is to say of the training."""
        return {"steps": self.trained, "best step": self.step, "validations": self.validations}


class StepBudget(Callback):
    """The learning rate of ``TimeBudget`` by the number of steps: it rises, then falls along a cosine to 0."""

    def __init__(self, steps: int, rate: float, warmup: float = 0.05):
        self.steps, self.rate, self.warmup = steps, rate, warmup

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of the coming step."""
        share = (trainer.global_step + 1) / (self.steps + 1)
        factor = 0.5 * (1 + math.cos(math.pi * share)) * min(1.0, share / self.warmup)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate * factor


@dataclass(frozen=True)
class Net:
    """A net and how it is used.

    Attributes
    ----------
    cls
        Name of the class in ``birnn_forecast`` or in ``darts.models``.
    options
        Its parameters beyond the shared ones.
    sees_gaps
        Whether NaN is an ordinary input.
    takes_future
        Whether it takes future covariates.
    together
        Whether all components are one input, or each is a series of its own.
    any_units
        Whether it gets each series in a unit of its own, drawn between 0.001 and 1,000, instead of standardised.
    """

    cls: str
    options: dict[str, Any]
    sees_gaps: bool = False
    takes_future: bool = True
    together: bool = False
    any_units: bool = False


@dataclass
class Series:
    """What nets read: arrays ``(time, component)``, standardised, and how to undo that."""

    train: list[np.ndarray]
    contexts: list[np.ndarray]
    centre: np.ndarray  # (context, component)
    scale: np.ndarray
    train_future: list[np.ndarray] | None
    future: list[np.ndarray] | None


def prepared(view: ForecastView, net: Net) -> Series:
    """Return what `net` reads of `view`, standardised by the training parts only."""
    fill = (lambda values, season: values) if net.sees_gaps else interpolated
    levels = [_level_and_scale(series.values()) for series in view.train]
    if net.any_units:
        rng = np.random.default_rng(0)
        levels = [(np.zeros_like(centre), np.full_like(scale, 10 ** rng.uniform(-3, 3))) for centre, scale in levels]
    train = [
        (fill(series.values(), view.season) - centre) / scale
        for series, (centre, scale) in zip(view.train, levels, strict=True)
    ]
    contexts = [
        (_filled_context(context.values(), view.season, levels[of][0], fill) - levels[of][0]) / levels[of][1]
        for context, of in zip(view.contexts, view.series_of, strict=True)
    ]
    centre, scale = (np.stack([levels[of][i] for of in view.series_of]) for i in (0, 1))
    train_future = future = None
    if net.takes_future and view.train_future_covariates is not None and view.future_covariates is not None:
        known = [series.values() for series in view.train_future_covariates]
        level, spread = _level_and_scale(np.concatenate(known))
        train_future = [(fill(one, 1) - level) / spread for one in known]
        future = [(fill(series.values(), 1) - level) / spread for series in view.future_covariates]
    return Series(train, contexts, centre, scale, train_future, future)


def _filled_context(values: np.ndarray, season: int, centre: np.ndarray, fill: Callable) -> np.ndarray:
    """Return a context as the net sees it; a component without any value is at the level of the training part."""
    filled = fill(values, season)
    return np.where(np.isnan(values).all(axis=0) & ~np.isnan(filled), centre, filled)


def _level_and_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each component's observed values; 0 and 1 if there are none."""
    observed = ~np.isnan(values)
    count = observed.sum(axis=0).clip(min=1)
    centre = np.where(observed, values, 0.0).sum(axis=0, dtype=np.float64) / count
    scale = np.sqrt((np.where(observed, values - centre, 0.0) ** 2).sum(axis=0) / count)
    return centre, np.where(scale > 1e-6 * np.abs(centre), scale, 1.0)


def chunk_length(view: ForecastView) -> int:
    """Return the length of the input: three seasons or horizons, at least 16 steps and at most 336.

    Where series are short, it is as long as leaves a window for training and one for validation to four fifths of the
    series; at least 4 steps.
    """
    wanted = min(max(3 * view.season, 3 * view.horizon, 16), LONGEST_CHUNK, view.max_context or LONGEST_CHUNK)
    lengths = np.array([len(series) for series in view.train])
    short = int(np.quantile(lengths, SHORTEST_SERIES, method="lower"))
    return max(4, min(wanted, short - 2 * view.horizon))


@dataclass
class Windows:
    """What is trained on and validated on, as series of a plain integer index."""

    train: list[TimeSeries]
    validation: list[TimeSeries]
    train_future: list[TimeSeries] | None
    validation_future: list[TimeSeries] | None
    count: int


def held_out(series: Series, chunk: int, horizon: int, together: bool) -> Windows:
    """Cut the end off each training part for validation.

    That is one horizon if there are many series, and up to a tenth of a long series if there are few.
    """
    wanted = max(1, -(-32 // len(series.train)))  # windows per series
    length = chunk + horizon
    parts: list[tuple[int, int, int]] = []  # series, begin, end
    windows: list[tuple[int, int, int]] = []
    for i, values in enumerate(series.train):
        held = max(horizon, min(horizon + wanted - 1, len(values) // 10))
        if len(values) >= length + 1:
            held = min(held, len(values) - length)
        if len(values) - held >= length:
            parts.append((i, 0, len(values) - held))
        if len(values) >= length:
            last = range(len(values) - held + horizon, len(values) + 1)
            windows += [(i, end - length, end) for end in last]
    if not parts:
        longest = max(map(len, series.train))
        raise ValueError(f"No training part has the {length} steps of a window, and a horizon more: {longest} at most.")
    width = 1 if together else series.train[0].shape[1]
    most = max(1, VALIDATION_WINDOWS // width)
    windows = [windows[k] for k in np.unique(np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(int))]

    def cut(arrays: list[np.ndarray] | None, pieces: list[tuple[int, int, int]], apart: bool) -> Any:
        if arrays is None:
            return None
        if apart:
            return [_series(arrays[i][a:b, c : c + 1]) for i, a, b in pieces for c in range(width)]
        return [_series(arrays[i][a:b]) for i, a, b in pieces for _ in range(width)]

    train, validation = cut(series.train, parts, not together), cut(series.train, windows, not together)
    futures = cut(series.train_future, parts, False), cut(series.train_future, windows, False)
    kept = [k for k, one in enumerate(train) if not np.isnan(one.values()[chunk:]).all()]
    checked = [k for k, one in enumerate(validation) if not np.isnan(one.values()[chunk:]).all()]
    return Windows(
        [train[k] for k in kept],
        [validation[k] for k in checked],
        None if futures[0] is None else [futures[0][k] for k in kept],
        None if futures[1] is None else [futures[1][k] for k in checked],
        sum(len(train[k]) - length + 1 for k in kept),
    )


def _series(values: np.ndarray) -> TimeSeries:
    return TimeSeries.from_values(values.astype(np.float32))


def options_of(net: Net, view: ForecastView, chunk: int, point: bool) -> dict[str, Any]:
    """Return the net's own options for a task: what depends on lengths, season and loss is settled here."""
    options = dict(net.options)
    if net.cls == "RNNModel":
        options["training_length"] = chunk + view.horizon - 1
    else:
        options["output_chunk_length"] = view.horizon
    if net.cls == "TCNModel":  # its output must be shorter than its input
        options["output_chunk_length"] = min(view.horizon, chunk - 1)
        options["kernel_size"] = min(3, chunk - 1)
    if net.cls == "TFTModel":
        options["add_relative_index"] = view.future_covariates is None
    if net.cls == "NLinearModel":  # with a likelihood it has no normalisation of its own
        options |= {"normalize": point, "use_reversible_instance_norm": not point}
    if net.sees_gaps and 1 < view.season <= chunk:
        options["season_length"] = view.season
    if net.cls == "GRINModel":
        options["graph"] = "correlation" if view.train[0].n_components > 1 else None
    return options


def trainer_of(budget: Budget, best: BestWeights, rate: float = LEARNING_RATE) -> dict[str, Any]:
    """Return Lightning's settings for a budget."""
    every = INTERVAL if budget.steps is None else max(1, min(INTERVAL, budget.steps // 4))
    limit = TimeBudget(budget.seconds) if budget.seconds is not None else StepBudget(budget.steps or 1, rate)
    settings: dict[str, Any] = {
        "gradient_clip_val": GRADIENT_CLIP,
        "check_val_every_n_epoch": None,
        "val_check_interval": every,
        "num_sanity_val_steps": 0,
        "callbacks": [limit, best],
    }
    if budget.steps is not None:
        settings["max_steps"] = budget.steps
    return QUIET_TRAINER | settings


def fitted(make: Callable[..., Any], budget: Budget, seed: int, batch: int, best: BestWeights, **data: Any) -> Any:
    """Return a model of the shared settings, trained."""
    model = make(
        batch_size=batch,
        n_epochs=1_000_000,  # the budget decides
        random_state=seed,
        optimizer_kwargs={"lr": LEARNING_RATE},
        pl_trainer_kwargs=trainer_of(budget, best),
    )
    return model.fit(**data)


def parameters_of(model: Any) -> int:
    """Return the number of trained weights."""
    return sum(weight.numel() for weight in model.model.parameters() if weight.requires_grad)


def run(view: ForecastView, budget: Budget, seed: int, net: Net) -> Answer:
    """Train `net` on the training parts and answer with its forecasts."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with quiet():
        started = cpu_seconds()
        series, chunk = prepared(view, net), chunk_length(view)
        windows = held_out(series, chunk, view.horizon, net.together)
        point = view.metric == "mse"
        loss = {"loss_fn": torch.nn.MSELoss()} if point else {"likelihood": QuantileRegression(list(LEVELS))}
        cls = getattr(birnn_forecast, net.cls, None) or getattr(darts.models, net.cls)
        best = BestWeights(("val_forecast_loss", "val_loss"))
        batch = BATCHES[windows.count > FEW_WINDOWS]
        model = fitted(
            partial(cls, input_chunk_length=chunk, **options_of(net, view, chunk, point), **loss),
            budget,
            seed,
            batch,
            best,
            series=windows.train,
            val_series=windows.validation,
            future_covariates=windows.train_future,
            val_future_covariates=windows.validation_future,
        )
        trained = cpu_seconds()
        values, quantiles = forecasts(model, series, chunk, view.horizon, net, point)
    notes = {
        **best.notes(),
        "input chunk": chunk,
        "batch": batch,
        "windows": windows.count,
    }
    return Answer(values, quantiles, trained - started, cpu_seconds() - trained, parameters_of(model), notes)


def forecasts(
    model: Any, series: Series, chunk: int, horizon: int, net: Net, point: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return values ``(context, horizon, component)`` and quantiles, in the unit of the series."""
    width = series.contexts[0].shape[1]
    inputs = [_padded(values, chunk, net.sees_gaps) for values in series.contexts]
    if not net.together:
        inputs = [values[:, c : c + 1] for values in inputs for c in range(width)]
    future = None
    if series.future is not None:
        future = [_padded(values, chunk + horizon, net.sees_gaps) for values in series.future]
        future = [_series(values) for values in future for _ in range(1 if net.together else width)]
    # beyond its output a net goes on from its own samples
    sampled = not point and horizon > model.output_chunk_length
    how: dict[str, Any] = {} if point else {"predict_likelihood_parameters": True}
    found = model.predict(
        horizon,
        series=[_series(values) for values in inputs],
        future_covariates=future,
        verbose=False,
        show_warnings=False,
        **({"num_samples": SAMPLES} if sampled else how),
    )
    raw = np.stack([one.all_values() for one in found]).astype(np.float64)  # (context, horizon, component, sample)
    if sampled:
        raw = np.moveaxis(np.quantile(raw, LEVELS, axis=-1), 0, -1)
    else:
        raw = raw[..., 0].reshape(len(raw), horizon, -1, 1 if point else len(LEVELS))
    if not net.together:
        raw = raw.reshape(-1, width, horizon, raw.shape[-1]).swapaxes(1, 2)
    # of a component without any value in its context there is nothing but the level of the training part
    silent = np.stack([np.isnan(context).all(axis=0) for context in series.contexts])
    raw = np.where(silent[:, None, :, None] & np.isnan(raw), 0.0, raw)
    raw = raw * series.scale[:, None, :, None] + series.centre[:, None, :, None]
    if not np.isfinite(raw).all():
        raise RuntimeError(f"{np.mean(~np.isfinite(raw)):.0%} of the forecasts are not finite.")
    if point:
        return raw[..., 0], None
    quantiles = np.sort(raw, axis=-1)
    return quantiles[..., LEVELS.index(0.5)], quantiles


def _padded(values: np.ndarray, length: int, with_gap: bool) -> np.ndarray:
    """Return the last `length` steps, of a shorter array continued to the left."""
    missing = length - len(values)
    if missing <= 0:
        return values[-length:]
    front = np.full_like(values[:1], np.nan) if with_gap else values[:1]
    return np.concatenate([np.repeat(front, missing, axis=0), values])


def _seconds(n_series: int, n_forecasts: int, budget: Budget) -> float:
    spent = budget.seconds if budget.seconds is not None else 0.05 * (budget.steps or 0)
    return 3.0 + spent + 0.002 * (n_series + n_forecasts)


def model_of(name: str, family: str, net: Net, ablation_of: str | None = None) -> Model:
    """Return the contender that trains `net`."""
    limits = [] if net.sees_gaps else ["gaps: interpolated first"]
    limits += [] if net.takes_future else ["covariates: not used"]
    return Model(
        name=name,
        family=family,
        kind="forecast",
        run=partial(run, net=net),
        config={
            "class": net.cls,
            **net.options,
            "components": "together" if net.together else "one by one",
            "standardised": "by the training part of the series",
            "input chunk": f"3 seasons or horizons, 16 to {LONGEST_CHUNK}; shorter for short series",
            "batch": f"{BATCHES[0]} up to {FEW_WINDOWS} windows, else {BATCHES[1]}",
            "loss": "quantiles; the mean squared error where it ranks",
            "learning rate": f"{LEARNING_RATE}, Adam, cosine over the budget",
            "gradient clip": GRADIENT_CLIP,
            "validation": f"every {INTERVAL} steps, {VALIDATION_WINDOWS} windows, patience {PATIENCE}, best weights",
        },
        trained=True,
        expected_seconds=_seconds,
        ablation_of=ablation_of,
        cannot=tuple(limits),
    )


RIN = {"use_reversible_instance_norm": True}
DARTS: dict[str, Net] = {
    "BlockRNN GRU": Net("BlockRNNModel", {"model": "GRU", "hidden_dim": 32}, takes_future=False),
    "BlockRNN GRU + RIN": Net("BlockRNNModel", {"model": "GRU", "hidden_dim": 32, **RIN}, takes_future=False),
    "RNN LSTM": Net("RNNModel", {"model": "LSTM", "hidden_dim": 32, **RIN}),
    "TCN": Net("TCNModel", {"num_filters": 32, "dropout": 0.1, **RIN}, takes_future=False),
    "N-HiTS": Net("NHiTSModel", RIN, takes_future=False),
    "TiDE": Net("TiDEModel", RIN),
    "TSMixer": Net("TSMixerModel", RIN, together=True),
    "DLinear": Net("DLinearModel", RIN),
    "NLinear": Net("NLinearModel", {}),
    "TFT": Net("TFTModel", {"hidden_size": 32, **RIN}),
}
EXTRAS: dict[str, Net] = {
    f"NeuralForecast {name}": Net("NeuralForecastModel", {"model": name}, takes_future=False)
    for name in ("PatchTST", "NBEATSx")
}
MODELS = {
    **{name: model_of(name, "darts", net) for name, net in DARTS.items()},
    **{name: model_of(name, "extra", net) for name, net in EXTRAS.items()},
}
