"""Imputers: simple ones, regressions on lags, and ours; peers of PyPOTS are in `pypots_imputers`.

Trained nets follow the protocol of `benchmarks.models.nets`: the last tenth of each training part is for validation,
and the best weights are put back. A component of which a series shows nothing is at the level of the training part
where an imputer does not say anything of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.likelihood_models import QuantileRegression
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge

import birnn_forecast
from benchmarks.imputation import CHUNKS, Task, ridge
from benchmarks.interface import LEVELS, Answer, Budget, ImputationView, Model
from benchmarks.models.common import cpu_seconds
from benchmarks.models.nets import BestWeights, parameters_of, trainer_of
from benchmarks.quiet import quiet
from birnn_forecast.imputation import KalmanImputer, LastValueImputer, LinearImputer, SeasonalLinearImputer

# filled series (or their values), and the same with a last axis for the quantiles
Filled = tuple[list[np.ndarray], list[np.ndarray] | None]


def _season(view: ImputationView) -> int | None:
    return view.season if view.season > 1 else None


def linear(view: ImputationView) -> Filled:
    """Return straight lines."""
    return [LinearImputer().impute(one).values() for one in view.series], None


def last_value(view: ImputationView) -> Filled:
    """Return the last observed value."""
    return [LastValueImputer().impute(one).values() for one in view.series], None


def seasonal(view: ImputationView) -> Filled:
    """Return the profile of the season plus straight lines through what it leaves; without a season the lines."""
    imputer = SeasonalLinearImputer(view.season, "profile") if view.season > 1 else LinearImputer()
    return [imputer.impute(one).values() for one in view.series], None


HALF_WIDTH = 4


def moving_average(view: ImputationView) -> Filled:
    """Return the mean of the observed values around, those next to the gap counting most; see `_averaged`."""
    return [np.apply_along_axis(_averaged, 0, one.values()) for one in view.series], None


def _averaged(y: np.ndarray) -> np.ndarray:
    """Return `y` with gaps filled by an average whose weights halve with each step, over windows that double."""
    observed = ~np.isnan(y)
    filled, half = y.copy(), HALF_WIDTH
    while np.isnan(filled).any() and observed.any():
        # beyond 60 steps a weight is lost beside the nearest one, but not where that is all there is
        weights = np.exp2(-np.minimum(np.abs(np.arange(-half, half + 1)), 60.0))
        total = np.convolve(observed, weights)[half : half + len(y)]
        sums = np.convolve(np.where(observed, y, 0.0), weights)[half : half + len(y)]
        near = np.isnan(filled) & (np.convolve(observed, np.ones(2 * half + 1))[half : half + len(y)] > 0.5)
        filled[near] = sums[near] / total[near]
        half *= 2
    return filled


def kalman(view: ImputationView) -> Filled:
    """Return Kalman smoothing of each component, with quantiles."""
    with quiet():
        found = [KalmanImputer(_season(view)).impute(one, LEVELS).values() for one in view.series]
    quantiles = [one.reshape(len(one), -1, len(LEVELS)) for one in found]
    return [one[..., LEVELS.index(0.5)] for one in quantiles], quantiles


LAGS = (1, 2)
ROWS = 3000


def _lagged(series: list[TimeSeries], season: int | None) -> np.ndarray:
    """Return the components beside themselves some steps and a season earlier and later, gaps kept."""
    shifts = [0, *(sign * lag for lag in (*LAGS, *([season] if season else [])) for sign in (1, -1))]
    tables = []
    for one in series:
        values = one.values().astype(np.float64)
        parts = []
        for shift in shifts:
            moved = np.full_like(values, np.nan)
            if shift == 0:
                moved = values
            elif 0 < shift < len(values):
                moved[shift:] = values[:-shift]
            elif 0 < -shift < len(values):
                moved[:shift] = values[-shift:]
            parts.append(moved)
        tables.append(np.concatenate(parts, axis=1))
    return np.concatenate(tables)


def _by_regression(view: ImputationView, imputer: Any) -> Filled:
    """Fit an imputer of scikit-learn to lagged rows of the training part, and fill the series with it."""
    rows = _lagged(view.train, _season(view))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int))]
    levels = np.nanmean(rows, axis=0, where=~np.isnan(rows)) if rows.size else np.zeros(rows.shape[1])
    centre = np.nan_to_num(levels)
    scale = np.sqrt(np.nanmean((rows - centre) ** 2, axis=0))
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    width = view.series[0].n_components
    imputer.set_params(keep_empty_features=True)
    imputer.fit((rows - centre) / scale)
    filled = imputer.transform((_lagged(view.series, _season(view)) - centre) / scale) * scale + centre
    ends = np.cumsum([len(one) for one in view.series])
    return np.split(filled[:, :width], ends[:-1]), None


NEIGHBOURS, ROUNDS, PREDICTORS = 10, 3, 15


def nearest(view: ImputationView, seed: int) -> Filled:
    """Return the mean of the most similar moments of the training part."""
    return _by_regression(view, KNNImputer(n_neighbors=NEIGHBOURS, weights="distance"))


def iterative(view: ImputationView, seed: int) -> Filled:
    """Return regressions of each column on those that correlate most with it, gone through in rounds."""
    imputer = IterativeImputer(BayesianRidge(), max_iter=ROUNDS, n_nearest_features=PREDICTORS, random_state=seed)
    return _by_regression(view, imputer)


def ridge_on_lags(view: ImputationView, seed: int) -> Filled:
    """Return ridge regression on the lags of all components, linearly filled."""
    found = ridge(Task(view.train, [], [], view.series, [], _season(view)))
    return [one.values() for one in found], None


def run(view: ImputationView, budget: Budget, seed: int, method: Callable[..., Filled], fits: bool = False) -> Answer:
    """Answer with what `method` says of the gaps; `fits` if it learns from the training part and takes a seed."""
    started = cpu_seconds()
    with quiet(), np.errstate(all="ignore"):
        filled, quantiles = method(view, seed) if fits else method(view)
    values, quantiles, notes = joined(view, filled, quantiles)
    return Answer(values, quantiles, predict_seconds=cpu_seconds() - started, notes=notes)


def joined(
    view: ImputationView, filled: list[np.ndarray], quantiles: list[np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Return the answer's arrays: all series joined in time, observed values as they are, nothing empty."""
    given = np.concatenate([one.values() for one in view.series]).astype(np.float64)
    values = np.where(np.isnan(given), np.concatenate(filled).astype(np.float64), given)
    spread = None if quantiles is None else np.sort(np.concatenate(quantiles).astype(np.float64), axis=-1)
    empty, notes = np.isnan(values), {}
    if empty.any():  # an imputer leaves components alone that show nothing
        train = np.concatenate([one.values() for one in view.train]).astype(np.float64)
        observed = ~np.isnan(train)
        level = np.where(observed, train, 0.0).sum(axis=0) / observed.sum(axis=0).clip(min=1)
        values = np.where(empty, level, values)
        notes["values at the level of the training part"] = int(empty.sum())
    if spread is not None:
        spread = np.where(np.isnan(spread), values[..., None], spread)
    return values, spread, notes


