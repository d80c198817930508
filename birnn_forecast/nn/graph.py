"""Graphs of nodes: where their edges come from, and the messages that pass along them.

A graph is a dense adjacency matrix ``(nodes, nodes)``: ``A[i, j]`` weighs the edge from node ``i`` to node ``j``, 0 is
no edge. The diagonal is 0, so that no message brings a node its own value back.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from birnn_forecast.eager import is_eager

EARTH_RADIUS = 6371.0088  # km, the mean radius
MIN_SHARED_STEPS = 10
SPARSE_NODES, SPARSE_DENSITY = 256, 0.1


def haversine(latitude: Any, longitude: Any) -> Float[Tensor, "nodes nodes"]:
    """Return the great-circle distances in km between points given in degrees.

    Raises
    ------
    ValueError
        If a coordinate is missing or outside of its range.
    """
    degrees = [torch.as_tensor(values, dtype=torch.float64) for values in (latitude, longitude)]
    if degrees[0].shape != degrees[1].shape or degrees[0].dim() != 1:
        shapes = " and ".join(str(tuple(values.shape)) for values in degrees)
        raise ValueError(f"`latitude` and `longitude` must be one list of numbers each, of one length, got {shapes}.")
    for name, values, low, high in zip(("latitude", "longitude"), degrees, (-90, -180), (90, 360), strict=True):
        wrong = ~((values >= low) & (values <= high))  # NaN too
        if wrong.any():
            node = int(wrong.nonzero()[0])
            raise ValueError(
                f"`{name}` must be given for every node in degrees from {low} to {high}, "
                f"got {values[node].item():g} at node {node}."
            )
    phi, psi = (torch.deg2rad(values) for values in degrees)
    # the haversine formula is exact for near points, where the law of cosines is not
    across = (phi[:, None] - phi).div(2).sin().square()
    along = (psi[:, None] - psi).div(2).sin().square()
    chord = across + phi.cos()[:, None] * phi.cos() * along
    return 2 * EARTH_RADIUS * chord.clamp(max=1).sqrt().asin()


def distance_adjacency(latitude: Any, longitude: Any, threshold: float = 0.1) -> Float[Tensor, "nodes nodes"]:
    """Return ``exp(-(d / theta)^2)`` of the distances, theta their standard deviation, 0 below `threshold`.

    Parameters
    ----------
    latitude, longitude
        Degrees, one per node.
    threshold
        Weights below it are cut.

    References
    ----------
    A. Cini, I. Marisca, C. Alippi, "Filling the G_ap_s: Multivariate Time Series Imputation by Graph Neural Networks",
    ICLR 2022, appendix; theta is taken over the whole matrix, diagonal included, as its authors do.
    """
    distance = haversine(latitude, longitude)
    theta = distance.std(correction=0)
    # theta is 0 where all nodes stand at one place: weight 1
    return _cut(torch.exp(-(distance / torch.where(theta > 0, theta, 1.0)).square()), threshold)


def edge_list_adjacency(edges: Sequence[Sequence[float]] | Any, n: int) -> Float[Tensor, "nodes nodes"]:
    """Return the adjacency of `n` nodes from rows (source, target) or (source, target, weight).

    Parameters
    ----------
    edges
        One row per edge: the nodes' numbers from 0 on, and its weight (1 if there is none). Messages pass both ways,
        each way with maps of its own, so an edge is given once.
    n
        Number of nodes.

    Raises
    ------
    ValueError
        If a row is no edge of `n` nodes, or stands there twice.
    """
    rows = torch.as_tensor(edges, dtype=torch.float64)
    if rows.dim() != 2 or rows.shape[1] not in (2, 3):
        raise ValueError(
            "`graph` must be a matrix, or a list of edges as rows (source, target) or (source, target, weight), "
            f"got shape {tuple(rows.shape)}."
        )
    ends, weight = rows[:, :2], rows[:, 2] if rows.shape[1] == 3 else torch.ones(len(rows), dtype=rows.dtype)
    wrong = ((ends < 0) | (ends >= n) | (ends != ends.round())).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"`graph` must name nodes by their numbers from 0 to {n - 1}, got the edge {rows[wrong][0].tolist()}."
        )
    source, target = ends.long().T
    if len(torch.unique(source * n + target)) < len(rows):
        raise ValueError("`graph` must hold each edge once, got one twice: add their weights, or drop one.")
    adjacency = torch.zeros(n, n, dtype=rows.dtype)
    adjacency[source, target] = weight
    return check_adjacency(adjacency, n)


def check_adjacency(graph: Any, n: int) -> Float[Tensor, "nodes nodes"]:
    """Return a user's adjacency of `n` nodes with a zero diagonal.

    Raises
    ------
    ValueError
        If it is not a matrix of ``(n, n)`` finite weights, none negative.
    """
    adjacency = torch.as_tensor(graph, dtype=torch.float64)
    if adjacency.shape != (n, n):
        raise ValueError(
            f"`graph` must be a square matrix with a row and a column for each of the {n} components, "
            f"got shape {tuple(adjacency.shape)}: give weights of shape ({n}, {n}), 0 for no edge."
        )
    for fault, where, what in (
        ("finite", ~torch.isfinite(adjacency), "write 0 for no edge"),
        ("non-negative", adjacency < 0, "cut negative weights, or take their absolute value"),
    ):
        if where.any():
            i, j = where.nonzero()[0].tolist()
            raise ValueError(f"`graph` must be {fault}, got {adjacency[i, j].item():g} at ({i}, {j}): {what}.")
    return _cut(adjacency, 0.0)


def _cut(weights: Tensor, threshold: float) -> Tensor:
    """Return the weights of at least `threshold`, none negative, off the diagonal, in torch's default dtype."""
    kept = (weights >= max(threshold, 0.0)) & ~_diagonal(weights)
    return torch.where(kept, weights, 0.0).to(torch.get_default_dtype())


