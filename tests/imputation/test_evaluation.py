"""Scores on hidden values: by hand, for every kind of imputer, and never with a look at what was hidden."""

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.dataprocessing.pipeline import Pipeline
from darts.dataprocessing.transformers import MissingValuesFiller
from darts.utils.likelihood_models import GaussianLikelihood, QuantileRegression
from scipy.stats import norm

from birnn_forecast import BiGRUModel, URNNModel
from birnn_forecast.imputation import (
    Imputer,
    KalmanImputer,
    LastValueImputer,
    LinearImputer,
    compare_imputers,
    evaluate_imputer,
    make_missing,
)
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import FUTURE, change

LEVELS = [round(0.05 * i, 2) for i in range(1, 20)]
PLAIN = {"baselines": False, "random_state": 0}
UNCERTAIN = ["crps", "coverage_80", "coverage_90"]


def constant(value):
    """Return an imputer that puts `value` everywhere."""
    return lambda series: series.with_values(np.full_like(series.values(), value))


def normal(sd, names=None):
    """Return an imputer that fills with the quantiles of a normal around 100, named as Darts names them."""

    def impute(series):
        values = 100 + sd * norm.ppf(LEVELS)
        columns = names or [f"{name}_q{level:.3f}" for name in series.components for level in LEVELS]
        rows = np.tile(values, (len(series), series.n_components))
        return TimeSeries.from_times_and_values(series.time_index, rows, columns=columns)

    return impute


def hidden_truth(series, *args, **kwargs):
    masked = make_missing(series, *args, **kwargs)
    return series.values()[np.isnan(masked.values()) & ~np.isnan(series.values())].astype(float)


def test_errors_by_hand():
    series = make_series(120, 2, missing=0.1)
    truth = hidden_truth(series, "points", 0.3, 0)
    table = evaluate_imputer(constant(90), series, "points", 0.3, **PLAIN)
    row = table.loc["all"]
    assert row["n"] == len(truth) > 50
    assert row["mae"] == pytest.approx(np.abs(truth - 90).mean(), rel=1e-6)
    assert row["rmse"] == pytest.approx(np.sqrt(((truth - 90) ** 2).mean()), rel=1e-6)
    assert row["mre"] == pytest.approx(np.abs(truth - 90).sum() / np.abs(truth).sum(), rel=1e-6)
    assert row[UNCERTAIN].isna().all()


def test_all_hidden_values_count_alike_whatever_their_component():
    values = np.zeros((100, 2))
    values[10:, 1] = np.nan  # 100 and 10 values
    series, hidden = TimeSeries.from_values(values), values.copy()
    hidden[20:50, 0] = hidden[2:5, 1] = np.nan

    def both(s):
        return s.with_values(np.stack([np.full(100, 1.0), np.full(100, 12.0)], axis=1))

    table = evaluate_imputer(both, series, hidden=TimeSeries.from_values(hidden), baselines=False)
    assert table.loc["all", "mae"] == pytest.approx((30 * 1 + 3 * 12) / 33)


def test_quantiles_by_hand():
    series = make_series(200, 2)
    truth = hidden_truth(series, "points", 0.5, 0)
    quantiles = 100 + 5 * norm.ppf(LEVELS)
    pinball = [
        np.maximum(q * (truth - x), (q - 1) * (truth - x)).mean() for q, x in zip(LEVELS, quantiles, strict=True)
    ]
    row = evaluate_imputer(normal(5), series, "points", 0.5, **PLAIN).loc["all"]
    assert row["mae"] == pytest.approx(np.abs(truth - 100).mean(), rel=1e-5)  # of the median
    assert row["crps"] == pytest.approx(2 * np.mean(pinball) / np.abs(truth).mean(), rel=1e-5)
    for column, z in (("coverage_80", norm.ppf(0.9)), ("coverage_90", norm.ppf(0.95))):
        assert row[column] == pytest.approx(np.mean(np.abs(truth - 100) <= 5 * z))


