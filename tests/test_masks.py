import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from birnn_forecast import masks
from tests import reference

windows = hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 3)))


@given(windows)
def test_distances_and_interpolation_equal_the_loops(observed):
    x = np.random.default_rng(0).normal(size=observed.shape)
    mask = torch.tensor(observed)
    start = torch.zeros(len(observed), dtype=torch.long)
    since, until = masks.steps_since(mask, start), masks.steps_until(mask)
    filled = masks.interpolate(torch.tensor(np.where(observed, x, np.nan)), mask)
    for b in range(observed.shape[0]):
        for c in range(observed.shape[2]):
            expected_since, expected_until = reference.gaps(observed[b, :, c])
            assert since[b, :, c].tolist() == expected_since
            assert until[b, :, c].tolist() == expected_until
            expected = reference.interpolate(x[b, :, c], observed[b, :, c])
            np.testing.assert_allclose(filled[b, :, c], expected, atol=1e-12)


@given(windows)
def test_previous_observed_is_the_same_when_compiled_for_export(observed):
    mask = torch.tensor(observed)
    eager = masks.previous_observed(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        patch.setattr(torch, "cummax", None)
        assert torch.equal(masks.previous_observed(mask), eager)


@given(windows)
def test_first_step_is_the_first_with_any_value(observed):
    expected = [next((t for t, row in enumerate(window) if row.any()), len(window) - 1) for window in observed]
    assert masks.first_step(torch.tensor(observed)).tolist() == expected


def test_steps_since_counts_from_the_first_step_of_the_row():
    observed = torch.tensor([[0, 0, 0, 1, 0]], dtype=torch.bool)[:, :, None]
    assert masks.steps_since(observed, torch.tensor([2]))[0, 2:, 0].tolist() == [1, 0, 1]


@given(windows, st.integers(1, 8))
def test_seasonal_interpolation_equals_the_loop(observed, season):
    x = np.random.default_rng(0).normal(size=observed.shape)
    filled = masks.interpolate_seasonal(torch.tensor(np.where(observed, x, np.nan)), torch.tensor(observed), season)
    for b, c in np.ndindex(observed.shape[0], observed.shape[2]):
        expected = reference.interpolate_seasonal(x[b, :, c], observed[b, :, c], season)
        np.testing.assert_allclose(filled[b, :, c], expected, atol=1e-12)


def test_seasonal_interpolation_restores_a_season():
    x = np.sin(2 * np.pi * np.arange(48) / 12) * 5 + 3 * np.arange(48)
    observed = np.ones(48, dtype=bool)
    observed[20:32] = observed[40:43] = False
    filled = masks.interpolate_seasonal(torch.tensor(x)[None, :, None], torch.tensor(observed)[None, :, None], 12)
    # the season leans on the line's slope a little
    straight = masks.interpolate(torch.tensor(x)[None, :, None], torch.tensor(observed)[None, :, None])
    assert np.abs(filled[0, :, 0].numpy() - x).max() < 1.5
    assert np.abs(straight[0, :, 0].numpy() - x).max() > 4.5


def test_seasonal_interpolation_does_not_extrapolate_a_slope_that_few_neighbours_seem_to_have():
    x = np.zeros(104)
    x[50:53] = [-1.0, 0.0, 1.0]
    observed = np.zeros(104, dtype=bool)
    observed[50:53] = True
    filled = masks.interpolate_seasonal(torch.tensor(x)[None, :, None], torch.tensor(observed)[None, :, None], 52)
    assert filled.abs().max() < 1.5


@given(windows, st.floats(0.0, 0.99))
def test_hiding_takes_observations_away_and_adds_none(observed, rate):
    mask = torch.tensor(observed)
    visible = masks.hide(mask, rate)
    assert not (visible & ~mask).any()
    assert rate > 0 or torch.equal(visible, mask)


def test_hiding_leaves_a_share_whole_and_takes_points_and_blocks():
    torch.manual_seed(0)
    hidden = ~masks.hide(torch.ones(3000, 40, 2, dtype=torch.bool), 0.5)
    whole = ~hidden.any(dim=1).any(dim=1)
    assert 0.32 < whole.float().mean() < 0.36
    rows = hidden[~whole]
    changes = (rows[:, 1:] != rows[:, :-1]).sum(dim=1)
    one_run = (changes <= 2) & rows.any(dim=1)
    together = (rows[..., 0] == rows[..., 1]).all(dim=1) & one_run.all(dim=1)
    assert 0.02 < together.float().mean() < 0.2  # a block of all channels, and nothing else
    assert rows[together][:, -1].any()  # at times at the very end
    assert 0.2 < one_run.float().mean() < 0.5  # blocks
    assert (changes > 6).float().mean() > 0.4  # single values
    assert 0.02 < rows.all(dim=1).float().mean() < 0.06  # silent channels
    assert masks.hide(torch.ones(500, 40, 2, dtype=torch.bool), 0.5, whole=0.0).all(dim=1).all(dim=1).sum() < 10


def test_hiding_transplants_the_gaps_of_other_rows():
    torch.manual_seed(0)
    gaps = torch.zeros(2000, 12, 1, dtype=torch.bool)
    gaps[::2, 3:6], gaps[1::2, 9:11] = True, True
    hidden = ~gaps & ~masks.hide(~gaps, 0.1)
    assert (hidden[::2].sum(dim=(0, 2))[9:11] > 150).all()
    assert (hidden[1::2].sum(dim=(0, 2))[3:6] > 150).all()
    assert hidden[:, 0].sum() < 100


def test_hiding_everything_is_for_those_who_have_covariates():
    torch.manual_seed(0)
    mask = torch.ones(4000, 10, 3, dtype=torch.bool)
    blank = (~masks.hide(mask, 0.2, blank=True)).all(dim=2).all(dim=1)
    assert 0.01 < blank.float().mean() < 0.03
    assert (~masks.hide(mask, 0.2)).all(dim=2).all(dim=1).sum() < 3


def test_hiding_with_a_seed_is_always_the_same_and_leaves_torchs_generator_alone():
    mask = torch.rand(6, 10, 2) > 0.2
    state = torch.get_rng_state()
    assert torch.equal(masks.hide(mask, 0.5, seed=3), masks.hide(mask, 0.5, seed=3))
    assert not torch.equal(masks.hide(mask, 0.5, seed=3), masks.hide(mask, 0.5, seed=4))
    assert torch.equal(state, torch.get_rng_state())


@settings(max_examples=20)
@given(windows)
def test_statistics_ignore_what_is_missing(observed):
    x = np.where(observed, np.random.default_rng(1).normal(size=observed.shape), np.nan)
    mask = torch.tensor(observed)
    mean = masks.masked_mean(torch.tensor(x), mask)
    var = masks.masked_var(torch.tensor(x), mask, mean)
    for b, c in np.ndindex(x.shape[0], x.shape[2]):
        seen = x[b, observed[b, :, c], c]
        assert mean[b, 0, c].item() == pytest.approx(seen.mean() if len(seen) else 0.0, abs=1e-12)
        assert var[b, 0, c].item() == pytest.approx(seen.var() if len(seen) else 0.0, abs=1e-12)


def test_no_gradient_reaches_a_missing_value():
    x = torch.tensor([[[1.0], [float("nan")], [3.0]]], requires_grad=True)
    observed = masks.observed_mask(x)
    (masks.interpolate(x, observed).sum() + masks.masked_mean(x, observed).sum()).backward()
    assert x.grad[0, 1, 0] == 0
    assert torch.isfinite(x.grad).all()
