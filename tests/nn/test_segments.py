"""Truncated back-propagation through time: gradients of a loop that detaches, and memory that stays flat."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from birnn_forecast.nn import recurrence, segments
from birnn_forecast.nn.networks import ENCODERS, ForecastNetwork, Sizes, Window
from birnn_forecast.nn.recurrent import CELLS, BidirectionalEncoder, valid_steps
from birnn_forecast.nn.segments import Segments

# of a kernel of even size
pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths:UserWarning")

STEPS = {"RNN": torch.rnn_tanh_cell, "GRU": torch.gru_cell, "LSTM": torch.lstm_cell}
OWN = {"birnn": {}, "cnn": {"n_filters": 4, "kernel_size": 4, "n_conv_layers": 2}, "urnn": {}}


def make_network(encoder="birnn", length=20, horizon=3, tbptt_length=None, pooling="last", **options):
    torch.manual_seed(1)
    params = {"hidden_size": 4, "num_layers": 2, "cell": "GRU"} | OWN[encoder] | options
    network = ForecastNetwork(
        Sizes(length, horizon, 0, targets=2, past_covariates=1, static_covariates=2, static_width=1),
        encoder,
        params,
        pooling,
        skip="last",
        season_length=None,
        locations=[True],
        offsets=[0.0],
        decoder_params={"step_size": 4, "reader_size": 4},
        tbptt_length=tbptt_length,
    ).double()
    with torch.no_grad():  # heads start at 0, and nothing would flow back
        for p in network.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return network


def make_window(batch=6, length=20, seed=0, padded=True):
    torch.manual_seed(seed)
    observed = torch.rand(batch, length, 2) < 0.7
    past = torch.randn(batch, length, 1)
    if padded:  # rows that begin inside the segments, at their edges, one that shows nothing
        for row, begin in zip(range(1, batch), (3, 6, 13, length - 1, length), strict=False):
            observed[row, :begin], past[row, :begin] = False, float("nan")
    target = torch.randn(batch, length, 2).double()
    return Window(target, observed, past.double(), static_covariates=torch.randn(batch, 2, 1).double())


def loss_and_gradients(network, window):
    encoding = network.encode(window)
    generator = torch.Generator().manual_seed(2)
    loss = sum(
        (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).mean()
        for out in (network.forecast(window, encoding), network.reconstruct(window, encoding))
    )
    loss = 100 * loss
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss, dict(zip(parameters, gradients, strict=True))


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-9)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def loop(scan, x, start, cuts):
    """Return the states of a :class:`Scan`, step by step, detached where a segment begins."""
    cell, hidden = STEPS[type(scan.rnn).__name__], scan.rnn.hidden_size
    h = c = x.new_zeros(len(x), hidden)
    states = [h] * x.shape[1]
    for t in reversed(range(x.shape[1])) if scan.backward else range(x.shape[1]):
        if t + scan.backward in cuts:
            h, c = h.detach(), c.detach()
        is_lstm = cell is torch.lstm_cell
        new = cell(x[:, t], [h, c] if is_lstm else h, *scan.rnn._flat_weights)
        begun = torch.ones_like(start, dtype=torch.bool) if scan.backward else t >= start
        h = torch.where(begun[:, None], new[0] if is_lstm else new, 0.0)
        c = torch.where(begun[:, None], new[1], 0.0) if is_lstm else c
        states[t] = h
    return torch.stack(states, dim=1)


class Reference(nn.Module):
    """What an encoder is to compute: all steps in plain loops, the states detached at the cuts."""

    def __init__(self, encoder, cuts):
        super().__init__()
        self.encoder, self.cuts = encoder, cuts

    def forward(self, x, start):
        encoder = self.encoder
        if hasattr(encoder, "front"):
            x, encoder = encoder.front(x, start), encoder.recurrent
        valid = valid_steps(start, x.shape[1])
        first = start[:, None, None].expand(-1, 1, encoder.forwards[0].rnn.hidden_size)
        for layer, scan in enumerate(encoder.forwards):
            b = loop(encoder.backwards[layer], x, start, self.cuts) if encoder.backwards else None
            if not hasattr(encoder, "merges"):
                # what the last step of a segment reads of the next one was handed on, too
                after = torch.cat([b[:, 1:], torch.zeros_like(b[:, :1])], dim=1)
                handed = torch.tensor([t + 1 in self.cuts for t in range(x.shape[1])])[None, :, None]
                after = torch.where(handed, after.detach(), after)
                x = torch.where(valid[:, :, None], loop(scan, torch.cat([x, after], dim=-1), start, self.cuts), b)
                final = x[:, -1:]
            else:
                merge = encoder.merges[layer] if encoder.backwards else None
                f = loop(scan, x, start, self.cuts)
                f = torch.where(valid[:, :, None], f, merge.neutral if merge else 0.0)
                x = merge(f, b) if merge else f
                final = merge(f[:, -1:], torch.gather(b, 1, first)) if merge else f[:, -1:]
            if layer < len(encoder.norms):
                x = encoder.dropouts[layer](encoder.norms[layer](x, valid))
        return x, final[:, 0]


def reference(network, window, cuts):
    encoder, network.tbptt_length, network.encoder = network.encoder, None, Reference(network.encoder, cuts)
    try:
        loss, gradients = loss_and_gradients(network, window)
    finally:
        network.encoder = encoder
    return loss, {name.replace("encoder.encoder.", "encoder."): g for name, g in gradients.items()}


@pytest.mark.parametrize("mode", recurrence.MODES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_are_those_of_a_loop_that_detaches(encoder, cell, mode):
    network, window = make_network(encoder, cell=cell, tbptt_length=7, pooling="attention"), make_window()
    with recurrence.use(mode):
        found = loss_and_gradients(network, window)
    assert_same(found, reference(network, window, {6, 13}))


@settings(max_examples=25, deadline=None)
@given(
    encoder=st.sampled_from([*ENCODERS]),
    length=st.integers(1, 12),
    tbptt_length=st.integers(1, 14),
    horizon=st.integers(1, 14),
    pooling=st.sampled_from(["last", "mean", "attention"]),
    layers=st.integers(1, 3),
    options=st.sampled_from([{}, {"merge": "gate"}, {"merge": "mul"}, {"bidirectional": False}]),
    normalization=st.sampled_from([None, "layer"]),
    padded=st.booleans(),
)
def test_gradients_of_any_network(
    encoder, length, tbptt_length, horizon, pooling, layers, options, normalization, padded
):
    options = {"num_layers": layers, "normalization": normalization} | (options if encoder == "birnn" else {})
    network = make_network(encoder, length, horizon, tbptt_length, pooling, **options)
    window = make_window(4, length, padded=padded)
    cuts = set(range(length - tbptt_length, 0, -tbptt_length))
    assert_same(loss_and_gradients(network, window), reference(network, window, cuts))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_segments_change_gradients_and_nothing_else(encoder):
    whole, window = make_network(encoder), make_window()
    expected = loss_and_gradients(whole, window)
    for length in (20, 25):
        assert_same(loss_and_gradients(make_network(encoder, tbptt_length=length), window), expected)
    network = make_network(encoder, tbptt_length=7)
    loss, gradients = loss_and_gradients(network, window)
    torch.testing.assert_close(loss, expected[0], rtol=0, atol=1e-12)
    recurrent = [name for name in gradients if "weight_hh" in name]
    assert all((gradients[name] - expected[1][name]).abs().max() > 1e-6 for name in recurrent)
    # what is asked of a fitted model, such as an attribution, is whole
    assert_same(loss_and_gradients(network.eval(), window), expected)


def test_the_same_units_drop_out_of_all_readings_of_a_segment():
    network, window = make_network(tbptt_length=7, dropout=0.5), make_window()
    segments = network.encode(window).states
    once, again = (segments.read(1)[0] for _ in range(2))
    assert torch.equal(once, again)
    second = segments.layers[1][1]
    assert segments.layers[0][1].seed != segments.layers[0][2].seed
    # the second layer's states were handed on by a first reading with the same units
    f_states = network.encoder.forwards[1].run_on(
        first_layer_output(network.encoder, segments, 0), segments.starts[0], None
    )[1]
    torch.testing.assert_close(second.forward, f_states)
    other = network.encode(window).states
    assert not torch.equal(other.read(1)[0], once)


def first_layer_output(encoder, segments, number):
    """Return what the second layer reads of a segment."""
    read = encoder.forwards[1].register_forward_pre_hook(lambda scan, args: inputs.append(args[0]))
    inputs = []
    segments.read(number)
    read.remove()
    return inputs[0]


def test_random_numbers_after_it_do_not_depend_on_dropout():
    window, drawn = make_window(), []
    for dropout in (0.0, 0.5):
        network = make_network(tbptt_length=7, dropout=dropout)
        torch.manual_seed(3)
        loss_and_gradients(network, window)
        drawn.append(torch.rand(()))
    assert drawn[0] == drawn[1]


def test_the_kernels_run_the_segments(monkeypatch):
    assert recurrence.kernels(3, torch.float64, True) is not None
    network, window, run = make_network(tbptt_length=7), make_window(), recurrence.run_forward
    lengths, initial = [], []

    def counting(module, x, start, backwards, first, *args, **kwargs):
        lengths.append(len(x))
        initial.extend(state is not None for state in first)
        return run(module, x, start, backwards, first, *args, **kwargs)

    monkeypatch.setattr(recurrence, "run_forward", counting)
    loss_and_gradients(network, window)
    assert set(lengths) == {6, 7}
    assert any(initial)
    monkeypatch.setattr(nn.GRU, "forward", None)  # torch's is not needed
    loss_and_gradients(network, window)


def bytes_kept(network, length, dtype=torch.float32):
    """Return the bytes of all tensors that are kept for the gradient of a window of `length` steps."""
    torch.manual_seed(0)
    target = torch.randn(2, length, 2, dtype=dtype)
    window = Window(target, torch.ones(2, length, 2, dtype=torch.bool), target[..., :1])
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoding = network.encode(window)
        outputs = network.forecast(window, encoding), network.reconstruct(window, encoding)
    assert all(out.requires_grad for out in outputs)
    if isinstance(encoding.states, Segments):  # what a segment is computed again from
        states = [state for layer in encoding.states.layers for starts in layer for state in starts[:2]]
        for tensor in [encoding.states.x, *encoding.states.starts, *states]:
            if tensor is not None:
                keep(tensor)
    return sum(storage.nbytes() for storage in kept.values())


def make_long(encoder, tbptt_length, cell, **options):
    torch.manual_seed(0)
    params = {"hidden_size": 32, "cell": cell} | ({"n_filters": 32, "kernel_size": 3} if encoder == "cnn" else {})
    decoder = {"step_size": 4, "reader_size": 4, "hidden_sizes": (32,)}
    sizes = Sizes(2000, 4, 0, targets=2, past_covariates=1)
    params = params | options
    return ForecastNetwork(
        sizes, encoder, params, "last", "last", None, [True], [0.0], decoder, tbptt_length=tbptt_length
    )


@pytest.mark.parametrize("mode", recurrence.MODES)
@pytest.mark.parametrize(
    ("encoder", "cell", "options"),
    [("birnn", "GRU", {}), ("birnn", "GRU", {"num_layers": 2}), ("cnn", "LSTM", {}), ("urnn", "RNN", {})],
)
def test_memory_for_gradients_stays_flat(mode, encoder, cell, options):
    with recurrence.use(mode):
        kept = {
            (tbptt_length, length): bytes_kept(make_long(encoder, tbptt_length, cell, **options), length)
            for tbptt_length in (None, 50)
            for length in (500, 2000)
        }
    # numbers a step and row: 10 of them are features
    grown, grown_in_segments = ((kept[n, 2000] - kept[n, 500]) / (2 * 1500 * 4) for n in (None, 50))
    assert grown_in_segments < 20
    assert grown > 15 * grown_in_segments


def test_random_numbers_of_the_device_are_kept_for_the_second_reading(monkeypatch):
    """PyTorch keeps those of the devices that it finds among a checkpoint's arguments, besides the CPU's."""
    found = []

    def spy(function, *args, **kwargs):
        found.append([type(one) for one in args])
        return checkpoint(function, *args, **kwargs)

    monkeypatch.setattr(segments, "checkpoint", spy)
    torch.manual_seed(0)
    encoder, x = BidirectionalEncoder(2, 3), torch.randn(2, 9, 2)
    window = Segments(encoder, x, torch.zeros(2, dtype=torch.long), 4, torch.ones(2, 1, 1, dtype=torch.bool))
    window.final()
    window.latest(5)
    assert len(found) == 4
    assert all(torch.Tensor in types for types in found)
