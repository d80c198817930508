import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birnn_forecast.nn import graph
from birnn_forecast.nn.graph import (
    Diffusion,
    LearnedGraph,
    check_adjacency,
    distance_adjacency,
    edge_list_adjacency,
    haversine,
    normalize_rows,
)
from tests import reference


def random_graph(nodes, density, seed=0):
    """Return a directed graph; node 0 has no edge."""
    rng = np.random.default_rng(seed)
    weights = rng.random((nodes, nodes)) * (rng.random((nodes, nodes)) < density)
    np.fill_diagonal(weights, 0)
    weights[0], weights[:, 0] = 0, 0
    return torch.tensor(weights)


def test_haversine_knows_paris_to_london_a_quarter_of_the_equator_and_the_antipodes():
    distance = haversine([48.8566, 51.5074, 0.0, 0.0, 0.0], [2.3522, -0.1278, 0.0, 90.0, 180.0])
    assert distance[0, 1].item() == pytest.approx(343.6, abs=0.1)
    assert distance[2, 3].item() == pytest.approx(math.pi / 2 * 6371.0088)
    assert distance[2, 4].item() == pytest.approx(math.pi * 6371.0088)
    assert torch.equal(distance, distance.T)
    # a metre apart: the cosine formula would return 0
    near = haversine(np.array([50.0, 50.0 + 1e-5]), np.array([8.0, 8.0]))
    assert near[0, 1].item() == pytest.approx(math.radians(1e-5) * 6371.0088, rel=1e-6)


def test_the_date_line_is_no_border():
    assert haversine([0.0, 0.0], [179.5, -179.5])[0, 1].item() == pytest.approx(math.radians(1) * 6371.0088)
    assert haversine([0.0, 0.0], [359.0, -1.0])[0, 1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([0.0, float("nan")], [0.0, 0.0], r"`latitude` must be given for every node .* got nan at node 1"),
        ([0.0, 91.0], [0.0, 0.0], r"`latitude` must .* from -90 to 90, got 91 at node 1"),
        ([0.0, 0.0], [4e6, 0.0], r"`longitude` must .* from -180 to 360, got 4e\+06 at node 0"),
        ([0.0, 0.0], [0.0], r"of one length, got \(2,\) and \(1,\)"),
    ],
)
def test_wrong_coordinates_are_named(latitude, longitude, message):
    with pytest.raises(ValueError, match=message):
        haversine(latitude, longitude)


def test_distance_weights_follow_the_formula():
    latitude, longitude = np.array([0.0, 0.0, 1.0, 10.0]), np.array([0.0, 1.0, 0.0, 10.0])
    distance = haversine(latitude, longitude).numpy()
    expected = np.exp(-((distance / distance.std()) ** 2))
    expected[expected < 0.1] = 0
    np.fill_diagonal(expected, 0)
    adjacency = distance_adjacency(latitude, longitude)
    np.testing.assert_allclose(adjacency, expected, rtol=1e-6)
    assert adjacency[0, 1] > 0.9
    assert adjacency[0, 3] == 0
    assert (distance_adjacency(latitude, longitude, threshold=0.0)[0, 1:] > 0).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_nodes_at_one_place_are_neighbours_of_weight_one(n):
    adjacency = distance_adjacency([39.9] * n, [116.4] * n)
    assert torch.equal(adjacency, 1 - torch.eye(n))


def test_edges_become_a_matrix():
    adjacency = edge_list_adjacency([(0, 1), (2, 0)], 3)
    assert adjacency.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    weighted = edge_list_adjacency(np.array([[0, 1, 0.5], [1, 0, 2.0]]), 2)
    assert weighted.tolist() == [[0, 0.5], [2, 0]]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 3)], r"by their numbers from 0 to 2, got the edge \[0.0, 3.0\]"),
        ([(0, 0.5)], "by their numbers from 0 to 2"),
        ([(0, 1), (0, 1)], "each edge once"),
        ([(0, 1, 2, 3)], r"or a list of edges as rows .* got shape \(1, 4\)"),
        ([(0, 1, -1.0)], "must be non-negative"),
    ],
)
def test_wrong_edges_are_named(edges, message):
    with pytest.raises(ValueError, match=f"`graph` must .*{message}|{message}"):
        edge_list_adjacency(edges, 3)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3)), r"for each of the 3 components, got shape \(2, 3\): give weights of shape \(3, 3\)"),
        (np.full((3, 3), np.nan), r"must be finite, got nan at \(0, 0\): write 0"),
        (-np.eye(3), r"must be non-negative, got -1 at \(0, 0\): cut"),
    ],
)
def test_wrong_matrices_are_named(matrix, message):
    with pytest.raises(ValueError, match=message):
        check_adjacency(matrix, 3)


def test_a_users_matrix_loses_its_diagonal_only():
    matrix = np.random.default_rng(0).random((4, 4))
    adjacency = check_adjacency(matrix, 4)
    assert (adjacency.diagonal() == 0).all()
    torch.testing.assert_close(adjacency + torch.tensor(np.diag(np.diag(matrix))).float(), torch.tensor(matrix).float())