def test_samples_count_as_their_quantiles():
    def samples(series):
        drawn = np.random.default_rng(0).normal(100, 5, size=(len(series), series.n_components, 4000))
        return TimeSeries.from_times_and_values(series.time_index, drawn, columns=series.components)

    series = make_series(200, 2)
    expected = evaluate_imputer(normal(5), series, **PLAIN).loc["all"]
    row = evaluate_imputer(samples, series, **PLAIN).loc["all"]
    assert row["crps"] == pytest.approx(expected["crps"], rel=0.02)
    assert row["coverage_80"] == pytest.approx(expected["coverage_80"], abs=0.04)


def test_a_few_quantiles_are_joined_by_straight_lines():
    def few(series):
        rows = np.tile([90.0, 100.0, 120.0], (len(series), 1))
        columns = [f"0_q{level:.3f}" for level in (0.1, 0.5, 0.9)]
        return TimeSeries.from_times_and_values(series.time_index, rows, columns=columns)

    series = change(make_series(100), slice(50, 100), 97.0)
    hidden = change(series, slice(50, 100), np.nan)
    row = evaluate_imputer(few, series, hidden=hidden, baselines=False).loc["all"]
    quantiles = np.interp(LEVELS, [0.1, 0.5, 0.9], [90, 100, 120])
    pinball = [max(q * (97 - x), (q - 1) * (97 - x)) for q, x in zip(LEVELS, quantiles, strict=True)]
    assert row["crps"] == pytest.approx(2 * np.mean(pinball) / 97, rel=1e-5)
    assert row["mae"] == pytest.approx(3)


def test_rows_by_the_length_of_the_whole_gap():
    values = np.zeros(60)
    native = np.concatenate([values, [np.nan]])  # lengthens the last gap
    hidden = native.copy()
    hidden[[5]] = hidden[10:12] = hidden[20:25] = hidden[30:36] = hidden[57:60] = np.nan
    series, hidden = TimeSeries.from_values(native), TimeSeries.from_values(hidden)

    def error(s):
        return s.with_values(np.arange(61.0)[:, None])

    table = evaluate_imputer(error, series, hidden=hidden, baselines=False, gap_lengths=(1, 3, 5))
    assert table["n"].to_dict() == {"all": 17, "1": 1, "2-3": 2, "4-5": 8, ">5": 6}
    assert table.loc["1", "mae"] == 5
    assert table.loc["4-5", "mae"] == pytest.approx(np.mean([20, 21, 22, 23, 24, 57, 58, 59]))
    whole = evaluate_imputer(error, series, hidden=hidden, baselines=False, gap_lengths=())
    assert list(whole.index) == ["all", ">0"]
    assert np.isnan(table.loc["1", "mre"])  # relative to zero


def test_scaled_scores_do_not_depend_on_the_unit():
    series = make_series(200, 2)
    unit, offset = np.array([1.0, 1000.0], np.float32), np.array([0.0, 5e4], np.float32)
    other = series.with_values(series.values() * unit + offset)
    kwargs = {"season_length": 12, "random_state": 0, "gap_lengths": (3,)}
    plain = compare_imputers({}, series, scale=True, **kwargs).drop(columns="seconds")
    pd.testing.assert_frame_equal(
        plain, compare_imputers({}, other, scale=True, **kwargs).drop(columns="seconds"), rtol=1e-2
    )
    raw = compare_imputers({}, other, **kwargs)
    assert raw.loc["linear", "mae"] > 100 * plain.loc["linear", "mae"]
    # by hand: mean and standard deviation of what is visible
    masked = make_missing(series, random_state=0).values()
    hidden = np.isnan(masked)
    z = (series.values() - np.nanmean(masked, axis=0)) / np.nanstd(masked, axis=0)
    row = evaluate_imputer(constant(0), series, scale=True, **PLAIN).loc["all"]
    expected = np.broadcast_to(np.nanmean(masked, axis=0) / np.nanstd(masked, axis=0), z.shape)[hidden]
    assert row["mae"] == pytest.approx(np.abs(z[hidden] + expected).mean(), rel=1e-4)
    assert row["mre"] == pytest.approx(np.abs(z[hidden] + expected).sum() / np.abs(z[hidden]).sum(), rel=1e-4)


