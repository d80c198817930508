from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import imputation
from benchmarks.interface import Answer, Budget, ForecastView
from benchmarks.metrics import score
from benchmarks.models import MODELS
from benchmarks.tasks import SUITES, TASKS, every_window, last, rolling
from benchmarks.views import Cut, Forecasting, Known, seasonal_scale
from tests.benchmarks.leaks import check_no_leak, replace_view

DATA = Path(__file__).parents[3] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="needs the data sets in ../shared/data")
OTHERS = [name for suite, names in SUITES.items() if suite != "smoke" for name in names]


def made_up(length=200, components=2, covariates=False):
    """Return a `read` of one series of noise with a season of 4 and a few gaps."""
    rng = np.random.default_rng(0)
    values = 10 + np.arange(length)[:, None] % 4 + rng.normal(size=(length, components))
    values[5:9] = np.nan
    names = tuple("abc"[:components])
    extra = pd.DataFrame({"known": rng.normal(size=length)}) if covariates else None
    return lambda data_dir: [Known(values, pd.date_range("2000", periods=length, freq="D"), names, extra)]


def made_up_task(**kwargs):
    cut = partial(rolling, 6, 5)
    load = Forecasting(made_up(covariates=True), cut, 6, 4, **kwargs)
    return replace(TASKS["sunspots yearly"], load=load, horizon=6, season=4)


def seasonal_naive(data, season):
    view = data.view
    return np.stack([one.values()[-season:][np.arange(view.horizon) % season] for one in view.contexts])


def test_every_task_is_in_a_suite_and_complete():
    assert sorted(name for names in SUITES.values() for name in names) == sorted(TASKS)
    for name, task in TASKS.items():
        assert task.name == name
        assert task.metric in ("mase", "mse", "mae")
        assert (task.horizon > 0) == (task.kind == "forecast")
        assert task.random_walk == ("finance" in task.suites)


@pytest.mark.parametrize("name", SUITES["smoke"])
def test_smoke_needs_no_file_and_repeats(name):
    task = TASKS[name]
    one, two, other = task.load(None, 1), task.load(None, 1), task.load(None, 2)
    assert one.fingerprint == two.fingerprint
    np.testing.assert_array_equal(one.truth, two.truth)
    if task.kind == "impute":
        assert one.fingerprint != other.fingerprint
        assert len(one.view.series) == task.sizes[0]
    else:
        assert task.sizes == (len(one.view.train), len(one.view.contexts))
        assert one.truth.shape[:2] == (len(one.view.contexts), task.horizon)
        assert one.scales.shape == (len(one.view.contexts), one.truth.shape[2])


# --- leaks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUITES["smoke"])
def test_views_of_smoke_hold_no_hidden_value(name, monkeypatch):
    check_no_leak(TASKS[name], None, monkeypatch)


@pytest.mark.parametrize("kwargs", [{}, {"max_context": 20}, {"scale_rows": 160}], ids=str)
def test_a_made_up_view_holds_no_hidden_value(kwargs, monkeypatch):
    check_no_leak(made_up_task(**kwargs), None, monkeypatch)


def test_removed_values_are_hidden(monkeypatch):
    task = TASKS["beer, 30 % in blocks"]
    gappy = replace(task.load, read=made_up(components=1))
    check_no_leak(replace(task, load=gappy), None, monkeypatch)


def _future_value_in_a_context(view, known):
    values = view.contexts[0].values()
    values[-1] = known[0].values[len(values)]
    view.contexts[0] = view.contexts[0].with_values(values)


def _future_value_in_the_training_part(view, known):
    values = view.train[0].values()
    values[0] = known[0].values[-1]
    view.train[0] = view.train[0].with_values(values)


def _target_among_the_covariates(view, known):
    one = view.future_covariates[0]
    view.future_covariates[0] = one.with_values(known[0].values[: len(one), :1].astype(np.float32))


