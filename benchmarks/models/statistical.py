"""Statistical forecasters: each is fitted to one component of one context and forecasts what follows it."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from statsforecast import models as statsforecast
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.seasonal import STL, seasonal_decompose
from statsmodels.tsa.statespace.sarimax import SARIMAX
from statsmodels.tsa.statespace.structural import UnobservedComponents

from benchmarks.interface import LEVELS, Answer, Budget, ForecastView, Model
from benchmarks.models.common import cpu_seconds, interpolated, normal_quantiles

INTERPOLATED = "gaps: interpolated first"
NO_COVARIATES = "covariates: not used"
NO_QUANTILES = "quantiles: none"


class Past(NamedTuple):
    """One component of a context.

    Attributes
    ----------
    values
        Float64, from the first observed value on; with gaps for the methods that take them.
    horizon, season
        In steps.
    known, coming
        Covariates over `values` and over the horizon, ``(time, covariate)``; no columns if there are none.
    """

    values: np.ndarray
    horizon: int
    season: int
    known: np.ndarray
    coming: np.ndarray

    @property
    def whole_season(self) -> int:
        """The season if two of them are there, else 1."""
        return self.season if len(self.values) >= 2 * self.season else 1


# values (horizon,), and quantiles (horizon, level) or None
Forecast = tuple[np.ndarray, np.ndarray | None]
Method = Callable[[Past], Forecast]


def naive(past: Past) -> Forecast:
    """Return the last value; its errors are those of a random walk."""
    return seasonal_naive(past._replace(season=1))


def seasonal_naive(past: Past) -> Forecast:
    """Return the last observed value of each phase, of a phase without any the last value of all."""
    y, season = past.values, past.season
    observed = np.flatnonzero(~np.isnan(y))
    last = np.full(season, y[observed[-1]])
    last[observed % season] = y[observed]  # later ones overwrite
    steps = np.arange(past.horizon)
    mean = last[(len(y) + steps) % season]
    errors = y[season:] - y[:-season] if len(y) > season else np.array([])
    errors = errors[~np.isnan(errors)]
    deviation = np.sqrt(np.mean(errors**2)) if len(errors) else 0.0
    return mean, normal_quantiles(mean, deviation * np.sqrt(steps // season + 1))


def drift(past: Past) -> Forecast:
    """Return the line through the first and the last value, with the errors of a random walk with drift."""
    y = past.values
    observed = np.flatnonzero(~np.isnan(y))
    first, last = observed[0], observed[-1]
    slope = (y[last] - y[first]) / (last - first) if last > first else 0.0
    steps = np.arange(1, past.horizon + 1)
    mean = y[last] + slope * (steps + len(y) - 1 - last)
    errors = np.diff(y) - slope
    errors = errors[~np.isnan(errors)]
    deviation = np.sqrt(np.mean(errors**2)) if len(errors) else 0.0
    return mean, normal_quantiles(mean, deviation * np.sqrt(steps * (1 + steps / max(1, len(y) - 1))))


def naive2(past: Past) -> Forecast:
    """Return the last value of the seasonally adjusted series, seasoned again, if the season is significant.

    As in the M competitions: the season is multiplicative (additive here if a value is not positive), and tested at
    90 % on the autocorrelations.
    """
    y, season = past.values, past.whole_season
    if season == 1 or len(y) < 3 * season or not _is_seasonal(y, season):
        return np.full(past.horizon, y[-1]), None
    multiplicative = y.min() > 0
    wave = seasonal_decompose(y, "multiplicative" if multiplicative else "additive", period=season).seasonal
    coming = wave[:season][(len(y) + np.arange(past.horizon)) % season]
    level = y[-1] / wave[-1] if multiplicative else y[-1] - wave[-1]
    return (level * coming if multiplicative else level + coming), None


def _is_seasonal(y: np.ndarray, season: int) -> bool:
    z = y - y.mean()
    power = float(z @ z)
    if power == 0:
        return False
    correlation = np.array([z[lag:] @ z[:-lag] / power for lag in range(1, season + 1)])
    limit = 1.645 * np.sqrt((1 + 2 * np.sum(correlation[:-1] ** 2)) / len(y))
    return bool(abs(correlation[-1]) > limit)


def ets(past: Past) -> Forecast:
    """Return exponential smoothing with additive errors, a damped trend and an additive season."""
    season = past.whole_season
    return _ets(past.values, past.horizon, season if len(past.values) >= max(10, 2 * season) else 1)


def _ets(y: np.ndarray, horizon: int, season: int) -> Forecast:
    options: dict[str, Any] = {"error": "add", "trend": "add", "damped_trend": True}
    if season > 1:
        options |= {"seasonal": "add", "seasonal_periods": season}
    start = "heuristic" if len(y) >= 10 else "estimated"
    fitted = ETSModel(pd.Series(y), initialization_method=start, **options).fit(disp=False, maxiter=200)
    found = fitted.get_prediction(start=len(y), end=len(y) + horizon - 1)
    mean = np.asarray(found.predicted_mean)
    return mean, normal_quantiles(mean, np.sqrt(np.asarray(found.forecast_variance)))


def stl(past: Past) -> Forecast:
    """Return the last season of a robust STL decomposition plus exponential smoothing of the rest."""
    y, season = past.values, past.whole_season
    if season == 1:
        return ets(past)
    wave = STL(y, period=season, robust=True).fit().seasonal
    mean, quantiles = _ets(y - wave, past.horizon, 1)
    coming = wave[-season:][np.arange(past.horizon) % season]
    return mean + coming, quantiles + coming[:, None]


def theta(past: Past) -> Forecast:
    """Return the theta method of statsmodels, the season taken out first if its test finds one."""
    season = past.whole_season
    fitted = ThetaModel(past.values, period=season, deseasonalize=season > 1).fit(disp=False)
    mean = np.asarray(fitted.forecast(past.horizon))
    pairs = [np.asarray(fitted.prediction_intervals(past.horizon, alpha=2 * level)) for level in LEVELS[:4]]
    lower, upper = [pair[:, 0] for pair in pairs], [pair[:, 1] for pair in reversed(pairs)]
    return mean, np.stack([*lower, mean, *upper], axis=1)


SEASONAL_ORDER_UP_TO, HARMONICS = 12, 4


def sarimax(past: Past) -> Forecast:
    """Return ARIMA (1,1,1) with the airline season, or with harmonics for seasons that are too long for it."""
    season = past.whole_season
    options: dict[str, Any] = {"order": (1, 1, 1)}
    known, coming = past.known, past.coming
    if 1 < season <= SEASONAL_ORDER_UP_TO:
        options["seasonal_order"] = (0, 1, 1, season)
    elif season > 1:
        waves = _waves(len(past.values) + past.horizon, season)
        known = np.column_stack([known, waves[: len(past.values)]])
        coming = np.column_stack([coming, waves[len(past.values) :]])
    return _state_space(partial(SARIMAX, **options), past, known, coming)


def unobserved_components(past: Past) -> Forecast:
    """Return Harvey's structural model: a local linear trend, a trigonometric season and noise."""
    options: dict[str, Any] = {"level": "local linear trend"}
    if (season := past.whole_season) > 1:
        options["freq_seasonal"] = [{"period": season, "harmonics": min(season // 2, HARMONICS + 2)}]
    return _state_space(partial(UnobservedComponents, **options), past, past.known, past.coming)


def _state_space(make: Callable[..., Any], past: Past, known: np.ndarray, coming: np.ndarray) -> Forecast:
    """Fit a model of statsmodels on values of unit variance and return its forecast."""
    centre, scale = np.nanmean(past.values), np.nanstd(past.values) or 1.0
    # a covariate that does not vary says nothing, and makes the fit singular
    varying = known.std(axis=0) > 0
    known, coming = known[:, varying], coming[:, varying]
    model = make((past.values - centre) / scale, exog=known if known.shape[1] else None)
    fitted = model.fit(disp=False, maxiter=50)
    found = fitted.get_forecast(past.horizon, exog=coming if coming.shape[1] else None)
    mean = centre + scale * np.asarray(found.predicted_mean)
    return mean, normal_quantiles(mean, scale * np.sqrt(np.asarray(found.var_pred_mean).clip(min=0)))


def _waves(n: int, season: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n)[:, None] * np.arange(1, HARMONICS + 1) / season
    return np.column_stack([np.sin(angles), np.cos(angles)])


def library(past: Past, name: str, longest_season: int | None = None, covariates: bool = False, **options) -> Forecast:
    """Return the forecast of a model of statsforecast, called on the array (its wrappers cost more than some fits)."""
    season = past.season if longest_season is None or past.season <= longest_season else 1
    kwargs: dict[str, Any] = {}
    if name == "AutoMFLES":
        options = options | {"test_size": past.horizon}
    else:
        kwargs["level"] = [20, 40, 60, 80]
    if covariates and past.known.shape[1]:
        kwargs |= {"X": past.known, "X_future": past.coming}
    found = getattr(statsforecast, name)(season_length=season, **options).forecast(past.values, past.horizon, **kwargs)
    if name == "AutoMFLES":
        return found["mean"], None
    lower = [found[f"lo-{level}"] for level in (80, 60, 40, 20)]
    upper = [found[f"hi-{level}"] for level in (20, 40, 60, 80)]
    return found["mean"], np.stack([*lower, found["mean"], *upper], axis=1)


def run(
    view: ForecastView,
    budget: Budget,
    seed: int,
    methods: tuple[Method, ...],
    takes_gaps: bool = False,
    longest: int | None = None,
    quantiles: bool = True,
) -> Answer:
    """Answer with the median of the methods' forecasts of each component of each context.

    A method that fails on a series is replaced there by the seasonal naive forecast, and counted; if it fails on all of
    them, so does the model.
    """
    started = cpu_seconds()
    np.random.seed(seed)  # noqa: NPY002 - what the libraries draw, they draw from the global generator
    middles, spreads = [], []
    failures: list[list[str]] = [[] for _ in methods]
    nothing = 0
    for i, context in enumerate(view.contexts):
        covariates = None if view.future_covariates is None else view.future_covariates[i].values()
        found = []
        for component, y in enumerate(context.values().T.astype(np.float64)):
            known = covariates
            if np.isnan(y).all():  # then the end of the training part is the last that is known
                y = view.train[view.series_of[i]].values()[:, component].astype(np.float64)
                y = np.zeros(1) if np.isnan(y).all() else y
                known, nothing = None, nothing + 1
            found.append(_median(methods, _past(y, known, view, takes_gaps, longest), failures))
        middles.append(np.stack([middle for middle, _ in found], axis=1))
        if quantiles:
            spreads.append(np.stack([spread for _, spread in found], axis=1))
    count = len(view.contexts) * view.contexts[0].n_components
    for failed in failures:
        if len(failed) == count:
            raise RuntimeError(f"The method failed on all of {count} series: {failed[0]}")
    notes: dict[str, Any] = {"fallbacks": sum(map(len, failures))}
    if notes["fallbacks"]:
        notes["first error"] = next(failed[0] for failed in failures if failed)
    if nothing:
        notes["contexts without a value"] = nothing
    sorted_quantiles = np.sort(np.stack(spreads), axis=-1) if quantiles else None
    return Answer(np.stack(middles), sorted_quantiles, predict_seconds=cpu_seconds() - started, notes=notes)


def _past(
    y: np.ndarray, covariates: np.ndarray | None, view: ForecastView, takes_gaps: bool, longest: int | None
) -> Past:
    observed = np.flatnonzero(~np.isnan(y))
    begin = int(observed[0] if longest is None else observed[-longest:][0])
    table = np.empty((len(y) + view.horizon, 0))
    if covariates is not None:
        table = interpolated(covariates.astype(np.float64), 1)
    known, coming = table[begin : len(y)], table[len(y) : len(y) + view.horizon]
    y = y[begin:]
    if not takes_gaps:
        y = interpolated(y[:, None], view.season)[:, 0]
    return Past(y, view.horizon, view.season, known, coming)


def _median(methods: tuple[Method, ...], past: Past, failures: list[list[str]]) -> Forecast:
    found = []
    for method, failed in zip(methods, failures, strict=True):
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # remarks on convergence, one per series
                forecast = method(past)
            if not all(np.isfinite(part).all() for part in forecast if part is not None):
                raise ValueError("the forecast is not finite")
        except Exception as error:  # whatever a library raises on an odd series: counted and reported
            failed.append(f"{type(error).__name__}: {error}"[:300])
            forecast = seasonal_naive(past)
        found.append(forecast)
    if len(found) == 1:
        return found[0]
    middles, spreads = zip(*found, strict=True)
    return np.median(middles, axis=0), np.median(spreads, axis=0)


# rolling forecasts of so many origins are those of tables with so many columns
MANY, COMPONENTS = 1000, 7


def _model(
    name: str,
    methods: Method | tuple[Method, ...],
    seconds: tuple[float, float],
    config: dict[str, Any],
    family: str = "statistical",
    takes_gaps: bool = False,
    longest: int | None = None,
    quantiles: bool = True,
    covariates: bool = False,
) -> Model:
    """Return a model; `seconds` are those of a forecast from a hundred values, and from those of one long series."""
    methods = methods if isinstance(methods, tuple) else (methods,)

    def expected(n_series: int, n_forecasts: int, budget: Budget) -> float:
        each = seconds[n_forecasts > n_series]
        return 2.0 + each * n_forecasts * (COMPONENTS if n_forecasts > MANY else 1)

    limits = [] if takes_gaps else [INTERPOLATED]
    limits += [] if covariates else [NO_COVARIATES]
    limits += [] if quantiles else [NO_QUANTILES]
    seasons = {method.keywords.get("longest_season") for method in methods if isinstance(method, partial)} - {None}
    limits += [f"seasons above {min(seasons)} steps: ignored"] if seasons else []
    return Model(
        name=name,
        family=family,
        kind="forecast",
        run=partial(run, methods=methods, takes_gaps=takes_gaps, longest=longest, quantiles=quantiles),
        config=config | {"longest history": longest, "components": "one by one"},
        expected_seconds=expected,
        cannot=tuple(limits),
    )


AUTO_ETS = partial(library, name="AutoETS", longest_season=24)
AUTO_ARIMA = partial(library, name="AutoARIMA", longest_season=24, covariates=True, approximation=True)
AUTO_THETA = partial(library, name="AutoTheta")
AUTO_CES = partial(library, name="AutoCES", longest_season=24)
MFLES = partial(library, name="AutoMFLES")
TBATS = partial(library, name="TBATS")


def _settings(method: partial) -> dict[str, Any]:
    return {"library": "statsforecast"} | {key: value for key, value in method.keywords.items() if key != "covariates"}


MODELS = {
    model.name: model
    for model in (
        _model("seasonal naive", seasonal_naive, (0.0005, 0.0005), {}, family="baseline", takes_gaps=True),
        _model("naive", naive, (0.0005, 0.0005), {}, family="baseline", takes_gaps=True),
        _model("drift", drift, (0.0005, 0.0005), {}, family="baseline", takes_gaps=True),
        _model("Naive2", naive2, (0.001, 0.001), {"test of the season": "90 %"}, quantiles=False),
        _model("ETS", ets, (0.01, 0.02), {"library": "statsmodels", "error, trend, season": "A, Ad, A"}, longest=2000),
        _model(
            "STL + ETS", stl, (0.02, 0.08), {"library": "statsmodels", "robust": True, "ETS": "A, Ad, N"}, longest=2000
        ),
        _model("Theta", theta, (0.03, 0.07), {"library": "statsmodels"}, longest=2000),
        _model(
            "SARIMAX",
            sarimax,
            (0.2, 0.2),
            {
                "library": "statsmodels",
                "order": [1, 1, 1],
                "season": f"(0, 1, 1) up to {SEASONAL_ORDER_UP_TO} steps, else {HARMONICS} harmonics",
            },
            takes_gaps=True,
            longest=500,
            covariates=True,
        ),
        _model(
            "UnobservedComponents",
            unobserved_components,
            (0.1, 0.25),
            {"library": "statsmodels", "level": "local linear trend", "harmonics": HARMONICS + 2},
            takes_gaps=True,
            longest=500,
            covariates=True,
        ),
        _model("AutoETS", AUTO_ETS, (0.08, 0.2), _settings(AUTO_ETS), longest=1000),
        _model("AutoARIMA", AUTO_ARIMA, (0.5, 2.7), _settings(AUTO_ARIMA), longest=500, covariates=True),
        _model("AutoTheta", AUTO_THETA, (0.01, 0.06), _settings(AUTO_THETA), longest=2000),
        _model("AutoCES", AUTO_CES, (0.1, 0.3), _settings(AUTO_CES), longest=1000),
        _model(
            "MFLES",
            MFLES,
            (0.05, 0.2),
            _settings(MFLES),
            longest=2000,
            quantiles=False,
        ),
        _model("TBATS", TBATS, (0.05, 0.07), _settings(TBATS), longest=1000),
        _model(
            "median of five",
            (AUTO_ETS, AUTO_ARIMA, AUTO_THETA, AUTO_CES, seasonal_naive),
            (0.7, 3.2),
            {
                "members": ["AutoETS", "AutoARIMA", "AutoTheta", "AutoCES", "seasonal naive"],
                "settings": [_settings(one) for one in (AUTO_ETS, AUTO_ARIMA, AUTO_THETA, AUTO_CES)],
            },
            longest=500,
        ),
    )
}
