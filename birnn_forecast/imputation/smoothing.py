"""Smoothing as a Darts filtering model: each value as the others, before and after it, tell it."""

from collections.abc import Sequence
from typing import Any

from darts import TimeSeries
from darts.models.filtering.filtering_model import FilteringModel

from birnn_forecast.checks import check_series, series_list
from birnn_forecast.imputation.imputer import check_model, fitted_model
from birnn_forecast.models._checks import check_integer


class BidirectionalFilter(FilteringModel):
    """Smooths a series with a model of this package; what it does not explain is an anomaly.

    Each observed value is replaced by the model's estimate of it without it, from both sides; gaps are filled. The
    difference from the observed value then is an honest error, which makes the filter fit for
    ``FilteringAnomalyModel(model=BidirectionalFilter(...), scorer=...)``.

    Parameters
    ----------
    model
        A model of this package with an `imputation_weight` above 0. One that is not fitted is fitted in place, by
        ``fit`` or to the first series that is filtered.
    n_passes
        Number of passes; each hides one part of the observed values and estimates these from the rest. With more of
        them fewer values are hidden at a time, so that more is known about each.
    refit
        Whether ``fit`` (which ``FilteringAnomalyModel.fit(allow_model_training=True)`` calls) fits the model (an
        untrained copy of it) anew when it is fitted already.

    Raises
    ------
    ValueError
        If `n_passes` is not an integer of at least 2.
    TypeError
        If `model` cannot reconstruct.

    Examples
    --------
    >>> from darts.ad import FilteringAnomalyModel, NormScorer
    >>> from birnn_forecast import BiGRUModel
    >>> from birnn_forecast.imputation import BidirectionalFilter
    >>> smoother = BidirectionalFilter(BiGRUModel(96, 24, n_epochs=20))
    >>> detector = FilteringAnomalyModel(model=smoother, scorer=NormScorer())
    >>> scores = detector.fit(normal, allow_model_training=True).score(series)  # doctest: +SKIP
    """

    def __init__(self, model: Any, n_passes: int = 4, *, refit: bool = False):
        super().__init__()
        check_model(model, "reconstruct")
        check_integer("n_passes", n_passes, minimum=2)
        self.n_passes = n_passes
        self.refit = refit
        self._model = model

    @property
    def model(self) -> Any:
        """The model, fitted or not."""
        return self._model

    def fit(self, series: TimeSeries | Sequence[TimeSeries], **kwargs) -> "BidirectionalFilter":
        """Fit the model unless it is fitted already (see `refit`); `kwargs`, as covariates, go to its ``fit``."""
        self._model = fitted_model(self._model, self.refit, series_list("series", series), **kwargs)
        return self

    def filter(
        self,
        series: TimeSeries | Sequence[TimeSeries],
        num_samples: int = 1,
        past_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
        future_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
        random_state: int | None = None,
    ) -> TimeSeries | list[TimeSeries]:
        """Return the smoothed series, one or as many as came.

        Parameters
        ----------
        series
            One deterministic series or several; may have gaps, which are filled.
        num_samples
            Number of samples of each value; more than 1 needs a model with a likelihood.
        past_covariates, future_covariates
            Covariates of each series (of one series also as a list, which ``FilteringAnomalyModel.score`` hands on).
        random_state
            Seed of the samples.

        Raises
        ------
        ValueError
            If a series is stochastic, or there are not as many covariates as series.
        """
        check_series("series", series_list("series", series), deterministic=True)
        given = {"past_covariates": past_covariates, "future_covariates": future_covariates}
        covariates = {name: value for name, value in given.items() if value is not None}
        if not self.model._fit_called:
            self.fit(series, **{name: series_list(name, value) for name, value in covariates.items()})
        options = {**covariates, "num_samples": num_samples, "random_state": random_state}
        return self.model.reconstruct(series, n_passes=self.n_passes, **options)