LEARNING_RATE, BATCH = 4e-3, 8


def chunk_and_batch(view: ImputationView) -> tuple[int, int]:
    """Return length and number of the windows of a batch: as in the gates for known frequencies, else three seasons."""
    first = view.series[0]
    known = CHUNKS.get(first.freq_str.split("-")[0]) if first.has_datetime_index else None
    chunk, batch = known or (max(48, 3 * view.season), BATCH)
    longest = max(len(one) for one in view.train)
    return max(1, min(chunk, longest // 2 - 1)), batch


def run_net(
    view: ImputationView, budget: Budget, seed: int, cls: str, options: dict[str, Any], calibrate: bool = True
) -> Answer:
    """Train one of our models on the training part, and answer with its imputations.

    By default they are a mixture with interpolations, as a user gets them; without `calibrate`, the network's alone.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with quiet():
        started = cpu_seconds()
        best = BestWeights(("val_imputation_loss",))
        chunk, batch = chunk_and_batch(view)
        train, validation = split(view.train, chunk)
        model = getattr(birnn_forecast, cls)(
            input_chunk_length=chunk,
            output_chunk_length=1,
            season_length=view.season if 1 < view.season <= chunk else "auto",
            batch_size=batch,
            imputation_weight=10.0,  # the forecast, of one step, is not what is asked for
            likelihood=QuantileRegression(list(LEVELS)),
            n_epochs=1_000_000,  # the budget decides
            random_state=seed,
            optimizer_cls=torch.optim.AdamW,
            optimizer_kwargs={"lr": LEARNING_RATE, "betas": (0.9, 0.98), "weight_decay": 1e-2},
            pl_trainer_kwargs=trainer_of(budget, best, LEARNING_RATE),
            **_graph(view, options),
        )
        model.fit(train, val_series=validation)
        trained = cpu_seconds()
        found = [
            one.values() for one in model.impute(view.series, predict_likelihood_parameters=True, calibrate=calibrate)
        ]
    quantiles = [one.reshape(len(one), -1, len(LEVELS)) for one in found]
    # the value that `impute` fills in is the median as it is: quantiles of a net that has learnt little may cross
    values, spread, notes = joined(view, [one[..., LEVELS.index(0.5)] for one in quantiles], quantiles)
    notes |= best.notes() | {"input chunk": chunk, "batch": batch}
    return Answer(values, spread, trained - started, cpu_seconds() - trained, parameters_of(model), notes)


def _graph(view: ImputationView, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the graph: by distance where the places are known, else by correlation."""
    if options.get("graph") != "data":
        return options
    places = view.train[0].static_covariates
    return options | {"graph": "distance" if places is not None and "latitude" in places.columns else "correlation"}


def split(train: list[TimeSeries], chunk: int) -> tuple[list[TimeSeries], list[TimeSeries]]:
    """Return the training parts without their last tenth, and windows of that, one next to another."""
    kept, windows = [], []
    for one in train:
        held = max(chunk + 1, len(one) // 10)
        if len(one) - held < chunk + 1:
            if len(one) > chunk:
                kept.append(one)
            continue
        kept.append(one[:-held])
        observed = np.flatnonzero(~np.isnan(one.values()).all(axis=1))
        for end in range(len(one), len(one) - held + chunk, -chunk):
            # a window ends with the value to forecast: that must be known
            end = 1 + max(observed[observed < end], default=0)
            if end > chunk:
                windows.append(one[end - chunk - 1 : end])
    if not windows:
        raise ValueError(f"No training part has the {2 * chunk + 2} steps of a window and of one for validation.")
    return kept, windows


def _simple(name: str, method: Callable, seconds: float, config: dict[str, Any], fits: bool = False) -> Model:
    return Model(
        name=name,
        family="baseline" if name in ("linear interpolation", "last value") else "imputer",
        kind="impute",
        run=partial(run, method=method, fits=fits),
        config=config,
        expected_seconds=lambda n_series, n_forecasts, budget: 1.0 + seconds * max(1, n_series),
        cannot=() if name == "Kalman smoothing" else ("quantiles: none",),
    )


def _net_seconds(n_series: int, n_forecasts: int, budget: Budget) -> float:
    spent = budget.seconds if budget.seconds is not None else 0.15 * (budget.steps or 0)
    return 15.0 + spent


def _net(name: str, cls: str, options: dict[str, Any], ablation_of: str | None = None) -> Model:
    return Model(
        name=name,
        family="ours",
        kind="impute",
        run=partial(run_net, cls=cls, options=options),
        config={
            "class": cls,
            **options,
            "input chunk, batch": {key: list(value) for key, value in CHUNKS.items()},
            "imputation weight": 10.0,
            "loss": "quantiles",
            "learning rate": f"{LEARNING_RATE}, AdamW, cosine over the budget",
            "validation": "the last tenth of the training parts, best weights",
        },
        trained=True,
        expected_seconds=_net_seconds,
        ablation_of=ablation_of,
    )


GRIN = {"graph": "data", "masking_rate": 0.6}
MODELS = {
    model.name: model
    for model in (
        _simple("linear interpolation", linear, 0.1, {}),
        _simple("last value", last_value, 0.1, {}),
        _simple("seasonal interpolation", seasonal, 0.1, {"method": "profile"}),
        _simple("moving average", moving_average, 0.1, {"half width": HALF_WIDTH, "weights": "halve with each step"}),
        _simple("Kalman smoothing", kalman, 60.0, {"model": "birnn_forecast.imputation.KalmanImputer"}),
        _simple(
            "k-NN", nearest, 60.0, {"neighbours": NEIGHBOURS, "lags": LAGS, "season": True, "rows": ROWS}, fits=True
        ),
        _simple(
            "iterative",
            iterative,
            60.0,
            {"rounds": ROUNDS, "predictors": PREDICTORS, "lags": LAGS, "season": True, "rows": ROWS},
            fits=True,
        ),
        _simple("ridge on lags", ridge_on_lags, 2.0, {"lags": [1, 2, 3], "season": True, "alpha": 1.0}, fits=True),
        _net("GRIN (imputing)", "GRINModel", GRIN),
        _net("GRIN, no graph", "GRINModel", GRIN | {"graph": None}, "GRIN (imputing)"),
        _net("GRIN, no gate", "GRINModel", GRIN | {"cross_gate": "none"}, "GRIN (imputing)"),
        _net("BiGRU (imputing)", "BiGRUModel", {"masking_rate": 0.6}),
    )
}