@settings(max_examples=15, deadline=None)
@given(nodes=st.integers(1, 8), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_rows_sum_to_one_or_are_empty(nodes, density, seed):
    adjacency = random_graph(nodes, density, seed)
    normalized = normalize_rows(adjacency)
    assert torch.isfinite(normalized).all()
    torch.testing.assert_close(normalized.sum(dim=1), (adjacency.sum(dim=1) > 0).double())


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("shape", [(7, 2), (3, 7, 2), (2, 3, 7, 2)])
def test_diffusion_equals_the_loop_dense_and_sparse(order, shape, monkeypatch):
    adjacency = random_graph(7, 0.3)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.array([reference.messages(adjacency.numpy(), v, order) for v in x.numpy().reshape(-1, 7, 2)])
    for own in (False, True):
        dense = Diffusion(adjacency, order, own)
        with monkeypatch.context() as m:
            m.setattr(graph, "SPARSE_NODES", 6)
            m.setattr(graph, "SPARSE_DENSITY", 1.0)
            sparse = Diffusion(adjacency, order, own)
        assert sparse.sparse
        assert not dense.sparse
        for diffusion in (dense, sparse):
            terms = diffusion(x).reshape(-1, 7, 2 * (2 * order + own))
            np.testing.assert_allclose(terms[..., 2 * own :], expected, atol=1e-12)
            assert not own or torch.equal(terms[..., :2], x.reshape(-1, 7, 2))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("output", [2, 5])  # narrower and wider than the input
def test_linear_maps_of_the_terms_keep_none_of_them(output, learned):
    g = torch.Generator().manual_seed(0)
    adjacency = random_graph(7, 1.0)[1:, 1:].requires_grad_(learned)  # at an empty row there is a jump
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64, generator=g, requires_grad=True)
    weight = torch.randn(2, 5 * 4, output, dtype=torch.float64, generator=g, requires_grad=True)
    inputs = (x, weight, adjacency) if learned else (x, weight)

    def run(x, weight, adjacency=adjacency):
        return Diffusion(adjacency, 2, own=True).linear(x, weight)

    def plain(x, weight, adjacency=adjacency):
        return (Diffusion(adjacency, 2, own=True)(x).flatten(1, 2) @ weight).unflatten(1, (3, 6))

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape.numel()) or t, lambda t: t):
        found = run(*inputs)
    assert max(kept) < 5 * x.numel()
    expected = plain(*inputs)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=g)
    first = [torch.autograd.grad((y * upstream).sum(), inputs, create_graph=True) for y in (found, expected)]
    torch.testing.assert_close(*first)
    torch.testing.assert_close(*(torch.autograd.grad(sum(g.pow(3).sum() for g in own), inputs) for own in first))
    assert torch.autograd.gradcheck(run, inputs)
    for one in inputs:
        alone = [p if p is one else p.detach() for p in inputs]
        gradients = (torch.autograd.grad((y(*alone) * upstream).sum(), one) for y in (run, plain))
        torch.testing.assert_close(*gradients)


def test_a_large_graph_of_few_edges_is_sparse_with_the_same_gradients(monkeypatch):
    adjacency = random_graph(graph.SPARSE_NODES + 1, 0.02).requires_grad_()
    x = torch.randn(2, 3, len(adjacency), 2, dtype=torch.float64, requires_grad=True)
    sparse = Diffusion(adjacency, 2)
    monkeypatch.setattr(graph, "SPARSE_NODES", len(adjacency))
    dense = Diffusion(adjacency, 2)
    assert sparse.sparse
    assert not dense.sparse
    assert not Diffusion(random_graph(len(adjacency), 0.2), 2).sparse
    weight = torch.randn(2, 3, len(adjacency), 8, dtype=torch.float64)
    found, expected = (torch.autograd.grad((d(x) * weight).sum(), (x, adjacency)) for d in (sparse, dense))
    torch.testing.assert_close(found, expected)  # of absent edges too
    assert all((gradient != 0).any() for gradient in found)


def test_a_learned_graph_has_rows_of_shares_and_no_diagonal():
    torch.manual_seed(0)
    learned = LearnedGraph(5, 3)
    adjacency = learned()
    score = (learned.source @ learned.target.T).detach().numpy()
    for i, row in enumerate(adjacency.detach().numpy()):
        others = [j for j in range(5) if j != i]
        weights = np.exp(np.maximum(score[i, others], 0))
        np.testing.assert_allclose(row[others], weights / weights.sum(), rtol=1e-5)
        assert row[i] == 0
    adjacency.square().sum().backward()
    assert all((p.grad != 0).any() for p in learned.parameters())


def test_a_learned_graph_of_one_node_is_empty():
    learned = LearnedGraph(1)
    adjacency = learned()
    assert adjacency.tolist() == [[0]]
    adjacency.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in learned.parameters())
