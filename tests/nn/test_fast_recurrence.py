import copy
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from birnn_forecast import BiGRUModel, BiLSTMModel, BiRNNModel
from birnn_forecast.nn import recurrence, threads
from birnn_forecast.nn.node_encoder import NodeScan
from birnn_forecast.nn.recurrent import CELLS, BidirectionalEncoder, Scan, URNNEncoder
from tests.conftest import make_model, make_series, quiet_trainer

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
each_cell = pytest.mark.parametrize("cell", CELLS)


@pytest.fixture
def calls(monkeypatch):
    """Count the layers that the kernels ran."""
    counted = []
    run = recurrence.run_forward

    def counting(*args, **kwargs):
        counted.append(args)
        return run(*args, **kwargs)

    for gates, dtype, gradient in product(recurrence.CELLS, TOLERANCE, (True, False)):  # their own check does not count
        assert recurrence.kernels(gates, dtype, gradient) is not None
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


def test_the_cells_are_those_of_torch():
    for name, cell in CELLS.items():
        found = recurrence.CELLS[GATES[name]]
        assert (found.gates, found.mode) == (GATES[name], cell(1, 1).mode)


def make_inputs(dtype, batch, time, features, seed, padded):
    torch.manual_seed(seed)
    start = torch.randint(0, time, (batch,)) if padded else torch.zeros(batch, dtype=torch.long)
    return torch.randn(batch, time, features, dtype=dtype), start


@each_cell
@pytest.mark.parametrize("encoder", [BidirectionalEncoder, URNNEncoder])
@settings(max_examples=20, deadline=None)
@given(**shapes)
@example(**CASE)
def test_encoders_equal_torch(encoder, cell, dtype, batch, time, features, hidden, seed, padded):
    x, start = make_inputs(dtype, batch, time, features, seed, padded)
    network = randomised(encoder(features, hidden, num_layers=2, cell=cell)).to(dtype)
    assert_same_both_ways(network, x, start)


@each_cell
@pytest.mark.parametrize("backward", [False, True])
@settings(max_examples=10, deadline=None)
@given(**shapes, nodes=st.integers(1, 4))
@example(**CASE, nodes=3)
def test_nodes_equal_torch(backward, cell, dtype, batch, time, features, hidden, seed, padded, nodes):
    x, start = make_inputs(dtype, batch * nodes, time, features, seed, padded)
    x, start = x.transpose(0, 1).unflatten(1, (batch, nodes)), start[:batch]
    scan = randomised(NodeScan(cell, features, hidden, backward)).to(dtype)
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


