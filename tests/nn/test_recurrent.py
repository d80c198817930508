import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from birnn_forecast.nn.merge import MERGES
from birnn_forecast.nn.recurrent import CELLS, BidirectionalEncoder, Scan, URNNEncoder
from tests import reference

ENCODERS = {
    "birnn": lambda cell, **kwargs: BidirectionalEncoder(3, 4, cell=cell, **kwargs),
    "urnn": lambda cell, **kwargs: URNNEncoder(3, 4, cell=cell, **kwargs),
}


def no_padding(batch):
    return torch.zeros(batch, dtype=torch.long)


def weights(rnn: nn.RNNBase):
    return [p.detach().numpy() for p in rnn.parameters()]


@pytest.mark.parametrize("cell", CELLS)
def test_states_equal_torch_bidirectional_in_float64(cell):
    torch.manual_seed(0)
    ours = BidirectionalEncoder(3, 4, num_layers=2, cell=cell).double()
    theirs = CELLS[cell](3, 4, num_layers=2, batch_first=True, bidirectional=True).double()
    for layer in range(2):
        for scan, suffix in ((ours.forwards[layer], ""), (ours.backwards[layer], "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(theirs, f"{name}_l{layer}{suffix}").data = getattr(scan.rnn, f"{name}_l0").data
    x = torch.randn(5, 11, 3, dtype=torch.float64)
    states, final = ours(x, no_padding(5))
    expected, last = theirs(x)
    last = last[0] if cell == "LSTM" else last
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(final, torch.cat([last[-2], last[-1]], dim=-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("merge", MERGES)
def test_layer_equals_the_loop(cell, merge):
    torch.manual_seed(1)
    encoder = BidirectionalEncoder(3, 4, cell=cell, merge=merge).double()
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    states = encoder(x, no_padding(1))[0][0].detach().numpy()
    window = x[0].numpy()
    f = reference.CELLS[cell](window, *weights(encoder.forwards[0].rnn))
    b = reference.CELLS[cell](window[::-1], *weights(encoder.backwards[0].rnn))[::-1]
    gate = [p.detach().numpy() for p in encoder.merges[0].parameters()]
    expected = [reference.merge(merge, f_t, b_t, *gate) for f_t, b_t in zip(f, b, strict=True)]
    np.testing.assert_allclose(states, expected, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_urnn_reads_backward_first_then_forward_over_input_and_backward_state(cell):
    torch.manual_seed(2)
    encoder = URNNEncoder(3, 4, cell=cell).double()
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    states, final = encoder(x, no_padding(1))
    window = x[0].numpy()
    b = reference.CELLS[cell](window[::-1], *weights(encoder.backwards[0].rnn))[::-1]
    after = np.concatenate([b[1:], np.zeros((1, 4))])
    expected = reference.CELLS[cell](np.concatenate([window, after], axis=1), *weights(encoder.forwards[0].rnn))
    np.testing.assert_allclose(states[0].detach(), expected, atol=1e-12)
    np.testing.assert_allclose(final[0].detach(), expected[-1], atol=1e-12)


def test_reversing_time_swaps_the_directions():
    torch.manual_seed(3)
    encoder = BidirectionalEncoder(3, 4).double()
    swapped = BidirectionalEncoder(3, 4).double()
    swapped.forwards[0].rnn.load_state_dict(encoder.backwards[0].rnn.state_dict())
    swapped.backwards[0].rnn.load_state_dict(encoder.forwards[0].rnn.state_dict())
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    states, final = encoder(x, no_padding(2))
    mirrored, mirrored_final = swapped(x.flip(1), no_padding(2))
    torch.testing.assert_close(mirrored.flip(1), states.roll(4, dims=-1))
    torch.testing.assert_close(mirrored_final, final.roll(4, dims=-1))


def test_a_closed_gate_is_concat_and_an_open_one_swaps():
    f, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    gate, concat = MERGES["gate"](4), MERGES["concat"](4)
    nn.init.zeros_(gate.gates.weight)
    nn.init.constant_(gate.gates.bias, -200.0)
    assert torch.equal(gate(f, b), concat(f, b))
    nn.init.constant_(gate.gates.bias, 200.0)
    torch.testing.assert_close(gate(f, b), concat(b, f))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("normalization", [None, "layer", "batch"])
@settings(max_examples=10, deadline=None)
@given(pads=st.lists(st.integers(0, 9), min_size=1, max_size=3), cell=st.sampled_from(list(CELLS)))
def test_padding_on_the_left_equals_no_padding(encoder, normalization, pads, cell):
    torch.manual_seed(4)
    network = ENCODERS[encoder](cell, num_layers=2, normalization=normalization).double().eval()
    x = torch.randn(len(pads), 10, 3, dtype=torch.float64)
    states, final = network(x, torch.tensor(pads))
    for row, pad in enumerate(pads):
        alone, alone_final = network(x[row : row + 1, pad:], no_padding(1))
        torch.testing.assert_close(states[row, pad:], alone[0])
        torch.testing.assert_close(final[row], alone_final[0])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "options", [{}, {"normalization": "layer"}, {"normalization": "batch"}, {"merge": "mul"}], ids=str
)
def test_before_the_start_the_states_know_how_far_it_is_and_what_comes(encoder, options):
    torch.manual_seed(4)
    if encoder == "urnn" and "merge" in options:
        pytest.skip("a U-RNN merges nothing")
    network = ENCODERS[encoder]("GRU", num_layers=2, **options).double().eval()
    x, start = torch.randn(1, 10, 3, dtype=torch.float64), torch.tensor([6])
    states, final = network(x, start)
    assert (states[0, :5] - states[0, 1:6]).abs().amax(dim=1).min() > 1e-6
    later = x.clone()
    later[:, 7] += 1
    assert (network(later, start)[0][0, :6] - states[0, :6]).abs().amax(dim=1).min() > 1e-9
    # and the other way round nothing is known
    earlier = x.clone()
    earlier[:, :6] += 1
    torch.testing.assert_close(network(earlier, start)[0][:, 6:], states[:, 6:])
    torch.testing.assert_close(network(earlier, start)[1], final)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_dropout_and_normalisation_act_between_layers_only(encoder):
    torch.manual_seed(5)
    one = ENCODERS[encoder]("GRU", dropout=0.5, normalization="layer")
    two = ENCODERS[encoder]("GRU", num_layers=2, dropout=0.5)
    x = torch.randn(2, 5, 3)
    assert torch.equal(one(x, no_padding(2))[0], one(x, no_padding(2))[0])
    assert not torch.equal(two(x, no_padding(2))[0], two(x, no_padding(2))[0])
    assert torch.equal(two.eval()(x, no_padding(2))[0], two(x, no_padding(2))[0])


def test_one_direction_has_half_the_state_and_ignores_the_future():
    encoder = BidirectionalEncoder(3, 4, bidirectional=False)
    x = torch.randn(1, 6, 3)
    states, final = encoder(x, no_padding(1))
    assert states.shape == (1, 6, 4)
    torch.testing.assert_close(final, states[:, -1])
    changed = x.clone()
    changed[:, 3:] += 1
    assert torch.equal(encoder(changed, no_padding(1))[0][:, :3], states[:, :3])


def test_initialisation_is_orthogonal_with_open_forget_gate():
    rnn = Scan("LSTM", 3, 4).rnn
    for block in rnn.weight_hh_l0.split(4):
        torch.testing.assert_close(block @ block.T, torch.eye(4), atol=1e-5, rtol=0)
    assert (rnn.bias_ih_l0 + rnn.bias_hh_l0).tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert (Scan("GRU", 3, 4).rnn.bias_ih_l0 == 0).all()
