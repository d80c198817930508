"""Simple imputers: by hand, and what all of them keep."""

import numpy as np
import pytest
from darts import TimeSeries
from statsmodels.tsa.statespace.structural import UnobservedComponents

from birnn_forecast.imputation import (
    KalmanImputer,
    LastValueImputer,
    LinearImputer,
    SeasonalLinearImputer,
    make_missing,
)
from birnn_forecast.imputation.baselines import baselines
from tests.conftest import make_series
from tests.models.contract_helpers import change

NAN = np.nan


def of(*values: float) -> TimeSeries:
    return TimeSeries.from_values(np.array(values))


def imputed(imputer, *values: float) -> list[float]:
    return imputer.impute(of(*values)).values()[:, 0].tolist()


def test_linear_by_hand():
    assert imputed(LinearImputer(), NAN, 1, NAN, NAN, 4, NAN) == [1, 1, 2, 3, 4, 4]


def test_last_value_by_hand():
    assert imputed(LastValueImputer(), NAN, 1, NAN, NAN, 4, NAN) == [1, 1, 1, 1, 4, 4]


def test_seasonal_linear_by_hand():
    # phases (1, -, 5), (10, 20, -), never observed
    series = (1, 10, NAN, NAN, 20, NAN, 5, NAN)
    assert imputed(SeasonalLinearImputer(3), *series) == [1, 10, 6.5, 3, 20, 12.5, 5, 20]


def test_seasonal_profile_by_hand():
    # phase means 2 and 10; what they leave is -1, 0, -, -, 1, 0
    series = (1, 10, NAN, NAN, 3, 10)
    expected = [1, 10, 2 + 1 / 3, 10 + 2 / 3, 3, 10]
    assert imputed(SeasonalLinearImputer(2, "profile"), *series) == pytest.approx(expected)


def test_the_seasonal_profile_of_a_phase_that_was_never_observed_is_interpolated():
    filled = imputed(SeasonalLinearImputer(5, "profile"), *[0, 10, NAN, 30, 5] * 3)
    assert filled == [0, 10, 20, 30, 5] * 3


def test_the_season_has_its_length_also_where_the_series_ends_within_one():
    wave = np.tile([1.0, 5.0, 9.0, 2.0, 7.0], 9)[:43]
    series = TimeSeries.from_values(np.stack([wave, -wave], axis=1))
    gaps = change(series, (slice(6, 30), slice(None)), NAN)
    for method in ("phase", "profile"):
        np.testing.assert_allclose(SeasonalLinearImputer(5, method).impute(gaps).values(), series.values())
        assert np.abs(SeasonalLinearImputer(4, method).impute(gaps).values() - series.values()).max() > 1


@pytest.mark.parametrize("imputer", baselines(12).values(), ids=baselines(12).keys())
def test_gaps_are_filled_and_the_rest_is_kept(imputer):
    series = make_series(120, 2, missing=0.3)
    series = change(change(series, slice(0, 3), NAN), slice(110, 120), NAN)
    filled = imputer.impute(series)
    observed = ~np.isnan(series.values())
    assert np.isfinite(filled.values()).all()
    assert np.array_equal(filled.values()[observed], series.values()[observed])
    assert np.isnan(series.values()).any()
    assert filled.dtype == np.float32
    assert filled.time_index.equals(series.time_index)
    assert filled.components.equals(series.components)
    # nothing to go by in one component, nothing to do in a whole series
    blank = imputer.impute(change(series, (slice(None), 1), NAN)).values()
    assert np.isnan(blank[:, 1]).all()
    assert np.isfinite(blank[:, 0]).all()
    assert imputer.impute(make_series()) == make_series()


def test_seasonal_baselines_only_with_a_season():
    assert list(baselines()) == ["linear", "last value", "Kalman"]
    assert list(baselines(12)) == ["linear", "seasonal-linear", "seasonal profile", "last value", "Kalman"]
    assert baselines(7)["Kalman"] == KalmanImputer(7)


def test_kalman_smoothing_follows_a_season_through_a_gap():
    series = make_series(240)
    gaps = change(series, slice(100, 130), NAN)
    error = {s: np.abs(KalmanImputer(s).impute(gaps).values() - series.values()).mean() for s in (12, None)}
    assert error[12] < 0.3 * error[None]


def test_kalman_bands_cover_what_they_promise():
    series = make_series(600, seed=3)
    gaps = make_missing(series, "blocks", 0.4, 0, block_length=(5, 25))
    bands = KalmanImputer(12).impute(gaps, quantiles=[0.1, 0.5, 0.9])
    assert list(bands.components) == ["0_q0.100", "0_q0.500", "0_q0.900"]
    low, middle, high = bands.values().T
    hidden = np.isnan(gaps.values()[:, 0])
    truth = series.values()[:, 0]
    assert 0.7 < np.mean((low < truth) & (truth < high), where=hidden) < 0.9
    np.testing.assert_allclose(middle, KalmanImputer(12).impute(gaps).values()[:, 0])
    for quantile in (low, middle, high):
        assert np.array_equal(quantile[~hidden], truth[~hidden])


