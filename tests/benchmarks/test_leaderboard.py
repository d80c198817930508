"""The leaderboard: fev's figures, also by hand; failures; significance; bootstrap intervals."""

import fev
import numpy as np
import pandas as pd
import pytest

from benchmarks.intervals import FEWEST_BLOCKS, Losses, Ratios, block_losses, ratio_interval
from benchmarks.leaderboard import ANY_BASELINE, leaderboard, to_fev, with_baseline
from benchmarks.rows import best_classical, mean_scores, read_rows
from benchmarks.significance import model_confidence_set, ranks_over_tasks
from tests.benchmarks.made_up import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("results") / "out")


def made(scores: dict[tuple[str, str, int], float], baseline: str = "base") -> pd.DataFrame:
    """Rows of (task, model, seed) -> score, NaN for a cell that failed."""
    return pd.DataFrame(
        [
            {
                "task": task, "kind": "forecast", "horizon": 2, "season": 1, "metric": "mase", "baseline": baseline,
                "model": model, "family": "baseline" if model == baseline else "ours", "ablation_of": "", "seed": seed,
                "status": "failed" if np.isnan(score) else "ok", "score": score, "n_forecasts": 4,
                "fit_seconds": 3.0, "predict_seconds": 1.0, "n_parameters": 10.0, "random_walk": False,
            }
            for (task, model, seed), score in scores.items()
        ]
    )  # fmt: skip


def test_three_models_on_three_tasks_by_hand():
    scores = {"t1": (1.0, 0.5, 2.0), "t2": (2.0, 1.0, 2.0), "t3": (4.0, 8.0, 1.0)}
    rows = made({(task, m, 1): s for task, row in scores.items() for m, s in zip(("base", "a", "b"), row, strict=True)})

    board = leaderboard(rows).set_index("model")

    # a: 1/2, 1/2 and 2 of the baseline; b: 2, 1 and 1/4
    assert board.loc["a", "skill_score"] == pytest.approx(1 - (0.5 * 0.5 * 2) ** (1 / 3))
    assert board.loc["b", "skill_score"] == pytest.approx(1 - (2 * 1 * 0.25) ** (1 / 3))
    # a beats base twice and b twice; b beats base once and ties once
    assert board.loc["a", "win_rate"] == pytest.approx((2 + 2) / 6)
    assert board.loc["b", "win_rate"] == pytest.approx((1.5 + 1) / 6)
    assert board.loc["base", "win_rate"] == pytest.approx((1 + 1.5) / 6)
    assert (board["skill_score_lower"] <= board["skill_score"]).all()


def test_a_failed_cell_takes_the_baselines_score_and_counts():
    rows = made(
        {
            ("t1", "base", 1): 2.0, ("t1", "base", 2): 4.0,
            ("t1", "a", 1): 1.0, ("t1", "a", 2): np.nan,  # (1 + 3) / 2, the baseline has 3
            ("t2", "base", 1): 1.0, ("t2", "a", 1): np.nan,
        }
    )  # fmt: skip
    assert mean_scores(rows).loc["t1", "a"] == pytest.approx(2.0)
    board = leaderboard(rows).set_index("model")
    assert board.loc["a", "skill_score"] == pytest.approx(1 - (2 / 3) ** 0.5)
    assert board.loc["a", "failures"] == 2
    assert board.loc["a", "not_run"] == 0


def test_scores_are_clipped_as_fev_does():
    board = leaderboard(made({("t", "base", 1): 1.0, ("t", "a", 1): 1e9})).set_index("model")
    assert board.loc["a", "skill_score"] == pytest.approx(1 - 100)


def test_figures_are_those_of_fev(folder):
    rows = read_rows(folder)
    rows = rows[(rows["kind"] == "forecast") & ~rows["random_walk"]]
    board = leaderboard(rows).set_index("model")
    # fev's columns, written here by hand from the rows
    ok = rows[rows["status"] == "ok"]
    seeds = ok.groupby(["task", "model"])["score"].mean()
    failed = rows[rows["status"] == "failed"].iloc[0]
    base = seeds[failed["task"], failed["baseline"]]
    seeds[failed["task"], failed["model"]] = (seeds[failed["task"], failed["model"]] + base) / 2
    results = seeds.rename("test_error").reset_index()
    results = results.rename(columns={"task": "dataset_path", "model": "model_name"})
    results["fev_version"] = fev.__version__
    results["quantile_levels"] = "[]"
    with pytest.warns(UserWarning, match="missing from summaries"):
        expected = fev.leaderboard(results, baseline_model="SeasonalNaive", missing_strategy="impute", n_resamples=1000)
    for column in ("win_rate", "skill_score"):
        for end in ("", "_lower", "_upper"):
            pd.testing.assert_series_equal(
                board[column + end], expected[column + end].reindex(board.index), check_names=False
            )
    assert board.loc["AutoETS", "not_run"] == 1
    assert board.loc["N-HiTS", "failures"] == 1