def _diagonal(matrix: Float[Tensor, "nodes nodes"]) -> Bool[Tensor, "nodes nodes"]:
    return torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)


def normalize_rows(adjacency: Float[Tensor, "nodes nodes"]) -> Float[Tensor, "nodes nodes"]:
    """Divide each row by its sum; a row of zeros stays one."""
    total = adjacency.sum(dim=1, keepdim=True)
    return adjacency / torch.where(total > 0, total, 1.0)


class Diffusion:
    """What the neighbours up to `order` edges away send, along the edges and against them.

    With ``S`` the row-normalised adjacency and ``R`` the row-normalised transpose, ``(..., nodes, features)`` becomes
    ``[S x; S^2 x; ...; R x; R^2 x; ...]``. To be made in each forward pass and used for all that it sends: it holds
    what follows from the adjacency, through which gradients flow where they are asked for.

    Parameters
    ----------
    adjacency
        Weights of the edges. A large one of few edges is multiplied as a sparse matrix.
    order
        Number of edges a message travels.
    own
        Whether the node's own features come first: ``[x; S x; ...]``.

    References
    ----------
    Y. Li, R. Yu, C. Shahabi, Y. Liu, "Diffusion Convolutional Recurrent Neural Network", ICLR 2018,
    https://arxiv.org/abs/1707.01926, eq. 2.
    """

    def __init__(self, adjacency: Float[Tensor, "nodes nodes"], order: int = 1, own: bool = False):
        self.order, self.own = order, own
        self.sparse = worth_sparse(adjacency)
        supports = [normalize_rows(adjacency), normalize_rows(adjacency.T)]
        if self.sparse:
            self.supports = [support.to_sparse() for support in supports]  # COO: CSR is in beta
        else:
            terms = [power for support in supports for power in accumulate([support] * order, torch.matmul)]
            if own:
                terms.insert(0, torch.eye(len(adjacency), dtype=adjacency.dtype, device=adjacency.device))
            # each node's terms one below the other: one product brings them side by side, with nothing to copy
            self.terms = torch.stack(terms, dim=1).flatten(0, 1)

    def __call__(self, x: Float[Tensor, "*batch nodes features"]) -> Float[Tensor, "*batch nodes terms"]:
        """Return the terms, each with the features of `x`."""
        if self.sparse:
            return self._hop(x)
        return (self.terms @ x).unflatten(-2, (x.shape[-2], -1)).flatten(-2)

    def linear(
        self,
        x: Float[Tensor, "directions batch nodes features"],
        weight: Float[Tensor, "directions terms output"],
    ) -> Float[Tensor, "directions batch nodes output"]:
        """Return the terms times the weight of each direction, if possible without keeping the terms."""
        if self.sparse or not is_eager(x) or torch.is_autocast_enabled("cpu"):
            return (self(x).flatten(1, 2) @ weight).unflatten(1, x.shape[1:3])
        return DiffusedLinear.apply(x, self.terms, weight)

    def _hop(self, x: Tensor) -> Tensor:
        # edge by edge: the powers of a sparse matrix are no longer sparse
        nodes = x.movedim(-2, 0)
        columns = nodes.flatten(1)
        terms = [columns] * self.own
        for support in self.supports:
            sent = columns
            for _ in range(self.order):
                sent = support @ sent
                terms.append(sent)
        return torch.stack(terms).unflatten(2, nodes.shape[1:]).movedim((1, 0), (-3, -2)).flatten(-2)


