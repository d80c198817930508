"""The metrics of a row.

Definitions are those of fev for one evaluation window: a mean over all known truths of a component, then over the
components; forecasts without a scale are left out of scaled errors. The imputations of a task count as one component.
fev itself averages over evaluation windows at the end, so its WQL and RMSE of a task of several windows (not its MASE,
MAE, MSE, if all windows are of one size) are means of ours over the windows one by one. sMAPE is in per cent, as in
Darts (fev's times 100).
"""

import numpy as np

from benchmarks.interface import LEVELS, Answer, Task, TaskData

# runs of missing values by length: one step, up to a quarter of a day, up to a day, longer
GAP_LENGTHS = ((1, 1), (2, 6), (7, 24), (25, np.inf))
# lower and upper level of the central 20, 40, 60 and 80 % bands
BANDS = ((0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9))


def score(task: Task, data: TaskData, answer: Answer) -> dict:
    """Return the metric columns of a row.

    Raises
    ------
    ValueError
        If the answer has another shape than the truth, or is not finite where the truth is known.
    """
    truth = np.asarray(data.truth, np.float64)
    values = _checked("values", answer.values, truth, truth.shape)
    quantiles = answer.quantiles
    if quantiles is not None:
        quantiles = _checked("quantiles", quantiles, truth[..., None], (*truth.shape, len(LEVELS)))
    steps = None
    scales = np.full((1, 1), np.nan)
    if task.kind == "impute":
        steps = _error_by_gap(np.abs(values - truth), data.view.series)
        known = ~np.isnan(truth)
        truth, values = truth[known][:, None, None], values[known][:, None, None]
        quantiles = None if quantiles is None else quantiles[known][:, None, None]
    else:
        scales = data.scales
    row = _point_metrics(truth, values, scales) | _quantile_metrics(truth, quantiles)
    row["error_by_step"] = steps or _error_by_step(np.abs(values - truth), scales)
    return {"score": row[task.metric], **row}


def _checked(name: str, given: np.ndarray, truth: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    given = np.asarray(given)
    if given.shape != shape:
        raise ValueError(f"`{name}` of the answer must have shape {shape}, got {given.shape}.")
    wrong = ~np.isfinite(given) & ~np.isnan(truth)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{name}` of the answer must be finite where the truth is known; {int(wrong.sum())} of {given.size} "
            f"are not, the first at {first}."
        )
    return given


def _by_component(errors: np.ndarray) -> np.ndarray:
    """Return the mean over the known errors of all forecasts and steps, one a component, NaN if none is known."""
    flat = errors.reshape(-1, errors.shape[-1])
    known = ~np.isnan(flat)
    count = known.sum(axis=0)
    total = np.where(known, flat, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _mean(errors: np.ndarray) -> float:
    """Return the mean over the components of which anything is known."""
    return _over_components(_by_component(errors))


def _over_components(means: np.ndarray) -> float:
    known = means[~np.isnan(means)]
    return float(known.mean()) if known.size else float("nan")


def _relative(errors: np.ndarray, truth: np.ndarray) -> float:
    """Return means by component, divided by the mean size of the truth; a component of zeros has no relative error."""
    sizes = np.broadcast_to(_by_component(np.abs(truth)), errors.shape)
    return _over_components(np.divide(errors, sizes, out=np.full(errors.shape, np.nan), where=sizes > 0))


def _point_metrics(truth: np.ndarray, values: np.ndarray, scales: np.ndarray) -> dict[str, float]:
    error = np.abs(values - truth)
    with np.errstate(invalid="ignore"):
        percentage = 200 * error / (np.abs(truth) + np.abs(values))
    squared = np.square(error)
    return {
        "mase": _mean(error / scales[:, None, :]),
        "smape": _mean(percentage),
        "mae": _mean(error),
        "mse": _mean(squared),
        "rmse": _over_components(np.sqrt(_by_component(squared))),
        "mre": _relative(_by_component(error), truth),
    }


def _quantile_metrics(truth: np.ndarray, quantiles: np.ndarray | None) -> dict:
    """Return weighted quantile loss, mean quantile loss (a CRPS over nine levels), and coverage of central bands."""
    if quantiles is None:
        return {"wql": np.nan, "crps": np.nan, "coverage": [], "coverage_80": np.nan}
    # one level after the other: all at once take nine times the memory
    losses = []
    for i, level in enumerate(LEVELS):
        given = quantiles[..., i]
        loss = 2 * np.abs((truth - given) * ((truth <= given) - level))
        losses.append(_by_component(loss))
    known = ~np.isnan(truth)
    column = {level: i for i, level in enumerate(LEVELS)}
    coverage = [
        float(((quantiles[..., column[low]] <= truth) & (truth <= quantiles[..., column[high]]))[known].mean())
        for low, high in BANDS
    ]
    return {
        "wql": _relative(np.array(losses), truth),
        "crps": _over_components(np.array(losses)),
        "coverage": coverage,
        "coverage_80": coverage[-1],
    }


def _error_by_step(error: np.ndarray, scales: np.ndarray) -> list[float]:
    """Return the mean scaled error of each step of the horizon."""
    scaled = error / scales[:, None, :]
    return [_mean(scaled[:, step : step + 1]) for step in range(error.shape[1])]


def _error_by_gap(error: np.ndarray, series: list) -> list[float]:
    """Return the mean error by the length of the gap that a hidden value lies in, one for each of ``GAP_LENGTHS``.

    A gap is what the model sees as one: hidden values and those that were never recorded.
    """
    lengths = np.concatenate([_run_lengths(np.isnan(one.values(copy=False))) for one in series])
    known = ~np.isnan(error)
    parts = [error[known & (low <= lengths) & (lengths <= high)] for low, high in GAP_LENGTHS]
    return [float(part.mean()) if part.size else float("nan") for part in parts]


def _run_lengths(missing: np.ndarray) -> np.ndarray:
    """Return for each missing value the length of its run in time, 0 for others, ``(time, component)``."""
    steps, components = missing.shape
    # a row of observed values at the end keeps the runs of two components apart
    flat = np.vstack([missing, np.zeros((1, components), bool)]).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    lengths = np.zeros(flat.size, int)
    starts, ends = edges[::2], edges[1::2]
    lengths[flat] = np.repeat(ends - starts, ends - starts)
    return lengths.reshape(components, steps + 1).T[:-1]
