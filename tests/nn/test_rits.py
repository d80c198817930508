import copy

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.func import functional_call, jacrev
from torch.utils.checkpoint import checkpoint

from birnn_forecast.nn import recurrence, rits
from birnn_forecast.nn.brits import mean_of_informed
from birnn_forecast.nn.rits import RITS, in_time

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make(components=3, covariates=0, hidden=4, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return RITS(components, covariates, hidden).to(dtype)


def window(batch=3, time=7, components=3, covariates=0, dtype=torch.float64, seed=0):
    """Return values, mask, covariates and starts."""
    torch.manual_seed(seed)
    observed = torch.rand(batch, time, components) < 0.6
    u = torch.randn(batch, time, covariates, dtype=dtype) if covariates else None
    start = torch.randint(0, time, (batch,))
    start[0] = 0
    return torch.randn(batch, time, components, dtype=dtype), observed, u, start


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(network, d, x, m, u):
    """Return estimates and states of one row in one direction, as section 4.3 of the paper has them."""
    w = {n: p.detach().numpy() for n, p in network.named_parameters()}
    hidden = w["state.weight"].shape[1]
    h, c, since = np.zeros(hidden), np.zeros(hidden), np.zeros(x.shape[1])
    out = []
    for t in range(len(x)):
        if t:
            since = np.where(m[t - 1], 1, 1 + since)
        h = h * np.exp(-np.maximum(since @ w["state_decay.weight"][d] + w["state_decay.bias"][d, 0], 0))
        history = h @ w["history.weight"][d] + w["history.bias"][d, 0]
        if network.present is not None:
            history = history + u[t] @ w["present.weight"][d]
        v = np.where(m[t], x[t], history)
        cross, combined = np.zeros_like(history), history
        if network.cross is not None:
            cross = v @ (w["cross.weight"][d] * (1 - np.eye(len(v)))) + w["cross.bias"][d, 0]
            fade = np.exp(-np.maximum(since * w["input_decay.0"][d, 0, 0] + w["input_decay.1"][d, 0, 0], 0))
            a = sigmoid(np.concatenate([fade, m[t]]) @ w["share.weight"][d] + w["share.bias"][d, 0])
            combined = a * cross + (1 - a) * history
        v = np.where(m[t], x[t], combined)
        known = np.concatenate([m[t], u[t]])
        gates = known @ w["known.weight"][d] + w["known.bias"][d, 0] + v @ w["filled.weight"][d]
        i, f, o, n = np.split(gates + h @ w["state.weight"][d], 4)
        before = h
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(n)
        h = sigmoid(o) * np.tanh(c)
        out.append((history, cross, combined, before, h))
    return [np.stack(one) for one in zip(*out, strict=True)]


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("covariates", [0, 2])
def test_equals_the_paper_step_by_step(components, covariates):
    network = make(components, covariates)
    x, observed, u, _ = window(components=components, covariates=covariates)
    found = network(x, observed, u, torch.zeros(3, dtype=torch.long))
    for row in range(3):
        own = x[row].numpy(), observed[row].numpy(), np.zeros((7, 0)) if u is None else u[row].numpy()
        for d, arrays in enumerate((own, [a[::-1] for a in own])):
            for name, one, expected in zip(found._fields, found, loop(network, d, *arrays), strict=True):
                np.testing.assert_allclose(one[d, :, row].detach(), expected, atol=1e-12, err_msg=name)


def outputs_and_gradients(network, x, *rest):
    x = x.detach().requires_grad_()
    found = network(x, *rest)
    generator = torch.Generator().manual_seed(1)
    loss = sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).mean() for o in found)
    return [*found, *torch.autograd.grad(loss, [x, *network.parameters()])]


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from([*TOLERANCE]),
    batch=st.integers(1, 5),
    time=st.integers(1, 9),
    components=st.integers(1, 5),
    covariates=st.integers(0, 2),
    hidden=st.sampled_from([1, 4, 17]),
    seed=st.integers(0, 1000),
)
@example(dtype=torch.float32, batch=4, time=8, components=3, covariates=1, hidden=4, seed=0)
def test_one_operation_equals_torchs_own(dtype, batch, time, components, covariates, hidden, seed):
    network = make(components, covariates, hidden, dtype, seed)
    inputs = window(batch, time, components, covariates, dtype, seed)
    found = outputs_and_gradients(network, *inputs)
    with recurrence.use("torch"):
        expected = outputs_and_gradients(network, *inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype])


def test_gradients_in_double_precision_once_and_twice():
    network = make(2, 1, 3)
    x, observed, u, start = window(2, 4, 2, 1)
    x.requires_grad_()
    u.requires_grad_()
    parameters = dict(network.named_parameters())

    def run(x, u, *values):
        return tuple(functional_call(network, dict(zip(parameters, values, strict=True)), (x, observed, u, start)))

    assert torch.autograd.gradcheck(run, (x, u, *parameters.values()))
    assert torch.autograd.gradgradcheck(lambda x: run(x, u, *parameters.values()), (x,))


