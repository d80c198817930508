import pytest
import torch
from darts.models.components.layer_norm_variants import RINorm
from hypothesis import given
from hypothesis import strategies as st

from birnn_forecast.nn.normalization import MaskedBatchNorm, MaskedInstanceNorm, MaskedLayerNorm


def window(missing=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 50 + 3 * torch.randn(4, 12, 2, generator=generator, dtype=torch.float64)
    return x, torch.rand(4, 12, 2, generator=generator) >= missing


def test_equals_darts_on_full_windows():
    x, observed = window()
    ours, theirs = MaskedInstanceNorm(2, eps=1e-5).double(), RINorm(2).double()
    for norm in (ours, theirs):
        torch.nn.init.constant_(norm.affine_weight, 1.5)
        torch.nn.init.constant_(norm.affine_bias, 0.3)
    y, statistics = ours(x, observed)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(statistics.mean, theirs.mean)
    torch.testing.assert_close(statistics.scale, theirs.stdev)


@given(seed=st.integers(0, 100))
def test_statistics_are_those_of_the_observed_values(seed):
    x, observed = window(0.4, seed)
    y, statistics = MaskedInstanceNorm(2).double().eval()(x, observed)
    for row in range(4):
        for c in range(2):
            seen = x[row, observed[row, :, c], c]
            if len(seen) > 1:
                torch.testing.assert_close(statistics.mean[row, 0, c], seen.mean())
                torch.testing.assert_close(statistics.scale[row, 0, c], seen.std(correction=0))
    assert (y[~observed] == 0).all()


def test_forecasts_move_and_scale_with_the_series():
    x, observed = window(0.3)
    norm = MaskedInstanceNorm(2).double()
    y, statistics = norm(x, observed)
    for factor in (1e-6, 1e6):
        moved, (mean, scale, _) = MaskedInstanceNorm(2).double()(factor * (x + 7), observed)
        torch.testing.assert_close(moved, y)
        torch.testing.assert_close(mean, factor * (statistics.mean + 7))
        torch.testing.assert_close(scale, factor * statistics.scale)


def test_a_window_that_says_nothing_takes_level_and_scale_of_the_training_data():
    x, observed = window()
    norm = MaskedInstanceNorm(2).double().train()
    norm(x, observed)
    norm.eval()
    flat = x.reshape(-1, 2)
    _, (mean, scale, _) = norm(x, torch.zeros_like(observed))
    torch.testing.assert_close(mean[0, 0], flat.mean(0))
    torch.testing.assert_close(scale[0, 0], flat.std(0, correction=0))


def test_a_window_without_a_scale_borrows_one_that_fits_its_level():
    x, observed = window()
    levels = torch.tensor([1.0, 1.0, 1e5, 1e5], dtype=torch.float64)[:, None, None]
    norm = MaskedInstanceNorm(2).double().train()
    norm(x * levels, observed)
    norm.eval()
    for level in (50.0, 50e5):
        single = observed & (torch.arange(12) == 3)[None, :, None]
        _, (mean, scale, _) = norm(torch.full_like(x, level), single)
        assert mean[0, 0].tolist() == pytest.approx([level] * 2)
        assert ((0.02 * level < scale) & (scale < 0.1 * level)).all()


def test_where_no_window_varies_the_scale_is_that_of_all_together():
    x = torch.tensor([[[1.0]], [[5.0]]])
    norm = MaskedInstanceNorm(1).train()
    _, (_, scale, _) = norm(x, torch.ones_like(x, dtype=torch.bool))
    torch.testing.assert_close(scale, torch.full_like(x, 2.0))


def test_training_level_is_the_mean_over_all_batches():
    x, observed = window(0.2)
    once, twice = MaskedInstanceNorm(2).double(), MaskedInstanceNorm(2).double()
    once(x, torch.ones_like(observed))
    twice(x[:3], torch.ones_like(observed[:3]))
    twice(x[3:], torch.ones_like(observed[3:]))
    torch.testing.assert_close(once.typical_mean, twice.typical_mean)


def test_a_constant_series_stays_finite():
    norm = MaskedInstanceNorm(1)
    for level in (0.0, 5.0, 1e8):
        x = torch.full((2, 6, 1), level)
        y, statistics = norm(x, torch.ones_like(x, dtype=torch.bool))
        assert torch.isfinite(y).all()
        assert (statistics.scale > 0).all()


def test_batch_norm_leaves_padding_out_and_takes_a_lone_step():
    x = torch.randn(3, 5, 2)
    valid = torch.arange(5)[None] >= torch.tensor([0, 2, 4])[:, None]
    norm = MaskedBatchNorm(2)
    y = norm(x, valid)
    torch.testing.assert_close(y[valid].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    # a gap before the start is put into the unit of the valid steps
    mean, std = x[valid].mean(0), x[valid].std(0, correction=0)
    torch.testing.assert_close(y[~valid], (x[~valid] - mean) / std, atol=1e-3, rtol=1e-3)
    expected = torch.nn.BatchNorm1d(2)
    expected(x[valid])
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    assert torch.isfinite(MaskedBatchNorm(2)(x[:1, :1], valid[:1, :1])).all()


def test_layer_norm_is_torchs():
    x = torch.randn(2, 5, 4)
    valid = torch.arange(5)[None] >= torch.tensor([0, 2])[:, None]
    y = MaskedLayerNorm(4)(x, valid)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (4,)))