class DiffusedLinear(torch.autograd.Function):
    """:meth:`Diffusion.linear` of a dense graph.

    The terms, several times as large as `x`, are made again for the gradient: that takes less time than new memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, terms: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, terms, weight)
        return ((terms @ x).view(len(x), -1, weight.shape[1]) @ weight).view(*x.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, terms, weight = ctx.saved_tensors
        needs_x, needs_terms, needs_weight = ctx.needs_input_grad
        (grad,) = grads
        rows, nodes = grad.flatten(1, 2), terms.shape[1]
        n_terms, features, output = len(terms) // nodes, x.shape[-1], weight.shape[2]
        if output <= features and not needs_terms:
            # what comes back over the edges serves both gradients
            returning = terms.view(nodes, n_terms, nodes).permute(2, 1, 0).reshape(-1, nodes)
            sent = (returning @ grad).view(len(x), -1, n_terms * output)
            turned = weight.unflatten(1, (n_terms, features)).mT.flatten(1, 2)
            d_weight = x.flatten(1, 2).mT @ sent
            return (
                (sent @ turned).view(x.shape),
                None,
                d_weight.unflatten(2, (n_terms, -1)).transpose(1, 2).flatten(1, 2),
            )
        d_x = d_terms = d_weight = None
        if needs_weight:
            d_weight = (terms @ x).view(len(x), -1, weight.shape[1]).mT @ rows
        if needs_x or needs_terms:
            d_sent = (rows @ weight.mT).view(*x.shape[:2], -1, features)
            d_x = terms.T @ d_sent
            if needs_terms:
                d_terms = torch.einsum("dbtf,dbnf->tn", d_sent, x)
        return d_x, d_terms, d_weight


def worth_sparse(adjacency: Tensor) -> bool:
    """Return whether products with a sparse matrix take less time and memory."""
    return len(adjacency) > SPARSE_NODES and bool((adjacency != 0).sum() < SPARSE_DENSITY * adjacency.numel())


class LearnedGraph(nn.Module):
    """An adjacency learnt with the rest: ``softmax(relu(E1 E2^T))`` over each row, without the diagonal.

    Parameters
    ----------
    n_nodes
        Number of nodes.
    embedding_size
        Size of each node's two embeddings, as a source and as a target.

    References
    ----------
    Z. Wu et al., "Graph WaveNet for Deep Spatial-Temporal Graph Modeling", IJCAI 2019,
    https://arxiv.org/abs/1906.00121, eq. 5.
    """

    def __init__(self, n_nodes: int, embedding_size: int = 10):
        super().__init__()
        # scaled so that the products, not the embeddings, have unit variance: rows start neither flat nor one-hot
        self.source = nn.Parameter(torch.randn(n_nodes, embedding_size) / math.sqrt(math.sqrt(embedding_size)))
        self.target = nn.Parameter(torch.randn(n_nodes, embedding_size) / math.sqrt(math.sqrt(embedding_size)))

    def forward(self) -> Float[Tensor, "nodes nodes"]:
        score = torch.relu(self.source @ self.target.T)
        own = _diagonal(score)
        # a single node is left with its own score, hence the product
        return score.masked_fill(own, torch.finfo(score.dtype).min).softmax(dim=1) * ~own
