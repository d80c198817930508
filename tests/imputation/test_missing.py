"""Hidden values: in the pattern and share that were asked for, everything else untouched."""

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from hypothesis import given, settings
from hypothesis import strategies as st

from birnn_forecast.imputation import make_missing
from birnn_forecast.imputation.missing import PATTERNS
from tests.conftest import make_series
from tests.models.contract_helpers import change

EVERY = pytest.mark.parametrize("pattern", [*PATTERNS])


def gappy(length=400, components=3, seed=0) -> TimeSeries:
    """Return a series with gaps of 7 steps in its first component, which the second shares, and none in the others."""
    series = make_series(length, components, seed=seed)
    values = series.values(copy=True)
    for start in range(20 + seed, length - 20, 60):
        values[start : start + 7, :2] = np.nan
    return series.with_values(values)


def noise(length, components=2) -> TimeSeries:
    return TimeSeries.from_values(np.random.default_rng(0).normal(size=(length, components)))


def missing(series: TimeSeries) -> np.ndarray:
    return np.isnan(series.values())


def newly(before: TimeSeries, after: TimeSeries) -> np.ndarray:
    return missing(after) & ~missing(before)


def runs(mask: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [int(end - start) for start, end in edges.reshape(-1, 2)]


@EVERY
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_only_observed_values_are_hidden_and_all_else_is_kept(pattern, rate):
    statics = pd.DataFrame({"a": np.float32([1, 2, 3])})
    series = gappy().with_static_covariates(statics).with_hierarchy({"1": ["0"], "2": ["0"]})
    hidden = make_missing(series, pattern, rate, 0)
    where = newly(series, hidden)
    assert where.any()
    assert (missing(hidden) | ~missing(series)).all()
    assert np.array_equal(hidden.values()[~missing(hidden)], series.values()[~missing(hidden)])
    assert hidden.time_index.equals(series.time_index)
    assert hidden.components.equals(series.components)
    assert hidden.dtype == series.dtype == np.float32
    assert hidden.static_covariates.equals(series.static_covariates)
    assert hidden.hierarchy == series.hierarchy
    assert (~missing(hidden)).any(axis=0).all()
    assert np.isfinite(series.values()).sum() == (~missing(gappy())).sum()  # the original is untouched


@EVERY
def test_the_seed_decides(pattern):
    series = gappy()
    assert make_missing(series, pattern, random_state=3) == make_missing(series, pattern, random_state=3)
    if pattern != "tail":
        assert make_missing(series, pattern, random_state=3) != make_missing(series, pattern, random_state=4)


@EVERY
def test_the_share_that_was_asked_for(pattern):
    series = noise(2000, 4)
    if pattern == "native":
        series = change(series, (slice(50, 80), 1), np.nan)
    observed = ~missing(series)
    where = newly(series, make_missing(series, pattern, 0.3, 0))
    if pattern in ("points", "blocks"):  # of each component
        share = where.sum(axis=0) / observed.sum(axis=0)
        assert (share >= 0.3 - 1e-3).all()
        assert (share <= 0.3 + (48 / 2000 if pattern == "blocks" else 1e-3)).all()
    else:
        assert 0.3 - 1e-3 <= where.sum() / observed.sum() <= 0.3 + 24 / 2000


def test_points_are_single_and_independent():
    where = newly(noise(4000), make_missing(noise(4000), "points", 0.2, 0))
    assert np.mean(where[:, 0] & where[:, 1]) == pytest.approx(0.04, abs=0.01)
    assert np.mean(where[1:] & where[:-1]) == pytest.approx(0.04, abs=0.01)


def test_blocks_of_each_component_by_itself():
    series = noise(4000)
    where = newly(series, make_missing(series, "blocks", 0.1, 0, block_length=(5, 9)))
    lengths = runs(where[:, 0]) + runs(where[:, 1])
    assert min(lengths) == 5
    assert 9 in lengths
    assert np.mean(np.array(lengths) <= 9) > 0.8  # two blocks may touch
    assert np.mean(where[:, 0] & where[:, 1]) < 0.03
    default = make_missing(series, "blocks", 0.05, 0)
    assert 12 <= min(runs(missing(default)[:, 0])) <= 48


def test_a_blackout_takes_all_components_together():
    series = noise(1000, 3)
    where = newly(series, make_missing(series, "blackout", 0.1, 0))
    assert np.array_equal(where.any(axis=1), where.all(axis=1))
    assert min(runs(where[:, 0])) >= 6
    assert set(runs(newly(series, make_missing(series, "blackout", 0.01, 0, block_length=8))[:, 0])) <= {8, 16}


def test_the_tail_is_the_end():
    where = newly(make_series(100, 2), make_missing(make_series(100, 2), "tail", 0.2))
    assert np.array_equal(where.any(axis=1), np.arange(100) >= 80)
    assert where[80:].all()


def test_native_gaps_keep_their_length_and_go_together():
    series = gappy(600)
    where = newly(series, make_missing(series, "native", 0.02, 0))
    assert 7 in runs(where[:, 0])
    assert max(runs(missing(make_missing(series, "native", 0.02, 0))[:, 0])) <= 14  # beside a gap of its own
    assert np.array_equal(where[:, 0], where[:, 1])
    assert where[:, 2].any()  # has no gaps: takes another's


def test_native_gaps_of_another_series():
    whole, short = make_series(300, 3, seed=5), make_series(50, 3, seed=6)
    hidden = make_missing([gappy(), whole, short], "native", 0.1, 0)
    assert all(newly(a, b).any() for a, b in zip([gappy(), whole, short], hidden, strict=True))
    assert set(runs(missing(hidden[1])[:, 0])) & {7}


def test_native_gaps_come_from_all_series():
    donors = [change(noise(400, 1), slice(start, start + n), np.nan) for start, n in ((50, 5), (90, 11))]
    lengths = [
        set(runs(missing(make_missing([*donors, noise(400, 1)], "native", 0.02, i)[2])[:, 0])) for i in range(20)
    ]
    assert {5, 8} <= set.union(*lengths)  # 8 values are to be hidden, of the longer gap only these


def test_native_gaps_leave_a_value_of_each_component():
    values = noise(100).values(copy=True)
    values[:50, 0] = values[1:, 1] = np.nan
    series = TimeSeries.from_values(values)
    for seed in range(10):
        hidden = make_missing(series, "native", 0.4, seed)
        assert not np.isnan(hidden.values()[0, 1])
        assert newly(series, hidden).sum() == 20


def test_a_list_gives_a_list():
    many = [make_series(60), make_series(60), make_series(80)]
    hidden = make_missing(many, "points", 0.2, 0)
    assert isinstance(hidden, list)
    assert [len(one) for one in hidden] == [60, 60, 80]
    assert hidden[0] != hidden[1]  # drawn independently
    assert hidden[0] == make_missing(many[0], "points", 0.2, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["points", "blocks", "blackout", "native"]),
    st.integers(30, 90),
    st.floats(0.05, 0.8),
    st.floats(0.1, 0.6),
    st.integers(0, 99),
)
def test_any_series_keeps_a_value_of_each_component(pattern, length, rate, missing_share, seed):
    series = make_series(length, 2, seed=seed, missing=missing_share)
    hidden = make_missing(series, pattern, rate, seed, block_length=(2, 5) if pattern[0] == "b" else None)
    assert newly(series, hidden).any()
    assert (~missing(hidden)).any(axis=0).all()
    assert newly(series, hidden).sum() <= rate * (~missing(series)).sum() + 2 * 5


