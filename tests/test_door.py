"""Every entry point refuses the same bad input with the same words."""

import inspect
import tracemalloc
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel
from darts.utils.timeseries_generation import datetime_attribute_timeseries
from hypothesis import given
from hypothesis import strategies as st

from birnn_forecast import BiGRUModel, GRINModel
from birnn_forecast.checks import BLOCK, check_finite, check_series, has_value, on_one_grid
from birnn_forecast.imputation import (
    BidirectionalFilter,
    Imputer,
    KalmanImputer,
    LastValueImputer,
    LinearImputer,
    SeasonalLinearImputer,
    compare_imputers,
    evaluate_imputer,
    make_missing,
)
from birnn_forecast.plots import plot_forecast, plot_imputation
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import assert_same, change

SERIES = make_series(80, missing=0.1)
COVARIATES = make_series(120, components=2, seed=1)


@cache
def model():
    return make_model(BiGRUModel).fit(SERIES)


def new():
    return make_model(BiGRUModel)


# what takes covariates, what does not, and what draws one series
WITH_COVARIATES = {
    "fit": lambda s, **c: new().fit(s, **c),
    "predict": lambda s, **c: model().predict(4, s, **c),
    "impute": lambda s, **c: model().impute(s, **c),
    "reconstruct": lambda s, **c: model().reconstruct(s, **c),
    "historical_forecasts": lambda s, **c: model().historical_forecasts(s, retrain=False, **c),
    "historical_forecasts, retrained": lambda s, **c: new().historical_forecasts(s, **c),
    "backtest": lambda s, **c: model().backtest(s, retrain=False, **c),
    "residuals": lambda s, **c: model().residuals(s, retrain=False, **c),
    "lr_find": lambda s, **c: new().lr_find(s, **c),
    "scale_batch_size": lambda s, **c: new().scale_batch_size(s, **c),
    "gridsearch": lambda s, **c: BiGRUModel.gridsearch({"input_chunk_length": [12]}, s, forecast_horizon=1, **c),
    "filter": lambda s, **c: BidirectionalFilter(model()).filter(s, **c),
    "filter, not fitted": lambda s, **c: BidirectionalFilter(new()).filter(s, **c),
    "evaluate_imputer": lambda s, **c: evaluate_imputer(new(), s, baselines=False, **c),
    "compare_imputers": lambda s, **c: compare_imputers([new()], s, baselines=False, **c),
}
OTHERS = {
    "Imputer.fit": lambda s: Imputer(new()).fit(s),
    "Imputer.transform": lambda s: Imputer(model()).transform(s),
    "Imputer.fit_transform": lambda s: Imputer(new()).fit_transform(s),
    "filter.fit": lambda s: BidirectionalFilter(new()).fit(s),
    "linear": LinearImputer().impute,
    "seasonal-linear": SeasonalLinearImputer(12).impute,
    "last value": LastValueImputer().impute,
    "Kalman": KalmanImputer().impute,
    "make_missing": make_missing,
}
DRAWN = {
    "plot_forecast": lambda s: plot_forecast(s, SERIES),
    "plot_forecast, forecast": lambda s: plot_forecast(SERIES, {"name": s}),
    "plot_forecast, truth": lambda s: plot_forecast(SERIES, SERIES, s),
    "plot_imputation": lambda s: plot_imputation(s, SERIES),
    "plot_imputation, imputed": lambda s: plot_imputation(SERIES, {"name": s}),
    "plot_imputation, truth": lambda s: plot_imputation(SERIES, SERIES, s),
}
SEVERAL = WITH_COVARIATES | OTHERS
EVERYTHING = SEVERAL | DRAWN
# Darts takes what it was fitted on, or draws nothing, for None
MAY_BE_NONE = {"predict", "impute", "reconstruct", "plot_forecast, truth", "plot_imputation, truth"}


def ids(table):
    return pytest.mark.parametrize("call", table.values(), ids=table.keys())


TABLE = pd.DataFrame({"v": np.arange(80.0)}, index=pd.date_range("2000", periods=80, freq="MS"))
# stands for a frame of a library that is not installed
POLARS = type("DataFrame", (), {"__module__": "polars.dataframe.frame"})()
WRONG = {
    "DataFrame": (TABLE, "got DataFrame: use `TimeSeries.from_dataframe"),
    "polars": (POLARS, "got DataFrame: use `TimeSeries.from_dataframe"),
    "Series": (TABLE["v"], "got Series: use `TimeSeries.from_series"),
    "array": (np.arange(80.0), "got ndarray: use `TimeSeries.from_values"),
    "tensor": (torch.arange(80.0), "got Tensor: use `TimeSeries.from_values"),
    "text": ("series.csv", "got str"),
    "number": (3, "got int"),
}


