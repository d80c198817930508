"""The weights of nodes for each other: read off a graph, sharpened or levelled, and corrected where nodes are known."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from birnn_forecast.nn.graph import SPARSE_NODES, LearnedGraph, worth_sparse

FAINTEST = -8.0


class NodeGraph(nn.Module):
    """A graph that is put in, or learnt.

    Parameters
    ----------
    n_nodes
        Number of nodes.
    learned
        Whether the adjacency is learnt from embeddings (:class:`LearnedGraph`).

    Attributes
    ----------
    adjacency
        ``(nodes, nodes)``, 0 is no edge; row i weighs what node i hears.
    correlation
        ``(nodes, nodes)``, 1 on the diagonal; that of independent nodes unless put in.
    """

    adjacency: Tensor
    correlation: Tensor

    def __init__(self, n_nodes: int, learned: bool = False):
        super().__init__()
        self.register_buffer("adjacency", torch.zeros(n_nodes, n_nodes))
        self.register_buffer("correlation", torch.eye(n_nodes))
        self.learned = LearnedGraph(n_nodes) if learned else None

    def put(self, adjacency: Tensor, correlation: Tensor | None = None) -> None:
        """Put in a graph; another number of nodes is fine where nothing else was made for a certain one."""
        self.adjacency = adjacency.to(self.adjacency)
        if correlation is None:
            correlation = torch.eye(len(adjacency))
        self.correlation = correlation.to(self.correlation)

    def forward(self) -> Float[Tensor, "nodes nodes"]:
        """Return the adjacency."""
        return self.adjacency if self.learned is None else self.learned()


class EdgeWeights(nn.Module):
    """Several heads of edge weights over one graph.

    ``w_k[i, j] = exp(s_k log A[i, j] + c_k[i, j])`` with learnt sharpness ``s`` and, where nodes are known, learnt
    corrections ``c``; 0 where there is no edge and on the diagonal.

    Parameters
    ----------
    sharpness
        Where the sharpness of each head starts.
    n_nodes
        Number of nodes, if they are always the same and a correction of each edge is to be learnt; or None.
    """

    def __init__(self, sharpness: Sequence[float], n_nodes: int | None):
        super().__init__()
        self.heads = len(sharpness)
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        self.correction = None
        # a correction for each of very many pairs would be more to learn than there is to learn from
        if n_nodes is not None and n_nodes <= SPARSE_NODES:
            self.correction = nn.Parameter(torch.zeros(self.heads, n_nodes, n_nodes))

    def forward(self, adjacency: Float[Tensor, "nodes nodes"]) -> list[Tensor]:
        """Return the weights of each head, ``(nodes, nodes)``; sparse for a large graph of few edges."""
        adjacency = adjacency / adjacency.max().clamp(min=1.0)  # large weights to their powers would overflow
        if worth_sparse(adjacency) and not adjacency.requires_grad:  # a learnt graph has no zeros
            edges = adjacency.to_sparse().coalesce()
            log = edges.values().log()
            return [
                torch.sparse_coo_tensor(
                    edges.indices(),
                    (s * log).clamp(min=FAINTEST).exp(),
                    edges.shape,
                    is_coalesced=True,
                    check_invariants=False,
                )
                for s in self.sharpness
            ]
        edge = adjacency > 0
        score = (self.sharpness[:, None, None] * torch.where(edge, adjacency, 1.0).log()).clamp(min=FAINTEST)
        if self.correction is not None:
            score = score + self.correction
        eye = torch.eye(len(adjacency), dtype=torch.bool, device=adjacency.device)
        return [*torch.where(edge & ~eye, score.exp(), 0.0)]


class NeighboursMean(nn.Module):
    """The mean of what the neighbours show at the same time, head by head.

    Parameters
    ----------
    sharpness, n_nodes
        As in :class:`EdgeWeights`. Where nodes are known, each edge also has a learnt factor of the neighbour's value;
        it starts as 1.
    """

    def __init__(self, sharpness: Sequence[float], n_nodes: int | None):
        super().__init__()
        self.weights = EdgeWeights(sharpness, n_nodes)
        self.factor = None
        if self.weights.correction is not None:
            self.factor = nn.Parameter(torch.ones_like(self.weights.correction))

    def forward(
        self,
        x: Float[Tensor, "batch time nodes"],
        observed: Bool[Tensor, "batch time nodes"],
        adjacency: Float[Tensor, "nodes nodes"],
    ) -> tuple[Float[Tensor, "batch time nodes heads"], Float[Tensor, "batch time nodes heads"]]:
        """Return the means, and which part of all neighbours (by weight) was observed; `x` is 0 where it was not."""
        means, parts = [], []
        seen = observed.to(x.dtype)
        for head, weight in enumerate(self.weights(adjacency)):
            total = send(weight if self.factor is None else weight * self.factor[head], x[..., None])[..., 0]
            present = send(weight, seen[..., None])[..., 0]
            whole = send(weight, torch.ones_like(x[:1, :1, :, None]))[..., 0]
            means.append(total / (present + 1e-3))
            parts.append(present / whole.clamp(min=1e-6))
        return torch.stack(means, dim=-1), torch.stack(parts, dim=-1)


class NodeLinear(nn.Module):
    """A linear map of its own for each node, without a bias."""

    def __init__(self, n_nodes: int, input_size: int, output_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_nodes, input_size, output_size) / math.sqrt(input_size))

    def forward(self, x: Float[Tensor, "*rows nodes features"]) -> Float[Tensor, "*rows nodes output"]:
        return torch.einsum("...nh,nho->...no", x, self.weight)


class Exchange(nn.Module):
    """What the neighbours' states say: for each head a mean of messages, weighted by edges and by confidence.

    A node sends with each message how much it is to be trusted, which it reads off its state. What is heard is brought
    to the size of a state, to be added to it.

    Parameters
    ----------
    state_size
        Size of a node's state.
    message_size
        Size of a message, per head.
    sharpness, n_nodes
        As in :class:`EdgeWeights`.
    own_maps
        Whether each node speaks and listens with maps of its own: for components that measure different things.
    """

    def __init__(
        self,
        state_size: int,
        message_size: int,
        sharpness: Sequence[float],
        n_nodes: int | None,
        own_maps: bool = False,
    ):
        super().__init__()
        self.weights = EdgeWeights(sharpness, n_nodes)
        heads = self.weights.heads
        self.confidence = nn.Linear(state_size, heads)
        self.message: nn.Module
        self.answer: nn.Module
        if own_maps and n_nodes is not None:
            self.message = NodeLinear(n_nodes, state_size, heads * message_size)
            self.answer = NodeLinear(n_nodes, heads * message_size, state_size)
        else:
            self.message = nn.Linear(state_size, heads * message_size)
            self.answer = nn.Linear(heads * message_size, state_size)

    def forward(
        self, states: Float[Tensor, "batch time nodes state"], adjacency: Float[Tensor, "nodes nodes"]
    ) -> Float[Tensor, "batch time nodes state"]:
        """Return what each node hears."""
        messages = self.message(states).chunk(self.weights.heads, dim=-1)
        confidence = torch.sigmoid(self.confidence(states)) + 1e-3
        heard = []
        for head, weight in enumerate(self.weights(adjacency)):
            trust = confidence[..., head, None]
            sums = send(weight, torch.cat([messages[head] * trust, trust], dim=-1))
            heard.append(sums[..., :-1] / (sums[..., -1:] + 1e-4))
        return self.answer(torch.cat(heard, dim=-1))


def send(weight: Tensor, x: Float[Tensor, "*rows nodes features"]) -> Float[Tensor, "*rows nodes features"]:
    """Return what each node hears: ``sum_j weight[i, j] x[..., j, :]``, with a dense or a sparse weight."""
    if not weight.is_sparse:
        return weight @ x
    nodes = x.movedim(-2, 0)
    return torch.sparse.mm(weight, nodes.flatten(1)).unflatten(1, nodes.shape[1:]).movedim(0, -2)
