"""Imputing and reconstructing series with a fitted model: windows in, one estimate per missing value out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import PLModuleInput
from tqdm import tqdm

from birnn_forecast.data.history import History, Moments, completed_moments, packed, pooled_over_components
from birnn_forecast.data.windows import (
    Blend,
    cut,
    gap_lengths,
    gap_starts,
    spannable,
    triangle,
    whole_gaps,
    window_starts,
)
from birnn_forecast.masks import interpolate, interpolate_seasonal, next_observed, observed_mask, previous_observed
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._raw import as_measured, as_raw, central_value, moved_to
from birnn_forecast.models._views import Views


@dataclass
class Source:
    """One series as arrays, and which of its values are wanted.

    Attributes
    ----------
    target
        ``(time, components)``, NaN where missing or hidden.
    wanted
        ``(time, components)``, True where an estimate is asked for.
    past_covariates, future_covariates
        ``(time, covariates)`` over the same steps, or None.
    static_covariates
        ``(components or 1, covariates)``, or None.
    fills_dead
        Whether components without any value are estimated, from what the others have in common.
    """

    target: np.ndarray
    wanted: np.ndarray
    past_covariates: np.ndarray | None = None
    future_covariates: np.ndarray | None = None
    static_covariates: np.ndarray | None = None
    fills_dead: bool = False

    @property
    def has_covariates(self) -> bool:
        """Whether there is something to estimate a long gap from."""
        return self.past_covariates is not None or self.future_covariates is not None


def passes(whole: Source, n_passes: int) -> Iterator[Source]:
    """Yield the source for its missing values, and one for each share of its observed ones, hidden.

    In each run of `n_passes` steps, every pass hides another one, in an order drawn for each run and component: no
    phase of a season is hidden as a whole.
    """
    missing = np.isnan(whole.target)
    runs = -(-len(missing) // n_passes)
    order = np.random.default_rng(0).permuted(
        np.tile(np.arange(n_passes)[:, None], (runs, 1, missing.shape[1])), axis=1
    )
    number_of = order.reshape(-1, missing.shape[1])[: len(missing)]
    yield whole
    for number in range(n_passes):
        hidden = (number_of == number) & ~missing
        yield replace(whole, target=np.where(hidden, np.nan, whole.target), wanted=hidden)


class Job(NamedTuple):
    """A window: of which source, and its first step."""

    source: int
    start: int


class Shown:
    """What a series has shown, for windows of it: as a whole, and lately.

    Parameters
    ----------
    source
        The series.
    length
        Steps of a window.
    known
        "whole": all of the series is known, and what it has shown up to a window's end is preferred where it is asked
        what it showed lately; "past": a window must not know what comes after it; "level": the windows hide
        everything, and only the whole series' own level and scale are known.
    """

    def __init__(self, source: Source, length: int, known: str = "whole"):
        self.source, self.known = source, known
        self.history = History(source.target, length)
        self.overall = completed_moments(source.target)

    def at(self, ends: np.ndarray) -> np.ndarray:
        """Return ``(windows, 4, components)`` for windows that end before the steps `ends`."""
        ends = np.clip(ends, 0, len(self.source.target))
        if self.known == "past":
            found = packed(self.history.until(ends), self.history.lately(ends))
        else:
            overall = Moments(*(np.tile(x, (len(ends), 1)) for x in self.overall))
            found = packed(overall, overall if self.known == "level" else self._lately(ends, overall))
        return pooled_over_components(found) if self.source.fills_dead else found

    def _lately(self, ends: np.ndarray, overall: Moments) -> Moments:
        found = self.history.lately(ends)
        # before its first values, a series has shown those that come
        unknown = np.isnan(found.mean) | (found.scale == 0)
        return Moments(*(np.where(unknown, whole, late) for whole, late in zip(overall, found, strict=True)))


class WindowEstimator:
    """Runs a module over windows of many series, batch by batch, and blends what it says of each step.

    Parameters
    ----------
    module
        The fitted module, on the device to use.
    season_length
        Steps of a season along which gaps longer than a window are bridged, or None.
    batch_size
        Windows per batch.
    verbose
        Whether to show a progress bar.
    """

    def __init__(self, module: GapAwareModule, season_length: int | None, batch_size: int, verbose: bool = False):
        self.module, self.season_length = module, season_length
        self.batch_size, self.verbose = batch_size, verbose
        self.length = module.input_chunk_length
        self.n_parameters = len(module.roles)

    def estimate(self, sources: Sequence[Source], stride: int) -> list[np.ndarray]:
        """Return raw parameters ``(time, components, parameters)`` in each series' unit, NaN where none are wanted."""
        guides = self._guides(sources, stride)
        jobs = [Job(i, start) for i, source in enumerate(sources) for start in self._starts(source, stride)]
        views = [Views(source.target, self.length, self.module, self._informed(source)) for source in sources]
        shown = [Shown(source, self.length) for source in sources]
        for batch, raw, steps in self._run(sources, jobs, guides, shown):
            for job, estimate, (before, after) in zip(batch, raw, steps, strict=True):
                unseen = (before < 0).all(axis=0) & (after < 0).all(axis=0)
                estimate = self._follow_guide(estimate, unseen, sources[job.source], guides[job.source], job.start)
                views[job.source].add(job.start, estimate, before, after)
        return [
            _only(view.settled(guide), source.wanted)
            for view, guide, source in zip(views, guides, sources, strict=True)
        ]

    def estimate_forward(self, sources: Sequence[Source]) -> list[np.ndarray]:
        """Return the same from windows that end with each wanted step: no estimate knows what comes after it."""
        guides = [None if source.has_covariates else _last_value(source.target) for source in sources]
        jobs = [
            Job(i, int(step) - self.length + 1)
            for i, source in enumerate(sources)
            for step in np.flatnonzero(source.wanted.any(axis=1))
        ]
        raws = [np.full((*source.target.shape, self.n_parameters), np.nan) for source in sources]
        shown = [Shown(source, self.length, "past") for source in sources]
        for batch, raw, _ in self._run(sources, jobs, guides, shown):
            for job, estimate in zip(batch, raw, strict=True):
                raws[job.source][job.start + self.length - 1] = estimate[-1]
        return [_only(raw, source.wanted) for raw, source in zip(raws, sources, strict=True)]

    def _informed(self, source: Source) -> np.ndarray:
        observed = ~np.isnan(source.target)
        if source.has_covariates:
            return np.ones_like(observed)
        if not self.module.network.mixes_components:
            return np.zeros_like(observed)
        return observed.sum(axis=1, keepdims=True) > observed

    def _starts(self, source: Source, stride: int) -> list[int]:
        """Return the first steps of the windows that are to be run: those that show something."""
        regular = window_starts(len(source.target), self.length, stride)
        missing = np.isnan(source.target)
        starts = np.union1d(regular, gap_starts(missing, source.wanted, regular, self.length))
        shown = np.asarray(~missing.all(axis=1))
        # the windows at a gap's ends have their say in its middle, too
        asked = np.asarray(whole_gaps(missing, source.wanted).any(axis=1))
        seen, needed = (self._any(steps, starts) for steps in (shown, asked))
        # a window of one step, or of a series that shows nothing at all, has only covariates and the training data
        some = seen | source.has_covariates | (not shown.any()) | (self.length == 1)
        return starts[needed & some].tolist()

    def _any(self, steps: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return for each window whether any of its steps is True."""
        before = np.concatenate([[0], np.cumsum(steps)])
        return before[np.minimum(starts + self.length, len(steps))] > before[np.maximum(starts, 0)]

    def _guides(self, sources: Sequence[Source], stride: int) -> list[np.ndarray | None]:
        """Return for each series a value for every step, for gaps that no window spans.

        It is the interpolation of the whole series; with covariates, what they say by themselves plus the
        interpolation of what that leaves unexplained. None without such gaps; NaN of a component of which nothing was
        ever observed.
        """
        guides: list[np.ndarray | None] = []
        for source in sources:
            missing = np.isnan(source.target)
            if gap_lengths(missing).max(initial=0) <= spannable(self.length):
                guides.append(None)
                continue
            known = source.target
            explained = np.zeros_like(known)
            if source.has_covariates:
                explained = self._from_covariates(source, missing, stride)  # NaN far from long gaps
                known = _moving_mean(source.target - explained, max(self.length // 2, 1))
            guide = self._bridge(known) + np.where(missing.all(axis=0), np.nan, 0.0) + explained
            guides.append(guide)
        return guides

    def _from_covariates(self, source: Source, missing: np.ndarray, stride: int) -> np.ndarray:
        """Return what the covariates say by themselves in long gaps and about them, NaN elsewhere."""
        reach = np.ones(2 * self.length + 1)
        long = (gap_lengths(missing) >= self.length).any(axis=1)
        near = np.convolve(long, reach, mode="same")[: len(long)] > 0
        wanted = np.broadcast_to(near[:, None], source.target.shape)
        blind = Source(
            np.full_like(source.target, np.nan),
            wanted,
            source.past_covariates,
            source.future_covariates,
            source.static_covariates,
        )
        blend = Blend((*source.target.shape, self.n_parameters))
        starts = window_starts(len(source.target), self.length, stride)
        jobs = [Job(0, int(start)) for start in starts if near[max(start, 0) : start + self.length].any()]
        shape = np.repeat(triangle(self.length)[:, None], source.target.shape[1], axis=1)
        for batch, raw, _ in self._run([blind], jobs, [None], [Shown(source, self.length, "level")]):
            for job, estimate in zip(batch, raw, strict=True):
                blend.add(job.start, as_measured(estimate, self.module), shape)
        central = central_value(as_raw(blend.mean(), self.module), self.module)
        return np.where(wanted, central, np.nan)

    def _bridge(self, values: np.ndarray) -> np.ndarray:
        x = torch.as_tensor(values, dtype=torch.float64)[None]
        observed = observed_mask(x)
        if self.season_length:
            return interpolate_seasonal(x, observed, self.season_length)[0].numpy()
        return interpolate(x, observed)[0].numpy()

    def _follow_guide(
        self, estimate: np.ndarray, unseen: np.ndarray, source: Source, guide: np.ndarray | None, start: int
    ) -> np.ndarray:
        """Put the guide in where a component shows nothing and covariates have had their say in it already."""
        if guide is None or not source.has_covariates:
            return estimate
        aim = cut(guide, np.array([start]), len(estimate))[0]
        blind = unseen & ~np.isnan(aim).any(axis=0)
        return moved_to(estimate, np.where(blind, aim, np.nan), self.module)

    def _run(
        self,
        sources: Sequence[Source],
        jobs: list[Job],
        guides: Sequence[np.ndarray | None],
        shown: Sequence[Shown],
    ) -> Iterator[tuple[list[Job], np.ndarray, np.ndarray]]:
        """Yield batches of windows with their raw parameters, and the steps to the observations on either side.

        These are ``(window, 2, time, components)``: to the one before (or at) each step and to the one after, negative
        if there is none.
        """
        module = self.module
        was_training = module.training
        module.eval()
        try:
            batches = range(0, len(jobs), self.batch_size)
            with torch.no_grad():
                for first in tqdm(batches, desc="impute", disable=not self.verbose):
                    batch = jobs[first : first + self.batch_size]
                    x_in, guide = self._windows(sources, batch, guides)
                    visible = observed_mask(x_in.past_target)
                    groups = [
                        (number, [*jobs_of_one]) for number, jobs_of_one in groupby(batch, lambda job: job.source)
                    ]
                    ends = [(number, np.array([job.start + self.length for job in some])) for number, some in groups]
                    found = np.concatenate([shown[number].at(each) for number, each in ends])
                    history = torch.as_tensor(found, device=module.device)
                    raw = module.estimate(x_in, visible, guide, history)
                    time = torch.arange(self.length, device=visible.device)[None, :, None]
                    before, after = previous_observed(visible), next_observed(visible)
                    steps = torch.stack(
                        [
                            torch.where(before >= 0, time - before, -1),
                            torch.where(after < self.length, after - time, -1),
                        ],
                        dim=1,
                    )
                    yield batch, raw.double().cpu().numpy(), steps.cpu().numpy()
        finally:
            module.train(was_training)

    def _windows(
        self, sources: Sequence[Source], batch: list[Job], guides: Sequence[np.ndarray | None]
    ) -> tuple[PLModuleInput, torch.Tensor | None]:
        """Return a batch of windows as tensors on the module's device, and their guides."""

        def stack(get: Callable[[Job], np.ndarray | None]) -> torch.Tensor | None:
            arrays = [get(job) for job in batch]
            found = [array for array in arrays if array is not None]
            if not found:
                return None
            nothing = np.full_like(found[0], np.nan)
            stacked = np.stack([nothing if array is None else array for array in arrays])
            return torch.as_tensor(stacked, dtype=self.module.dtype, device=self.module.device)

        def windows(name: str) -> torch.Tensor | None:
            def get(job: Job) -> np.ndarray | None:
                values = getattr(sources[job.source], name)
                return None if values is None else cut(values, np.array([job.start]), self.length)[0]

            return stack(get)

        def guide(job: Job) -> np.ndarray | None:
            values = guides[job.source]
            return None if values is None else cut(values, np.array([job.start]), self.length)[0]

        target = windows("target")
        assert target is not None
        x_in = PLModuleInput(
            past_target=target,
            past_covariates=windows("past_covariates"),
            historic_future_covariates=windows("future_covariates"),
            static_covariates=stack(lambda job: sources[job.source].static_covariates),
        )
        return x_in, stack(guide)


def _only(raw: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.where(wanted[..., None], raw, np.nan)


def _last_value(values: np.ndarray) -> np.ndarray:
    """Return at each step the latest observed value up to it, NaN before the first."""
    steps = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(steps, axis=0), axis=0)


def _moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of what is observed within `width` steps about each observed value, NaN elsewhere."""
    observed = ~np.isnan(values)
    kernel = np.ones(width)

    def total(x: np.ndarray) -> np.ndarray:
        return np.stack([np.convolve(column, kernel, mode="full")[(width - 1) // 2 :][: len(x)] for column in x.T], -1)

    count = total(observed.astype(float))
    with np.errstate(invalid="ignore"):
        return np.where(observed, total(np.where(observed, values, 0.0)) / count, np.nan)


def wanted_values(series: TimeSeries, max_gap: int | None, components: Sequence[str] | str | None) -> np.ndarray:
    """Return ``(time, components)``, True at the missing values to fill.

    Raises
    ------
    ValueError
        If a component is not one of the series.
    """
    missing = np.isnan(series.values(copy=False))
    if components is not None:
        known = [str(name) for name in series.components]
        several = isinstance(components, Iterable) and not isinstance(components, str)
        names: list[Any] = [*components] if several else [components]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"`components` must be among {known}, one or a list of them, got {unknown[0]!r}.")
        missing = missing & np.isin(series.components, names)
    if max_gap is not None:
        missing = missing & (gap_lengths(np.isnan(series.values(copy=False))) <= max_gap)
    return missing


def aligned(name: str, covariates: TimeSeries, series: TimeSeries) -> np.ndarray:
    """Return the covariates' values at the steps of the series.

    Raises
    ------
    ValueError
        If the covariates do not cover the series.
    """
    if covariates.start_time() > series.start_time() or covariates.end_time() < series.end_time():
        raise ValueError(
            f"`{name}` must cover `series` ({series.start_time()} to {series.end_time()}), got "
            f"{covariates.start_time()} to {covariates.end_time()}: lengthen it, with NaN where it is unknown."
        )
    return covariates.slice_intersect_values(series, copy=False)[:, :, 0]
