"""The filter: each value as the others tell it, at home in Darts' anomaly detection."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
from darts import TimeSeries
from darts.ad import FilteringAnomalyModel, KMeansScorer, NormScorer
from darts.models import NaiveSeasonal
from darts.utils.likelihood_models import QuantileRegression

from birnn_forecast import BiGRUModel
from birnn_forecast.imputation import BidirectionalFilter
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import FUTURE, add, assert_same, change, differs


@pytest.fixture(scope="module")
def model():
    return make_model(BiGRUModel, n_epochs=20, season_length=12, input_chunk_length=24).fit(make_series(seed=7))


def test_no_value_has_a_say_in_its_own_estimate(model):
    series = make_series(60, missing=0.2)
    smooth = BidirectionalFilter(model)
    filtered = smooth.filter(series)
    assert np.isfinite(filtered.values()).all()
    assert filtered.time_index.equals(series.time_index)
    for step in np.flatnonzero(~np.isnan(series.values()[:, 0]))[::7]:
        moved = smooth.filter(add(series, step, 30.0))
        assert moved.values()[step, 0] == pytest.approx(filtered.values()[step, 0], rel=1e-6)
        assert differs(moved, filtered)


def test_it_is_what_the_model_reconstructs_in_as_many_passes(model):
    series = make_series(60, missing=0.2)
    assert_same(BidirectionalFilter(model, 3).filter(series), model.reconstruct(series, n_passes=3))
    assert differs(BidirectionalFilter(model, 3).filter(series), BidirectionalFilter(model, 8).filter(series))


def test_a_spike_stands_out(model):
    series = add(make_series(100), 60, 20.0)
    anomalies = change(series, slice(None), 0.0)
    anomalies = change(anomalies, 60, 1.0)
    detector = FilteringAnomalyModel(BidirectionalFilter(model), NormScorer())
    scores = detector.score(series)
    assert scores.values()[:, 0].argmax() == 60
    assert detector.eval_metric(anomalies, series) == {"Norm (ord=None)_w=1": 1.0}


def test_with_a_scorer_that_is_fitted(model):
    detector = FilteringAnomalyModel(BidirectionalFilter(model), KMeansScorer(k=2, window=1))
    detector.fit(make_series(100))
    scores = detector.score([add(make_series(80), 40, 25.0), make_series(60, seed=1)])
    assert scores[0][0].values()[:, 0].argmax() == 40
    assert len(scores[1][0]) == 60


def test_the_anomaly_model_fits_it():
    model = make_model(BiGRUModel)
    detector = FilteringAnomalyModel(BidirectionalFilter(model), NormScorer())
    detector.fit(make_series(), allow_model_training=True, epochs=2)
    assert model._fit_called
    assert model.epochs_trained == 2
    assert np.isfinite(detector.score(make_series(50)).values()).all()


def test_an_unfitted_model_is_fitted_to_what_is_filtered_first():
    series, other = make_series(missing=0.1), make_series(seed=1)
    smooth = BidirectionalFilter(make_model(BiGRUModel))
    filtered = smooth.filter(series)
    assert_same(filtered, make_model(BiGRUModel).fit(series).reconstruct(series))
    smooth.filter(other)
    assert_same(smooth.filter(series), filtered)


def test_a_fitted_model_is_kept_unless_refit(model):
    series = make_series(60)
    assert BidirectionalFilter(model).fit(make_series(seed=3)).model is model
    anew = BidirectionalFilter(model, refit=True).fit([make_series(seed=3), make_series(seed=4)])
    assert anew.model is not model
    assert differs(anew.filter(series), model.reconstruct(series))


def test_samples():
    model = make_model(BiGRUModel, likelihood=QuantileRegression([0.1, 0.5, 0.9])).fit(make_series())
    smooth = BidirectionalFilter(model)
    samples = smooth.filter(make_series(40), num_samples=30, random_state=0)
    assert samples.n_samples == 30
    assert (samples.all_values().std(axis=-1) > 0).mean() > 0.9
    assert_same(smooth.filter(make_series(40), num_samples=30, random_state=0), samples)


def test_covariates(model):
    series = make_series(60)
    smooth = BidirectionalFilter(make_model(BiGRUModel)).fit(series, future_covariates=FUTURE)
    filtered = smooth.filter(series, future_covariates=FUTURE)
    assert differs(smooth.filter(series, future_covariates=FUTURE.map(lambda x: x + 3)), filtered)
    assert_same(smooth.filter(series, future_covariates=[FUTURE]), filtered)  # as the anomaly model hands them on
    detector = FilteringAnomalyModel(BidirectionalFilter(make_model(BiGRUModel)), NormScorer())
    detector.fit(series, allow_model_training=True, future_covariates=FUTURE)
    scores, used = detector.score(series, return_model_prediction=True, future_covariates=FUTURE)
    assert_same(used, filtered)
    assert np.isfinite(scores.values()).all()
    with pytest.raises(ValueError, match=r"`future_covariates` must be as many as `series` \(1\), got 2"):
        smooth.filter(series, future_covariates=[FUTURE, FUTURE])


@pytest.mark.parametrize("copy", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deep copy", "pickle"])
def test_copies_keep_the_network(model, copy):
    series = make_series(60)
    other = copy(copy(BidirectionalFilter(model, 3)))
    assert_same(other.filter(series), BidirectionalFilter(model, 3).filter(series))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: BidirectionalFilter(NaiveSeasonal()), TypeError, "with `reconstruct`, got NaiveSeasonal"),
        (lambda m: BidirectionalFilter(m, 1), ValueError, "`n_passes` must be an integer >= 2, got 1"),
        (
            lambda m: BidirectionalFilter(m).filter(TimeSeries.from_values(np.zeros((50, 1, 3)))),
            ValueError,
            r"`series\[0\]` must be deterministic, got 3 samples",
        ),
    ],
)
def test_wrong_arguments(model, make, error, message):
    with pytest.raises(error, match=message):
        make(model)
