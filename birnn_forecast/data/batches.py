"""Batches of windows by one gather per kind of array: those that Darts cuts and stacks window by window, only sooner.

Darts' datasets return one window at a time, which then are stacked. :class:`TrainingBatches` and
:class:`InferenceBatches` wrap such a dataset and answer PyTorch's request for a whole batch (``__getitems__``): the
values of all series stand in one array, and the windows' first rows are found by arithmetic. With ``keep_on`` that
array stands on a device, to which only the rows' numbers then travel. Whatever this does not cover (a window that Darts
would refuse, say) is left to Darts.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.utils.data import (
    HorizonBasedTorchTrainingDataset,
    SequentialTorchInferenceDataset,
    SequentialTorchTrainingDataset,
    ShiftedTorchTrainingDataset,
    TorchInferenceDataset,
    TorchTrainingDataset,
)
from darts.utils.data.torch_datasets.dataset import TorchDataset
from darts.utils.data.torch_datasets.utils import (
    TorchInferenceBatch,
    TorchInferenceSample,
    TorchTrainingBatch,
    TorchTrainingSample,
    _batch_collate_fn_predict,
    _batch_collate_fn_train,
)
from numpy.typing import NDArray
from torch import Tensor

from birnn_forecast.data.history import History, completed_moments, packed, pooled_over_components
from birnn_forecast.data.weights import counted_values

Integers = NDArray[np.int64]
NOWHERE = -(2**40)
"""The position of a step that a series' index does not hold: outside of every series."""


class _Plain(Exception):  # noqa: N818 - not an error
    """These series are left to Darts."""


class _Movable:
    """A batch of which only the tensors are moved: Lightning would copy all that Darts' own batches hold."""

    __slots__ = ()
    __dataclass_fields__: dict[str, Any]
    replace: Callable

    def to(self, device: torch.device, **kwargs):
        """Return the batch on `device`, this one if it is there."""
        tensors = self._tensors()
        if all(tensor.device == device for tensor in tensors.values()):
            return self
        # what is pinned need not be waited for
        return self.replace(
            **{name: tensor.to(device, non_blocking=device.type == "cuda") for name, tensor in tensors.items()}
        )

    def pin_memory(self):
        """Return the batch in pinned memory, what is on a device already as it is."""
        here = {name: tensor for name, tensor in self._tensors().items() if tensor.device.type == "cpu"}
        return self.replace(**{name: tensor.pin_memory() for name, tensor in here.items()})

    def _tensors(self) -> dict[str, Tensor]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(slots=True)
class TrainingBatch(_Movable, TorchTrainingBatch):
    """Darts' batch for training, and what the series of its windows have shown.

    ``history`` is ``(batch, 4, components)``: mean and scale of the series, overall and lately.
    """

    history: Tensor | None = None


@dataclass(slots=True)
class InferenceBatch(_Movable, TorchInferenceBatch):
    """Darts' batch for prediction, in the order of components of training, and what its series have shown so far.

    ``history`` is as in :class:`TrainingBatch`, up to the end of each window; None where no window needs it. ``back``,
    ``(batch, components)``, says where each component of the caller stands.
    """

    history: Tensor | None = None
    back: Tensor | None = None

    def tile_tensors(self, batch_sample_size: int) -> "InferenceBatch":
        """Repeat what goes into the network for each sample; `back` concerns what comes out of it."""
        tiled = TorchInferenceBatch.tile_tensors(self, batch_sample_size)
        if self.history is None:
            return tiled
        return tiled.replace(history=self.history.tile((batch_sample_size, 1, 1)))


