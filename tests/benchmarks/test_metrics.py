from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts import metrics as of_darts

from benchmarks.interface import LEVELS, Answer, ImputationView, TaskData
from benchmarks.metrics import score
from benchmarks.tasks import TASKS, last
from benchmarks.views import Cut, Forecasting, Known

FORECAST, IMPUTE = TASKS["macrodata"], TASKS["El Nino, points 25 %"]
SEASON, HORIZON, LENGTHS = 4, 6, (40, 50, 61)


def known_series(components=1, lengths=LENGTHS):
    rng = np.random.default_rng(3)
    names = ("a", "b")[:components]
    return [
        Known(10 + rng.normal(size=(length, components)), pd.date_range("2000", periods=length, freq="D"), names)
        for length in lengths
    ]


LAST = partial(last, HORIZON)


def made_up(components=1, lengths=LENGTHS, cut=LAST):
    """Return series, their task data, and an answer with quantiles in order."""
    known = known_series(components, lengths)
    data = Forecasting(lambda _: known, cut, HORIZON, SEASON).build(known, 0)
    rng = np.random.default_rng(4)
    quantiles = np.sort(10 + rng.normal(size=(*data.truth.shape, len(LEVELS))), axis=-1)
    return known, data, Answer(10 + rng.normal(size=data.truth.shape), quantiles)


def test_equal_to_darts():
    known, data, answer = made_up(components=2)
    row = score(FORECAST, data, answer)
    truths = [TimeSeries.from_values(one.values) for one in known]
    insamples = [one[:-HORIZON] for one in truths]
    forecasts = [
        TimeSeries.from_times_and_values(one.time_index[-HORIZON:], values)
        for one, values in zip(truths, answer.values, strict=True)
    ]
    bands = [
        TimeSeries.from_times_and_values(
            one.time_index[-HORIZON:],
            np.moveaxis(values, -1, 1).transpose(0, 2, 1).reshape(HORIZON, -1),
            columns=[f"{c}_q{level:.3f}" for c in one.components for level in LEVELS],
        )
        for one, values in zip(truths, answer.quantiles, strict=True)
    ]
    close = partial(np.testing.assert_allclose, rtol=1e-9)
    close(row["mase"], np.mean(of_darts.mase(truths, forecasts, insamples, m=SEASON)))
    close(row["mae"], np.mean(of_darts.mae(truths, forecasts)))
    close(row["mse"], np.mean(of_darts.mse(truths, forecasts)))
    close(row["smape"], np.mean(of_darts.smape(truths, forecasts)))
    # Darts' root is taken of each series, ours of each component
    squared = np.array(of_darts.mse(truths, forecasts, component_reduction=None))
    close(row["rmse"], np.sqrt(squared.mean(axis=0)).mean())
    close(row["crps"], np.mean(of_darts.mql(truths, bands, q=list(LEVELS))))
    covered = of_darts.mic(truths, bands, q_interval=[(0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9)])
    # per series: the components' four bands one after the other
    close(row["coverage"], np.reshape(covered, (-1, 4)).mean(axis=0))
    assert row["coverage_80"] == row["coverage"][-1]


def test_equal_to_utilsforecast():
    losses = pytest.importorskip("utilsforecast.losses")
    known, data, answer = made_up()
    row = score(FORECAST, data, answer)
    columns = [f"q{level}" for level in LEVELS]
    days = np.arange(HORIZON)
    test = pd.concat(
        pd.DataFrame({"unique_id": i, "ds": days + 1000, "y": data.truth[i, :, 0], "m": answer.values[i, :, 0]}).join(
            pd.DataFrame(answer.quantiles[i, :, 0], columns=columns)
        )
        for i in range(len(known))
    ).reset_index(drop=True)
    train = pd.concat(
        pd.DataFrame({"unique_id": i, "ds": np.arange(len(one.values) - HORIZON), "y": one.values[:-HORIZON, 0]})
        for i, one in enumerate(known)
    ).reset_index(drop=True)
    close = partial(np.testing.assert_allclose, rtol=1e-9)
    close(row["mase"], losses.mase(test, ["m"], SEASON, train)["m"].mean())
    close(row["mae"], losses.mae(test, ["m"])["m"].mean())
    close(row["mse"], losses.mse(test, ["m"])["m"].mean())
    # as a share of half the size there
    close(row["smape"], 200 * losses.smape(test, ["m"])["m"].mean())
    # half of a quantile's loss there
    close(row["crps"], 2 * losses.mqloss(test, {"m": columns}, np.array(LEVELS))["m"].mean())
    close(
        row["coverage_80"],
        losses.coverage(test.rename(columns={"q0.1": "m-lo-80", "q0.9": "m-hi-80"}), ["m"], 80)["m"].mean(),
    )
    # over all series at once
    whole = test.assign(unique_id=0)
    close(row["wql"], losses.scaled_crps(whole, {"m": columns}, np.array(LEVELS))["m"].iloc[0])
    close(row["rmse"], losses.rmse(whole, ["m"])["m"].iloc[0])
    close(row["mre"], losses.wape(whole, ["m"])["m"].iloc[0])


