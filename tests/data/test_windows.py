"""Windows of a long series: they cover every step, hold what the series holds, and blend as weighted means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from birnn_forecast.data.windows import (
    Blend,
    cut,
    gap_lengths,
    gap_starts,
    gaps,
    spannable,
    triangle,
    window_starts,
)

sizes = st.tuples(st.integers(1, 60), st.integers(1, 20)).flatmap(
    lambda size: st.tuples(st.just(size[0]), st.just(size[1]), st.integers(1, size[1]))
)


@settings(deadline=None)
@given(sizes)
def test_windows_cover_every_step_and_end_with_the_series(size):
    n_steps, length, stride = size
    starts = window_starts(n_steps, length, stride)
    covered = np.concatenate([np.arange(start, start + length) for start in starts])
    assert set(range(n_steps)) <= set(covered.tolist())
    assert starts[-1] + length == n_steps
    assert covered.max() == n_steps - 1
    assert (np.diff(starts) > 0).all()
    assert (np.diff(starts) <= stride).all()
    assert (np.diff(starts)[:-1] == stride).all()
    assert starts[0] == min(n_steps - length, 0)


@pytest.mark.parametrize(
    ("n_steps", "length", "stride", "starts"),
    [
        (10, 4, 2, [0, 2, 4, 6]),
        (11, 4, 2, [0, 2, 4, 6, 7]),
        (10, 4, 4, [0, 4, 6]),
        (10, 4, 3, [0, 3, 6]),
        (4, 4, 1, [0]),
        (3, 4, 1, [-1]),
        (1, 12, 3, [-11]),
    ],
)
def test_window_starts(n_steps, length, stride, starts):
    assert window_starts(n_steps, length, stride).tolist() == starts


@settings(deadline=None)
@given(sizes)
def test_cut_holds_the_series_and_nothing_before_it(size):
    n_steps, length, stride = size
    values = np.random.default_rng(0).normal(size=(n_steps, 2))
    starts = window_starts(n_steps, length, stride)
    windows = cut(values, starts, length)
    assert windows.shape == (len(starts), length, 2)
    for start, window in zip(starts, windows, strict=True):
        for step in range(length):
            if start + step < 0:
                assert np.isnan(window[step]).all()
            else:
                assert (window[step] == values[start + step]).all()


def test_cut_leaves_the_dtype_and_the_values_alone():
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    before = values.copy()
    for starts in ([0], [-2]):
        windows = cut(values, np.array(starts), 3)
        assert windows.dtype == np.float32
        windows[:] = -1
        assert (values == before).all()
    assert cut(np.arange(4.0), np.array([-1]), 3).tolist()[0][1:] == [0.0, 1.0]  # without components as well


@pytest.mark.parametrize(
    ("length", "weights"),
    [(1, [1]), (2, [2 / 3, 2 / 3]), (3, [1 / 2, 1, 1 / 2]), (4, [2 / 5, 4 / 5, 4 / 5, 2 / 5])],
)
def test_triangle(length, weights):
    np.testing.assert_allclose(triangle(length), weights)


@settings(deadline=None)
@given(st.integers(1, 50))
def test_triangle_is_positive_symmetric_and_highest_in_the_middle(length):
    weights = triangle(length)
    assert (weights > 0).all()
    assert (weights <= 1).all()
    assert (weights == weights[::-1]).all()
    assert (np.diff(weights[: (length + 1) // 2]) > 0).all()


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 60), st.integers(1, 3))), st.integers(1, 20), st.data())
def test_every_gap_is_seen_as_well_as_windows_can(missing, length, data):
    starts = window_starts(len(missing), length, data.draw(st.integers(1, length)))
    added = gap_starts(missing, missing, starts, length)
    assert np.array_equal(added, gap_starts(missing, missing, starts, length))
    every, last = np.concatenate([starts, added]), max(len(missing) - length, 0)
    assert (added >= 0).all()
    assert (added <= last).all()
    for column in missing.T:
        for first, end in gaps(column):
            sees_before, sees_after = every < first, (every + length > end) & (end < len(missing))
            if first > 0 and end < len(missing) and end - first <= spannable(length):
                assert (sees_before & sees_after).any()
            if first > 0:  # as far as half a window into the gap, or to its end
                assert (sees_before & (every + length >= min(end, first + length // 2))).any()
            if end < len(missing):
                assert (sees_after & (every <= max(first, end - length // 2))).any()


def test_few_windows_are_added():
    rng = np.random.default_rng(0)
    missing = np.zeros((3000, 50), dtype=bool)
    for component in range(50):
        for start in rng.integers(0, 3000, 25):
            missing[start : start + rng.integers(12, 49), component] = True
    starts = window_starts(3000, 48, 24)
    assert len(gap_starts(missing, missing, starts, 48)) <= 3000 / 6
    # single values are all spanned, but where windows meet, and what is not asked for needs no window
    points = rng.random((100_000, 1)) < 0.25
    assert len(gap_starts(points, points, window_starts(100_000, 96, 48), 96)) == 0
    assert len(gap_starts(points, points, window_starts(100_000, 96, 96), 96)) < 1042
    assert len(gap_starts(missing, np.zeros_like(missing), starts, 48)) == 0


def test_blend_by_hand():
    blend = Blend((4, 2, 1))
    blend.add(0, np.array([[1.0, 10], [2, 20], [3, 30]])[..., None], np.array([[1.0, 1], [1, 2], [1, 0]]))
    blend.add(1, np.array([[4.0, 50], [5, 60], [6, 70]])[..., None], np.array([[3.0, 2], [1, 5], [2, 0]]))
    expected = [[1, 10], [(2 + 3 * 4) / 4, (2 * 20 + 2 * 50) / 4], [(3 + 5) / 2, 60], [6, np.nan]]
    np.testing.assert_allclose(blend.mean()[..., 0], expected)


def test_blend_leaves_the_padding_out():
    blend = Blend((2, 1, 2))
    values = np.arange(8.0).reshape(4, 1, 2)
    values[:2] = 1e9
    blend.add(-2, values, np.full((4, 1), 0.5))
    np.testing.assert_allclose(blend.mean(), values[2:])


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_blend_is_the_weighted_mean_of_all_windows(size, seed):
    n_steps, length, stride = size
    rng = np.random.default_rng(seed)
    blend = Blend((n_steps, 2, 3))
    said = [[[] for _ in range(2)] for _ in range(n_steps)]
    for start in window_starts(n_steps, length, stride):
        values, weight = rng.normal(size=(length, 2, 3)), rng.uniform(0.1, 1, size=(length, 2))
        blend.add(int(start), values, weight)
        for step in range(length):
            for component in range(2):
                if start + step >= 0:
                    said[start + step][component].append((values[step, component], weight[step, component]))
    for step in range(n_steps):
        for component in range(2):
            values, weights = zip(*said[step][component], strict=True)
            expected = np.average(np.stack(values), axis=0, weights=weights)
            np.testing.assert_allclose(blend.mean()[step, component], expected, atol=1e-12)


def test_what_agrees_stays_as_it_is_at_any_scale():
    # weights of very different size must not cost digits
    value = np.full((3, 1, 1), 1e8 + 0.1)
    blend = Blend((3, 1, 1))
    for weight in (1.0, 1e-6, 1e-9):
        blend.add(0, value, np.full((3, 1), weight))
    np.testing.assert_allclose(blend.mean(), value, rtol=1e-14)


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 3))))
def test_gap_lengths_equal_the_loop(missing):
    lengths = gap_lengths(missing)
    for component in range(missing.shape[1]):
        column = missing[:, component]
        for step in range(len(column)):
            start = end = step
            while start > 0 and column[start - 1]:
                start -= 1
            while end < len(column) and column[end]:
                end += 1
            assert lengths[step, component] == (end - start if column[step] else 0)


def test_gap_lengths_at_the_ends():
    missing = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1], dtype=bool)[:, None]
    assert gap_lengths(missing)[:, 0].tolist() == [2, 2, 0, 1, 0, 0, 3, 3, 3]
    assert gap_lengths(np.ones((4, 1), dtype=bool))[:, 0].tolist() == [4, 4, 4, 4]