class _Stack:
    """The values of several series in one array ``(sum of steps, components)``.

    A series that comes several times (covariates of many targets) is held once.

    Parameters
    ----------
    series
        The series.
    needed
        For each the first step that is needed.
    """

    def __init__(self, series: Sequence[TimeSeries], needed: Integers):
        distinct = {id(one): one for one in series}
        if any(not one.is_deterministic for one in distinct.values()):
            raise _Plain
        place = {key: number for number, key in enumerate(distinct)}
        places = np.array([place[id(one)] for one in series])
        lengths = np.array([len(one) for one in distinct.values()])
        # what no window reads is not copied: histories may be long
        skipped = lengths.copy()
        np.minimum.at(skipped, places, np.maximum(needed, 0))
        arrays = [
            one.all_values(copy=False)[first:, :, 0]
            for one, first in zip(distinct.values(), skipped.tolist(), strict=True)
        ]
        if any(array.dtype != arrays[0].dtype or array.shape[1] != arrays[0].shape[1] for array in arrays):
            raise _Plain
        self.values = np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)
        self.length: Integers = lengths[places]
        # the row of a series' first step, had nothing been skipped
        self.first: Integers = (np.cumsum(lengths - skipped) - lengths)[places]
        self.tensor: Tensor | None = None

    def keep_on(self, device: torch.device | None) -> None:
        """Keep the values on `device` as well, or no longer on any."""
        self.tensor = None if device is None else torch.from_numpy(self.values).to(device)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"tensor": None}  # another process has a device of its own


