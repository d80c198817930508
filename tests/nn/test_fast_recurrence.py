import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from birnn_forecast import BiGRUModel
from birnn_forecast.nn import recurrence, threads
from birnn_forecast.nn.node_encoder import NodeScan
from birnn_forecast.nn.recurrent import BidirectionalEncoder, Scan, URNNEncoder
from tests.conftest import make_model, make_series, quiet_trainer

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture
def calls(monkeypatch):
    """Count the layers that the kernels ran."""
    counted = []
    run = recurrence.run_forward

    def counting(*args, **kwargs):
        counted.append(args)
        return run(*args, **kwargs)

    for dtype in TOLERANCE:  # their own check does not count
        assert recurrence.kernels(dtype, True) is not None
        assert recurrence.kernels(dtype, False) is not None
    monkeypatch.setattr(recurrence, "run_forward", counting)
    return counted


def randomised(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return network


def outputs_and_gradients(network, *inputs):
    """Return what `network` says and the gradients of its input and parameters, of a fixed loss."""
    x = inputs[0].detach().requires_grad_()
    outputs = network(x, *inputs[1:])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    loss = sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).mean() for o in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *network.parameters()])]


def assert_same_both_ways(network, *inputs):
    with recurrence.use("torch"):
        expected = outputs_and_gradients(network, *inputs)
    found = outputs_and_gradients(network, *inputs)
    with torch.no_grad():
        bare = network(*inputs)
    for e, f in zip(expected, [*bare] if isinstance(bare, tuple) else [bare], strict=False):
        torch.testing.assert_close(f, e, rtol=0, atol=TOLERANCE[e.dtype])
    for e, f in zip(expected, found, strict=True):
        torch.testing.assert_close(f, e, rtol=0, atol=TOLERANCE[e.dtype])


shapes = {
    "dtype": st.sampled_from(list(TOLERANCE)),
    "batch": st.integers(1, 70),
    "time": st.integers(1, 12),
    "features": st.sampled_from([1, 3, 20, 70]),
    "hidden": st.sampled_from([1, 4, 16, 20, 48, 64]),
    "seed": st.integers(0, 1000),
    "padded": st.booleans(),
}
CASE = {"dtype": torch.float32, "batch": 41, "time": 9, "features": 3, "hidden": 20, "seed": 0, "padded": True}


def make_inputs(dtype, batch, time, features, seed, padded):
    torch.manual_seed(seed)
    start = torch.randint(0, time, (batch,)) if padded else torch.zeros(batch, dtype=torch.long)
    return torch.randn(batch, time, features, dtype=dtype), start


@pytest.mark.parametrize("encoder", [BidirectionalEncoder, URNNEncoder])
@settings(max_examples=30, deadline=None)
@given(**shapes)
@example(**CASE)
def test_encoders_equal_torch(encoder, dtype, batch, time, features, hidden, seed, padded):
    x, start = make_inputs(dtype, batch, time, features, seed, padded)
    network = randomised(encoder(features, hidden, num_layers=2)).to(dtype)
    assert_same_both_ways(network, x, start)


@pytest.mark.parametrize("backward", [False, True])
@settings(max_examples=15, deadline=None)
@given(**shapes, nodes=st.integers(1, 4))
@example(**CASE, nodes=3)
def test_nodes_equal_torch(backward, dtype, batch, time, features, hidden, seed, padded, nodes):
    x, start = make_inputs(dtype, batch * nodes, time, features, seed, padded)
    x, start = x.transpose(0, 1).unflatten(1, (batch, nodes)), start[:batch]
    scan = randomised(NodeScan("GRU", features, hidden, backward)).to(dtype)
    valid = torch.arange(time)[:, None] >= (0 if backward else start)

    def states(x):
        return scan(x, start if padded else None) * valid[:, :, None, None]

    assert_same_both_ways(Callable(states, scan), x)


class Callable(nn.Module):
    def __init__(self, function, module):
        super().__init__()
        self.function, self.module = function, module

    def forward(self, *inputs):
        return self.function(*inputs)


def test_the_kernels_run_both_directions_in_one_call(calls):
    encoder = BidirectionalEncoder(3, 8, num_layers=2)
    encoder(torch.randn(4, 6, 3), torch.zeros(4, dtype=torch.long))
    assert [args[3] for args in calls] == [(False, True)] * 2


def test_gradients_in_double_precision():
    torch.manual_seed(0)
    f, b = (randomised(Scan("GRU", 2, 3, backward)).double().rnn for backward in (False, True))
    x, start = torch.randn(5, 10, 2, dtype=torch.float64, requires_grad=True), torch.arange(10) % 4

    def states(x, *parameters):
        return recurrence.GRULayers.apply(x, start[: x.shape[1]], (False, True), (None, None), *parameters)

    parameters = [*f.parameters(), *b.parameters()]
    assert torch.autograd.gradcheck(states, (x, *parameters))
    assert torch.autograd.gradgradcheck(lambda x: states(x[:3, 2:5], *parameters), (x,))


