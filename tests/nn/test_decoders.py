import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birnn_forecast.nn.decoders import SKIPS, HorizonDecoder
from tests import reference


def test_steps_are_decoded_independently_of_one_another():
    torch.manual_seed(0)
    decoder = HorizonDecoder(5, 3, 4, 2, hidden_sizes=(3,), activation="Tanh")
    code, states = torch.randn(2, 5), torch.randn(2, 6, 3)
    out = decoder(code, states)
    with torch.no_grad():
        decoder.steps.weight[:16] += 1  # the first step's own layer
    changed = decoder(code, states)
    assert not torch.equal(out[:, 0], changed[:, 0])
    assert torch.equal(out[:, 1:], changed[:, 1:])


def test_future_covariates_are_read_in_both_directions():
    torch.manual_seed(1)
    decoder = HorizonDecoder(5, 3, 4, 1, future_size=2)
    code, states = torch.randn(1, 5), torch.randn(1, 6, 3)
    future = torch.randn(1, 4, 2, requires_grad=True)
    for step in range(4):
        gradient = torch.autograd.grad(decoder(code, states, future)[0, step, 0], future)[0]
        assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(("time", "earlier"), [(6, [2, 3, 4, 5]), (4, [0, 1, 2, 3]), (2, [0, 0, 1, 1])])
def test_a_step_reads_the_state_one_horizon_earlier(time, earlier):
    decoder = HorizonDecoder(5, 3, 4, 1, activation="Tanh")
    code, states = torch.randn(1, 5), torch.randn(1, time, 3, requires_grad=True)
    for step in range(4):
        gradient = torch.autograd.grad(decoder(code, states)[0, step, 0], states)[0]
        assert gradient.abs().sum(-1)[0].nonzero().flatten().tolist() == [earlier[step]]


def test_starts_at_zero_when_asked():
    out = HorizonDecoder(5, 3, 4, 2, start_at_zero=True)(torch.randn(3, 5), torch.randn(3, 6, 3))
    assert (out == 0).all()


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 15),
    horizon=st.integers(1, 9),
    shift=st.integers(0, 5),
    data=st.data(),
)
def test_seasonal_skip_equals_the_loop(length, horizon, shift, data):
    season = data.draw(st.integers(1, length))
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    x, observed = rng.normal(size=(1, length, 2)), rng.random((1, length, 2)) < 0.5
    skip = SKIPS["seasonal"](length, horizon, shift, season).double()
    with torch.no_grad():
        skip.log_weight += torch.randn(len(skip.log_weight))
    out = skip(torch.tensor(x), torch.tensor(observed)).detach()
    for c in range(2):
        expected = reference.seasonal(
            x[0, :, c], observed[0, :, c], season, horizon, shift, skip.log_weight.detach().numpy()
        )
        np.testing.assert_allclose(out[0, :, c], expected, atol=1e-10)


@pytest.mark.parametrize("name", ["last", "linear"])
def test_skip_starts_as_the_last_value(name):
    x = torch.randn(2, 6, 3)
    out = SKIPS[name](6, 4)(x, torch.ones(2, 6, 3, dtype=torch.bool))
    assert torch.equal(out, x[:, -1:].expand(-1, 4, -1))


def test_linear_skip_is_linear_around_the_last_value():
    skip = SKIPS["linear"](6, 4)
    torch.nn.init.normal_(skip.map.weight)
    x = torch.randn(2, 6, 3)
    last = x[:, -1:]
    expected = last + torch.einsum("ht,btc->bhc", skip.map.weight, x - last)
    torch.testing.assert_close(skip(x, torch.ones_like(x, dtype=torch.bool)), expected)