def test_a_component_that_is_wholly_missing_stays_so():
    series = change(make_series(100, 2), (slice(None), 1), np.nan)
    for pattern in ("points", "blocks", "blackout", "tail"):
        assert newly(series, make_missing(series, pattern, 0.2, 0))[:, 0].any()


@pytest.mark.parametrize(
    ("series", "kwargs", "message"),
    [
        (make_series(), {"rate": 0}, "`rate` must be a share above 0 and below 1, got 0"),
        (make_series(), {"rate": 1.0}, "`rate` must be a share above 0 and below 1, got 1.0"),
        (make_series(), {"rate": "much"}, "`rate` must be a share"),
        (make_series(), {"rate": 0.001}, "must hide at least one value, but 0.001 of the 120 observed values"),
        (
            make_series(),
            {"pattern": "holes"},
            "must be one of 'points', 'blocks', .*, 'native', got 'holes'",
        ),
        (make_series(30), {"pattern": "blocks"}, r"`block_length` must be at most the 30 steps of .*, got \(12, 48\)"),
        (make_series(), {"pattern": "points", "block_length": 4}, "`block_length` goes with the patterns"),
        (make_series(), {"pattern": "blocks", "block_length": (9, 4)}, r"or \(shortest, longest\), got \(9, 4\)"),
        (make_series(), {"pattern": "blocks", "block_length": 0}, "`block_length` must be an integer >= 1, got 0"),
        (make_series(60), {"pattern": "blocks", "rate": 0.9, "block_length": 60}, "shorten `block_length`"),
        (make_series(), {"pattern": "native"}, "`pattern='native'` needs gaps to transplant"),
        (make_series(missing=1.0), {}, r"`series\[0\]` must hold observed values to hide, but all of its 120 steps"),
        (
            change(make_series(), slice(0, 110), np.nan),
            {"pattern": "tail"},
            "`rate` must leave an observed value of each component, but '0' has none before the last 25% of",
        ),
        (
            TimeSeries.from_values(np.zeros((20, 1, 3))),
            {},
            r"`series\[0\]` must be deterministic, got 3 samples",
        ),
    ],
)
def test_what_cannot_be_hidden_is_refused(series, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_missing(series, **kwargs)
