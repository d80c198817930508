import numpy as np
import pytest

from benchmarks import gate_imputation, gate_imputation_cost, gate_never_worse
from benchmarks.imputation import PATTERNS, Task, errors, linear, mae_mse, make_task, seasonal_linear
from tests.conftest import make_series
from tests.models.contract_helpers import change


def test_errors_count_what_was_hidden_and_nothing_may_stay_empty():
    truth = change(make_series(20, 2), (slice(0, 18), slice(None)), np.nan)
    imputed = [make_series(20, 2) + 2]
    assert mae_mse(imputed, [truth]) == pytest.approx((2, 4), rel=1e-5)
    with pytest.raises(ValueError, match="left 1 of 4 hidden points empty"):
        errors([change(imputed[0], (19, 0), np.nan)], [truth])


def test_simple_imputers():
    series = change(make_series(48), slice(18, 30), np.nan)
    assert not np.isnan(linear(series).values()).any()
    filled = seasonal_linear(series, 12).values()
    values = make_series(48).values()
    np.testing.assert_allclose(filled[18:24], (values[6:12] * 2 + values[30:36]) / 3, rtol=0.02)
    np.testing.assert_array_equal(filled[:18], values[:18])


def test_distances_to_the_nearest_observation():
    observed = np.array([[0, 0, 1, 0, 0, 0, 1]], dtype=bool).T
    assert gate_imputation._distance(observed).ravel().tolist() == [2, 1, 0, 1, 2, 1, 0]


def test_verdicts_against_the_goals():
    assert gate_imputation.verdict("aqi36", {"mae": 10.0, "mse": 401.0, "steps": 3})[0][0]
    met = [passed for passed, _ in gate_imputation.verdict("aqi36", {"mae": 10.0, "mse": 401.0})]
    assert met == [True, False]
    assert not gate_imputation.verdict("uncertainty", {"coverage": 0.5})[0][0]
    assert "MISS 0.87 <= 0.95 <= 0.93" in gate_imputation.verdict("uncertainty", {"coverage": 0.95})[0][1]


def test_cells_are_judged_by_the_goals():
    row = {"model": 1.0, "linear": 1.2, "seasonal": 1.1, "phase": 1.0, "ridge": 2.0}
    assert gate_never_worse.judge("ETTh1", "points 10 %", row)[0]
    assert not gate_never_worse.judge("ETTh1", "blocks 50 %", row)[0]  # 0.91 of the seasonal one
    assert gate_never_worse.judge("ETTh1", "blocks 50 %", row | {"model": 0.9})[0]
    assert not gate_never_worse.judge("ETTh1", "points 10 %", row | {"model": 1.2})[0]
    assert not gate_never_worse.judge("ETTh1", "blocks 50 %", row | {"model": 0.9, "ridge": 0.8})[0]


def test_ridge_beats_linear_interpolation_where_components_go_together():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(600, 1)).cumsum(axis=0)
    base = make_series(600, 3)
    truth = base.with_values((common + 0.05 * rng.normal(size=(600, 3))).astype(np.float32))
    values = truth.values()
    values[rng.random(values.shape) < 0.3] = np.nan
    gappy = truth.with_values(values)
    scored = truth.with_values(np.where(np.isnan(values), truth.values(), np.nan))
    task = Task([gappy[:400]], [], [], [gappy[400:]], [scored[400:]], None)
    assert mae_mse(gate_never_worse.ridge(task), task.truth)[0] < 0.7 * mae_mse([linear(gappy[400:])], task.truth)[0]


def test_the_official_pattern_is_that_of_one_data_set(tmp_path):
    assert PATTERNS["official"] is None
    (tmp_path / "co2_weekly").mkdir()
    (tmp_path / "co2_weekly/co2.csv").write_text("date,co2\n" + "\n".join(f"{i},{i}" for i in range(200)))
    with pytest.raises(ValueError, match="'official' goes with AQI-36"):
        make_task("CO2", "official", tmp_path, 1)
    task = make_task("CO2", "points 25 %", tmp_path, 1)
    assert [len(part[0]) for part in (task.train, task.validation, task.test)] == [120, 20, 60]
    hidden = np.isnan(task.test[0].values())
    np.testing.assert_array_equal(~np.isnan(task.truth[0].values()), hidden)
    assert np.nanmean(task.train[0].values()) == pytest.approx(0, abs=1e-6)


def test_walks_have_gaps():
    series = gate_imputation_cost.walks(50, 3)
    assert 0.1 < np.isnan(series.values()).mean() < 0.4