@pytest.fixture
def fev(tmp_path, monkeypatch):
    """The package, offline and with a cache of its own."""
    fev = pytest.importorskip("fev")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return fev


def fev_summary(fev, folder, known, answers, **kwargs):
    """Return fev's summary of answers, one for each evaluation window, on series in a parquet file."""
    components = known[0].components
    rows = [
        {"id": str(i), "timestamp": list(one.times), **dict(zip(components, one.values.T.tolist(), strict=True))}
        for i, one in enumerate(known)
    ]
    pd.DataFrame(rows).to_parquet(folder / "series.parquet")
    task = fev.Task(
        dataset_path=str(folder / "series.parquet"),
        horizon=HORIZON,
        seasonality=SEASON,
        eval_metric="MASE",
        extra_metrics=["WQL", "MAE", "MSE", "RMSE", "SMAPE", "MQL", "WAPE"],
        quantile_levels=list(LEVELS),
        target=list(components),
        **kwargs,
    )
    predictions = [
        {
            component: [
                {"predictions": values[:, j]} | {str(level): q[:, j, k] for k, level in enumerate(LEVELS)}
                for values, q in zip(answer.values, answer.quantiles, strict=True)
            ]
            for j, component in enumerate(components)
        }
        for answer in answers
    ]
    return task.evaluation_summary(predictions, "anyone")