def test_kalman_bands_widen_into_a_gap():
    rng = np.random.default_rng(0)
    walk = TimeSeries.from_values(rng.normal(size=300).cumsum())
    for gap in (slice(100, 160), slice(0, 60), slice(240, 300)):
        low, high = KalmanImputer().impute(change(walk, gap, NAN), quantiles=[0.05, 0.95]).values().T
        width = (high - low)[gap]
        inner = 30 if gap.start == 100 else (0 if gap.start == 0 else 59)
        outer = {100: [0, 59], 0: [59], 240: [0]}[gap.start]
        assert (width[inner] > 2 * width[outer]).all()
        assert (width > 0).all()


def test_kalman_bands_of_a_gap_near_the_start_are_like_those_of_any_other():
    rng = np.random.default_rng(0)
    t = np.arange(240)
    series = TimeSeries.from_values(100 + 10 * np.sin(2 * np.pi * t / 24) + 0.5 * rng.normal(size=240).cumsum())
    gaps = [slice(2, 21), slice(60, 79), slice(140, 159)]
    for gap in gaps:
        series = change(series, gap, NAN)
    low, high = KalmanImputer(24).impute(series, quantiles=[0.1, 0.9]).values().T
    first, second, third = ((high - low)[gap] for gap in gaps)
    np.testing.assert_allclose(second, third, rtol=0.3)
    np.testing.assert_allclose(first, third, rtol=0.8)


def test_kalman_quantiles_of_several_components_are_named_and_ordered():
    series = make_missing(make_series(100, 2), "points", 0.2, 0)
    quantiles = KalmanImputer().impute(series, quantiles=[0.1, 0.9])
    assert list(quantiles.components) == ["0_q0.100", "0_q0.900", "1_q0.100", "1_q0.900"]
    one = KalmanImputer().impute(series["1"], quantiles=[0.1, 0.9])
    np.testing.assert_allclose(quantiles[["1_q0.100", "1_q0.900"]].values(), one.values())


def test_kalman_with_little_to_go_by():
    assert imputed(KalmanImputer(4), 1, NAN, 3, NAN) == [1, 2, 3, 3]
    assert imputed(KalmanImputer(4), *[5.0] * 12, NAN, NAN, *[5.0] * 12) == [5] * 26
    low, high = KalmanImputer().impute(of(1, NAN, 3, NAN), quantiles=[0.1, 0.9]).values().T
    assert (low[[1, 3]] < high[[1, 3]]).all()
    # less than two seasons are known: there is none
    for values, alike in ((25, True), (90, False)):
        series = [*make_series(values).values()[:, 0], NAN, NAN, NAN, 100]
        assert (imputed(KalmanImputer(14), *series) == imputed(KalmanImputer(), *series)) == alike


def test_kalman_says_so_when_statsmodels_fails(monkeypatch):
    def fail(*args, **kwargs):
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr("birnn_forecast.imputation.baselines.UnobservedComponents", fail)
    with pytest.warns(UserWarning, match="Kalman smoothing of '0' failed .not positive definite.: it is filled by"):
        filled = KalmanImputer().impute(change(make_series(), 5, NAN))
    assert filled == LinearImputer().impute(change(make_series(), 5, NAN))


def test_kalman_variances_are_fitted_to_the_stretch_with_the_most_values(monkeypatch):
    values = np.random.default_rng(0).normal(size=600)
    values[:300:2] = NAN
    seen = []

    def record(y, **terms):
        seen.append((len(y), np.isnan(y).any()))
        return UnobservedComponents(y, **terms)

    monkeypatch.setattr("birnn_forecast.imputation.baselines.UnobservedComponents", record)
    KalmanImputer(fit_length=200).impute(TimeSeries.from_values(values))
    assert seen == [(200, False), (600, True)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SeasonalLinearImputer(0), "`season_length` must be an integer >= 1, got 0"),
        (lambda: SeasonalLinearImputer(12, "means"), "`method` must be one of 'phase', 'profile', got 'means'"),
        (lambda: KalmanImputer(2.5), "`season_length` must be an integer >= 1, got 2.5"),
        (lambda: KalmanImputer(12, harmonics=0), "`harmonics` must be an integer >= 1, got 0"),
        (lambda: KalmanImputer(12, fit_length=5), "`fit_length` must be an integer >= 10, got 5"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
