"""The gate on plain series: `impute` with its defaults is seldom worse than interpolation, in any pattern of gaps."""

import numpy as np
import pytest

from benchmarks.gate_plain_series import KINDS, PATTERNS, judge, make_cases, ratios, run

# one series of each kind; with so few, luck counts: the goals of the gate are for forty
SERIES = len(KINDS)


@pytest.mark.parametrize("pattern", ["every second", "one in 24", "working hours"])
def test_periodic_gaps(pattern):
    found = ratios(run("BiGRUModel", 1, pattern, SERIES, seed=5), ("linear", "phase"))
    assert found.mean() <= 1.02
    assert found.max() <= 1.25


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["single values", "one in 24"])
@pytest.mark.parametrize(
    "name", ["BiRNNModel", "BiLSTMModel", "CNNBiLSTMModel", "URNNModel", "BRITSModel", "GRINModel"]
)
def test_all_patterns(name, pattern):
    found = ratios(run(name, 1, pattern, SERIES, seed=5), ("linear", "phase"))
    assert found.mean() <= 1.1
    assert np.median(found) <= 1.02


def test_cases_hide_enough_and_the_same_again():
    for pattern in PATTERNS:
        one, two = (make_cases(pattern, SERIES, seed=3) for _ in range(2))
        for case, again in zip(one, two, strict=True):
            assert case.hidden.sum() >= 30
            assert case.truth == again.truth
            assert (case.hidden == again.hidden).all()
            assert not np.isnan(case.truth.values()).any()


def test_verdict():
    assert judge(np.full(40, 0.99))[0]
    assert not judge(np.full(40, 1.01))[0]
    assert not judge(np.r_[np.full(39, 0.9), 1.3])[0]