def check_against_fev(row, summary, names):
    ours = {"MASE": "mase", "WQL": "wql", "MAE": "mae", "MSE": "mse", "RMSE": "rmse", "MQL": "crps", "WAPE": "mre"}
    for name in names:
        np.testing.assert_allclose(row[ours[name]], summary[name], rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(row["smape"], 100 * summary["SMAPE"], rtol=1e-9)


@pytest.mark.parametrize("components", [1, 2])
def test_equal_to_fev(components, fev, tmp_path):
    known, data, answer = made_up(components)
    summary = fev_summary(fev, tmp_path, known, [answer])
    check_against_fev(score(FORECAST, data, answer), summary, ["MASE", "WQL", "MAE", "MSE", "RMSE", "MQL", "WAPE"])


def test_equal_to_fev_with_unknown_truths(fev, tmp_path):
    known, _, answer = made_up()
    known[0].values[[5, 20, -2]] = np.nan
    known[1].values[-HORIZON:] = np.nan
    data = Forecasting(lambda _: known, partial(last, HORIZON), HORIZON, SEASON).build(known, 0)
    summary = fev_summary(fev, tmp_path, known, [answer])
    check_against_fev(score(FORECAST, data, answer), summary, ["MASE", "WQL", "MAE", "MSE", "RMSE", "MQL", "WAPE"])


def test_several_windows_differ_from_fev_where_stated(fev, tmp_path):
    """Fev takes the mean over windows last, which matters for WQL, WAPE and RMSE alone."""
    origins = np.array([60, 66, 72])
    known, data, answer = made_up(lengths=(80,), cut=lambda _: Cut(60, origins))
    answers = [Answer(answer.values[i : i + 1], answer.quantiles[i : i + 1]) for i in range(3)]
    summary = fev_summary(fev, tmp_path, known, answers, num_windows=3, initial_cutoff=60, window_step_size=6)
    check_against_fev(score(FORECAST, data, answer), summary, ["MASE", "MAE", "MSE", "MQL"])
    windows = [
        score(FORECAST, replace(data, truth=data.truth[i : i + 1], scales=data.scales[i : i + 1]), answers[i])
        for i in range(3)
    ]
    means = {key: np.mean([row[key] for row in windows]) for key in ("wql", "rmse", "mre", "smape")}
    check_against_fev(means, summary, ["WQL", "RMSE", "WAPE"])


def test_a_series_without_scale_is_left_out_of_mase():
    _, data, answer = made_up()
    data.scales[1] = np.nan
    error = np.abs(answer.values - data.truth) / data.scales[:, None]
    row = score(FORECAST, data, answer)
    np.testing.assert_allclose(row["mase"], error[[0, 2]].mean(), rtol=1e-12)
    np.testing.assert_allclose(row["error_by_step"], error[[0, 2]].mean(axis=(0, 2)), rtol=1e-12)


def test_mase_is_the_mean_over_series():
    _, data, answer = made_up()
    each = np.abs(answer.values - data.truth).mean(axis=(1, 2)) / data.scales[:, 0]
    row = score(FORECAST, data, answer)
    np.testing.assert_allclose(row["mase"], each.mean(), rtol=1e-12)
    assert row["score"] == row["mase"]
    assert len(row["error_by_step"]) == HORIZON


def test_without_quantiles():
    _, data, answer = made_up()
    row = score(FORECAST, data, Answer(answer.values))
    assert row["coverage"] == []
    assert np.isnan([row["wql"], row["crps"], row["coverage_80"]]).all()
    assert row["mase"] == score(FORECAST, data, answer)["mase"]


# --- imputations ------------------------------------------------------------------------------------------------------


def hidden_task():
    """Two series of two components: gaps of 1, 3 and 8 steps, one of them at the end of the first series."""
    visible = np.ones((40, 2), np.float32)
    visible[3, 0] = visible[17:20, 0] = visible[20:28, 1] = np.nan
    truth = np.full((40, 2), np.nan)
    truth[3, 0], truth[17:20, 0], truth[20:28, 1] = 2, 3, 5
    # a value that was never recorded belongs to the gap, but is not scored
    truth[18, 0] = np.nan
    series = [TimeSeries.from_values(visible[:20]), TimeSeries.from_values(visible[20:])]
    return TaskData(ImputationView([], series, 1), truth, None, "")


def test_imputations_are_scored_on_hidden_values():
    data = hidden_task()
    row = score(IMPUTE, data, Answer(np.ones((40, 2))))
    assert row["score"] == row["mae"] == (1 + 2 * 2 + 8 * 4) / 11
    assert row["mse"] == (1 + 2 * 4 + 8 * 16) / 11
    np.testing.assert_allclose(row["mre"], (1 + 2 * 2 + 8 * 4) / (2 + 2 * 3 + 8 * 5))
    assert np.isnan(row["mase"])
    assert row["error_by_step"][:3] == [1, 2, 4]
    assert np.isnan(row["error_by_step"][3])


def test_a_gap_ends_with_its_series():
    visible = np.ones((40, 1), np.float32)
    visible[18:22] = np.nan
    series = [TimeSeries.from_values(visible[:20]), TimeSeries.from_values(visible[20:])]
    long = TaskData(
        ImputationView([], [TimeSeries.from_values(np.full((8, 1), np.nan))], 1), np.zeros((8, 1)), None, ""
    )
    assert score(IMPUTE, long, Answer(np.ones((8, 1))))["error_by_step"][2] == 1
    short = TaskData(ImputationView([], series, 1), np.where(np.isnan(visible), 0.0, np.nan), None, "")
    assert score(IMPUTE, short, Answer(np.ones((40, 1))))["error_by_step"][1] == 1


def test_quantiles_of_imputations():
    data = hidden_task()
    quantiles = np.broadcast_to(np.arange(1.0, 10.0), (40, 2, 9))
    row = score(IMPUTE, data, Answer(quantiles[..., 4], quantiles))
    # truths of 2 (once), 3 (twice) and 5 (eight times) in bands from 4 to 6, 3 to 7, 2 to 8 and 1 to 9
    np.testing.assert_allclose(row["coverage"], [8 / 11, 10 / 11, 1, 1])


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_wrong_shape_is_named():
    _, data, answer = made_up()
    with pytest.raises(ValueError, match=r"`values` of the answer must have shape \(3, 6, 1\), got \(3, 6\)"):
        score(FORECAST, data, Answer(answer.values[..., 0]))
    with pytest.raises(ValueError, match=r"`quantiles` of the answer must have shape \(3, 6, 1, 9\)"):
        score(FORECAST, data, Answer(answer.values, answer.quantiles[..., :3]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(wrong):
    _, data, answer = made_up()
    answer.values[1, 2, 0] = wrong
    with pytest.raises(
        ValueError, match=r"`values` .* must be finite where the truth is known; 1 of 18 .* \(1, 2, 0\)"
    ):
        score(FORECAST, data, answer)
    data.truth = data.truth.copy()
    data.truth[1, 2, 0] = np.nan
    score(FORECAST, data, answer)
    answer.quantiles[0, 0, 0, 3] = wrong
    with pytest.raises(ValueError, match=r"`quantiles` .* must be finite"):
        score(FORECAST, data, answer)


def test_a_forecast_that_diverges_is_not_left_out():
    _, data, answer = made_up()
    answer.values[0, 0, 0] = 1e200
    with np.errstate(over="ignore"):
        row = score(FORECAST, data, answer)
    assert row["mse"] == row["rmse"] == np.inf
    assert row["mae"] > 1e190
