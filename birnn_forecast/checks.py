"""What users hand over, checked in one place: every entry point refuses the same things with the same words."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar, overload

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries

from birnn_forecast.data.history import dead_components

# what each argument has to lie on the grid of, and be as many as
GRIDS = {
    "past_covariates": "series",
    "future_covariates": "series",
    "sample_weight": "series",
    "val_past_covariates": "val_series",
    "val_future_covariates": "val_series",
    "val_sample_weight": "val_series",
}
WEIGHTS = ("sample_weight", "val_sample_weight")  # or a string, which Darts explains
BLOCK = 100_000  # values looked at together: long series are not copied

Method = TypeVar("Method", bound=Callable[..., Any])


def checked(method: Method, remembers: bool = False) -> Method:
    """Return the method with a check of the series that it is called with: their types, numbers and grids.

    Parameters
    ----------
    method
        Its signature stays as it is. Arguments are known by Darts' names for them.
    remembers
        Whether the method takes the model's training series and covariates where none are given.
    """
    signature = inspect.signature(method)
    needed = [name for name, one in signature.parameters.items() if one.default is inspect.Parameter.empty]

    @wraps(method)
    def at_the_door(self, *args, **kwargs):
        try:
            arguments = signature.bind(self, *args, **kwargs).arguments
        except TypeError:  # the method itself says what is wrong
            return method(self, *args, **kwargs)
        given = dict(arguments)
        if "series" in needed or given.get("series") is not None:
            series_list("series", given["series"])
        number = given.get("num_samples", 1)
        if isinstance(number, bool) or not isinstance(
            number, int | np.integer
        ):  # numbers too small are Darts' to report
            raise ValueError(f"`num_samples` must be an integer >= 1, got {number!r}.")
        if given.get("historical_forecasts") is not None:
            _check_forecasts(given["historical_forecasts"])
        check_grids(remembered(self, given) if remembers else given)
        return method(self, *args, **kwargs)

    return at_the_door  # type: ignore[return-value]


def _check_forecasts(forecasts: Any) -> None:
    """Raise unless these are series, lists of them, or lists of lists."""
    nested = isinstance(forecasts, Sequence) and any(isinstance(one, list | tuple) for one in forecasts)
    for i, one in enumerate(forecasts if nested else [forecasts]):
        series_list(f"historical_forecasts[{i}]" if nested else "historical_forecasts", one)


def remembered(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given, and the model's training series and covariates that Darts takes for what is not."""
    found = dict(given)
    if found.get("series") is None:
        found["series"] = model.training_series
    if found["series"] is None or (model.encoders is not None and model.encoders.encoding_available):
        return found  # covariates of the training then hold encodings, which are made anew
    count = len(series_list("series", found["series"]))
    for name in ("past", "future"):
        kept = getattr(model, f"{name}_covariate_series")
        if found.get(f"{name}_covariates") is None and kept is not None:
            found[f"{name}_covariates"] = [kept] * count
    return found


def check_grids(given: Mapping[str, Any]) -> None:
    """Raise unless covariates and weights are series, as many as the series they go with, and on the same steps."""
    if given.get("val_series") is not None:
        series_list("val_series", given["val_series"])
    for name, of in GRIDS.items():
        value = given.get(name)
        if value is None or (name in WEIGHTS and isinstance(value, str)):
            continue
        many = series_list(name, value, empty=True)
        base = given.get(of)
        if base is None:
            continue
        targets = series_list(of, base)
        if len(many) != len(targets):
            raise ValueError(f"`{name}` must be as many as `{of}` ({len(targets)}), got {len(many)}.")
        for i, (one, target) in enumerate(zip(many, targets, strict=True)):
            check_grid(_which(name, i, many), one, _which(of, i, targets), target)


def check_grid(name: str, one: TimeSeries, of: str, series: TimeSeries) -> None:
    """Raise unless the steps of both series fall together, as far as they go; `name` and `of` are what they are."""
    if not on_one_grid(one, series):
        raise ValueError(
            f"{name} must have the frequency and the time steps of {of}, {_grid(series)}, got {_grid(one)}: bring both "
            "to one grid, for example with `TimeSeries.resample` or `TimeSeries.shift`."
        )