def carried_inputs(cell, dtype, batch, features, hidden, seed, start):
    """Return a state to start from, 0 where a row begins later than the segment."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(batch, hidden * (1 + (cell == "LSTM")), generator=generator, dtype=dtype) / 2
    return state * (start == 0)[:, None]


@each_cell
@pytest.mark.parametrize("backward", [False, True])
@settings(max_examples=15, deadline=None)
@given(**shapes)
@example(**CASE)
def test_layers_that_go_on_equal_torch(backward, cell, dtype, batch, time, features, hidden, seed, padded):
    x, start = make_inputs(dtype, batch, time, features, seed, padded)
    start = torch.where(torch.arange(batch) % 5 == 4, time, start) if padded else start  # later than the segment
    scan = randomised(Scan(cell, features, hidden, backward)).to(dtype)
    initial = carried_inputs(cell, dtype, batch, features, hidden, seed, torch.zeros_like(start) if backward else start)
    valid = torch.arange(time) >= (0 if backward else start)[:, None] if not backward else torch.ones(batch, time)
    masked = Callable(lambda x: scan(x, start, initial) * valid[:, :, None], scan)
    assert_same_both_ways(masked, x)
    with recurrence.use("torch"):
        expected = scan.run_on(x, start, initial)
    states, end = scan.run_on(x, start, initial)
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(states * valid[:, :, None], expected[0] * valid[:, :, None], **tolerance)
    torch.testing.assert_close(end, expected[1], **tolerance)
    assert end.shape == initial.shape


@each_cell
@pytest.mark.parametrize("backward", [False, True])
def test_segments_are_as_the_whole(calls, backward, cell):
    torch.manual_seed(0)
    scan, x, start = randomised(Scan(cell, 1, 20, backward)), torch.randn(11, 7, 1), torch.arange(11) % 4
    whole, state = scan(x, start), None
    cuts = [(0, 2), (2, 3), (3, 7)]
    for first, last in reversed(cuts) if backward else cuts:
        states, state = scan.run_on(x[:, first:last], (start - first).clamp(0, last - first), state)
        begun = torch.arange(first, last) >= (0 if backward else start[:, None])
        begun = torch.ones(11, last - first) if backward else begun
        torch.testing.assert_close(states * begun[:, :, None], whole[:, first:last] * begun[:, :, None])
    assert len(calls) == 4


@each_cell
def test_the_kernels_run_both_directions_in_one_call(calls, cell):
    encoder = BidirectionalEncoder(3, 8, num_layers=2, cell=cell)
    encoder(torch.randn(4, 6, 3), torch.zeros(4, dtype=torch.long))
    assert [args[3] for args in calls] == [(False, True)] * 2


@each_cell
@pytest.mark.parametrize("goes_on", [False, True])
def test_gradients_in_double_precision(cell, goes_on):
    torch.manual_seed(0)
    f, b = (randomised(Scan(cell, 2, 3, backward)).double().rnn for backward in (False, True))
    x, start = torch.randn(5, 10, 2, dtype=torch.float64, requires_grad=True), torch.arange(10) % 4
    initial = [carried_inputs(cell, torch.float64, 10, 2, 3, i, start * (i == 0)) for i in range(2)]

    def states(x, *parameters):
        n = x.shape[1]
        first = tuple(state[:n] if goes_on else None for state in initial)
        return recurrence.Layers.apply(x, start[:n], (False, True), first, *parameters)

    parameters = [*f.parameters(), *b.parameters()]
    assert torch.autograd.gradcheck(states, (x, *parameters))
    assert torch.autograd.gradgradcheck(lambda x: states(x[:3, :3], *parameters), (x,))
    loss = sum(s.square().sum() for s in states(x, *parameters))
    inputs, again = [x, *parameters], {"retain_graph": True}
    by_kernel, by_torch = (torch.autograd.grad(loss, inputs, create_graph=twice, **again) for twice in (False, True))
    torch.testing.assert_close(by_torch, by_kernel, rtol=0, atol=1e-10)


@each_cell
def test_a_second_backward_pass_gives_the_same(calls, cell):
    scan, x = Scan(cell, 3, 16), torch.randn(4, 6, 3)
    loss = scan(x, torch.zeros(4, dtype=torch.long)).square().sum()
    first = torch.autograd.grad(loss, list(scan.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(scan.parameters()))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@each_cell
def test_the_gradients_of_a_part_of_the_states(cell):
    """Gradients come with any strides, and from some outputs only."""
    torch.manual_seed(0)
    scan, x, start = randomised(Scan(cell, 3, 16)), torch.randn(40, 6, 3), torch.zeros(40, dtype=torch.long)
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


@each_cell
def test_frozen_weights_and_inputs_without_gradient(cell):
    scan, x, start = Scan(cell, 3, 4), torch.randn(2, 6, 3, requires_grad=True), torch.zeros(2, dtype=torch.long)
    scan.rnn.weight_hh_l0.requires_grad_(False)
    scan(x, start).sum().backward()
    assert x.grad is not None
    assert scan.rnn.weight_hh_l0.grad is None
    assert scan.rnn.weight_ih_l0.grad is not None
    scan.requires_grad_(False)
    assert not scan(x.detach(), start).requires_grad


@each_cell
def test_a_row_does_not_depend_on_its_batch(cell):
    torch.manual_seed(0)
    encoder, x = BidirectionalEncoder(5, 24, num_layers=2, cell=cell), torch.randn(77, 12, 5)
    start = torch.randint(0, 12, (77,))
    with torch.no_grad():
        states = encoder(x, start)[0]
        for rows in (slice(0, 1), slice(40, 49), slice(60, 77)):
            torch.testing.assert_close(encoder(x[rows], start[rows])[0], states[rows], rtol=0, atol=1e-6)


@each_cell
def test_what_stands_before_the_start_touches_no_weight(cell):
    scan, x = Scan(cell, 3, 4), torch.randn(3, 6, 3)
    x[1, :4] = torch.nan
    states = scan(x, torch.tensor([0, 4, 2]))
    assert (states[1, :4] == 0).all()
    states.sum().backward()
    assert all(p.grad.isfinite().all() for p in scan.parameters())


@each_cell
def test_what_is_not_a_number_stays_so_in_its_row(cell):
    scan, x = Scan(cell, 3, 4), torch.randn(20, 6, 3)
    x[1, 2], x[3, 2], x[5, 2] = torch.nan, torch.inf, 1e30
    x[7, 2] = torch.tensor(0x7FC00001, dtype=torch.int32).view(torch.float32)  # not a number either
    states = scan(x, torch.zeros(20, dtype=torch.long))
    for row in (1, 7):
        assert states[row, 2:].isnan().all()
        assert states[row, :2].isfinite().all()
    assert states[[0, 2, 4, 5, 6, *range(8, 20)]].isfinite().all()


@each_cell
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gates_that_are_open_or_closed_equal_torch(cell, dtype):
    """Beyond the bounds of the exponential, and about 0."""
    scan, x = Scan(cell, 1, 16).to(dtype), torch.cat([10.0 ** torch.arange(-9, 9), -(10.0 ** torch.arange(-9, 9))])
    x = x.to(dtype).expand(2, -1).T[:, :, None]
    assert_same_both_ways(Callable(lambda x: scan(x, torch.zeros(36, dtype=torch.long)), scan), x)


@each_cell
def test_weights_are_those_of_torch_and_copies_run(calls, cell):
    encoder = BidirectionalEncoder(3, 4, cell=cell)
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


@each_cell
def test_checkpointing_keeps_the_input_only(calls, cell):
    scan, x = NodeScan(cell, 3, 16), torch.randn(6, 4, 2, 3)
    expected = torch.autograd.grad(scan(x, None).square().sum(), list(scan.parameters()))
    kept = []

    def run(x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            return scan(x, None)

    run(x)
    # all that is kept passes through the hooks: states, too, of which there is an initial one
    assert max(kept) == {"RNN": 7 * 4 * 2, "GRU": 6 * 4 * 2 * 4, "LSTM": 6 * 4 * 2 * 4}[cell] * 16
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
    with torch.backends.mkldnn.flags(enabled=False):  # which knows no forward derivative of an LSTM
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
@each_cell
@pytest.mark.filterwarnings("ignore")
def test_falls_back_to_torch(calls, cell, way):
    torch.manual_seed(0)
    scan, x, start = Scan(cell, 3, 8), torch.randn(4, 6, 3), torch.zeros(4, dtype=torch.long)
    states = way(scan, x, start)
    assert not calls
    tolerance = 0.05 if way in (autocast, half) else 1e-5
    torch.testing.assert_close(states.float(), plain(scan, x, start), rtol=0, atol=tolerance)
    assert len(calls) == 1


@each_cell
def test_other_layers_are_left_to_torch(calls, cell):
    x, start = torch.randn(4, 6, 3), torch.zeros(6, dtype=torch.long)
    Scan(cell, 3, recurrence.LARGEST_HIDDEN + 1)(x.transpose(0, 1), start)
    options = {"num_layers": 2}, {"bias": False}, {"bidirectional": True}
    options += {"RNN": ({"nonlinearity": "relu"},), "LSTM": ({"proj_size": 2},)}.get(cell, ())
    for each in options:
        assert recurrence.states([CELLS[cell](3, 8, **each)], [False], x) is None
        assert recurrence.run_on(CELLS[cell](3, 8, **each), False, x, start, None) is None
    assert not calls
    assert recurrence.states([CELLS[cell](3, 8)], [False], x) is not None


def test_the_mode_is_checked_and_restored():
    with pytest.raises(ValueError, match="`mode` must be one of 'auto', 'torch', 'graph', got 'numba'"):
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


@each_cell
def test_kernels_that_fail_or_disagree_are_not_used(monkeypatch, cell):
    from birnn_forecast.nn import kernels

    for name, broken in product(("layer_forward", "layer_backward"), (lambda *_: None, lambda *_: 1 / 0)):
        recurrence.kernels.cache_clear()
        monkeypatch.setattr(kernels, name, broken)
        assert recurrence.kernels(GATES[cell], torch.float32, True) is None
        monkeypatch.undo()
    recurrence.kernels.cache_clear()
    assert recurrence.kernels(GATES[cell], torch.float32, True) is kernels


def test_only_the_cell_that_is_used_is_compiled():
    code = """