@pytest.mark.parametrize(
    "leak", [_future_value_in_a_context, _future_value_in_the_training_part, _target_among_the_covariates]
)
def test_a_planted_leak_is_found(leak, monkeypatch):
    task = made_up_task()
    with pytest.raises(AssertionError, match="changed"):
        check_no_leak(replace(task, load=replace_view(task.load, leak)), None, monkeypatch)


def test_a_scaler_that_sees_the_test_part_is_found(monkeypatch):
    with pytest.raises(AssertionError, match="training part changed"):
        check_no_leak(made_up_task(scale_rows=200), None, monkeypatch)


def test_a_planted_leak_of_an_imputation_task_is_found(monkeypatch):
    task = TASKS["El Nino, points 25 %"]

    class Leaky(type(task.load)):
        def __call__(self, data_dir, seed):
            data = super().__call__(data_dir, seed)
            values = data.view.series[0].values()
            first = np.flatnonzero(~np.isnan(data.truth[:, 0]))[0]
            values[first] = data.truth[first]
            data.view.series[0] = data.view.series[0].with_values(values)
            return data

    leaky = Leaky(task.load.folder, task.load.name, task.load.pattern)
    with pytest.raises(AssertionError, match="series to fill changed"):
        check_no_leak(replace(task, load=leaky), None, monkeypatch)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", OTHERS)
def test_views_hold_no_hidden_value(name, monkeypatch):
    task = TASKS[name]
    if "mseries" in task.suites:
        read = task.load.read
        task = replace(task, load=replace(task.load, read=lambda data_dir: read(data_dir)[::20]))
    check_no_leak(task, DATA, monkeypatch, points=2)


def test_contexts_share_no_memory_with_the_truth():
    known = made_up()(None)
    data = Forecasting(lambda _: known, partial(rolling, 6, 5), 6, 4).build(known, 0)
    for one in (*data.view.train, *data.view.contexts):
        assert one.dtype == np.float32
        assert one.values(copy=False).base is None or one.values(copy=False).base.shape[0] == len(one)
        assert not np.shares_memory(one.values(copy=False), data.truth)


# --- cuts, scalers, scales --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [50, 53, 211])
@pytest.mark.parametrize("horizon", [1, 8])
def test_nothing_is_dropped_at_the_end(length, horizon):
    for cut in (last(horizon, length), rolling(horizon, 7, length)):
        assert cut.origins[-1] + horizon == length
    load = Forecasting(made_up(length), partial(rolling, horizon, 7), horizon, 4)
    known = load.read(None)
    data = load.build(known, 0)
    np.testing.assert_array_equal(data.truth[-1], known[0].values[-horizon:])
    assert data.view.contexts[0].end_time() == data.view.train[0].end_time()


@pytest.mark.parametrize("horizon", [96, 720])
def test_ett_is_cut_as_in_the_literature(horizon):
    cut = every_window(horizon, 17420)
    assert (cut.train_end, cut.origins[0]) == (11520, 11520)
    assert cut.origins[-1] + horizon == 14400
    assert len(cut.origins) == {96: 2785, 720: 2161}[horizon]
    assert (np.diff(cut.origins) == 1).all()


def test_every_window_is_the_truth_after_its_context():
    load = Forecasting(made_up(), lambda n: Cut(150, np.arange(150, n - 6 + 1)), 6, 4, max_context=20, scale_rows=100)
    data = load(None, 0)
    assert len(data.truth) == 45
    for i in (0, 20, 38):
        assert len(data.view.contexts[i]) == 20
        np.testing.assert_array_equal(data.view.contexts[i + 6].values()[-6:], data.truth[i].astype(np.float32))