def on_one_grid(one: TimeSeries, other: TimeSeries) -> bool:
    """Return whether two series have the same frequency, and steps that fall together."""
    if one.has_datetime_index != other.has_datetime_index or one.freq != other.freq:
        return False
    early, late = sorted((one, other), key=lambda series: series.start_time())
    first, freq = late.start_time(), early.freq
    if not early.has_datetime_index:
        return (first - early.start_time()) % freq == 0
    if first <= early.end_time():
        return first in early.time_index
    return first == pd.date_range(early.end_time(), first, freq=freq)[-1]


def _grid(series: TimeSeries) -> str:
    step = series.freq_str if series.has_datetime_index else f"a range index with step {series.freq}"
    return f"{step} from {series.start_time()}"


def series_list(name: str, value: Any, empty: bool = False) -> list[TimeSeries]:
    """Return one series or a sequence of them as a list, an empty one only if `empty`.

    Raises
    ------
    TypeError
        If it is anything else, such as a DataFrame.
    ValueError
        If the sequence is empty.
    """
    if isinstance(value, TimeSeries):
        return [value]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"`{name}` must be a TimeSeries or a list of them, got {_kind(value)}{_remedy(value)}")
    for i, one in enumerate(value):
        if not isinstance(one, TimeSeries):
            raise TypeError(f"`{name}[{i}]` must be a TimeSeries, got {_kind(one)}{_remedy(one)}")
    if not len(value) and not empty:
        raise ValueError(f"`{name}` must hold at least one series, got none.")
    return list(value)


def one_series(name: str, value: Any, what: str = "") -> TimeSeries:
    """Return the series; raise as :func:`series_list`, also for a list, in place of which one series is needed."""
    if isinstance(value, TimeSeries):
        return value
    if isinstance(value, list | tuple):
        raise TypeError(f"`{name}` must be one TimeSeries{what}, got {_kind(value)}: hand over one at a time.")
    raise TypeError(f"`{name}` must be a TimeSeries, got {_kind(value)}{_remedy(value)}")


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _remedy(value: Any) -> str:
    """Return how a series is made of a table or an array of any library, told by names: none has to be installed."""
    kind, library = type(value).__name__, type(value).__module__.partition(".")[0]
    if kind in ("DataFrame", "LazyFrame", "Table"):
        return ": use `TimeSeries.from_dataframe(...)`."
    if kind == "DataArray":
        return ": use `TimeSeries.from_xarray(...)`."
    if kind == "Series":
        return ": use `TimeSeries.from_series(...)`."
    if library in ("numpy", "torch", "jax", "jaxlib", "tensorflow", "cupy") or isinstance(value, int | float):
        return ": use `TimeSeries.from_values(...)`."
    if isinstance(value, Iterator):
        return ": use `list(...)`."
    return "."


def _which(name: str, number: int, many: Sequence[Any]) -> str:
    """Return what an error calls the series."""
    return f"`{name}`" if len(many) == 1 else f"`{name}[{number}]`"


def check_series(
    name: str,
    series: Sequence[TimeSeries] | None,
    needs_value: bool = False,
    deterministic: bool = False,
    model: Any = None,
) -> None:
    """Raise unless all values are finite or NaN.

    Parameters
    ----------
    name
        What errors call the series.
    series
        The series, if any.
    needs_value
        Whether each must have an observed value.
    deterministic
        Whether none may have samples.
    model
        The model that reads their static covariates, which must then be numbers.
    """
    series = series or ()
    for i, one in enumerate(series):
        which = _which(name, i, series)
        if deterministic and one.is_stochastic:
            raise ValueError(
                f"`{name}[{i}]` must be deterministic, got {one.n_samples} samples: hand them over one by one, or "
                "their median."
            )
        check_finite(which, one)
        static = one.static_covariates
        if static is not None:
            if model is not None:
                _check_numbers(which, static, model)
            numbers = static.select_dtypes(include=np.number).to_numpy()
            if np.isinf(numbers).any():
                raise ValueError(f"The static covariates of {which} must be finite or NaN, got an infinite value.")
        if needs_value and not has_value(one.all_values(copy=False)):
            size = one.all_values(copy=False).size
            raise ValueError(f"{which} must hold at least one observed value, but all of its {size} are NaN.")


def check_finite(which: str, series: TimeSeries) -> None:
    """Raise if a value is infinite."""
    for first, block in _blocks(series.all_values(copy=False)):
        infinite = np.isinf(block)
        if infinite.any():
            step, component, _ = np.argwhere(infinite)[0]
            raise ValueError(
                f"{which} must be finite or NaN, got an infinite value in component "
                f"{series.components[component]!r} at {series.time_index[first + step]}; mark what is missing as NaN."
            )