def test_a_second_backward_pass_gives_the_same(calls):
    scan, x = Scan("GRU", 3, 16), torch.randn(4, 6, 3)
    loss = scan(x, torch.zeros(4, dtype=torch.long)).square().sum()
    first = torch.autograd.grad(loss, list(scan.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(scan.parameters()))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_gradients_of_a_part_of_the_states():
    """Gradients come with any strides, and from some outputs only."""
    torch.manual_seed(0)
    scan, x, start = randomised(Scan("GRU", 3, 16)), torch.randn(40, 6, 3), torch.zeros(40, dtype=torch.long)
    losses = {
        "last": lambda s: s[:, -1].sum(),
        "one unit": lambda s: s[..., 3].square().sum(),
        "all": lambda s: s.sum(),
        "steps alike": lambda s: (s.sum(1) * torch.arange(16)).sum(),
        "transposed": lambda s: (s.permute(2, 0, 1) * torch.arange(6)).sum(),
    }
    for name, loss in losses.items():
        found = torch.autograd.grad(loss(scan(x, start)), list(scan.parameters()))
        with recurrence.use("torch"):
            expected = torch.autograd.grad(loss(scan(x, start)), list(scan.parameters()))
        for e, f in zip(expected, found, strict=True):
            torch.testing.assert_close(f, e, rtol=1e-5, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_frozen_weights_and_inputs_without_gradient():
    scan, x, start = Scan("GRU", 3, 4), torch.randn(2, 6, 3, requires_grad=True), torch.zeros(2, dtype=torch.long)
    scan.rnn.weight_hh_l0.requires_grad_(False)
    scan(x, start).sum().backward()
    assert x.grad is not None
    assert scan.rnn.weight_hh_l0.grad is None
    assert scan.rnn.weight_ih_l0.grad is not None
    scan.requires_grad_(False)
    assert not scan(x.detach(), start).requires_grad


def test_a_row_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    encoder, x = BidirectionalEncoder(5, 24, num_layers=2), torch.randn(77, 12, 5)
    start = torch.randint(0, 12, (77,))
    with torch.no_grad():
        states = encoder(x, start)[0]
        for rows in (slice(0, 1), slice(40, 49), slice(60, 77)):
            torch.testing.assert_close(encoder(x[rows], start[rows])[0], states[rows], rtol=0, atol=1e-6)


def test_what_stands_before_the_start_touches_no_weight():
    scan, x = Scan("GRU", 3, 4), torch.randn(3, 6, 3)
    x[1, :4] = torch.nan
    states = scan(x, torch.tensor([0, 4, 2]))
    assert (states[1, :4] == 0).all()
    states.sum().backward()
    assert all(p.grad.isfinite().all() for p in scan.parameters())


def test_what_is_not_a_number_stays_so_in_its_row():
    scan, x = Scan("GRU", 3, 4), torch.randn(12, 6, 3)
    x[1, 2], x[3, 2], x[5, 2] = torch.nan, torch.inf, 1e30
    states = scan(x, torch.zeros(12, dtype=torch.long))
    assert states[1, 2:].isnan().all()
    assert states[1, :2].isfinite().all()
    assert states[[0, 2, 4, 5, *range(6, 12)]].isfinite().all()


def test_weights_are_those_of_torch_and_copies_run(calls):
    encoder = BidirectionalEncoder(3, 4)
    names = [
        f"{d}.0.rnn.{n}_l0" for d in ("forwards", "backwards") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    assert list(encoder.state_dict()) == names
    x, start = torch.randn(2, 6, 3), torch.zeros(2, dtype=torch.long)
    states = encoder(x, start)[0]
    for other in (copy.deepcopy(encoder), encoder.float()):
        assert torch.equal(other(x, start)[0], states)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(states)  # as of any tensor with a history
    assert len(calls) == 3


def test_checkpointing_keeps_the_input_only(calls):
    scan, x = NodeScan("GRU", 3, 16), torch.randn(6, 4, 2, 3)
    expected = torch.autograd.grad(scan(x, None).square().sum(), list(scan.parameters()))
    kept = []

    def run(x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            return scan(x, None)

    run(x)
    assert max(kept) == 6 * 4 * 2 * 4 * 16  # all that is kept passes through the hooks
    found = torch.autograd.grad(
        torch.utils.checkpoint.checkpoint(scan, x, None, use_reentrant=False).square().sum(), list(scan.parameters())
    )
    torch.testing.assert_close(found, expected)


def plain(scan, x, start):
    return scan(x, start)


def autocast(scan, x, start):
    with torch.autocast("cpu", torch.bfloat16):
        return scan(x, start)


def traced(scan, x, start):
    return torch.jit.trace(scan, (x, start), check_trace=False)(x, start)


def exported(scan, x, start):
    return torch.export.export(scan, (x, start)).module()(x, start)


def functional(scan, x, start):
    return torch.func.jvp(lambda x: scan(x, start), (x,), (x,))[0]


def hooked(scan, x, start):
    with_hook = copy.deepcopy(scan)
    with_hook.rnn.register_forward_hook(lambda *_: None)
    return with_hook(x, start)


def half(scan, x, start):
    return copy.deepcopy(scan).bfloat16()(x.bfloat16(), start).float()


def chosen(scan, x, start):
    with recurrence.use("torch"):
        return scan(x, start)


def without_numba(scan, x, start):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrence, "kernels", lambda *_: None)
        return scan(x, start)


@pytest.mark.parametrize(
    "way",
    [autocast, traced, exported, functional, hooked, half, chosen, without_numba],
    ids=lambda f: f.__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_falls_back_to_torch(calls, way):
    torch.manual_seed(0)
    scan, x, start = Scan("GRU", 3, 8), torch.randn(4, 6, 3), torch.zeros(4, dtype=torch.long)
    states = way(scan, x, start)
    assert not calls
    tolerance = 0.05 if way in (autocast, half) else 1e-5
    torch.testing.assert_close(states.float(), plain(scan, x, start), rtol=0, atol=tolerance)
    assert len(calls) == 1


def test_other_layers_are_left_to_torch(calls):
    x, start = torch.randn(4, 6, 3), torch.zeros(4, dtype=torch.long)
    for cell in ("RNN", "LSTM"):
        Scan(cell, 3, 8)(x, start)
    Scan("GRU", 3, recurrence.LARGEST_HIDDEN + 1)(x, start)
    assert not calls


def test_the_mode_is_checked_and_restored():
    with pytest.raises(ValueError, match="`mode` must be one of 'auto', 'torch', got 'numba'"):
        recurrence.use("numba")
    with recurrence.use("torch"):
        assert recurrence.use.mode == "torch"
    assert recurrence.use.mode == "auto"


def test_compiles_in_memory_where_nothing_can_be_kept(monkeypatch):
    import numba.typed  # compiles functions of its own when it is first imported

    from birnn_forecast.nn import kernels

    njit = numba.njit

    def nowhere(cache=False, **kwargs):
        if cache:
            raise RuntimeError("cannot cache function")
        return njit(**kwargs)

    monkeypatch.setattr(numba, "njit", nowhere)
    assert kernels.compiled(lambda x: x + 1)(1) == 2


def test_kernels_that_fail_or_disagree_are_not_used(monkeypatch):
    from birnn_forecast.nn import kernels

    for broken in (lambda *_: None, lambda *_: 1 / 0):
        recurrence.kernels.cache_clear()
        monkeypatch.setattr(kernels, "gru_forward", broken)
        assert recurrence.kernels(torch.float32, False) is None
    monkeypatch.undo()
    recurrence.kernels.cache_clear()
    assert recurrence.kernels(torch.float32, False) is kernels


IN_A_PROCESS = """
import os, sys
import torch
from birnn_forecast.nn.recurrent import BidirectionalEncoder
from birnn_forecast.nn import recurrence
assert "numba" not in sys.modules
torch.set_num_threads(2)
torch.manual_seed(0)
encoder, x, start = BidirectionalEncoder(3, 16), torch.randn(200, 6, 3), torch.zeros(200, dtype=torch.long)
def gradients():
    return torch.autograd.grad(encoder(x, start)[0].sin().sum(), list(encoder.parameters()))
found = gradients()
with recurrence.use("torch"):
    expected = gradients()
for e, f in zip(expected, found):
    torch.testing.assert_close(f, e, rtol=1e-5, atol=1e-4)
{after}
print("fine")
"""
FORK = """
child = os.fork()
if not child:
    x, start = x[:40], start[:40]
    torch.set_num_threads(1)
    encoder(x, start)[0].sum().backward()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


COMPILE = """
with torch.no_grad():
    compiled = torch.compile(encoder, backend="eager")(x, start)[0]
    torch.testing.assert_close(compiled, encoder(x, start)[0], rtol=0, atol=1e-5)
"""


@pytest.mark.parametrize(
    ("after", "environment"), [("", {}), (FORK, {}), (COMPILE, {}), ("", {"NUMBA_DISABLE_JIT": "1"})]
)
def test_threads_forks_compilation_and_no_numba(after, environment):
    code = IN_A_PROCESS.format(after=after)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert result.stdout == "fine\n", result.stderr


def test_an_error_in_a_thread_is_raised():
    def fail(number):
        raise ValueError(number)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="3"):
            threads.in_threads(fail, [(3,)] * 4)
    finally:
        torch.set_num_threads(before)


def test_a_model_fits_as_with_torch(calls):
    series = make_series(missing=0.1)
    losses, forecasts = [], []
    for mode in ("torch", "auto"):
        with recurrence.use(mode):
            model = make_model(BiGRUModel, pl_trainer_kwargs=quiet_trainer())
            model.fit(series, val_series=series)
            losses.append([float(v) for v in model.trainer.callback_metrics.values()])
            forecasts.append(model.predict(4, series=series).values())
        assert bool(calls) == (mode == "auto")
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    np.testing.assert_allclose(forecasts[1], forecasts[0], rtol=1e-4)