@pytest.mark.parametrize("part", range(5))
def test_the_gradient_of_each_output_alone(part):
    """Gradients that nobody asks for are None; they may also come in any order of memory."""
    network, inputs = make(), window()

    def gradient():
        one = network(*inputs)[part].transpose(1, 2)
        return torch.autograd.grad((one * one.detach().exp()).sum(), network.state_decay.weight)[0]

    with recurrence.use("torch"):
        expected = gradient()
    torch.testing.assert_close(gradient(), expected, rtol=0, atol=1e-12)
    if part != 4:  # the states after a step come to nothing at the last one only
        assert expected.abs().max() > 0


def test_a_second_backward_pass_gives_the_same():
    network, inputs = make(), window()
    loss = network(*inputs).combined.square().sum()
    first = torch.autograd.grad(loss, network.state.weight, retain_graph=True)
    second = torch.autograd.grad(loss, network.state.weight)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_no_estimate_knows_the_value_it_is_of():
    network = make(3)
    x, _, _, _ = window(1, 4)
    everything, start = torch.ones(1, 4, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    for kind in ("history", "cross", "combined"):
        for d in (0, 1):
            slope = jacrev(lambda x, d=d, kind=kind: in_time(getattr(network(x, everything, None, start), kind))[d])(x)
            own = torch.einsum("btcbtc->btc", slope)
            assert own.abs().max() == 0
            assert slope.abs().max() > 0


def test_what_is_missing_is_not_read():
    network = make(3)
    x, observed, _, start = window()
    other = torch.where(observed, x, torch.nan)
    for a, b in zip(network(x, observed, None, start), network(other, observed, None, start), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_nothing_before_the_start_reaches_what_comes_later():
    network = make(2, 1)
    x, observed, u, _ = window(1, 5, 2, 1)
    short = network(x, observed, u, torch.tensor([0]))

    def padded(by):
        front = torch.randn(1, by, 3, dtype=torch.float64)
        mask = torch.cat([torch.zeros(1, by, 2, dtype=torch.bool), observed], dim=1)
        both = torch.cat([front[..., :2], x], dim=1), mask, torch.cat([front[..., 2:], u], dim=1)
        return network(*both, torch.tensor([by]))

    for by in (1, 4):
        for a, b in zip(short, padded(by), strict=True):
            for one, other in zip(in_time(a), in_time(b), strict=True):
                torch.testing.assert_close(other[:, by:], one, rtol=0, atol=1e-12)


def test_states_fade_with_the_time_since_each_component_was_observed():
    network = make(1, hidden=2)
    with torch.no_grad():
        network.state_decay.weight.fill_(0.5)
        network.state_decay.bias.fill_(0.25)
    observed = torch.tensor([True, True, False, False, True])[None, :, None]
    found = network(torch.randn(1, 5, 1).double(), observed, None, torch.tensor([0]))
    ratio = (found.before[0, 1:] / found.after[0, :-1])[:, 0, 0]
    since = torch.tensor([1.0, 1.0, 2.0, 3.0]).double()
    torch.testing.assert_close(ratio, torch.exp(-(0.5 * since + 0.25)))


@pytest.mark.parametrize("way", ["asked for", "compiled", "func"])
def test_falls_back_to_torchs_own_operations(way, monkeypatch):
    network, (x, observed, u, start) = make(), window()
    expected = network(x, observed, u, start).combined
    monkeypatch.setattr(rits.StepsFunction, "apply", None)  # would fail
    if way == "asked for":
        with recurrence.use("torch"):
            found = network(x, observed, u, start).combined
    elif way == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        found = network(x, observed, u, start).combined
    else:
        found = torch.func.vmap(lambda x: network(x, observed, u, start).combined)(x[None])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_half_precision_does_not_round_the_states():
    network, inputs = make(dtype=torch.float32), window(dtype=torch.float32)
    expected = network(*inputs).after
    with torch.autocast("cpu", torch.bfloat16):
        found = network(*inputs).after
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


def test_checkpointing_keeps_the_input_only():
    network, (x, observed, u, start) = make(), window()
    x.requires_grad_()

    def gradients(checkpointed):
        def run(x):
            return network(x, observed, u, start).combined

        out = checkpoint(run, x, use_reentrant=False) if checkpointed else run(x)
        return torch.autograd.grad(out.square().sum(), [x, network.state.weight])

    torch.testing.assert_close(gradients(True), gradients(False), rtol=0, atol=0)


def test_float16_and_nothing_to_read():
    network, (x, observed, u, start) = make(dtype=torch.float32), window(dtype=torch.float32)
    expected = network(x, observed, u, start)
    for a, b in zip(network.half()(x.half(), observed, u, start), expected, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.02)
    empty = make()(torch.zeros(0, 4, 3).double(), torch.zeros(0, 4, 3, dtype=torch.bool), None, start[:0])
    assert empty.combined.shape == (2, 4, 0, 3)


def test_copies_run():
    network, inputs = make(), window()
    for a, b in zip(network(*inputs), copy.deepcopy(network)(*inputs), strict=True):
        assert torch.equal(a, b)


def test_one_direction_alone_where_the_other_has_nothing_to_go_by():
    observed = torch.tensor([[0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 1]], dtype=torch.bool)[..., None]
    f, b = torch.full((2, 6, 1), 1.0), torch.full((2, 6, 1), 3.0)
    found = mean_of_informed(f, b, observed)[..., 0]
    assert found.tolist() == [[3, 3, 2, 2, 2, 1], [2] * 6]
