"""Imputation as a step of a Darts pipeline."""

from collections.abc import Mapping, Sequence
from typing import Any

from darts import TimeSeries
from darts.dataprocessing.transformers import FittableDataTransformer

from birnn_forecast.checks import checked, one_series
from birnn_forecast.models._checks import check_choice, check_integer

DIRECTIONS = ("both", "forward")


class Imputer(FittableDataTransformer):
    """Fills the gaps of series with a model of this package, as a Darts transformer.

    Goes into a ``Pipeline`` and into ``historical_forecasts(data_transformers={"series": ...})``; observed values, time
    index, components, static covariates and hierarchy stay as they are. It is not invertible: forecasts pass through.

    ``fit(series)`` fits the model to all the series together, unless it is fitted already; ``transform(series)`` fills
    the gaps. Further arguments of either go to the model's ``fit`` and ``impute``.

    Parameters
    ----------
    model
        A model of this package with an `imputation_weight` above 0. One that is fitted needs no ``fit`` of the
        transformer; one that is not is fitted in place.
    direction
        "both": each gap is filled from both sides, the best estimate. In a back-test it leaks: a gap before the
        forecast's start is then filled with knowledge of what follows.
        "forward": each missing value is filled from what was observed before it (and covariates up to its time) only.
        For back-tests, with the model fitted to what precedes them.
    refit
        Whether ``fit`` fits the model (an untrained copy of it) anew when it is fitted already. In a back-test with
        ``retrain=True`` that is at every step.
    past_covariates, future_covariates
        One series each, used in fitting and filling all series; needed in pipelines when the model takes covariates
        (encoders of the model, ``add_encoders``, need none here).
    max_gap
        Longest gap to fill, in steps; longer ones stay. Default: any. Not with "forward": how long a gap will be is
        not known in it.
    name
        Name of the transformer.
    verbose
        Whether to show progress.
    columns
        Components to fill; the model then sees these only. Default: all.

    Raises
    ------
    ValueError
        If `direction` is not one of the choices, or comes as "forward" with `max_gap`.
    TypeError
        If `model` cannot impute, or covariates are not a single series.

    Examples
    --------
    >>> from darts.dataprocessing.pipeline import Pipeline
    >>> from darts.dataprocessing.transformers import Scaler
    >>> from birnn_forecast import BiGRUModel
    >>> from birnn_forecast.imputation import Imputer
    >>> pipeline = Pipeline([Imputer(BiGRUModel(96, 24, n_epochs=20)), Scaler()])
    >>> complete = pipeline.fit_transform(series)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        direction: str = "both",
        *,
        refit: bool = False,
        past_covariates: TimeSeries | None = None,
        future_covariates: TimeSeries | None = None,
        max_gap: int | None = None,
        name: str = "Imputer",
        verbose: bool = False,
        columns: str | list[str] | None = None,
    ):
        check_model(model, "impute")
        check_choice("direction", direction, DIRECTIONS)
        if max_gap is not None and direction == "forward":
            raise ValueError(f"`max_gap` must be None with `direction='forward'`, got {max_gap!r}.")
        if max_gap is not None:
            check_integer("max_gap", max_gap)
        self._covariates = {}
        for which, covariates in (("past_covariates", past_covariates), ("future_covariates", future_covariates)):
            if covariates is not None:
                self._covariates[which] = one_series(which, covariates, " for all series")
        # what `ts_fit` and `ts_transform` need is what is set before Darts' __init__
        self._model = model
        self._direction = direction
        self._refit = refit
        self._max_gap = max_gap
        super().__init__(name=name, verbose=verbose, columns=columns, global_fit=True)
        if model._fit_called:
            self._fit_called, self._fitted_params = True, [self._model]

    fit = checked(FittableDataTransformer.fit)
    transform = checked(FittableDataTransformer.transform)
    fit_transform = checked(FittableDataTransformer.fit_transform)

    @property
    def model(self) -> Any:
        """The model: the fitted one, once there is one."""
        return self._fitted_params[0] if self._fitted_params else self._model

    @property
    def direction(self) -> str:
        """From which sides gaps are filled."""
        return self._direction

    @property
    def columns(self) -> list[str] | None:
        """The components that are filled, None for all."""
        return self._columns

    @staticmethod
    def ts_fit(series: Sequence[TimeSeries], params: Mapping[str, Any], *args, **kwargs) -> Any:
        """Return the model, fitted to all series; `kwargs` go to its ``fit``."""
        fixed = params["fixed"]
        covariates = {which: [one] * len(series) for which, one in fixed["_covariates"].items()}
        return fitted_model(fixed["_model"], fixed["_refit"], series, **(covariates | kwargs))

    @staticmethod
    def ts_transform(series: TimeSeries, params: Mapping[str, Any], **kwargs) -> TimeSeries:
        """Return the series with its gaps filled; `kwargs` go to the model's ``impute``."""
        fixed, model = params["fixed"], params["fitted"]
        options = fixed["_covariates"] | kwargs
        if fixed["_direction"] == "forward":
            return model._impute_forward(series, **options)[0]
        return model.impute(series, **({"max_gap": fixed["_max_gap"]} | options))


def fitted_model(model: Any, refit: bool, series: Sequence[TimeSeries], **kwargs) -> Any:
    """Return the model fitted to the series; as it is, if it is fitted already, unless `refit`.

    A fit anew is made with an untrained copy: the model that was handed in stays what it is.
    """
    if not model._fit_called:
        return model.fit(series, **kwargs)
    return model.untrained_model().fit(series, **kwargs) if refit else model


def check_model(model: Any, method: str) -> None:
    """Raise unless `model` can do what it is needed for."""
    if not hasattr(model, method):
        raise TypeError(f"`model` must be a model of birnn_forecast with `{method}`, got {type(model).__name__}.")
