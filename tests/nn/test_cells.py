import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacrev

from birnn_forecast.nn.cells import FeedbackGRIN, PairedLinear, log_distances
from tests import reference


def window(batch=2, time=6, nodes=5, features=0, seed=0):
    """Return values (NaN where missing), mask, covariates and a directed graph; node 0 has no neighbour."""
    g = torch.Generator().manual_seed(seed)
    observed = torch.rand(batch, time, nodes, generator=g) < 0.6
    x = torch.randn(batch, time, nodes, generator=g, dtype=torch.float64).where(observed, torch.nan)
    exogenous = torch.randn(batch, time, nodes, features, generator=g, dtype=torch.float64) if features else None
    adjacency = torch.rand(nodes, nodes, generator=g) * (torch.rand(nodes, nodes, generator=g) < 0.6)
    adjacency.fill_diagonal_(0)
    adjacency[0], adjacency[:, 0] = 0, 0
    return x, observed, exogenous, adjacency.double()


def make(n_nodes=5, seed=0, **kwargs):
    torch.manual_seed(seed)
    network = FeedbackGRIN(n_nodes, **({"hidden_size": 4, "ff_size": 6, "embedding_size": 3} | kwargs)).double()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))  # biases, slopes and starts all differ
    return network


def direction(network, d):
    maps = {name: m for name, m in network.named_modules() if isinstance(m, PairedLinear)}
    w = {name: (m.weight[d], 0 if m.bias is None else m.bias[d, 0]) for name, m in maps.items()}
    w = {name: [p if isinstance(p, int) else p.detach().numpy() for p in pair] for name, pair in w.items()}
    return w | {"start": network.start[:, d, 0].detach().numpy(), "slope": network.slope[d].item()}


@pytest.mark.parametrize(
    ("options", "features", "nodes"),
    [
        ({}, 0, 5),
        ({"output_size": 3, "kernel_size": 1}, 2, 5),
        ({"num_layers": 2, "embedding_size": None}, 1, 4),
        ({"kernel_size": 3}, 0, 1),
    ],
)
def test_network_equals_the_loop(options, features, nodes):
    network = make(nodes, exogenous_size=features, **options)
    x, observed, exogenous, adjacency = window(nodes=nodes, features=features)
    out = network(x, observed, exogenous, adjacency)
    embedding = np.zeros((nodes, 0)) if network.embedding is None else network.embedding.detach().numpy()
    layers = [[layer.weight.detach().numpy().T, layer.bias.detach().numpy()] for layer in network.output[::3]]
    for row in range(2):
        expected, estimates = reference.grin(
            x[row].numpy(),
            observed[row].numpy(),
            np.zeros((6, nodes, 0)) if exogenous is None else exogenous[row].numpy(),
            adjacency.numpy(),
            [direction(network, d) for d in (0, 1)],
            embedding,
            *layers,
            network.kernel_size,
        )
        np.testing.assert_allclose(out.output[row].detach(), expected, atol=1e-10)
        np.testing.assert_allclose(out.estimates[:, row].detach(), estimates, atol=1e-10)
    assert out.states.shape == (2, 6, nodes, network.state_size)


@pytest.mark.parametrize("cross_gate", ["none", "scalar", "vector"])
def test_nothing_said_of_a_step_depends_on_the_value_observed_there(cross_gate):
    network = make(4, cross_gate=cross_gate)
    x, observed, _, adjacency = window(batch=1, time=4, nodes=4)
    observed = torch.ones_like(observed)
    x = torch.randn_like(x)

    def own_influence(graph):
        output, states, estimates = jacrev(lambda x: tuple(network(x, observed, None, graph)))(x)
        parts = [output[0], states[0], estimates[:, 0].movedim(0, 2)]  # (time, nodes, units), then x's axes
        return [torch.stack([p[t, i, :, 0, t, i] for t in range(4) for i in range(4)]) for p in parts], output

    own, total = own_influence(adjacency)
    assert all((part == 0).all() for part in own)
    assert (total != 0).any()
    with_loops, _ = own_influence(adjacency + torch.eye(4))
    assert all((part != 0).any() for part in with_loops)


def test_both_sides_and_the_neighbours_are_read():
    network = make(3)
    observed = torch.ones(1, 5, 3, dtype=torch.bool)
    line = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    influence = jacrev(lambda x: network(x, observed, None, line).output[0, 2, 0, 0])(x)[0] != 0
    assert influence[[0, 1, 3, 4]].all()
    assert influence[2].tolist() == [False, True, False]  # of its own step: the neighbour, not the neighbour's


def test_what_is_not_observed_is_not_read():
    network = make()
    x, observed, _, adjacency = window()
    expected = network(x, observed, None, adjacency)
    for value in (0.0, 1e30, float("inf")):
        out = network(torch.where(observed, x, value), observed, None, adjacency)
        assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


