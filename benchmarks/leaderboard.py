"""The leaderboard: win rate and skill score over all tasks, as fev computes them.

A score is the error of a model over that of the task's baseline, between 0.01 and 100. The win rate is the share of
tasks and other models against which a model's score is the smaller one, half for a tie; the skill score is one minus
the geometric mean of the scores. Intervals: 95 %, bootstrap over tasks.
"""

import warnings

import fev
import pandas as pd
from fev.analysis import RESULTS_DTYPES

from benchmarks.interface import LEVELS
from benchmarks.rows import mean_scores

N_RESAMPLES = 1000
# stands for each task's own baseline where tasks have different ones
ANY_BASELINE = "baseline of the task"


def to_fev(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the columns of fev's results: one for each model and task, the mean over seeds; a failed seed counts as
    the baseline, and what failed with all its seeds, or was not run, has no score.
    """
    scores = mean_scores(rows)
    times = {column: mean_scores(rows, column, impute=False) for column in ("fit_seconds", "predict_seconds")}
    results = []
    for task, row in rows.drop_duplicates("task").set_index("task").iterrows():
        for model in scores.columns:
            ran = task in scores.index
            results.append(
                dict.fromkeys(RESULTS_DTYPES)
                | {
                    "dataset_path": task,
                    "horizon": int(row["horizon"]),
                    "seasonality": int(row["season"]),
                    "eval_metric": row["metric"].upper(),
                    "quantile_levels": str(list(LEVELS)),
                    "model_name": model,
                    "test_error": scores.loc[task, model] if ran else None,
                    "training_time_s": times["fit_seconds"].loc[task, model] if ran else None,
                    "inference_time_s": times["predict_seconds"].loc[task, model] if ran else None,
                    "trained_on_this_dataset": False,
                    "num_forecasts": int(row["n_forecasts"]),
                    "fev_version": fev.__version__,
                }
            )
    return pd.DataFrame(results)


def baseline_of(rows: pd.DataFrame) -> str:
    """The baseline that all tasks share, or the name that stands for the baseline of each."""
    baselines = rows["baseline"].unique()
    return str(baselines[0]) if len(baselines) == 1 else ANY_BASELINE


def with_baseline(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the tasks whose baseline has a score; where tasks have different baselines, with one more model that is
    each task's own one, for fev knows a single baseline.
    """
    known = rows.loc[(rows["model"] == rows["baseline"]) & (rows["status"] == "ok"), "task"].unique()
    rows = rows[rows["task"].isin(known)]
    if rows["baseline"].nunique() < 2:
        return rows
    copies = rows[rows["model"] == rows["baseline"]].assign(model=ANY_BASELINE, family="baseline")
    return pd.concat([rows, copies], ignore_index=True).assign(baseline=ANY_BASELINE)


def leaderboard(rows: pd.DataFrame) -> pd.DataFrame:
    """Forecasting models and then imputing ones, the best first.

    Columns: ``kind``, ``model``, ``family``, ``win_rate`` and ``skill_score``, each with ``_lower`` and ``_upper``,
    ``failures`` (cells), ``not_run`` (tasks), ``fit_seconds`` and ``predict_seconds`` (median over tasks),
    ``n_parameters`` (median). Tasks whose baseline has no score are left out; a model takes the baseline's score where
    it has none.
    """
    boards = [_leaderboard(of_kind) for _, of_kind in rows.groupby("kind", sort=True)]
    return pd.concat([board for board in boards if board is not None] or [pd.DataFrame()], ignore_index=True)


def _leaderboard(rows: pd.DataFrame) -> pd.DataFrame | None:
    rows = with_baseline(rows)
    if rows.empty:
        return None
    with warnings.catch_warnings():
        # a lone model has no others to win against
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        board = fev.leaderboard(
            to_fev(rows), missing_strategy="impute", baseline_model=baseline_of(rows), n_resamples=N_RESAMPLES
        ).rename_axis("model")
    board["fit_seconds"] = board.pop("median_training_time_s")
    board["predict_seconds"] = board.pop("median_inference_time_s")
    models = rows.groupby("model")
    ran = rows[rows["status"] != "not run"].groupby("model")["task"].nunique().reindex(board.index, fill_value=0)
    board["failures"] = models["status"].apply(lambda status: int((status == "failed").sum()))
    board["not_run"] = rows["task"].nunique() - ran
    board["n_parameters"] = models["n_parameters"].median()
    board["family"] = models["family"].first()
    board["kind"] = rows["kind"].iloc[0]
    board = board.sort_values(["skill_score", "win_rate"], ascending=False, kind="stable").reset_index()
    intervals = [f"{figure}{end}" for figure in ("win_rate", "skill_score") for end in ("", "_lower", "_upper")]
    return board[
        ["kind", "model", "family", *intervals, "failures", "not_run", "fit_seconds", "predict_seconds", "n_parameters"]
    ]