def views(values: np.ndarray, row: int, stride: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return windows of `values`, the first of them from `row` on, each `stride` rows after the one before."""
    strides = (stride * values.strides[0], *values.strides)
    return np.lib.stride_tricks.as_strided(values[row:], shape, strides, writeable=False)


class _Span:
    """The windows of one kind: `length` steps of a stack, from `start` steps after the first target on.

    Parameters
    ----------
    stack
        Where the values stand.
    lead
        Position in each series of the stack of the first step of its target series.
    start
        First step, counted from the first step of the horizon.
    length
        Number of steps.
    """

    def __init__(self, stack: _Stack, lead: Integers, start: int, length: int):
        self.stack, self.lead, self.start, self.length = stack, lead, start, length
        self.origin: Integers = stack.first + lead + start
        self.order: tuple[int, int, int] | None = None
        self._set_view()

    def number(self, latest: int, stride: int, count: int) -> None:
        """Let the only series' windows be cut by their number, counted from that of the horizon `latest` backwards."""
        self.order = int(self.origin[0]) + latest, stride, count
        self._set_view()

    def _set_view(self) -> None:
        values = self.stack.values
        steps = (self.length, values.shape[1])
        # a window that does not fit is never asked for
        self.view = views(values, 0, 1, (max(len(values) - self.length + 1, 0), *steps))
        self.numbered: Any = None
        if self.order is not None:
            row, stride, count = self.order
            self.numbered = views(values, row, -stride, (count, *steps))

    def __getstate__(self) -> dict[str, Any]:
        # the views would be written out window by window
        return {name: value for name, value in self.__dict__.items() if name not in ("view", "numbered")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_view()

    def holds(self, earliest: Integers, latest: Integers, padded: bool) -> NDArray[np.bool_]:
        """Return for which series the windows of the horizons from `earliest` to `latest` are within the series."""
        first = earliest + self.start
        inside = self.lead + latest + self.start + self.length <= self.stack.length
        if padded:
            inside &= first + self.length > 0
            first = np.maximum(first, 0)
        return inside & (self.lead + first >= 0)

    def cut(self, series: Integers, horizon: Integers, missing: Integers | None = None) -> Tensor:
        """Return the windows before or after the `horizon` starts, the first `missing` steps of each NaN."""
        rows = self.origin[series] + horizon
        if self.stack.tensor is not None:
            return self._cut_there(self.stack.tensor, rows, missing)
        if missing is None:
            return torch.from_numpy(self.view[rows])
        steps = np.arange(self.length)
        windows = self.stack.values[np.maximum(rows[:, None] + steps, (rows + missing)[:, None])]
        windows[steps < missing[:, None]] = np.nan
        return torch.from_numpy(windows)

    def _cut_there(self, values: Tensor, rows: Integers, missing: Integers | None) -> Tensor:
        """Do the same where the values are."""

        def there(numbers: Integers) -> Tensor:
            tensor = torch.from_numpy(numbers)
            if values.device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(values.device, non_blocking=True)[:, None]

        steps = torch.arange(self.length, device=values.device)
        numbers = there(rows) + steps
        if missing is None:
            return values[numbers]
        lacking = steps < there(missing)
        return values[torch.maximum(numbers, there(rows + missing))].masked_fill(lacking[:, :, None], float("nan"))


class _Windows:
    """The spans of a dataset, and the series whose windows all lie within their series and covariates.

    Parameters
    ----------
    dataset
        One of Darts'.
    weight
        Weight of the targets, if any.
    earliest, latest
        First and last position in each target series at which a horizon starts.
    shift
        Steps from the first of the input chunk to the first of the horizon.
    horizon
        Steps of the horizon.
    beyond
        Steps of the past covariates after the input chunk.
    """

    def __init__(
        self,
        dataset: Any,
        weight: Sequence[TimeSeries] | None,
        earliest: Integers,
        latest: Integers,
        shift: int,
        horizon: int,
        beyond: int = 0,
    ):
        series, past, future = dataset.series, dataset.past_covariates, dataset.future_covariates
        chunk = dataset.input_chunk_length
        zero = np.zeros(len(series), dtype=np.int64)
        start = earliest - shift
        target = _Stack(series, start)
        self.pasts = {"past_target": _Span(target, zero, -shift, chunk)}
        self.futures: dict[str, _Span] = {}
        if past is not None:
            lead = _leads(series, past)
            stack = _Stack(past, lead + start)
            self.pasts["past_covariates"] = _Span(stack, lead, -shift, chunk)
            if beyond:
                self.futures["future_past_covariates"] = _Span(stack, lead, chunk - shift, beyond)
        if future is not None:
            lead = _leads(series, future)
            stack = _Stack(future, lead + start)
            self.pasts["historic_future_covariates"] = _Span(stack, lead, -shift, chunk)
            self.futures["future_covariates"] = _Span(stack, lead, 0, horizon)
        if isinstance(dataset, TorchTrainingDataset):
            self.futures["future_target"] = _Span(target, zero, 0, horizon)
        if weight is not None:
            lead = _leads(series, weight)
            self.futures["sample_weight"] = _Span(_Stack(weight, lead + earliest), lead, 0, horizon)
            if self.futures["sample_weight"].stack.values.shape[1] not in (1, target.values.shape[1]):
                raise _Plain
        self.static = _static(series) if dataset.uses_static_covariates_covariates else None
        self.shift = shift
        self.padded = bool((earliest < shift).any())
        good = np.ones(len(series), dtype=bool)
        for span in self.pasts.values():
            good &= span.holds(earliest, latest, padded=True)
        for span in self.futures.values():
            good &= span.holds(earliest, latest, padded=False)
        self.bad: NDArray[np.bool_] | None = None if good.all() else ~good

    @property
    def stacks(self) -> list[_Stack]:
        """What all spans are cut from."""
        return list({id(span.stack): span.stack for span in (*self.pasts.values(), *self.futures.values())}.values())

    def number(self, latest: int, stride: int, count: int) -> None:
        """Let windows be cut by their number where there is one series, and nothing but its windows to a batch."""
        spans = [*self.pasts.values(), *self.futures.values()]
        if not self.padded and self.bad is None and self.static is None and len(spans[0].origin) == 1:
            for span in spans:
                span.number(latest, stride, count)

    @property
    def are_numbered(self) -> bool:
        """Whether windows can be cut by their number: not those that are cut on a device."""
        target = self.pasts["past_target"]
        return target.order is not None and target.stack.tensor is None

    def cut_numbered(self, numbers: Integers) -> dict[str, Tensor]:
        """Return the arrays of the windows with these numbers."""
        spans = (self.pasts | self.futures).items()
        return {name: torch.from_numpy(span.numbered[numbers]) for name, span in spans}

    def cut(self, series: Integers, horizon: Integers) -> dict[str, Tensor]:
        """Return the arrays of the windows whose horizons start at `horizon` in the `series`."""
        if self.bad is not None and self.bad[series].any():
            raise _Plain
        missing = None
        if self.padded and (horizon < self.shift).any():
            missing = np.maximum(self.shift - horizon, 0)
        arrays = {name: span.cut(series, horizon, missing) for name, span in self.pasts.items()}
        for name, span in self.futures.items():
            arrays[name] = span.cut(series, horizon)
        if self.static is not None:
            arrays["static_covariates"] = torch.from_numpy(self.static[series])
        return arrays


def _static(series: Sequence[TimeSeries]) -> np.ndarray:
    """Return the static covariates of all series, ``(series, components or 1, covariates)``."""
    values = [one.static_covariates_values(copy=False) for one in series]
    first = values[0]
    if any(v is None or v.shape != first.shape or v.dtype != first.dtype for v in values) or first.dtype == object:
        raise _Plain
    return np.stack(values)


def _leads(targets: Sequence[TimeSeries], others: Sequence[TimeSeries]) -> Integers:
    """Return for each target series the position of its first step in the other series."""
    known: dict[tuple[int, int], int] = {}
    leads = np.empty(len(targets), dtype=np.int64)
    for number, (target, other) in enumerate(zip(targets, others, strict=True)):
        key = (id(target._time_index), id(other._time_index))
        if key not in known:
            known[key] = _lead(target, other)
        leads[number] = known[key]
    return leads


def _lead(target: TimeSeries, other: TimeSeries) -> int:
    if target.freq != other.freq:
        return NOWHERE
    times, places = target._time_index, other._time_index
    found = _position(places, times[0])
    if found is None:
        found = _position(times, places[0])
        return NOWHERE if found is None else -found
    return found


def _position(times: pd.Index, time: Any) -> int | None:
    """Return where `time` stands in an increasing index, without a table of all of it as ``get_loc`` makes."""
    if type(time) is not type(times[0]) or not times[0] <= time <= times[-1]:
        return None
    place = int(times.searchsorted(time))
    return place if times[place] == time else None


class _Shown:
    """What each of several series has shown, found when it is first asked for.

    Parameters
    ----------
    series
        The series; of a stochastic one the first sample counts.
    weight
        Weights of the values in training, if any: what has weight 0 does not count.
    recent, often
        As in :class:`History`.
    """

    def __init__(
        self,
        series: Sequence[TimeSeries],
        weight: Sequence[TimeSeries] | None = None,
        recent: int = 1,
        often: bool = False,
    ):
        self.series, self.weight, self.recent, self.often = series, weight, recent, often
        self.found: dict[int, NDArray[np.float64]] = {}
        self.histories: dict[int, History] = {}

    def whole(self, numbers: Integers) -> Tensor | None:
        """Return ``(series, 4, components)`` over all values, lately being the same; None if components differ."""
        for number in {*numbers.tolist()} - self.found.keys():
            weight = None if self.weight is None else self.weight[number]
            found = completed_moments(counted_values(self.series[number], weight))
            self.found[number] = packed(found, found)
        rows = [self.found[number] for number in numbers.tolist()]
        if any(row.shape != rows[0].shape for row in rows):  # which is for Darts to say
            return None
        return torch.from_numpy(np.stack(rows))

    def until(self, numbers: Integers, ends: Integers, fills_dead: bool) -> Tensor:
        """Return ``(windows, 4, components)`` over the values before `ends`.

        `fills_dead`: a component without any gets what the others have in common.
        """
        rows: list[Any] = [None] * len(numbers)
        for number in np.unique(numbers).tolist():
            if number not in self.histories:
                values = self.series[number].all_values(copy=False)[:, :, 0]
                self.histories[number] = History(values, self.recent, self.often)
            history, where = self.histories[number], np.flatnonzero(numbers == number)
            found = packed(history.until(ends[where]), history.lately(ends[where]))
            found = pooled_over_components(found) if fills_dead else found
            for row, one in zip(where.tolist(), found, strict=True):
                rows[row] = one
        return torch.from_numpy(np.stack(rows))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"histories": {}}


class Order(NamedTuple):
    """Where the components of training stand in a caller's series, None for one that needs no change."""

    target: Integers | None = None
    past_covariates: Integers | None = None
    future_covariates: Integers | None = None
    static_covariates: Integers | None = None


class Asked(NamedTuple):
    """What a model asks of the windows it predicts from; set as the attribute ``asked`` of Darts' dataset.

    Attributes
    ----------
    orders
        For each series its :class:`Order`, or None for series that are in order.
    fills_dead
        Whether a component that has never shown a value is estimated from what the others have in common.
    """

    orders: list[Order | None] | None = None
    fills_dead: bool = False


def in_training_order(batch: InferenceBatch, orders: Sequence[Order | None]) -> InferenceBatch:
    """Return the batch with components in the order of training, and where each of the caller's stands then."""

    def taken(x: Tensor | None, index: Tensor | None, dim: int) -> Tensor | None:
        if x is None or index is None or x.shape[dim] == 1:
            return x
        # the other dimensions are broadcast
        return torch.take_along_dim(x, index.unflatten(1, (1,) * (dim - 1) + (-1,) + (1,) * (2 - dim)), dim)

    def index(name: str) -> Tensor | None:
        each = [None if order is None else getattr(order, name) for order in orders]
        known = [one for one in each if one is not None]
        if not known:
            return None
        same = np.arange(len(known[0]))
        return torch.from_numpy(np.stack([same if one is None else one for one in each]))

    target, past, future, static = (index(name) for name in Order._fields)
    return batch.replace(
        past_target=taken(batch.past_target, target, 2),
        past_covariates=taken(batch.past_covariates, past, 2),
        future_past_covariates=taken(batch.future_past_covariates, past, 2),
        historic_future_covariates=taken(batch.historic_future_covariates, future, 2),
        future_covariates=taken(batch.future_covariates, future, 2),
        static_covariates=taken(taken(batch.static_covariates, target, 1), static, 2),
        history=taken(batch.history, target, 2),
        back=None if target is None else target.argsort(dim=1),
    )


class TrainingBatches(TorchTrainingDataset):
    """One of Darts' training datasets, whose batches are cut at once.

    Parameters
    ----------
    dataset
        A ``ShiftedTorchTrainingDataset`` or one of Darts' subclasses of it.
    """

    def __init__(self, dataset: ShiftedTorchTrainingDataset):
        super().__init__()
        self.dataset = dataset
        self.shown = _Shown(dataset.series, dataset.sample_weight)
        self.windows: _Windows | None = None
        with suppress(_Plain):
            self.windows = self._all_windows()

    def _all_windows(self) -> _Windows:
        dataset = self.dataset
        self.length = np.array([len(one) for one in dataset.series])
        self.in_series = self._windows_in_series()
        self.within = np.maximum(self.in_series, 1)
        self.again = bool((self.within < dataset.max_samples_per_ts).any())
        # the first step of the latest horizon of each series
        self.latest = self.length - dataset.output_chunk_length
        if isinstance(dataset, HorizonBasedTorchTrainingDataset):
            self.latest = self.latest - (dataset.min_lh - 1) * dataset.output_chunk_length
        reached = np.minimum(self.in_series, dataset.max_samples_per_ts)
        earliest = self.latest - (reached - 1) * dataset.stride
        if dataset.output_chunk_length == 0:
            raise _Plain
        windows = _Windows(
            dataset, dataset.sample_weight, earliest, self.latest, dataset.shift, dataset.output_chunk_length
        )
        if (self.in_series < 1).any():
            bad = np.zeros(len(self.length), dtype=bool) if windows.bad is None else windows.bad
            windows.bad = bad | (self.in_series < 1)
        if not self.again:
            windows.number(int(self.latest[0]), dataset.stride, dataset.max_samples_per_ts)
        return windows

    def _windows_in_series(self) -> Integers:
        dataset = self.dataset
        if isinstance(dataset, HorizonBasedTorchTrainingDataset):
            enough = self.length >= (dataset.lookback + dataset.max_lh) * dataset.output_chunk_length
            return np.where(enough, dataset.max_samples_per_ts, 0)
        return -((self.length - dataset.size_of_both_chunks + 1) // -dataset.stride)

    def keep_on(self, device: torch.device | None) -> None:
        """Cut batches on `device` from now on, if all series fit into a quarter of what is free there; None: here."""
        stacks = [] if self.windows is None else self.windows.stacks
        needed = sum(stack.values.nbytes for stack in stacks)
        if device is None or 4 * needed <= free_memory(device):
            for stack in stacks:
                stack.keep_on(device)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> TorchTrainingSample:
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> TrainingBatch:
        """Return the batch of the samples with these `indices`."""
        numbers = np.fromiter(indices, np.int64, len(indices))
        series, number = np.divmod(numbers, self.dataset.max_samples_per_ts)
        return TrainingBatch(**self._arrays(numbers, series, number), history=self.shown.whole(series))

    def _arrays(self, numbers: Integers, series: Integers, number: Integers) -> dict[str, Any]:
        try:
            if self.windows is None:
                raise _Plain
            if self.windows.are_numbered:
                return self.windows.cut_numbered(numbers)
            if self.again:
                # where there are fewer than asked for, they are run through again; Darts speaks up where there are none
                number = number % self.within[series]
            return self.windows.cut(series, self.latest[series] - number * self.dataset.stride)
        except _Plain:
            return _fields(_batch_collate_fn_train([self.dataset[index] for index in numbers.tolist()]))


def _fields(batch: Any) -> dict[str, Any]:
    return {field.name: getattr(batch, field.name) for field in fields(batch)}


def free_memory(device: torch.device) -> float:
    """Return the free bytes of a GPU; of other devices more than is ever needed."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


class _Label(NamedTuple):
    """What the forecasts of one series are labelled with."""

    schema: dict[str, Any]
    times: pd.Index
    end: Any
    freq: Any


class InferenceBatches(TorchInferenceDataset):
    """One of Darts' inference datasets, whose batches are cut at once.

    Parameters
    ----------
    dataset
        A ``SequentialTorchInferenceDataset``.
    """

    def __init__(self, dataset: SequentialTorchInferenceDataset):
        super().__init__()
        self.dataset = dataset
        self.length = np.array([len(one) for one in dataset.series])
        self.shown = _Shown(dataset.series, None, dataset.input_chunk_length, dataset.bounds is not None)
        self.asked: Asked = getattr(dataset, "asked", Asked())
        self.orders: list[Order | None] = [None] * len(dataset.series)
        if self.asked.orders is not None:
            self.orders = self.asked.orders
        if dataset.bounds is not None:
            self.before: Integers = np.concatenate([[0], dataset.cum_lengths[:-1]])
        self.windows: _Windows | None = None
        with suppress(_Plain):
            self.windows = self._all_windows()
        self.labels: dict[int, _Label] = {}
        self.starts: dict[tuple[int, int], Any] = {}

    def _all_windows(self) -> _Windows:
        dataset = self.dataset
        first = last = self.length
        if dataset.bounds is not None:
            first, last = dataset.bounds.T
        shift = dataset.output_chunk_shift
        n, horizon = dataset.n, dataset.output_chunk_length
        windows = _Windows(
            dataset,
            None,
            first + shift,
            last + shift,
            dataset.input_chunk_length + shift,
            max(n, horizon),
            max(0, n - horizon),
        )
        short = self.length < dataset.min_input_chunk_length
        if short.any():
            windows.bad = short if windows.bad is None else windows.bad | short
        return windows

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> TorchInferenceSample:
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> InferenceBatch:
        """Return the batch of the samples with these `indices`."""
        dataset = self.dataset
        series = numbers = np.asarray(indices)
        if dataset.bounds is None:
            end = self.length[series]
        else:
            series = np.searchsorted(dataset.cum_lengths, numbers, side="right")
            end = dataset.bounds[series, 0] + (numbers - self.before[series]) * dataset.stride
        batch = InferenceBatch(**self._arrays(numbers, series, end))
        batch = batch.replace(history=self._history(batch.past_target, series, end))
        orders = [self.orders[one] for one in series.tolist()]
        return batch if all(order is None for order in orders) else in_training_order(batch, orders)

    def _arrays(self, numbers: Integers, series: Integers, end: Integers) -> dict[str, Any]:
        horizon = end + self.dataset.output_chunk_shift
        try:
            if self.windows is None:
                raise _Plain
            arrays: dict[str, Any] = self.windows.cut(series, horizon)
        except _Plain:
            return _fields(_batch_collate_fn_predict([self.dataset[index] for index in numbers.tolist()]))
        labels = [self._label(one) for one in series.tolist()]
        arrays["series_schema"] = [_fresh(label.schema) for label in labels]
        arrays["pred_time"] = [self._start(*pair) for pair in zip(labels, horizon.tolist(), strict=True)]
        return arrays

    def _history(self, past_target: Tensor, series: Integers, end: Integers) -> Tensor | None:
        """Return what the series have shown, if it is needed: by some window that shows less than two values."""
        few = torch.isnan(past_target).sum(dim=1) > past_target.shape[1] - 2
        return self.shown.until(series, end, self.asked.fills_dead) if bool(few.any()) else None

    def _label(self, number: int) -> _Label:
        if number not in self.labels:
            one = self.dataset.series[number]
            self.labels[number] = _Label(one.schema(copy=False), one._time_index, one.end_time(), one.freq)
        return self.labels[number]

    def _start(self, label: _Label, step: int) -> Any:
        key = (id(label.times), step)
        if key not in self.starts:
            steps = len(label.times)
            inside = step < steps
            self.starts[key] = label.times[step] if inside else label.end + (step + 1 - steps) * label.freq
        return self.starts[key]


def _fresh(value: Any) -> Any:
    """Return a value whose dictionaries and lists are new, as Lightning returns it from moving a batch to a device."""
    if type(value) is dict:
        return {name: _fresh(item) if isinstance(item, dict | list) else item for name, item in value.items()}
    if type(value) is list:
        return [_fresh(item) for item in value]
    return value


BATCHES: dict[type, Callable[[Any], TorchDataset]] = {
    ShiftedTorchTrainingDataset: TrainingBatches,
    SequentialTorchTrainingDataset: TrainingBatches,
    HorizonBasedTorchTrainingDataset: TrainingBatches,
    SequentialTorchInferenceDataset: InferenceBatches,
}


def in_batches(dataset: Any) -> Any:
    """Return `dataset` with batches cut at once, or as it is if it is of a user's own class."""
    wrapper = BATCHES.get(type(dataset))
    return dataset if wrapper is None else wrapper(dataset)


def collate_training(batch: Any) -> TorchTrainingBatch:
    """Return a batch that was cut at once as it is, and stack samples as Darts does."""
    return batch if isinstance(batch, TorchTrainingBatch) else _batch_collate_fn_train(batch)


def collate_inference(batch: Any) -> TorchInferenceBatch:
    """Return a batch that was cut at once as it is, and stack samples as Darts does."""
    return batch if isinstance(batch, TorchInferenceBatch) else _batch_collate_fn_predict(batch)