@pytest.mark.parametrize("cross_gate", ["scalar", "vector"])
def test_closed_gates_equal_no_gates(cross_gate):
    plain, gated = make(), make(cross_gate=cross_gate)
    gated.load_state_dict(plain.state_dict(), strict=False)
    data = window()
    assert not torch.equal(gated(*data).output, plain(*data).output)
    nn.init.zeros_(gated.cross_gate.gates.weight)
    nn.init.constant_(gated.cross_gate.gates.bias, -1e3)
    assert all(torch.equal(a, b) for a, b in zip(gated(*data), plain(*data), strict=True))


def test_reversing_time_swaps_the_directions():
    network = make()
    mirrored = copy.deepcopy(network)
    for name, p in mirrored.named_parameters():
        if name == "start":
            p.data = p.data.flip(1)
        elif not name.startswith(("output", "embedding")):
            p.data = p.data.flip(0)
    x, observed, _, adjacency = window()
    f1, f2, b1, b2 = network(x, observed, None, adjacency).estimates
    swapped = mirrored(x.flip(1), observed.flip(1), None, adjacency).estimates.flip(2)
    torch.testing.assert_close(swapped, torch.stack([b1, b2, f1, f2]))


@pytest.mark.parametrize("cross_gate", ["none", "vector"])
def test_without_node_parameters_nodes_can_be_reordered_and_replaced(cross_gate):
    network = make(None, cross_gate=cross_gate)
    assert network.embedding is None
    x, observed, _, adjacency = window()
    order = torch.tensor([3, 0, 4, 1, 2])
    out = network(x, observed, None, adjacency)
    moved = network(x[..., order], observed[..., order], None, adjacency[order][:, order])
    torch.testing.assert_close(moved.output, out.output[:, :, order])
    torch.testing.assert_close(moved.estimates, out.estimates[..., order])
    other = network(*window(nodes=9, seed=1))
    assert other.output.shape == (2, 6, 9, 1)
    # a node without neighbours is described as if it were alone
    alone = network(x[..., :1], observed[..., :1], None, adjacency[:1, :1])
    torch.testing.assert_close(alone.output, out.output[:, :, :1])


@pytest.mark.parametrize("n_nodes", [5, None])
def test_gradients_reach_every_parameter(n_nodes):
    network = make(n_nodes, exogenous_size=2, num_layers=2, cross_gate="scalar", dropout=0.1)
    x, observed, exogenous, adjacency = window(features=2)
    adjacency.requires_grad_()
    out = network(x, observed, exogenous, adjacency)
    (out.output.square().sum() + out.estimates.square().sum()).backward()
    for name, p in [*network.named_parameters(), ("adjacency", adjacency)]:
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


def test_dropout_acts_between_layers_and_in_the_output_network_while_training():
    network, data = make(dropout=0.5, num_layers=2), window()
    assert not torch.equal(network(*data).states, network(*data).states)
    network.between.eval()
    assert torch.equal(network(*data).states, network(*data).states)
    assert not torch.equal(network(*data).output, network(*data).output)
    network.eval()
    assert torch.equal(network(*data).output, network(*data).output)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_is_made_again_for_the_gradient_changes_nothing(num_layers, learned, monkeypatch):
    network = make(exogenous_size=2, num_layers=num_layers, cross_gate="vector", dropout=0.3)
    x, observed, exogenous, adjacency = window(features=2)
    found = []
    for plain in (False, True):
        graph = adjacency.clone().requires_grad_(learned)
        with monkeypatch.context() as m:
            if plain:
                m.setattr("birnn_forecast.nn.graph.is_eager", lambda x: False)
            torch.manual_seed(0)
            out = network(x, observed, exogenous, graph)
            inputs = [*network.parameters(), *[graph] * learned]
            found.append([*out, *torch.autograd.grad(out.output.sum() + out.estimates.square().sum(), inputs)])
    torch.testing.assert_close(*found, atol=1e-10, rtol=1e-10)


def test_half_precision_keeps_the_states():
    network, (x, observed, _, adjacency) = make().float(), window()
    data = x.float(), observed, None, adjacency.float()
    expected = network(*data)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*data)
    assert out.estimates.isfinite().all()
    torch.testing.assert_close(out.output.float(), expected.output, atol=0.1, rtol=0.1)
    (out.output.float().sum() + out.estimates.float().sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_float32_is_kept():
    x, observed, _, adjacency = window()
    out = make().float()(x.float(), observed, None, adjacency.float())
    assert {part.dtype for part in out} == {torch.float32}


def test_distances_skip_the_steps_own_observation():
    observed = torch.tensor([[1, 0, 0, 1, 1, 0]], dtype=torch.bool)[..., None]
    distance = log_distances(observed).exp()[0, :, 0]
    torch.testing.assert_close(distance[:, 0], torch.tensor([1.0, 1, 2, 3, 1, 1]))  # 1 step to the window's start
    torch.testing.assert_close(distance[:, 1], torch.tensor([3.0, 2, 1, 1, 2, 1]))
