"""Recurrences that feed their own estimates back: what is missing at a step is filled by the network itself."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from birnn_forecast.masks import neighbours
from birnn_forecast.nn.graph import Diffusion
from birnn_forecast.nn.merge import CrossGate


class FeedbackOutput(NamedTuple):
    """What :class:`FeedbackGRIN` says of each step and node.

    Attributes
    ----------
    output
        The merged estimate, or the raw parameters of its distribution.
    states
        Both directions' representations, side by side.
    estimates
        The first and the second estimate of the forward, then those of the backward direction.
    """

    output: Float[Tensor, "batch time nodes output"]
    states: Float[Tensor, "batch time nodes state"]
    estimates: Float[Tensor, "4 batch time nodes"]


class PairedLinear(nn.Module):
    """Two linear maps side by side, one for each direction, in one product.

    Initialised as ``nn.Linear``; `fan_in` is the number of inputs of the map that this one is a part of.
    """

    def __init__(self, input_size: int, output_size: int, bias: bool = True, fan_in: int | None = None):
        super().__init__()
        bound = 1 / math.sqrt(fan_in or input_size)
        self.weight = nn.Parameter(torch.empty(2, input_size, output_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, output_size).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Float[Tensor, "2 batch nodes features"]) -> Float[Tensor, "2 batch nodes output"]:
        rows = x.flatten(1, 2)
        mapped = rows @ self.weight if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)
        return mapped.unflatten(1, x.shape[1:3])


class DiffusionGRU(nn.Module):
    """A GRU whose gates read the neighbours too.

    With the diffusion ``D v = [v; S v; S^2 v; ...; R v; R^2 v; ...]`` of input ``v`` and state ``h``:
    ``r, u = sigmoid(V_g D v + W_g D h + b_g)``, ``c = tanh(V_c D v + W_c D (r h) + b_c)``, ``h' = u h + (1 - u) c``.
    """

    def __init__(self, input_size: int, hidden_size: int, n_terms: int):
        super().__init__()
        fan_in = n_terms * (input_size + hidden_size)
        self.input = PairedLinear(n_terms * input_size, 3 * hidden_size, fan_in=fan_in)  # V_g and V_c
        self.gates = PairedLinear(n_terms * hidden_size, 2 * hidden_size, bias=False, fan_in=fan_in)
        self.candidate = PairedLinear(n_terms * hidden_size, hidden_size, bias=False, fan_in=fan_in)

    def forward(
        self,
        diffused: Float[Tensor, "2 batch nodes features"],
        h: Float[Tensor, "2 batch nodes hidden"],
        diffusion: Diffusion,
    ) -> Float[Tensor, "2 batch nodes hidden"]:
        """Return the next state; `diffused` is ``D v``, of which the caller knows a part before the loop."""
        hidden = h.shape[-1]
        gates, candidate = self.input(diffused).split([2 * hidden, hidden], dim=-1)
        reset, update = torch.sigmoid(gates + self.gates(diffusion(h))).chunk(2, dim=-1)
        candidate = torch.tanh(candidate + self.candidate(diffusion(reset * h)))
        return candidate + update * (h - candidate)


class FeedbackGRIN(nn.Module):
    """The Graph Recurrent Imputation Network: two directions that estimate, ask the neighbours, and estimate again.

    One step of a direction, for all nodes at once, with mask ``m`` and covariates ``u``:

    1. first estimate ``x1 = W_1 h``; filled input ``v = m x + (1 - m) x1``;
    2. ``z = W_z [v; m; u; h]``; the neighbours' ``z`` without the node's own, ``n = W_n [S z; R z]``;
       ``p = PReLU(W_p [n; h])``, representation ``[p; h]``; second estimate ``x2 = W_2 [p; h]``;
    3. filled again, ``v = m x + (1 - m) x2``; next state by a :class:`DiffusionGRU` of ``[v; m; u]``.

    All maps have a bias. The output is a network of both representations, the mask and the node's embedding. No
    estimate and no output at a step and node depends on the value observed there (a window's normalisation apart), so
    each observation is a label.

    Parameters
    ----------
    n_nodes
        Number of nodes. ``None`` for any number: then nothing belongs to a certain node, neither a start state nor an
        embedding, and another set of nodes may be given.
    exogenous_size
        Covariates per step and node.
    hidden_size
        Units of a direction's state.
    ff_size
        Hidden units of the output network.
    output_size
        Values per step and node in the output.
    embedding_size
        Size of a node's embedding, ``None`` for no embedding.
    kernel_size
        Edges a message travels in one update of the state.
    num_layers
        Recurrent layers of a direction.
    dropout
        Share of units dropped between recurrent layers and in the output network.
    cross_gate
        ``"none"`` as in the paper, or the kind of the :class:`CrossGate` between the representations; its gates see
        the mask and the log distances to the observations before and after.

    References
    ----------
    A. Cini, I. Marisca, C. Alippi, "Filling the G_ap_s: Multivariate Time Series Imputation by Graph Neural Networks",
    ICLR 2022, https://openreview.net/forum?id=kOu3-S3wJ7, section 4.
    """

    def __init__(
        self,
        n_nodes: int | None = None,
        exogenous_size: int = 0,
        hidden_size: int = 64,
        ff_size: int = 64,
        output_size: int = 1,
        embedding_size: int | None = 8,
        kernel_size: int = 2,
        num_layers: int = 1,
        dropout: float = 0.0,
        cross_gate: str = "none",
    ):
        super().__init__()
        self.kernel_size, self.num_layers = kernel_size, num_layers
        self.first = PairedLinear(hidden_size, 1)
        self.message = PairedLinear(2 + exogenous_size + hidden_size, hidden_size)
        self.neighbours = PairedLinear(2 * hidden_size, hidden_size)
        self.decoder = PairedLinear(2 * hidden_size, hidden_size)
        self.slope = nn.Parameter(torch.full((2, 1, 1, 1), 0.25))
        self.second = PairedLinear(2 * hidden_size, 1)
        sizes = [2 + exogenous_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(DiffusionGRU(size, hidden_size, 1 + 2 * kernel_size) for size in sizes)
        self.between = nn.Dropout(dropout)
        self.start = nn.Parameter(torch.randn(num_layers, 2, 1, n_nodes or 1, hidden_size) / math.sqrt(hidden_size))

        self.state_size = 4 * hidden_size
        self.cross_gate = None if cross_gate == "none" else CrossGate(2 * hidden_size, 3, cross_gate)
        self.embedding = None
        if n_nodes and embedding_size:
            self.embedding = nn.Parameter(torch.randn(n_nodes, embedding_size) * math.sqrt(2 / n_nodes))
        size = self.state_size + 1 + (0 if self.embedding is None else self.embedding.shape[1])
        self.output = nn.Sequential(
            nn.Linear(size, ff_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ff_size, output_size)
        )

    def forward(
        self,
        x: Float[Tensor, "batch time nodes"],
        observed: Bool[Tensor, "batch time nodes"],
        exogenous: Float[Tensor, "batch time nodes features"] | None,
        adjacency: Float[Tensor, "nodes nodes"],
    ) -> FeedbackOutput:
        """Return the estimates of every step and node; what `x` holds where it is not observed is not read."""
        mask = observed[..., None].to(x.dtype)
        context = mask if exogenous is None else torch.cat([mask, exogenous], dim=-1)
        estimates, states = self.scan(
            both_ways(x[..., None]), both_ways(observed[..., None]), both_ways(context), adjacency
        )
        f, b = aligned(states)
        if self.cross_gate is not None:
            f, b = self.cross_gate(f, b, torch.cat([mask, log_distances(observed).to(x.dtype)], dim=-1))
        states = torch.cat([f, b], dim=-1)
        inputs = [states, mask]
        if self.embedding is not None:
            inputs.append(self.embedding.expand(*x.shape, -1))
        output = self.output(torch.cat(inputs, dim=-1))
        return FeedbackOutput(output, states, torch.cat([e.movedim(-1, 0) for e in aligned(estimates)]))

    def scan(
        self,
        x: Float[Tensor, "2 batch time nodes 1"],
        observed: Bool[Tensor, "2 batch time nodes 1"],
        context: Float[Tensor, "2 batch time nodes context"],
        adjacency: Float[Tensor, "nodes nodes"],
    ) -> tuple[Float[Tensor, "2 batch time nodes 2"], Float[Tensor, "2 batch time nodes state"]]:
        """Return both estimates and the representation of each step, each direction in its own order of time."""
        _, batch, _, nodes, _ = x.shape
        near, far = Diffusion(adjacency), Diffusion(adjacency, self.kernel_size, own=True)
        h = [start.expand(2, batch, nodes, -1) for start in self.start]
        # what does not depend on the loop is sent before it
        steps = (x, observed, context, far(context))
        estimates, representations = [], []
        for x_t, observed_t, context_t, diffused_context in zip(*(s.unbind(2) for s in steps), strict=True):
            first = self.first(h[-1])
            value = torch.where(observed_t, x_t, first)

            message = self.message(torch.cat([value, context_t, h[-1]], dim=-1))
            heard = self.decoder(torch.cat([self.neighbours(near(message)), h[-1]], dim=-1))
            representation = torch.cat([torch.where(heard > 0, heard, self.slope * heard), h[-1]], dim=-1)
            second = self.second(representation)
            value = torch.where(observed_t, x_t, second)

            diffused = torch.cat([far(value), diffused_context], dim=-1)
            for layer, gru in enumerate(self.layers):
                if layer:
                    diffused = far(self.between(h[layer - 1]))
                h[layer] = gru(diffused, h[layer], far)
            estimates.append(torch.cat([first, second], dim=-1))
            representations.append(representation)
        return torch.stack(estimates, dim=2), torch.stack(representations, dim=2)


def both_ways(x: Tensor) -> Tensor:
    """Stack ``(batch, time, ...)`` as it is and with its time reversed."""
    return torch.stack([x, x.flip(1)])


def aligned(x: Tensor) -> tuple[Tensor, Tensor]:
    """Undo :func:`both_ways`: return the forward part and the backward part, both in the order of time."""
    f, b = x.unbind()
    return f, b.flip(1)


def log_distances(observed: Bool[Tensor, "batch time nodes"]) -> Float[Tensor, "batch time nodes 2"]:
    """Return the log distances to the last observation before each step and to the next one after it.

    A step's own observation does not count: no state has seen it, and a step that is a label must look like the gaps
    it stands for. The window's ends count as observed outside of it.
    """
    time = observed.shape[1]
    steps = torch.arange(time, device=observed.device)[None, :, None]
    before, after = neighbours(observed)
    distances = torch.stack([steps - before.clamp(min=-1), after.clamp(max=time) - steps], dim=-1)
    return distances.float().log()