def test_tasks_may_have_different_baselines(folder):
    rows = read_rows(folder)
    board = leaderboard(rows)
    assert list(board["kind"].unique()) == ["forecast", "impute"]
    forecasting = board[board["kind"] == "forecast"].set_index("model")
    assert forecasting.loc[ANY_BASELINE, "skill_score"] == pytest.approx(0)
    translated = to_fev(with_baseline(rows[rows["kind"] == "forecast"]))
    scores = translated.pivot(index="dataset_path", columns="model_name", values="test_error").astype(float)
    ratios = np.log(scores["BiGRU"] / scores[ANY_BASELINE])
    assert forecasting.loc["BiGRU", "skill_score"] == pytest.approx(1 - np.exp(ratios.mean()))


def test_a_task_without_a_baseline_is_left_out():
    rows = made({("t1", "base", 1): 1.0, ("t1", "a", 1): 0.5, ("t2", "base", 1): np.nan, ("t2", "a", 1): 0.1})
    assert leaderboard(rows).set_index("model").loc["a", "skill_score"] == pytest.approx(0.5)
    assert leaderboard(rows[rows["task"] == "t2"]).empty


def test_rows_of_a_killed_run_are_read_from_its_cells(folder, tmp_path):
    assert len(read_rows(folder)) == len(list((folder / "cells").iterdir()))
    (tmp_path / "cells").symlink_to(folder / "cells")
    killed = read_rows(tmp_path).sort_values(["task", "model", "seed"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(killed, read_rows(folder))
    with pytest.raises(ValueError, match="neither"):
        read_rows(tmp_path / "nothing")


def test_kept_forecasts_give_the_scores_of_the_rows(folder):
    rows = read_rows(folder)
    for metric in ("mase", "mae", "mse"):
        known = rows[(rows["status"] == "ok") & rows[metric].notna()]
        for _, cell in known.groupby(["task", "model", "seed"]):
            losses = block_losses(folder, cell, metric)
            score = (losses.total.sum(axis=1) / losses.count.sum(axis=1)).mean()
            assert score == pytest.approx(cell[metric].iloc[0], rel=1e-9)


def test_intervals_of_ratios(folder):
    ratios = Ratios(folder, read_rows(folder))
    ratio, low, high = ratios("M3 monthly", "BiGRU", "Theta")
    scores = mean_scores(ratios.rows).loc["M3 monthly"]
    assert ratio == pytest.approx(scores["BiGRU"] / scores["Theta"])
    assert low < ratio < high < 1
    assert ratios("M3 monthly", "BiGRU", "BiGRU") == (1, 1, 1)
    # a metric that is no mean over forecasts: over the two seeds
    ratio, low, high = ratios("M3 monthly", "BiGRU", "Theta", "rmse")
    assert low <= ratio <= high
    assert np.isnan(ratios("M3 monthly", "BiGRU", "unknown")[0])


def test_no_interval_without_anything_to_draw_from():
    assert np.isnan(ratio_interval(None, None, np.array([1.0]), np.array([2.0]))).all()


def test_an_interval_covers_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        shared = rng.exponential(size=(1, 100, 1))
        a, b = (Losses(shared + rng.exponential(size=shared.shape), np.ones_like(shared), (1,)) for _ in range(2))
        low, high = ratio_interval(a, b, np.ones(1), np.ones(1))
        missed += not low <= 1 <= high
    assert 1 <= missed <= 25


def test_windows_that_overlap_are_drawn_in_blocks(folder):
    rows = read_rows(folder)
    cells = rows[(rows["model"] == "BiGRU") & (rows["status"] == "ok")]
    blocks = {task: block_losses(folder, group, "mae").total.shape[1] for task, group in cells.groupby("task")}
    assert blocks["M3 monthly"] == 60  # one forecast a series
    assert FEWEST_BLOCKS <= blocks["ETTh1-96"] < 15  # 150 windows of 96 steps of one series


def test_the_best_classical_model(folder):
    best = best_classical(read_rows(folder))
    assert best["M3 monthly"] == "Theta"
    assert best["AQI-36"] == "Kalman"


def test_ranks_and_confidence_sets(folder):
    rows = read_rows(folder)
    ranks, pairs, overall = ranks_over_tasks(rows[rows["kind"] == "forecast"])
    assert ranks.idxmin() == "BiGRU"
    assert ANY_BASELINE not in ranks
    assert overall < 0.05
    assert pairs.loc["BiGRU", "Naive"] < 0.05 < pairs.loc["BiGRU", "Theta"]
    assert ranks_over_tasks(rows[rows["kind"] == "impute"]) is None  # a single task
    ratios = Ratios(folder, rows)
    assert model_confidence_set(ratios, "M3 monthly") == ["BiGRU"]
    assert len(model_confidence_set(ratios, "exchange rate")) > 3
