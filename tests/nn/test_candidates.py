import numpy as np
import pytest
import torch

from birnn_forecast import masks
from birnn_forecast.nn.candidates import Candidates, inverse
from birnn_forecast.nn.mixing import MixingHead, least_absolute
from birnn_forecast.nn.node_graph import EdgeWeights, Exchange, NeighboursMean, NodeGraph, send


def draw(batch=2, time=13, nodes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, nodes, generator=generator, dtype=torch.float64)
    return x, torch.rand(batch, time, nodes, generator=generator) > 0.3


def test_interpolation_of_others_is_numpys_without_the_own_value():
    x, observed = draw()
    out = masks.interpolate_others(x, observed)
    for b, t, c in np.ndindex(*x.shape):
        others = observed[b, :, c].clone()
        others[t] = False
        steps = torch.arange(x.shape[1])[others]
        expected = np.interp(t, steps, x[b, others, c]) if len(steps) else 0.0
        assert out[b, t, c].item() == pytest.approx(expected)


def test_interpolation_of_a_phase_is_that_of_its_own_steps():
    x, observed = draw(time=17)
    out, found = masks.interpolate_phase(x, observed, 5)
    for phase in range(5):
        # seasons are counted from the end
        steps = torch.arange(16 - phase, -1, -5).flip(0)
        expected = masks.interpolate_others(x[:, steps], observed[:, steps])
        torch.testing.assert_close(out[:, steps], expected)
        others = observed[:, steps].sum(dim=1, keepdim=True) - observed[:, steps].long()
        assert torch.equal(found[:, steps], others > 0)


def candidates(correlated=True):
    graph = NodeGraph(3).double()
    correlation = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.3], [0.1, 0.3, 1.0]])
    graph.put(correlation, correlation)
    return Candidates(4, graph, (4.0, 2.0), 3, correlated).double(), graph


@pytest.mark.parametrize("correlated", [False, True])
def test_no_estimate_knows_its_own_value_but_through_the_phases_mean(correlated):
    module, graph = candidates(correlated)
    x, observed = draw()
    level, scale = torch.zeros(2, 1, 3, dtype=torch.float64), torch.ones(2, 1, 3, dtype=torch.float64)

    def run(values):
        out = module(values, observed, level, scale, graph)
        return out.base, torch.cat([out.candidates[..., :0], out.candidates[..., 1:]], dim=-1)

    changed = x.clone()
    changed[0, 6, 1] += 1.0
    for one, other in zip(run(x), run(changed), strict=True):
        difference = (one - other).abs()
        assert difference[0, 6, 1].max() < 1e-9
        assert difference[0].max() > 1e-3
        assert difference[1].max() == 0


def test_kriging_is_the_conditional_mean_of_a_normal_distribution():
    module, graph = candidates()
    x, observed = draw()
    found = module._kriging(torch.where(observed, x, 0.0), observed, graph.correlation)
    noise = torch.nn.functional.softplus(module.own_variance).item() + 0.01
    sigma = graph.correlation.numpy()
    for b, t, i in np.ndindex(*x.shape):
        given = observed[b, t].numpy().copy()
        given[i] = False
        expected = 0.0
        if given.any():
            inner = sigma[np.ix_(given, given)] + noise * np.eye(given.sum())
            expected = sigma[i, given] @ np.linalg.solve(inner, x[b, t].numpy()[given])
        assert found[b, t, i].item() == pytest.approx(expected, abs=5e-3)  # what is missing has a variance of 1000


def test_the_neighbours_mean_is_weighted_by_edges_and_by_what_is_seen():
    module = NeighboursMean((2.0,), None).double()
    adjacency = torch.tensor([[0.0, 0.5, 0.25], [0.5, 0.0, 0.0], [0.25, 0.0, 0.0]], dtype=torch.float64)
    x, observed = draw()
    mean, part = module(torch.where(observed, x, 0.0), observed, adjacency)
    weight = adjacency**2
    for b, t in np.ndindex(*x.shape[:2]):
        seen = observed[b, t].double()
        total = (weight[0] * seen).sum()
        expected = (weight[0] * seen * x[b, t]).sum() / (total + 1e-3)
        assert mean[b, t, 0, 0].item() == pytest.approx(expected.item())
        assert part[b, t, 0, 0].item() == pytest.approx((total / weight[0].sum()).item())


def test_sparse_weights_send_what_dense_ones_do():
    torch.manual_seed(0)
    adjacency = (torch.rand(300, 300) * (torch.rand(300, 300) < 0.02)).fill_diagonal_(0)
    exchange = Exchange(4, 3, (4.0, 2.0), None)
    states = torch.randn(2, 5, 300, 4)
    weights = exchange.weights(adjacency)
    assert all(weight.is_sparse for weight in weights)
    for weight in weights:
        torch.testing.assert_close(send(weight, states), send(weight.to_dense(), states))
    exchange(states, adjacency).sum().backward()
    assert (exchange.weights.sharpness.grad != 0).all()
    assert not EdgeWeights((1.0,), None)(adjacency[:9, :9])[0].is_sparse


def test_the_head_starts_as_the_interpolation_and_then_as_the_best_mixture():
    torch.manual_seed(0)
    head = MixingHead(4, 5, 6, 2, [True, False], [0.0, 0.7], n_nodes=3)
    states, inputs = torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 5)
    base, candidates = torch.randn(2, 7, 3), torch.randn(2, 7, 3, 2)
    out = head(states, inputs, base, candidates)
    torch.testing.assert_close(out[..., 0], base)
    torch.testing.assert_close(out[..., 1], torch.full_like(base, 0.7))
    head.output.bias.data[-2:] = torch.tensor([0.5, 2.0])
    expected = base + 0.5 * candidates[..., 0] + 2 * candidates[..., 1]
    torch.testing.assert_close(head(states, inputs, base, candidates)[..., 0], expected)


def test_least_absolute_errors_shrug_off_outliers():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(500, 2)))
    y = x @ torch.tensor([0.3, -0.7], dtype=torch.float64)
    y[:60] += 100
    np.testing.assert_allclose(least_absolute(x, y).numpy(), [0.3, -0.7], atol=0.02)


def test_the_inverse_for_export_is_the_inverse(monkeypatch):
    x = torch.randn(3, 5, 8, 6, dtype=torch.float64)
    matrix = x.mT @ x + 0.1 * torch.eye(6, dtype=torch.float64)
    expected = inverse(matrix)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    torch.testing.assert_close(inverse(matrix), expected)
