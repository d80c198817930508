"""What a user calls: ``impute`` and ``reconstruct``."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from darts import TimeSeries
from darts.utils.torch import random_method
from darts.utils.ts_utils import series2seq

from birnn_forecast.checks import (
    check_grids,
    check_series,
    check_trained,
    remembered,
    series_list,
    warn_of_dead_components,
)
from birnn_forecast.models._calibration import calibrated, trial_sources
from birnn_forecast.models._checks import check_integer
from birnn_forecast.models._devices import device_of
from birnn_forecast.models._impute import (
    Source,
    WindowEstimator,
    aligned,
    passes,
    wanted_values,
)
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._names import TrainingNames
from birnn_forecast.models._raw import central_value, draw_samples, likelihood_parameters
from birnn_forecast.models._seasons import SeasonsMixin

# steps times components of the series to try the model on together
TRIED_AT_ONCE = 1_000_000

Series: TypeAlias = TimeSeries | Sequence[TimeSeries]


class Given(NamedTuple):
    """What is to be imputed: the series as they came, and the same with their components in the order of training."""

    single: bool
    callers: list[TimeSeries]
    series: list[TimeSeries]
    past_covariates: list[TimeSeries | None]
    future_covariates: list[TimeSeries | None]

    def in_callers_order(self, raws: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return arrays ``(time, components, ...)`` with the components as in `callers`."""
        found = []
        for caller, one, raw in zip(self.callers, self.series, raws, strict=True):
            place = {name: number for number, name in enumerate(one.components)}
            found.append(raw if one is caller else raw[:, [place[name] for name in caller.components]])
        return found