@pytest.mark.parametrize(("wrong", "words"), WRONG.values(), ids=WRONG.keys())
@ids(EVERYTHING)
def test_what_is_no_series(call, wrong, words):
    with pytest.raises(TypeError, match=f"must be a TimeSeries.*{words}"):
        call(wrong)


@pytest.mark.parametrize("wrong", [TABLE, TABLE["v"], np.arange(80.0), None, [SERIES]], ids=lambda x: type(x).__name__)
@ids(SEVERAL)
def test_what_is_no_series_in_a_list(call, wrong):
    with pytest.raises(TypeError, match=r"`series\[1\]` must be a TimeSeries, got"):
        call([SERIES, wrong])


@ids(SEVERAL)
def test_no_series(call):
    with pytest.raises(ValueError, match="`series` must hold at least one series, got none"):
        call([])
    with pytest.raises(TypeError, match=r"must be a TimeSeries or a list of them, got generator: use `list"):
        call(one for one in [SERIES])


@ids({name: call for name, call in EVERYTHING.items() if name not in MAY_BE_NONE})
def test_none(call):
    with pytest.raises(TypeError, match=r"must be a TimeSeries.*, got None"):
        call(None)


@ids({name: call for name, call in EVERYTHING.items() if name not in ("gridsearch", "lr_find", "scale_batch_size")})
def test_infinite_values(call):
    with pytest.raises(ValueError, match="must be finite or NaN, got an infinite value in component '0' at 2003-07-01"):
        call(change(SERIES, 42, -np.inf))


def hours(start, periods=100, freq="h", components=1):
    values = np.random.default_rng(0).normal(size=(periods, components)).astype(np.float32)
    return TimeSeries.from_times_and_values(pd.date_range(start, periods=periods, freq=freq), values)


HOURLY = hours("2024-01-02", 80)
OFF_THE_GRID = {
    "half an hour late": hours("2024-01-01 00:30", 200, components=2),
    "every 30 minutes": hours("2024-01-01", 400, "30min", components=2),
    "every 2 hours": hours("2024-01-01", 200, "2h", components=2),
    "numbered": TimeSeries.from_values(np.zeros((200, 2), dtype=np.float32)),
}


@pytest.mark.parametrize("covariates", OFF_THE_GRID.values(), ids=OFF_THE_GRID.keys())
@pytest.mark.parametrize("name", ["past_covariates", "future_covariates"])
@ids(WITH_COVARIATES)
def test_covariates_off_the_grid(call, name, covariates):
    with pytest.raises(ValueError, match=f"`{name}` must have the frequency and the time steps of `series`, h from"):
        call(HOURLY, **{name: covariates})


@ids({name: call for name, call in WITH_COVARIATES.items() if name not in ("gridsearch", "filter, not fitted")})
def test_covariates_of_several_series(call):
    wrong = r"`past_covariates\[1\]` must have the frequency and the time steps of `series\[1\]`"
    with pytest.raises(ValueError, match=wrong):
        call([HOURLY, HOURLY], past_covariates=[hours("2024-01-01", 200), OFF_THE_GRID["half an hour late"]])
    with pytest.raises(ValueError, match=r"`past_covariates` must be as many as `series` \(2\), got 1"):
        call([HOURLY, HOURLY], past_covariates=[hours("2024-01-01", 200)])
    for name in ("past_covariates", "future_covariates"):
        with pytest.raises(TypeError, match=f"`{name}` must be a TimeSeries or a list of them, got DataFrame: use"):
            call(HOURLY, **{name: TABLE})
        with pytest.raises(TypeError, match=rf"`{name}\[0\]` must be a TimeSeries, got DataFrame: use"):
            call(HOURLY, **{name: [TABLE]})


def test_covariates_of_the_training_are_on_the_grid_too():
    late = hours("2024-01-02 00:30", 80)
    fitted = new().fit(HOURLY, past_covariates=hours("2024-01-01", 200))
    for call in (lambda s: fitted.predict(2, s), fitted.impute, fitted.reconstruct):
        with pytest.raises(ValueError, match="`past_covariates` must have the frequency and the time steps"):
            call(late)
    with pytest.raises(ValueError, match="`past_covariates` must have the frequency and the time steps"):
        fitted.predict(2, past_covariates=hours("2024-01-01 00:30", 200))