import torch
from birnn_forecast.nn import recurrence
from birnn_forecast.nn.recurrent import Scan
Scan("LSTM", 3, 4)(torch.randn(2, 3, 3), torch.zeros(2, dtype=torch.long))
from birnn_forecast.nn import kernels
for kernel in (kernels.layer_forward, kernels.layer_backward):
    assert [len(signature[0]) for signature in kernel.signatures] == [4]
    assert sum(kernel.stats.cache_hits.values()) + sum(kernel.stats.cache_misses.values()) == 1
print("fine")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.stdout == "fine\n", result.stderr


IN_A_PROCESS = """
import os, sys
import torch
from birnn_forecast.nn.recurrent import BidirectionalEncoder
from birnn_forecast.nn import recurrence
assert "numba" not in sys.modules
torch.set_num_threads(2)
torch.manual_seed(0)
encoder = BidirectionalEncoder(3, 16, cell="{cell}")
x, start = torch.randn(200, 6, 3), torch.zeros(200, dtype=torch.long)
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
    ("cell", "after", "environment"),
    [
        ("GRU", "", {}),
        ("GRU", FORK, {}),
        ("LSTM", FORK, {}),
        ("GRU", COMPILE, {}),
        ("RNN", COMPILE, {}),
        ("GRU", "", {"NUMBA_DISABLE_JIT": "1"}),
    ],
)
def test_threads_forks_compilation_and_no_numba(cell, after, environment):
    code = IN_A_PROCESS.format(cell=cell, after=after)
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


@pytest.mark.parametrize("model_class", [BiGRUModel, BiLSTMModel, BiRNNModel])
def test_a_model_fits_as_with_torch(calls, model_class):
    series = make_series(missing=0.1)
    losses, forecasts = [], []
    for mode in ("torch", "auto"):
        with recurrence.use(mode):
            model = make_model(model_class, pl_trainer_kwargs=quiet_trainer())
            model.fit(series, val_series=series)
            losses.append([float(v) for v in model.trainer.callback_metrics.values()])
            forecasts.append(model.predict(4, series=series).values())
        assert bool(calls) == (mode == "auto")
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    np.testing.assert_allclose(forecasts[1], forecasts[0], rtol=1e-4)
