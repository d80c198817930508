import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birnn_forecast.data.windows import gap_lengths, runs
from birnn_forecast.models._trials import MOST, OPEN, gap_classes, trials_of


def column(mask) -> np.ndarray:
    return np.asarray(mask, dtype=bool)[:, None]


PERIODIC = {
    "every second": column(np.arange(60) % 2 == 1),
    "one in 24": column(np.arange(24 * 9) % 24 != 5),
    "working hours": column((np.arange(24 * 9) % 24 < 9) | (np.arange(24 * 9) % 24 > 17)),
    "two of three": column(np.arange(90) % 3 != 0),
    "weekend": column(np.arange(70) % 7 >= 5),
}


def masks(most_steps=60, most_components=3):
    def make(seed):
        rng = np.random.default_rng(seed)
        shape = rng.integers(1, most_steps + 1), rng.integers(1, most_components + 1)
        missing = rng.random(shape) < rng.random()
        if rng.random() < 0.5:  # a long gap, perhaps at an end
            start = rng.integers(shape[0])
            missing[start : start + rng.integers(1, shape[0] + 1)] = True
        return missing

    return st.integers(0, 10**6).map(make)


@given(masks())
def test_trials_hide_what_is_observed_and_leave_some_of_it(missing):
    trials = trials_of(missing)
    assert len(trials) <= 2 * MOST
    for trial in trials:
        part = missing[trial.start : trial.stop]
        assert trial.hidden.shape == part.shape
        assert trial.hidden.any()
        assert not (trial.hidden & part).any()
        assert (~part & ~trial.hidden).any()
    for one, other in zip(trials, trials_of(missing), strict=True):
        assert np.array_equal(one.hidden, other.hidden)


@given(masks(), st.randoms())
def test_the_order_of_components_is_of_no_consequence(missing, random):
    order = list(range(missing.shape[1]))
    random.shuffle(order)
    for one, other in zip(trials_of(missing), trials_of(missing[:, order]), strict=True):
        assert np.array_equal(one.hidden[:, order], other.hidden)


@pytest.mark.parametrize("name", PERIODIC)
def test_periodic_gaps_are_tried(name):
    # moved by a multiple of their period they would fall on themselves
    missing = PERIODIC[name]
    trials = [trial for trial in trials_of(missing) if trial.stop - trial.start == len(missing)]
    assert len(trials) == MOST
    hidden = np.any([trial.hidden for trial in trials], axis=0)
    # in many places, and inside
    assert hidden.sum() >= (~missing).sum() / 3
    assert all((gap_classes(trial.hidden | missing)[trial.hidden] != OPEN).all() for trial in trials)


@pytest.mark.parametrize("n", [20, 100, 2000])
def test_one_outage_is_tried_in_other_places(n):
    missing = column((np.arange(n) >= n // 2) & (np.arange(n) < n // 2 + n // 5))
    trials = trials_of(missing)
    found = [runs(trial.hidden) for trial in trials]
    assert len(trials) == MOST
    assert {int(length) for one in found for length in one.end - one.start} == {n // 5}
    assert len({int(start) for one in found for start in one.start}) >= 5


@pytest.mark.parametrize("flip", [False, True], ids=["end", "beginning"])
@pytest.mark.parametrize("silent", [1, 8, 30])
def test_a_silent_end_is_tried_where_nothing_comes_after(silent, flip):
    missing = column(np.arange(200) >= 200 - silent)
    missing = missing[::-1] if flip else missing
    trials = trials_of(missing)
    assert 6 <= len(trials) <= MOST
    for trial in trials:
        hidden = trial.hidden[::-1, 0] if flip else trial.hidden[:, 0]
        assert hidden[-silent:].all()
        assert not hidden[:-silent].any()
        assert not missing[trial.start : trial.stop].any()


def test_a_silent_end_of_one_component_is_tried_in_that_one():
    missing = np.zeros((100, 3), dtype=bool)
    missing[-10:, 1] = True
    trials = trials_of(missing)
    assert all(not trial.hidden[:, [0, 2]].any() and trial.hidden[-10:, 1].all() for trial in trials)


def test_an_outage_of_all_components_is_moved_as_one():
    missing = np.random.default_rng(0).random((3000, 1)).repeat(3, axis=1) < 0.2
    missing[0] = missing[-1] = False
    for trial in trials_of(missing):
        assert (trial.hidden == trial.hidden[:, :1]).all()


def test_no_more_is_tried_of_a_long_series_than_is_needed():
    missing = np.random.default_rng(0).random((600_000, 1)) < 0.05
    missing[0] = missing[-1] = False
    (trial,) = trials_of(missing)
    assert 5_000 <= trial.hidden.sum() <= 100_000


def test_long_gaps_are_tried_often_and_as_long():
    missing = column(np.arange(12_000) % 100 < 30)
    missing[:30] = False
    (trial, *_) = trials_of(missing)
    lengths = gap_lengths(trial.hidden | missing)[trial.hidden]
    assert len(runs(trial.hidden).start) >= 40
    assert (lengths > 24).mean() > 0.9


def test_nothing_is_tried_where_nothing_is_missing_or_observed():
    assert trials_of(np.zeros((9, 1), dtype=bool)) == []
    assert trials_of(np.ones((9, 1), dtype=bool)) == []
    assert trials_of(column([True, False, True])) == []