def test_encodings_of_the_training_are_made_anew():
    late = hours("2024-01-02 00:30", 80)
    fitted = make_model(BiGRUModel, add_encoders={"cyclic": {"past": ["hour"]}}).fit(HOURLY)
    assert np.isfinite(fitted.predict(2, late).values()).all()
    assert np.isfinite(fitted.reconstruct(late).values()).all()


def test_validation_weights_hidden_and_truth():
    late, table = hours("2024-01-02 00:30", 80), TABLE
    for name in ("val_past_covariates", "val_future_covariates", "val_sample_weight"):
        with pytest.raises(ValueError, match=f"`{name}` must have the frequency and the time steps of `val_series`"):
            new().fit(HOURLY, val_series=HOURLY, **{name: late})
    with pytest.raises(ValueError, match="`sample_weight` must have the frequency and the time steps of `series`"):
        new().fit(HOURLY, sample_weight=late)
    for name in ("val_series", "sample_weight"):
        with pytest.raises(TypeError, match=f"`{name}` must be a TimeSeries or a list of them, got DataFrame"):
            new().fit(HOURLY, **{name: table})
    with pytest.raises(ValueError, match=r"`hidden\[0\]` must have the frequency and the time steps of `series\[0\]`"):
        evaluate_imputer(LinearImputer(), HOURLY, hidden=late)
    with pytest.raises(TypeError, match="`hidden` must be a TimeSeries or a list of them, got DataFrame"):
        evaluate_imputer(LinearImputer(), HOURLY, hidden=table)
    with pytest.raises(ValueError, match="`hidden` must be finite or NaN, got an infinite value"):
        evaluate_imputer(LinearImputer(), SERIES, hidden=change(SERIES, 3, np.inf))
    for draw, name in ((plot_imputation, "series"), (plot_forecast, "history")):
        with pytest.raises(ValueError, match=f"`truth` must have the frequency and the time steps of `{name}`"):
            draw(HOURLY, HOURLY, late)
    with pytest.raises(TypeError, match=r"`historical_forecasts\[0\]\[0\]` must be a TimeSeries, got DataFrame"):
        model().backtest([SERIES], historical_forecasts=[[table]])


@given(
    freq=st.sampled_from(["h", "30min", "D", "W-SUN", "MS", "B", "2MS", "QS"]),
    start=st.integers(0, 60),
    length=st.integers(1, 40),
    other=st.integers(0, 60),
    late=st.booleans(),
)
def test_one_grid(freq, start, length, other, late):
    index = pd.date_range("2020-01-01", periods=120, freq=freq)

    def part(first, steps, shift=0):
        times = pd.DatetimeIndex(index[first : first + steps] + pd.Timedelta(minutes=shift))
        return TimeSeries.from_times_and_values(times, np.zeros(steps), freq=freq)

    assert on_one_grid(part(start, length + 1), part(other, 20, 7 * late)) is not late
    step = length % 5 + 1
    one, two = (
        TimeSeries.from_times_and_values(pd.RangeIndex(first, first + 4 * step, step), np.zeros(4))
        for first in (start, other)
    )
    assert on_one_grid(one, two) == ((start - other) % step == 0)
    assert not on_one_grid(one, part(0, 3))


# Static covariates


@ids(
    {name: call for name, call in WITH_COVARIATES.items() if name not in ("gridsearch", "lr_find", "scale_batch_size")}
)
def test_text_in_static_covariates(call, monkeypatch):
    static = pd.DataFrame({"depth": [1.0], "kind": ["pump"]})
    numbers = SERIES.with_static_covariates(static.assign(kind=2.0))
    fitted = new().fit(numbers)
    monkeypatch.setattr("tests.test_door.model", lambda: fitted)
    words = "BiGRUModel can only interpret numeric static covariate data, but that of `series"
    with pytest.raises(
        ValueError, match=rf"{words}` has other in 'kind': encode it with .*StaticCovariatesTransformer"
    ):
        call(SERIES.with_static_covariates(static))
    if call is not WITH_COVARIATES["historical_forecasts, retrained"]:  # one by one
        with pytest.raises(ValueError, match=rf"{words}\[1\]` has other in 'kind'"):
            call([numbers, SERIES.with_static_covariates(static)])


def test_text_in_static_covariates_that_are_not_read():
    text = SERIES.with_static_covariates(pd.DataFrame({"kind": ["pump"]}))
    ignoring = make_model(BiGRUModel, use_static_covariates=False).fit(text, val_series=text)
    for result in (ignoring.predict(4, text), ignoring.impute(text), ignoring.reconstruct(text)):
        assert np.isfinite(result.values()).all()
    assert np.isfinite(model().impute(text).values()).all()
    with pytest.raises(ValueError, match="numeric static covariate data, but that of `val_series` has other in 'kind'"):
        new().fit(SERIES.with_static_covariates(pd.DataFrame({"kind": [1.0]})), val_series=text)


