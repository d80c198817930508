"""The imputer as a step of Darts' pipelines and back-tests; forwards it knows nothing of what comes after."""

import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.dataprocessing.pipeline import Pipeline
from darts.dataprocessing.transformers import Scaler
from darts.models import LinearRegressionModel, NaiveSeasonal

from birnn_forecast import BiGRUModel, URNNModel
from birnn_forecast.imputation import Imputer
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import FUTURE, PAST, add, assert_same, change, differs


def gappy(length=100, components=1, seed=0) -> TimeSeries:
    """Return a series with single values, a gap of 6 steps, one longer than a window, and its end missing."""
    series = make_series(length, components, seed=seed, missing=0.1)
    series = change(change(series, slice(30, 36), np.nan), slice(50, 66), np.nan)
    return change(series, slice(length - 3, length), np.nan)


@pytest.fixture(scope="module")
def model():
    return make_model(BiGRUModel, n_epochs=3).fit(make_series(seed=7, missing=0.1))


DIRECTIONS = pytest.mark.parametrize("direction", ["both", "forward"])


@DIRECTIONS
@pytest.mark.parametrize("cls", [BiGRUModel, URNNModel])
def test_gaps_are_filled_and_the_rest_is_kept(cls, direction):
    statics = pd.DataFrame({"a": np.float32([1, 2])})
    series = gappy(components=2).with_static_covariates(statics)
    imputer = Imputer(make_model(cls), direction)
    filled = imputer.fit_transform(series)
    observed = ~np.isnan(series.values())
    assert np.isfinite(filled.values()).all()
    assert np.array_equal(filled.values()[observed], series.values()[observed])
    assert not observed.all()
    assert np.abs(filled.values() - 100).max() < 40
    assert filled.time_index.equals(series.time_index)
    assert filled.components.equals(series.components)
    assert filled.static_covariates.equals(series.static_covariates)
    assert filled.dtype == np.float32


def test_it_is_what_the_model_imputes(model):
    series = [gappy(), gappy(60, seed=1)]
    filled = Imputer(model).transform(series)
    assert isinstance(filled, list)
    assert_same(filled, model.impute(series))
    assert_same(Imputer(model).transform(series[0]), filled[0])
    assert differs(Imputer(model, "forward").transform(series[0]), filled[0])


# direction="forward"


def test_what_comes_after_a_gap_does_not_change_its_filling_forwards(model):
    series = change(gappy(), slice(0, 5), np.nan)
    forward = Imputer(model, "forward")
    filled = forward.transform(series)
    missing = np.flatnonzero(np.isnan(series.values()[:, 0]))
    for step in missing:  # any value, then any gap after the step
        for changed in (add(series, slice(step + 1, None), 50.0), change(series, slice(step + 1, None), np.nan)):
            assert forward.transform(changed)[: step + 1] == filled[: step + 1]
    # while what comes before does, and from both sides what comes after does as well
    both = Imputer(model)
    for step in (33, 54):
        assert differs(forward.transform(add(series, slice(0, step), 50.0))[step], filled[step])
        assert differs(both.transform(add(series, slice(step + 1, None), 50.0))[step], both.transform(series)[step])


def test_a_back_test_forwards_does_not_know_the_future(model):
    series = gappy(120)
    fitted = Imputer(model, "forward")
    forecaster = LinearRegressionModel(lags=6, output_chunk_length=2).fit(fitted.transform(series))

    def backtest(values):
        options = {"start": 60, "forecast_horizon": 2, "stride": 4, "retrain": False, "last_points_only": False}
        return forecaster.historical_forecasts(values, data_transformers={"series": fitted}, **options)

    whole = backtest(series)
    for i in (0, 3, 7):
        changed = backtest(add(series, slice(series.get_index_at_point(whole[i].start_time()), None), 30.0))
        assert_same(changed[: i + 1], whole[: i + 1])
        assert differs(changed[-1], whole[-1])


def test_a_back_test_with_retraining_keeps_the_weights():
    series = gappy(90)
    imputer = Imputer(make_model(BiGRUModel), "forward").fit(series[:50])
    weights = [value.clone() for value in imputer.model.model.parameters()]
    options = {"start": 60, "stride": 10, "data_transformers": {"series": Pipeline([imputer, Scaler()])}}
    forecasts = NaiveSeasonal(12).historical_forecasts(series, retrain=True, **options)
    assert np.isfinite(forecasts.values()).all()
    for before, after in zip(weights, imputer.model.model.parameters(), strict=True):
        assert before.equal(after)


# fitting


def test_a_fitted_model_is_kept_unless_refit(model):
    kept = Imputer(model)
    assert kept.fit(make_series(seed=3)).model is model
    anew = Imputer(model, refit=True)
    assert anew.fit(make_series(seed=3)).model is not model
    series = gappy()
    assert_same(kept.transform(series), model.impute(series))
    assert differs(anew.transform(series), model.impute(series))
    assert_same(anew.transform(series), model.untrained_model().fit(make_series(seed=3)).impute(series))


