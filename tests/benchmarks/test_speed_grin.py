import pytest
import torch

from benchmarks import speed_grin
from birnn_forecast.nn.cells import FeedbackGRIN


def test_without_a_reference_ours_is_timed():
    result = speed_grin.compare(None, repeats=1, batch=1, time=2)
    assert result.ours > 0
    assert result[1:] == (None, None, None)


def test_a_folder_that_is_no_checkout_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        speed_grin.main(["--reference", str(tmp_path)])
    assert "lib/nn/models/grin.py" in capsys.readouterr().err


def test_every_weight_has_a_counterpart():
    network = FeedbackGRIN(3, hidden_size=speed_grin.HIDDEN)
    pairs = speed_grin.weight_pairs(network, Shapes(network))
    assert {id(own) for own, _ in pairs} == {id(p) for p in network.parameters()}
    assert all(own.shape == theirs.shape for own, theirs in pairs)


class Shapes(dict):
    """Tensors of the shapes that the authors' network has, by name."""

    def __init__(self, network: FeedbackGRIN):
        h, terms = speed_grin.HIDDEN, 1 + 2 * network.kernel_size
        gate = (h, terms * (2 + h), 1, 1)
        sizes = {
            "first_stage": (1, h, 1),
            "spatial_decoder.lin_in": (h, 2 + h, 1),
            "spatial_decoder.graph_conv.mlp": (h, 2 * h, 1, 1),
            "spatial_decoder.lin_out": (h, 2 * h, 1),
            "spatial_decoder.read_out": (1, 2 * h, 1),
            **{f"cells.0.{name}.mlp": gate for name in ("forget_gate", "update_gate", "c_gate")},
        }
        for direction in ("fwd_rnn", "bwd_rnn"):
            for name, size in sizes.items():
                self[f"bigrill.{direction}.{name}.weight"] = torch.zeros(size)
                self[f"bigrill.{direction}.{name}.bias"] = torch.zeros(size[0])
            self[f"bigrill.{direction}.spatial_decoder.activation.weight"] = torch.zeros(1)
            self[f"bigrill.{direction}.h0.0"] = torch.zeros(h, 3)
        self["bigrill.emb"] = torch.zeros(8, 3)
        for i in (0, 3):
            weight = network.output[i].weight
            self[f"bigrill.out.{i}.weight"] = torch.zeros(*weight.shape, 1, 1)
            self[f"bigrill.out.{i}.bias"] = torch.zeros(len(weight))