def test_a_constant_can_be_scaled():
    series = TimeSeries.from_values(np.full(50, 3.0))
    assert evaluate_imputer(constant(5), series, scale=True, **PLAIN).loc["all", "mae"] == pytest.approx(2)


QUANTILES, GAUSSIAN = QuantileRegression([0.1, 0.5, 0.9]), GaussianLikelihood()
# every kind of imputer, and whether it has uncertainty
KINDS = {
    "a fitted model": (lambda s: make_model(BiGRUModel).fit(s), False),
    "a model to fit": (lambda s: make_model(URNNModel), False),
    "a model of quantiles": (lambda s: make_model(BiGRUModel, likelihood=QUANTILES), True),
    "a model to sample": (lambda s: make_model(BiGRUModel, likelihood=GAUSSIAN), True),
    "Imputer": (lambda s: Imputer(make_model(BiGRUModel)), False),
    "Imputer of quantiles": (lambda s: Imputer(make_model(BiGRUModel, likelihood=QUANTILES)), True),
    "forward Imputer": (lambda s: Imputer(make_model(BiGRUModel, likelihood=GAUSSIAN), "forward"), False),
    "Imputer of a column": (
        lambda s: Pipeline([Imputer(make_model(BiGRUModel), columns="0"), MissingValuesFiller()]),
        False,
    ),
    "filler": (lambda s: MissingValuesFiller(), False),
    "Kalman": (lambda s: KalmanImputer(), True),
    "baseline": (lambda s: LinearImputer(), False),
    "callable": (lambda s: LinearImputer().impute, False),
}


@pytest.mark.parametrize(("make", "uncertain"), KINDS.values(), ids=KINDS.keys())
def test_every_kind_of_imputer_is_scored_without_a_look_at_the_truth(make, uncertain):
    series = make_series(80, 2, missing=0.1)
    masked = make_missing(series, "points", 0.2, 0)
    hidden = np.isnan(masked.values()) & ~np.isnan(series.values())
    tables = [
        evaluate_imputer(make(masked), change(series, hidden, truth), hidden=masked, num_samples=20, **PLAIN)
        for truth in (1e4, 2e4)
    ]
    assert tables[0][["mae", "rmse", "mre"]].notna().all(axis=None)
    assert (tables[0][UNCERTAIN].notna() if uncertain else tables[0][UNCERTAIN].isna()).all(axis=None)
    # far below either truth; were they known, the estimates would have moved with them
    near, far = (table.loc["all", "mae"] for table in tables)
    assert near == pytest.approx(1e4 - 100, abs=60)
    assert far - near == pytest.approx(1e4, rel=1e-6)


def test_an_unfitted_model_or_transformer_stays_so():
    model, imputer = make_model(BiGRUModel), Imputer(make_model(BiGRUModel))
    scores = [evaluate_imputer(one, make_series(60), **PLAIN).loc["all", "mae"] for one in (model, imputer)]
    assert not any(one._fit_called for one in (model, imputer, imputer.model))
    assert scores[0] == pytest.approx(scores[1])


def test_a_model_with_covariates():
    series = [make_series(100, seed=i) for i in range(2)]
    covariates = {"future_covariates": [FUTURE, FUTURE]}
    model = make_model(BiGRUModel).fit(series, **covariates)
    expected = evaluate_imputer(model, series, **PLAIN, **covariates).loc["all"]
    assert expected["n"] == 50
    for other in (make_model(BiGRUModel), Imputer(model), Imputer(make_model(BiGRUModel))):
        table = evaluate_imputer(other, series, **PLAIN, **covariates)
        assert table.loc["all", "mae"] == pytest.approx(expected["mae"], rel=0.05)
    assert np.isfinite(evaluate_imputer(model, series[0], **PLAIN, future_covariates=FUTURE)["mae"]).all()