# One series or a list

LISTS = {
    "impute": lambda s: model().impute(s),
    "reconstruct": lambda s: model().reconstruct(s),
    "Imputer": lambda s: Imputer(model()).transform(s),
    "filter": lambda s: BidirectionalFilter(model()).filter(s),
    "linear": LinearImputer().impute,
    "seasonal-linear": SeasonalLinearImputer(12).impute,
    "profile": SeasonalLinearImputer(12, "profile").impute,
    "last value": LastValueImputer().impute,
    "Kalman": KalmanImputer().impute,
    "Kalman, quantiles": lambda s: KalmanImputer().impute(s, quantiles=[0.1, 0.5]),
}


@ids(LISTS)
def test_several_series_as_one_by_one(call):
    many = [SERIES, make_series(60, seed=2, missing=0.2)]
    found = call(many)
    assert isinstance(found, list)
    assert_same(found, [call(one) for one in many])
    assert isinstance(call([SERIES]), list)
    assert isinstance(call(SERIES), TimeSeries)


def test_the_filter_takes_covariates_of_each():
    many, covariates = [SERIES, SERIES.shift(3)], [COVARIATES, COVARIATES.shift(3)]
    smooth = BidirectionalFilter(new())
    found = smooth.filter(many, past_covariates=covariates)
    expected = [smooth.model.reconstruct(one, past) for one, past in zip(many, covariates, strict=True)]
    assert_same(found, expected)


@ids({name: call for name, call in DRAWN.items() if name != "plot_imputation, truth"})
def test_plots_say_that_they_take_one_series(call):
    with pytest.raises(TypeError, match="must be one TimeSeries, got list: hand over one at a time"):
        call([SERIES])


@ids(LISTS | {"make_missing": make_missing, "evaluate": lambda s: evaluate_imputer(LinearImputer(), s)})
def test_samples_are_refused(call):
    stochastic = TimeSeries.from_times_and_values(SERIES.time_index, np.zeros((80, 1, 3)))
    with pytest.raises(ValueError, match=r"`series\[0\]` must be deterministic, got 3 samples"):
        call(stochastic)


def test_imputers_in_a_list_are_named_by_their_classes():
    def mean(series):
        return series.with_values(np.nan_to_num(series.values(), nan=100.0))

    imputers = [LinearImputer(), SeasonalLinearImputer(12), SeasonalLinearImputer(12, "profile"), mean]
    found = compare_imputers(imputers, SERIES, baselines=False)
    assert {*found.index} == {"LinearImputer", "SeasonalLinearImputer 1", "SeasonalLinearImputer 2", "mean"}
    with pytest.raises(
        TypeError, match="`imputers` must be a dictionary of imputers by name, or a list of them, got L"
    ):
        compare_imputers(LinearImputer(), SERIES)


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": 0}, r"`components` must be among \['0'\], one or a list of them, got 0"),
        ({"components": [["0"]]}, "`components` must be among"),
        ({"components": "x"}, "`components` must be among"),
        ({"max_gap": 0}, "`max_gap` must be an integer >= 1, got 0"),
        ({"max_gap": True}, "`max_gap` must be an integer >= 1, got True"),
        ({"stride": 0}, "`stride` must be an integer >= 1, got 0"),
        ({"stride": 2.5}, "`stride` must be an integer >= 1, got 2.5"),
        ({"num_samples": 1.5}, "`num_samples` must be an integer >= 1, got 1.5"),
        ({"batch_size": "8"}, "`batch_size` must be an integer >= 1, got '8'"),
    ],
)
def test_options_of_impute(options, words):
    with pytest.raises(ValueError, match=words):
        model().impute(SERIES, **options)


def test_other_options():
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1, got"):
            model().predict(4, batch_size=wrong)
        with pytest.raises(ValueError, match="`num_samples`"):
            model().predict(4, num_samples=str(wrong))
        with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1, got"):
            make_model(BiGRUModel, batch_size=wrong)
        with pytest.raises(ValueError, match="`num_samples` must be an integer >= 1, got"):
            evaluate_imputer(LinearImputer(), SERIES, num_samples=wrong)
        with pytest.raises(ValueError, match="`block_length` must be an integer >= 1, got"):
            make_missing(SERIES, "blocks", block_length=wrong)
    with pytest.raises(ValueError, match="`gap_lengths` must be an integer >= 1, got 0"):
        evaluate_imputer(LinearImputer(), SERIES, gap_lengths=[0, 5])
    for wrong in (0, 1, 1.5, "0.5"):
        with pytest.raises(ValueError, match="`quantiles` must be a share above 0 and below 1, got"):
            KalmanImputer().impute(SERIES, quantiles=[0.5, wrong])
    with pytest.raises(ValueError, match="`max_gap` must be an integer >= 1, got 0"):
        Imputer(model(), max_gap=0)