def test_an_unfitted_model_is_fitted_once_to_all_series():
    series = [gappy(), gappy(80, seed=1)]
    model = make_model(BiGRUModel)
    imputer = Imputer(model)
    with pytest.raises(ValueError, match="Must call `fit` before calling `transform`"):
        imputer.transform(series)
    filled = imputer.fit(series).transform(series)
    assert imputer.model is model
    assert_same(filled, make_model(BiGRUModel).fit(series).impute(series))
    assert_same(imputer.fit(make_series(seed=9)).transform(series), filled)


def test_further_arguments_go_to_fit_and_impute():
    series = make_series(missing=0.2)
    imputer = Imputer(make_model(BiGRUModel, n_epochs=1)).fit(series, epochs=2)
    assert imputer.model.epochs_trained == 2
    assert np.isnan(imputer.transform(gappy(), max_gap=1).values()).any()


# covariates, components, options


def test_covariates_serve_all_series():
    series = [gappy(), gappy(80, seed=1)]
    covariates = {"past_covariates": PAST, "future_covariates": FUTURE}
    for direction in ("both", "forward"):
        imputer = Imputer(make_model(BiGRUModel), direction, **covariates)
        filled = Pipeline([imputer]).fit_transform(series)
        alone = make_model(BiGRUModel).fit(series, [PAST] * 2, [FUTURE] * 2)
        if direction == "both":
            assert_same(filled, alone.impute(series, [PAST] * 2, [FUTURE] * 2))
        shifted = imputer.transform(series, past_covariates=PAST.map(lambda x: x + 3))  # instead of its own
        assert differs(shifted[0], filled[0])


def test_chosen_components_only():
    series = gappy(components=3)
    by_columns = Imputer(make_model(BiGRUModel), columns=["0", "2"]).fit_transform(series)
    by_mask = Imputer(make_model(BiGRUModel)).fit_transform(series, component_mask=np.array([True, False, True]))
    assert_same(by_columns, by_mask)
    assert np.isfinite(by_columns[["0", "2"]].values()).all()
    assert by_columns["1"] == series["1"]
    assert_same(by_columns[["0", "2"]], Imputer(make_model(BiGRUModel)).fit_transform(series[["0", "2"]]))


def test_long_gaps_can_be_left(model):
    filled = Imputer(model, max_gap=6).transform(gappy()).values()[:, 0]
    assert np.isnan(filled[50:66]).all()
    assert np.isfinite(filled[:50]).all()


def test_in_a_pipeline_with_a_scaler():
    series = gappy(components=2)
    pipeline = Pipeline([Scaler(), Imputer(make_model(BiGRUModel), name="holes"), Scaler()])
    filled = pipeline.fit_transform(series)
    assert str(pipeline).count("holes") == 1
    assert np.isfinite(filled.values()).all()
    restored = pipeline.inverse_transform(filled, partial=True)
    observed = ~np.isnan(series.values())
    np.testing.assert_allclose(restored.values()[observed], series.values()[observed], rtol=1e-5)


def test_progress_is_shown_if_asked_for(model, capsys):
    Imputer(model).transform([gappy(), gappy()])
    assert "holes" not in capsys.readouterr().err
    Imputer(model, name="holes", verbose=True).transform([gappy(), gappy()])
    assert "Transform (holes)" in capsys.readouterr().err


# copies


@pytest.mark.parametrize("copy", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep copy", "pickle"])
@pytest.mark.parametrize("fitted", [True, False])
def test_copies_keep_the_network(copy, fitted):
    series = gappy()
    imputer = Imputer(make_model(BiGRUModel), "forward")
    if fitted:
        imputer.fit(series)
    other = copy(Pipeline([imputer]))
    twice = copy(other)  # Darts' own files are gone by now
    if not fitted:
        for pipeline in (Pipeline([imputer]), other, twice):
            pipeline.fit(series)
    assert_same(other.transform(series), imputer.transform(series))
    assert_same(twice.transform(series), imputer.transform(series))
    assert next(iter(other)).model is not imputer.model


@pytest.mark.slow
def test_in_parallel(model):
    series = [gappy(), gappy(60, seed=1)]
    imputer = Imputer(model)
    expected = imputer.transform(series)
    imputer.set_n_jobs(2)
    assert_same(imputer.transform(series), expected)


# errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: Imputer(m, "backward"), ValueError, "`direction` must be one of 'both', 'forward', got 'backward'"),
        (lambda m: Imputer(NaiveSeasonal()), TypeError, "`model` must be a model .* with `impute`, got NaiveSeasonal"),
        (lambda m: Imputer(m, "forward", max_gap=3), ValueError, "`max_gap` must be None with .*, got 3"),
        (lambda m: Imputer(m, past_covariates=[PAST]), TypeError, "`past_covariates` must be one TimeSeries .* list"),
    ],
)
def test_wrong_arguments(model, make, error, message):
    with pytest.raises(error, match=message):
        make(model)
