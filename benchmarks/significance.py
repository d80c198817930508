"""Which differences are more than chance: between models over tasks, and within a task over forecasts."""

import numpy as np
import pandas as pd
import scikit_posthocs
import scipy.stats
from arch.bootstrap import MCS

from benchmarks.intervals import Ratios
from benchmarks.leaderboard import ANY_BASELINE, to_fev, with_baseline

LEVEL = 0.05
FEWEST_TASKS = 3
FEWEST_MODELS = 3
# fewer blocks of forecasts say nothing about the best model
FEWEST_BLOCKS = 20


def ranks_over_tasks(rows: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame, float] | None:
    """Mean rank of each model, p-values of all pairs (Conover after Friedman, adjusted by Holm), p-value of Friedman's
    test that all models are alike. None for fewer than three tasks or models.

    Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006. A model without a score has the
    baseline's, as on the leaderboard.
    """
    rows = with_baseline(rows[rows["kind"] == rows["kind"].iloc[0]])
    if rows.empty:
        return None
    results = to_fev(rows).pivot(index="dataset_path", columns="model_name", values="test_error").astype(float)
    baseline = results[rows["baseline"].iloc[0]]
    scores = results.apply(lambda column: column.fillna(baseline)).drop(columns=ANY_BASELINE, errors="ignore")
    if len(scores) < FEWEST_TASKS or scores.shape[1] < FEWEST_MODELS:
        return None
    overall = scipy.stats.friedmanchisquare(*scores.to_numpy().T).pvalue
    pairs = scikit_posthocs.posthoc_conover_friedman(scores, p_adjust="holm")
    return scores.rank(axis=1).mean(), pairs, float(overall)


def model_confidence_set(ratios: Ratios, task: str) -> list[str]:
    """Models of a task that its best model does not beat beyond chance, at a level of 5 %.

    Hansen, Lunde and Nason, "The model confidence set", Econometrica 2011, on the losses of blocks of forecasts. Empty
    if fewer than two models kept their forecasts, or if there are too few of those.
    """
    rows = ratios.rows[(ratios.rows["task"] == task) & (ratios.rows["status"] == "ok")]
    losses = {model: ratios.losses(task, model, rows["metric"].iloc[0]) for model in rows["model"].unique()}
    means = {}
    for model, loss in losses.items():
        if loss is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                means[model] = loss.total.sum(axis=(0, 2)) / loss.count.sum(axis=(0, 2))
    lengths = [len(mean) for mean in means.values()]
    if len(set(lengths)) != 1 or len(means) < 2:
        return []
    table = pd.DataFrame(means).dropna()
    if len(table) < FEWEST_BLOCKS:
        return []
    test = MCS(table, size=LEVEL, reps=500, block_size=1, seed=0)
    test.compute()
    return list(test.included)