NUMBERS = [-1.0, np.nan, np.inf, "8", None, True, [1]]


@pytest.mark.parametrize(
    ("cls", "key", "wrong"),
    [
        *((cls, "eps", wrong) for cls in (BiGRUModel, GRINModel) for wrong in NUMBERS),
        *((GRINModel, "prior", wrong) for wrong in [0.0, *NUMBERS]),
        *((cls, "affine", wrong) for cls in (BiGRUModel, GRINModel) for wrong in ("no", 1, None)),
    ],
)
def test_options_of_the_instance_norm(cls, key, wrong):
    kind = {"affine": "True or False", "eps": "a finite number >= 0", "prior": "a finite number > 0"}[key]
    with pytest.raises(ValueError, match=rf"`use_reversible_instance_norm\['{key}'\]` must be {kind}, got"):
        make_model(cls, use_reversible_instance_norm={key: wrong})


@pytest.mark.parametrize("wrong", ["yes", None, 1, [("eps", 1.0)]])
def test_kinds_of_the_instance_norm(model_class, wrong):
    with pytest.raises(ValueError, match="`use_reversible_instance_norm` must be True, False or a dictionary"):
        make_model(model_class, use_reversible_instance_norm=wrong)


# Weights


@ids(
    {
        name: call
        for name, call in WITH_COVARIATES.items()
        if name in ("predict", "impute", "reconstruct", "historical_forecasts", "backtest", "residuals", "filter")
    }
    | {"not calibrated": lambda s: model().impute(s, calibrate=False)}
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_training_that_diverged(call, bad, monkeypatch, model_class):
    broken = make_model(model_class).fit(SERIES)
    monkeypatch.setattr("tests.test_door.model", lambda: broken)
    with torch.no_grad():
        [*broken.model.network.parameters()][-1].view(-1)[0] = bad
    with pytest.raises(
        ValueError, match=r"weights are not finite: its training diverged.*lr.*gradient_clip_val.*scale"
    ):
        call(SERIES)


def test_buffers_that_diverged():
    broken = make_model(BiGRUModel, normalization="batch", n_rnn_layers=2).fit(SERIES)
    running = [one for name, one in broken.model.network.named_buffers() if "running_var" in name]
    running[0][0] = np.inf
    with pytest.raises(ValueError, match="training diverged"):
        broken.predict(4)


# In passing


@pytest.mark.parametrize(
    "name",
    [
        "fit",
        "predict",
        "historical_forecasts",
        "backtest",
        "residuals",
        "gridsearch",
        "lr_find",
        "scale_batch_size",
    ],
)
def test_signatures_are_darts_own(name):
    ours, theirs = getattr(BiGRUModel, name), getattr(MixedCovariatesTorchModel, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__ == theirs.__doc__


def test_wrong_arguments_are_the_methods_own():
    with pytest.raises(TypeError, match="unexpected keyword argument 'serie'"):
        new().fit(serie=SERIES)


def test_long_series_are_looked_at_block_by_block():
    values = np.full((31 * BLOCK // 2, 1, 1), np.nan, dtype=np.float32)
    assert not has_value(values)
    values[-1] = np.inf
    assert has_value(values)
    series = TimeSeries.from_values(values)
    with pytest.raises(ValueError, match=f"infinite value in component '0' at {len(values) - 1}"):
        check_finite("`series`", series)
    whole = series.with_values(np.zeros_like(values))
    peak = memory_peak(lambda: check_series("series", [whole], needs_value=True))
    assert peak < 3 * BLOCK  # bytes: masks of single blocks, not of the series


def memory_peak(call) -> int:
    """Return the bytes that numpy needs for a call, beyond what there was."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_right_passes():
    future = datetime_attribute_timeseries(COVARIATES, "month", dtype=np.float32)
    fitted = new().fit(SERIES, future_covariates=future, sample_weight="linear")
    assert len(fitted.predict(4, SERIES, future_covariates=future)) == 4
    assert len(fitted.predict(4, (SERIES, SERIES), future_covariates=(future, future))) == 2
    with pytest.raises(ValueError, match="do not extend far enough"):
        fitted.predict(4, SERIES, future_covariates=future[:70])