class ImputingMixin(SeasonsMixin):
    """Estimates of missing and of observed values, for a Darts torch model whose module is a ``GapAwareModule``."""

    model_params: dict[str, Any]
    _names: TrainingNames
    _fills_dead: bool

    @random_method
    def impute(
        self,
        series: Series | None = None,
        past_covariates: Series | None = None,
        future_covariates: Series | None = None,
        *,
        num_samples: int = 1,
        predict_likelihood_parameters: bool = False,
        max_gap: int | None = None,
        components: Sequence[str] | str | None = None,
        stride: int | None = None,
        batch_size: int | None = None,
        random_state: int | None = None,
        verbose: bool | None = None,
        calibrate: bool = True,
    ) -> TimeSeries | list[TimeSeries]:
        """Return the series with its gaps filled; what was observed stays as it is, bit by bit.

        Overlapping windows of the length of the input chunk are encoded from both sides, and their estimates blended:
        what stands in the middle of a window, with observations on both sides, counts most. The series may have any
        length. Where no window shows anything of a component (a gap longer than the input chunk), the estimate follows
        the interpolation of the whole series (along the season, where there is one); with covariates,
        it is what they say by themselves, plus the interpolation of what they leave unexplained around the gap.

        Parameters
        ----------
        series
            One or several series; default: the training series.
        past_covariates, future_covariates
            As in ``predict``; they must cover `series`, and may have gaps of their own.
        num_samples
            With a likelihood: number of samples of each missing value. 1 gives the middle of its distribution (the
            median of quantiles, the location where there is one, else the mean).
        predict_likelihood_parameters
            Whether to return the parameters of the likelihood, named as in ``predict``. Where a value was observed,
            every quantile and the location are that value and the scale is 0; the parameters of other distributions
            are NaN there.
        max_gap
            Longest gap to fill, in time steps; longer ones stay as they are. Default: fill all.
        components
            Names of the components to fill; the others stay as they are. Default: all.
        stride
            Number of time steps between the starts of two windows. Smaller is slower and a little more accurate.
            Default: half of the input chunk.
        batch_size
            Number of windows per batch; default: that of the model.
        random_state
            Seed of the samples.
        verbose
            Whether to show a progress bar.
        calibrate
            Whether to measure on each series how far the model is to be trusted. Further values are hidden, in gaps
            like the series' own (moved to other places; at an end, the series is cut off earlier), and estimated by the
            model, with the same windows, and by simple means: linear and seasonal interpolation, smoothers, returns to
            a mean. Gaps are filled by the mixture that is best there, by length of the gap and, unless the components
            see each other, by component. Where there is too little to tell by, simple estimates count, straight lines
            most, and the model only as far as it is sure to be better. On the series that the model was fitted on this
            flatters the model. Likelihoods without a location (Gamma, Beta, ...) stay as they are. Takes up to twice
            as long on long series, and on short ones several times as long: up to sixteen trials are made of a series.
            Default: ``True``.

        Returns
        -------
        TimeSeries | list[TimeSeries]
            As many series as came in, with their time index, components, static covariates, hierarchy and dtype (the
            last three not with `predict_likelihood_parameters`).

        Raises
        ------
        ValueError
            If the model is not fitted or was fitted with ``imputation_weight=0`` or ``masking_rate=0``, or if series,
            covariates or options do not fit it.
        """
        self._check_can_impute(num_samples, predict_likelihood_parameters)
        if max_gap is not None:
            check_integer("max_gap", max_gap)
        given = self._imputation_inputs(series, past_covariates, future_covariates)
        wanted = [wanted_values(one, max_gap, components) for one in given.series]
        sources = self._sources(given, wanted)
        stride = self._stride(stride)
        raws = self._estimates(given.series, sources, stride, batch_size, verbose)
        if calibrate:
            raws = self._calibrated(given.series, sources, raws, stride, batch_size, verbose)
        filled = [
            self._filled(one, raw, num_samples, predict_likelihood_parameters)
            for one, raw in zip(given.callers, given.in_callers_order(raws), strict=True)
        ]
        return filled[0] if given.single else filled

    @random_method
    def reconstruct(
        self,
        series: Series | None = None,
        past_covariates: Series | None = None,
        future_covariates: Series | None = None,
        *,
        n_passes: int = 4,
        num_samples: int = 1,
        predict_likelihood_parameters: bool = False,
        stride: int | None = None,
        batch_size: int | None = None,
        random_state: int | None = None,
        verbose: bool | None = None,
    ) -> TimeSeries | list[TimeSeries]:
        """Return the series as the model would have estimated each value, had it been missing.

        The series is gone through `n_passes` times, each time with another of every `n_passes` steps hidden (steps
        shifted from component to component), before anything is computed from it: no estimate knows its own value.
        What differs much from its estimate is an anomaly; missing values are estimated, too, as by :meth:`impute` with
        ``calibrate=False``.

        Parameters
        ----------
        n_passes
            Number of passes, at least 2. More hide less at a time, and cost more.
        series, past_covariates, future_covariates, num_samples, predict_likelihood_parameters, stride, batch_size, \
random_state, verbose
            As in :meth:`impute`.

        Returns
        -------
        TimeSeries | list[TimeSeries]
            As in :meth:`impute`, with an estimate at every step.

        Raises
        ------
        ValueError
            As in :meth:`impute`.
        """
        self._check_can_impute(num_samples, predict_likelihood_parameters)
        check_integer("n_passes", n_passes, minimum=2)
        given = self._imputation_inputs(series, past_covariates, future_covariates)
        sources = self._sources(given, [np.isnan(one.values(copy=False)) for one in given.series])
        stride = self._stride(stride)
        raws = []
        for one, whole in zip(given.series, sources, strict=True):
            raw = np.full((*whole.target.shape, len(self.model.roles)), np.nan)
            for source in passes(whole, n_passes):
                found = self._estimates([one], [source], stride, batch_size, verbose)[0]
                raw[source.wanted] = found[source.wanted]
            raws.append(raw)
        nothing = [one.with_values(np.full_like(one.values(), np.nan)) for one in given.callers]
        results = [
            self._filled(one, raw, num_samples, predict_likelihood_parameters)
            for one, raw in zip(nothing, given.in_callers_order(raws), strict=True)
        ]
        return results[0] if given.single else results

    def _impute_forward(
        self,
        series: Series,
        past_covariates: Series | None = None,
        future_covariates: Series | None = None,
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> list[TimeSeries]:
        """Fill each missing value from the window that ends with it: no estimate knows what comes after.

        Before its first observed value nothing is known of a component but the level of the training data. That goes
        for one without any value, too: whether there will be some is not known either.
        """
        self._check_can_impute(1, False)
        given = self._imputation_inputs(series, past_covariates, future_covariates)
        wanted = [wanted_values(one, None, None) for one in given.series]
        sources = self._sources(given, wanted, leaves_dead=False)
        raws = given.in_callers_order(self._estimates(given.series, sources, None, batch_size, verbose))
        return [self._filled(one, raw, 1, False) for one, raw in zip(given.callers, raws, strict=True)]

    def _calibrated(
        self,
        targets: Sequence[TimeSeries],
        sources: Sequence[Source],
        raws: Sequence[np.ndarray],
        stride: int,
        batch_size: int | None,
        verbose: bool | None,
    ) -> list[np.ndarray]:
        """Return the raw parameters, their locations leaning on simple estimates where those are better on the series.

        The trials are estimated as the series are: by the same windows, strides apart, in the same batches.
        """
        tried = [trial_sources(source) for source in sources]
        results: list[np.ndarray] = []
        first = 0
        while first < len(sources):
            # as many series at once as fit the memory
            size, last = 0, first
            while last < len(sources) and (last == first or size < TRIED_AT_ONCE):
                size += sum(one.target.size for one in tried[last][1])
                last += 1
            of_series = [targets[i] for i in range(first, last) for _ in tried[i][1]]
            made = [one for _, some in tried[first:last] for one in some]
            guesses = iter(self._estimates(of_series, made, stride, batch_size, verbose) if made else [])
            for i in range(first, last):
                trials = tried[i][0]
                own = [next(guesses) for _ in trials]
                seasons, seen = self._seasons_for(targets[i])
                results.append(calibrated(self.model, sources[i], trials, raws[i], own, seasons, seen))
            first = last
        return results

    def _check_can_impute(self, num_samples: int, predict_likelihood_parameters: bool) -> None:
        for name in ("imputation_weight", "masking_rate"):
            if not self.model_params[name]:
                raise ValueError(
                    f"`{name}` must be > 0 for a model that imputes, got 0: with it nothing is hidden in training, "
                    "and nothing learnt about missing values. Make and fit a model with another value."
                )
        if not self._fit_called or self.model is None:
            raise ValueError("The model must be fitted before it can impute: call `fit()` first.")
        check_trained(self.model)
        check_integer("num_samples", num_samples)
        if num_samples > 1 and self.likelihood is None:
            raise ValueError(
                f"`num_samples` must be 1 for a model without a likelihood, got {num_samples}: make the model with "
                "`likelihood=`."
            )
        if predict_likelihood_parameters and self.likelihood is None:
            raise ValueError(
                "`predict_likelihood_parameters` must be False for a model without a likelihood: make the model with "
                "`likelihood=`."
            )
        if predict_likelihood_parameters and num_samples > 1:
            raise ValueError(f"`num_samples` must be 1 with `predict_likelihood_parameters=True`, got {num_samples}.")

    def _imputation_inputs(
        self, series: Series | None, past_covariates: Series | None, future_covariates: Series | None
    ) -> "Given":
        """Return the series and for each its covariates, encodings included, with components as in training."""
        if series is None:
            if self.training_series is None:
                raise ValueError(
                    "`series` must be given: the model keeps no training series (it was fitted on several, or from a "
                    "dataset, or saved with `clean=True`)."
                )
            series = self.training_series
        single, targets = isinstance(series, TimeSeries), series_list("series", series)
        given = {"series": series, "past_covariates": past_covariates, "future_covariates": future_covariates}
        check_grids(remembered(self, given))
        if past_covariates is None and self.past_covariate_series is not None:
            past_covariates = [self.past_covariate_series] * len(targets)
        if future_covariates is None and self.future_covariate_series is not None:
            future_covariates = [self.future_covariate_series] * len(targets)
        past, future = series2seq(past_covariates), series2seq(future_covariates)
        check_series("series", targets, deterministic=True, model=self._reads_static)
        check_series("past_covariates", past)
        check_series("future_covariates", future)
        if self.encoders is not None and self.encoders.encoding_available:
            # those for training stop an output chunk before the end, those for prediction start an input chunk before
            # it; with something in front, even of a short series, together they cover all of it
            steps = self.input_chunk_length + self.output_chunk_length + self.output_chunk_shift
            past, future = self.encoders.encode_train_inference(
                n=self.output_chunk_length,
                target=[
                    one.prepend_values(np.full((steps, one.n_components, 1), np.nan, dtype=one.dtype))
                    for one in targets
                ],
                past_covariates=past,
                future_covariates=future,
            )
        nothing = [None] * len(targets)
        rows = zip(targets, past or nothing, future or nothing, strict=True)
        names, known = self._names, not self._takes_other_components
        in_order = [names.sorted(*row, "" if single else f"[{i}]", known) for i, row in enumerate(rows)]
        return Given(single, targets, *(list(each) for each in zip(*in_order, strict=True)))

    def _sources(self, given: "Given", wanted: Sequence[np.ndarray], leaves_dead: bool = True) -> list[Source]:
        shapes = self.model.train_sample_shape
        dead = [np.zeros(one.n_components, dtype=bool) for one in given.series]
        if leaves_dead:
            dead = warn_of_dead_components(given.series, "filled", self._fills_dead)
        sources = []
        rows = zip(given.series, given.past_covariates, given.future_covariates, wanted, dead, strict=True)
        for one, past_one, future_one, wanted_one, dead_one in rows:
            self._check_components(one)
            if not self._fills_dead:  # nothing is invented for a component that has never shown a value
                wanted_one = wanted_one & ~dead_one
            _check_width("past_covariates", past_one, shapes["past_covariates"])
            _check_width("future_covariates", future_one, shapes["historic_future_covariates"])
            sources.append(
                Source(
                    one.values(copy=False),
                    wanted_one,
                    None if past_one is None else aligned("past_covariates", past_one, one),
                    None if future_one is None else aligned("future_covariates", future_one, one),
                    self._static_values(one, shapes["static_covariates"]),
                    self._fills_dead,
                )
            )
        return sources

    @property
    def _takes_other_components(self) -> bool:
        """Whether series may have other components than those of training."""
        return False

    def _check_components(self, series: TimeSeries) -> None:
        expected = self.model.n_targets
        if series.n_components != expected:
            raise ValueError(
                f"`series` must have the {expected} components that the model was fitted on, got {series.n_components}."
            )

    def _static_values(self, series: TimeSeries, shape: tuple[int, ...] | None) -> np.ndarray | None:
        if shape is None:
            return None
        values = series.static_covariates_values(copy=False)
        if values is None or values.size != np.prod(shape):
            came = "none" if values is None else f"a table of {values.shape[0]} x {values.shape[1]}"
            raise ValueError(
                f"`series` must have static covariates as in training, {shape[0]} x {shape[1]} of them, got {came}."
            )
        return values

    def _estimates(
        self,
        targets: Sequence[TimeSeries],
        sources: Sequence[Source],
        stride: int | None,
        batch_size: int | None,
        verbose: bool | None,
    ) -> list[np.ndarray]:
        """Return the raw parameters of what is wanted of each source; without a stride, from windows that end there."""
        if batch_size is not None:
            check_integer("batch_size", batch_size)
        return self._run_module(self.model, sources, stride, batch_size, verbose)

    def _run_module(
        self,
        module: GapAwareModule,
        sources: Sequence[Source],
        stride: int | None,
        batch_size: int | None,
        verbose: bool | None,
    ) -> list[np.ndarray]:
        season = self._season
        estimator = WindowEstimator(module, season, batch_size or self.batch_size, bool(verbose))
        home = module.device
        module.to(device_of(self.trainer_params))
        try:
            return estimator.estimate_forward(sources) if stride is None else estimator.estimate(sources, stride)
        finally:
            module.to(home)

    def _stride(self, stride: int | None) -> int:
        if stride is None:
            return max(self.input_chunk_length // 2, 1)
        check_integer("stride", stride)
        if stride > self.input_chunk_length:
            raise ValueError(
                f"`stride` must be at most the input chunk's length ({self.input_chunk_length}), got {stride}: else "
                "some steps would be in no window."
            )
        return stride

    def _filled(
        self, series: TimeSeries, raw: np.ndarray, num_samples: int, predict_likelihood_parameters: bool
    ) -> TimeSeries:
        values = series.values()
        if predict_likelihood_parameters:
            parameters = likelihood_parameters(raw, values, self.likelihood)
            return TimeSeries.from_times_and_values(
                series.time_index,
                parameters.astype(series.dtype),
                freq=series.freq,
                columns=self.likelihood.component_names(series=series),
            )
        if num_samples > 1:
            samples = draw_samples(raw, self.likelihood, num_samples)
            return series.with_values(np.where(np.isnan(samples), values[:, :, None], samples).astype(series.dtype))
        estimates = central_value(raw, self.model)
        found = ~np.isnan(estimates)
        values[found] = estimates[found]
        return series.with_values(values)


def _check_width(name: str, covariates: TimeSeries | None, shape: tuple[int, ...] | None) -> None:
    if (covariates is None) != (shape is None):
        remedy = "give them" if covariates is None else "leave them out"
        how = "without" if shape is None else "with"
        raise ValueError(f"`{name}` must be as in training, which was {how} them: {remedy}.")
    if covariates is not None and shape is not None and covariates.n_components != shape[1]:
        raise ValueError(f"`{name}` must have {shape[1]} components as in training, got {covariates.n_components}.")
