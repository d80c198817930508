import numpy as np
import pytest
import torch
from torch import nn

from birnn_forecast.nn.merge import CrossGate
from tests import reference


def states():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, size, dtype=torch.float64) for size in (4, 4, 3)]


@pytest.mark.parametrize(("kind", "units"), [("scalar", 2), ("vector", 8)])
def test_cross_gate_equals_the_loop(kind, units):
    gate = CrossGate(4, 3, kind).double()
    assert gate.gates.out_features == units
    nn.init.normal_(gate.gates.bias)
    weight, bias = (p.detach().numpy() for p in gate.parameters())
    f, b, context = states()
    mixed = [part.detach() for part in gate(f, b, context)]
    for step in np.ndindex(2, 3, 5):
        expected = reference.cross_gate(*(part[step].numpy() for part in (f, b, context)), weight, bias)
        for part, value in zip(mixed, expected, strict=True):
            np.testing.assert_allclose(part[step], value, atol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_closed_cross_gates_keep_the_directions_apart_and_open_ones_swap_them(kind):
    f, b, context = states()
    gate = CrossGate(4, 3, kind).double()
    assert (gate.gates.bias == -2).all()
    nn.init.zeros_(gate.gates.weight)
    nn.init.constant_(gate.gates.bias, -1e3)
    kept = gate(f, b, context)
    assert torch.equal(kept[0], f)
    assert torch.equal(kept[1], b)
    nn.init.constant_(gate.gates.bias, 1e3)
    swapped = gate(f, b, context)
    torch.testing.assert_close(swapped[0], b)
    torch.testing.assert_close(swapped[1], f)


def test_an_unknown_cross_gate_lists_the_choices():
    with pytest.raises(ValueError, match=r"`kind` must be one of 'scalar', 'vector', got 'matrix'\."):
        CrossGate(4, 3, "matrix")