def test_the_scaler_is_that_of_the_training_part():
    load = Forecasting(made_up(), partial(rolling, 6, 5), 6, 4, scale_rows=100)
    train = load(None, 0).view.train[0].values()[:100].astype(float)
    np.testing.assert_allclose(np.nanmean(train, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(train, axis=0), 1, atol=1e-6)


def test_scales_are_those_of_the_true_values_before_the_origin():
    values = made_up()(None)[0].values
    ends = np.array([3, 10, 100, 200])
    found = seasonal_scale(values, 4, ends)
    assert np.isnan(found[0]).all()
    for row, end in zip(found[1:], ends[1:], strict=True):
        expected = np.nanmean(np.abs(values[4:end] - values[: end - 4]), axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-12)
    assert np.isnan(seasonal_scale(np.ones((20, 1)), 4, np.array([20]))).all()


def test_removing_values_leaves_truth_and_scales():
    task = TASKS["beer, 30 % at random"]
    read = made_up(components=1)
    full, gappy = (replace(task.load, read=read, hide=hide)(None, 3) for hide in (None, task.load.hide))
    np.testing.assert_array_equal(full.truth, gappy.truth)
    np.testing.assert_array_equal(full.scales, gappy.scales)
    share = np.mean(np.isnan(gappy.view.contexts[-1].values()))
    assert 0.2 < share < 0.4
    whole, part = full.view.contexts[-1].values(), gappy.view.contexts[-1].values()
    np.testing.assert_array_equal(part[~np.isnan(part)], whole[~np.isnan(part)])


def test_covariates_reach_to_the_end_of_the_horizon():
    view: ForecastView = TASKS["El Nino, calendar"].load(None, 1).view
    for context, covariates in zip(view.contexts, view.future_covariates, strict=True):
        assert covariates.start_time() == context.start_time()
        assert len(covariates) == len(context) + view.horizon
    assert view.train_future_covariates[0].time_index.equals(view.train[0].time_index)


# --- published figures ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("model", "published"), [("AutoETS", 1.144), ("AutoTheta", 1.119)])
def test_statistical_models_have_the_mase_that_fev_publishes(model, published):
    task = TASKS["M3 quarterly"]
    data = task.load(DATA, 0)
    row = score(task, data, MODELS[model].run(data.view, Budget(steps=1), 1))
    assert row["mase"] == pytest.approx(published, rel=0.015)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("name", "published"), [("M3 yearly", 3.172), ("M3 quarterly", 1.425), ("M3 monthly", 1.146), ("M4 hourly", 1.193)]
)
def test_seasonal_naive_has_its_published_mase(name, published):
    task = TASKS[name]
    data = task.load(DATA, 0)
    assert task.sizes == (len(data.view.train), len(data.view.contexts))
    row = score(task, data, Answer(seasonal_naive(data, task.season)))
    assert round(row["score"], 3) == published


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "mse", "mae"), [("ETTh1-96", 0.512, 0.433), ("ETTh2-96", 0.391, 0.380)])
def test_seasonal_naive_on_ett(name, mse, mae):
    task = TASKS[name]
    data = task.load(DATA, 0)
    row = score(task, data, Answer(seasonal_naive(data, 24)))
    assert (round(row["mse"], 3), round(row["mae"], 3)) == (mse, mae)
    assert data.view.train[0].end_time() + pd.Timedelta("1h") == pd.Timestamp("2000-01-03") + pd.Timedelta(hours=11520)


@pytest.mark.slow
@needs_data
def test_linear_interpolation_on_the_official_task():
    task = TASKS["AQI-36, official"]
    data = task.load(DATA, 0)
    assert (~np.isnan(data.truth)).sum() == 20434
    filled = np.concatenate([imputation.linear(one).values() for one in data.view.series])
    row = score(task, data, Answer(filled))
    assert (round(row["mae"], 3), round(row["mse"], 2)) == (14.458, 673.76)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", OTHERS)
def test_tasks_load_with_the_sizes_they_state(name):
    task = TASKS[name]
    data = task.load(DATA, 1)
    if task.kind == "impute":
        assert len(data.view.series) == task.sizes[0]
        assert len(data.truth) == sum(len(one) for one in data.view.series)
        return
    assert task.sizes == (len(data.view.train), len(data.view.contexts))
    assert (data.view.horizon, data.view.season) == (task.horizon, task.season)
    # a scale for each forecast: no series of these tasks repeats itself exactly
    assert np.isfinite(data.scales).all()