def _check_numbers(which: str, static: pd.DataFrame, model: Any) -> None:
    numbers = static.select_dtypes(include=np.number).columns
    others = [str(name) for name in static.columns if name not in numbers]
    if others:
        raise ValueError(
            f"{type(model).__name__} can only interpret numeric static covariate data, but that of {which} has other "
            f"in {', '.join(map(repr, others))}: encode it with "
            "`darts.dataprocessing.transformers.StaticCovariatesTransformer`, or set `use_static_covariates=False` at "
            "model creation to ignore static covariates."
        )


def has_value(values: np.ndarray) -> bool:
    """Return whether any of the values ``(time, ...)`` is not NaN."""
    return any(not np.isnan(block).all() for _, block in _blocks(values))


def _blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield parts of an array along its first axis, and where each begins."""
    steps = max(BLOCK // max(values[:1].size, 1), 1)
    for first in range(0, len(values), steps):
        yield first, values[first : first + steps]


def check_labels(series: Sequence[TimeSeries], first: int) -> None:
    """Raise unless some value from step `first` on, where a forecast may be asked for, is observed."""
    labels = [one.all_values(copy=False)[first:] for one in series if len(one) > first]
    if labels and not any(map(has_value, labels)):  # too short a series is Darts' to report
        raise ValueError(
            f"`series` must have an observed value after its first {first} steps (the shortest input chunk and the "
            "shift), but there is nothing to learn from: shorten `input_chunk_length`."
        )


def check_weights(series: Sequence[TimeSeries], sample_weight: Sequence[TimeSeries] | str | None) -> None:
    """Raise unless every observed value has a finite weight, where there are any."""
    if sample_weight is None or isinstance(sample_weight, str):
        return
    for i, (one, weight) in enumerate(zip(series, sample_weight, strict=False)):  # Darts compares the numbers
        values, weights = one.slice_intersect_values(weight), weight.slice_intersect_values(one)
        if (~np.isfinite(weights) & ~np.isnan(values)).any():
            raise ValueError(
                f"`sample_weight[{i}]` must be finite wherever the target is observed, got NaN or an infinite value: "
                "use 0 for what should have no influence."
            )


def check_trained(module: torch.nn.Module) -> None:
    """Raise if a weight of a fitted module is not finite: all that it says would be NaN."""
    network: Any = module.network
    numbers = [*module.parameters(), *network.buffers()]
    if not all_finite(numbers):
        raise ValueError(
            "The model's weights are not finite: its training diverged. Fit a new one with a lower learning rate "
            '(`optimizer_kwargs={"lr": 1e-4}`) or with clipped gradients '
            '(`pl_trainer_kwargs={"gradient_clip_val": 1.0}`), and scale the data or look for extreme values in it.'
        )


def all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether all numbers of the tensors are finite."""
    found = [tensor.detach().isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    return not found or bool(torch.stack(found).all())


@overload
def for_each(fill: Callable[[TimeSeries], TimeSeries], series: TimeSeries) -> TimeSeries: ...
@overload
def for_each(fill: Callable[[TimeSeries], TimeSeries], series: Sequence[TimeSeries]) -> list[TimeSeries]: ...
def for_each(
    fill: Callable[[TimeSeries], TimeSeries], series: TimeSeries | Sequence[TimeSeries]
) -> TimeSeries | list[TimeSeries]:
    """Check one deterministic series or several, and return what `fill` makes of each, as it came."""
    many = series_list("series", series)
    check_series("series", many, deterministic=True)
    filled = [fill(one) for one in many]
    return filled[0] if isinstance(series, TimeSeries) else filled


def warn_of_dead_components(series: Sequence[TimeSeries], what: str, filled: bool) -> list[np.ndarray]:
    """Return for each series which components hold no observed value, and warn once that names them.

    Parameters
    ----------
    series
        The series.
    what
        What is made of them: "forecast" or "filled".
    filled
        Whether it is made all the same, from the other components.
    """
    dead = [dead_components(one.all_values(copy=False)[:, :, 0]) for one in series]
    found = [
        f"{name!r}" if len(series) == 1 else f"{name!r} of `series[{i}]`"
        for i, (one, none) in enumerate(zip(series, dead, strict=True))
        for name in np.array(one.components)[none]
    ]
    if found:
        names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        outcome = "from the other components alone" if filled else "as NaN"
        warnings.warn(f"Without any observed value, {what} {outcome}: {names}.", stacklevel=2)
    return dead