def test_simple_imputers_stand_beside():
    series = make_series(120, 2)
    kwargs = {"pattern": "blocks", "rate": 0.3, "random_state": 0, "season_length": 12, "block_length": (4, 8)}
    table = evaluate_imputer(constant(100), series, **kwargs)
    compared = compare_imputers({"100": constant(100)}, series, **kwargs)
    assert set(compared.index) == {"100", "linear", "seasonal-linear", "seasonal profile", "last value", "Kalman"}
    assert compared["mae"].is_monotonic_increasing
    assert (compared["seconds"] >= 0).all()
    assert compared["n"].eq(table.loc["all", "n"]).all()
    for name in compared.index.drop("100"):
        column = "mae_" + name.lower().replace(" ", "_").replace("-", "_")
        assert table.loc["all", column] == pytest.approx(compared.loc[name, "mae"])
        assert table.loc["6-24", column] == pytest.approx(compared.loc[name, "mae_gap_6-24"])
    assert table.loc["all", "mae"] == pytest.approx(compared.loc["100", "mae"])
    linear = evaluate_imputer(LinearImputer(), series, **kwargs)
    assert linear["mae"].equals(linear["mae_linear"].rename("mae"))
    assert linear.loc["all", "mae"] != linear.loc["all", "mae_last_value"]


def test_simple_imputers_can_be_left_out_replaced_or_lack_a_season():
    series = make_series()
    assert list(compare_imputers({"a": constant(1)}, series, baselines=False).index) == ["a"]
    assert "seasonal-linear" not in compare_imputers({}, series).index
    replaced = compare_imputers({"linear": constant(0)}, series, random_state=0)
    assert replaced.loc["linear", "mae"] > 50
    assert "mae_linear" not in evaluate_imputer(constant(1), series, baselines=False)


def test_the_mask_can_be_given():
    series = [make_series(60), make_series(80, seed=1)]
    masked = make_missing(series, "tail", 0.2)
    given = evaluate_imputer(LastValueImputer(), series, hidden=masked, baselines=False)
    pd.testing.assert_frame_equal(given, evaluate_imputer(LastValueImputer(), series, "tail", 0.2, baselines=False))
    assert given.loc["all", "n"] == 12 + 16


@pytest.mark.parametrize(
    ("imputer", "kwargs", "error", "message"),
    [
        (3, {}, TypeError, "must be a model or transformer, have `impute`, or be callable, got int"),
        (lambda s: s, {}, ValueError, "must fill every gap, but left 60 hidden values missing"),
        (lambda s: s[1:], {}, ValueError, "must return the series' own time steps"),
        (lambda s: s["0"], {}, ValueError, r"components \['0', '1'\] or quantiles of each, got \['0'\]"),
        (normal(5, [f"q{i}" for i in range(38)]), {}, ValueError, "or quantiles of each, got .*q37"),
        (constant(1), {"gap_lengths": (5, 2)}, ValueError, "`gap_lengths` must be increasing numbers"),
        (constant(1), {"hidden": make_series(120, 2)}, ValueError, "but nothing is hidden"),
        (constant(1), {"hidden": make_series(110, 2)}, ValueError, "`hidden` must have the time steps and components"),
        (constant(1), {"hidden": [make_series(120, 2)] * 2}, ValueError, "and as many series"),
        (constant(1), {"hidden": make_series(120, 2, seed=1)}, ValueError, "replaced by NaN, but values differ"),
        (constant(1), {"rate": 2}, ValueError, "`rate` must be a share"),
    ],
)
def test_what_cannot_be_scored_is_refused(imputer, kwargs, error, message):
    with pytest.raises(error, match=message):
        evaluate_imputer(imputer, make_series(120, 2), **({"baselines": False} | kwargs))
