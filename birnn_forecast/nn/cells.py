"""Recurrences that feed their own estimates back: what is missing at a step is filled by the network itself."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import prelu

from birnn_forecast.masks import neighbours
from birnn_forecast.nn import replay
from birnn_forecast.nn.graph import SPARSE_NODES, Diffusion
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
    """Two linear maps side by side, one for each direction; :func:`paired` applies them in one product.

    Initialised as ``nn.Linear``; `fan_in` is the number of inputs of the map that this one is a part of.
    """

    def __init__(self, input_size: int, output_size: int, bias: bool = True, fan_in: int | None = None):
        super().__init__()
        bound = 1 / math.sqrt(fan_in or input_size)
        self.weight = nn.Parameter(torch.empty(2, input_size, output_size).uniform_(-bound, bound))
        self.bias: Any = nn.Parameter(torch.empty(2, 1, output_size).uniform_(-bound, bound)) if bias else None


def paired(
    x: Float[Tensor, "2 batch nodes features"],
    weight: Float[Tensor, "2 features output"],
    added: Float[Tensor, "2 batch nodes output"],
) -> Float[Tensor, "2 batch nodes output"]:
    """Return ``added + x weight`` of each direction."""
    return torch.baddbmm(added.flatten(1, 2), x.flatten(1, 2), weight).unflatten(1, x.shape[1:3])


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

    def input_weights(self) -> Sequence[Float[Tensor, "2 inputs hidden"]]:
        """Return ``[V; b]`` of the reset gate, the update gate and the candidate."""
        return torch.cat([self.input.weight, self.input.bias], dim=1).chunk(3, dim=-1)

    def forward(
        self,
        diffused: Float[Tensor, "2 batch nodes inputs"],
        weights: Sequence[Float[Tensor, "2 inputs hidden"]],
        h: Float[Tensor, "2 batch nodes hidden"],
        gates: Sequence[Float[Tensor, "2 batch nodes hidden"]],
        diffusion: Diffusion,
    ) -> Float[Tensor, "2 batch nodes hidden"]:
        """Return the next state.

        Parameters
        ----------
        diffused
            ``[D v; 1]``, of which the caller knows a part before the loop.
        weights
            Those of :meth:`input_weights`.
        h
            The state.
        gates
            The reset's and the update's part of ``W_g D h``, which the caller may read together with more.
        diffusion
            ``D``.
        """
        reset, update = (
            paired(diffused, weight, gate).sigmoid_() for weight, gate in zip(weights[:2], gates, strict=True)
        )
        candidate = paired(diffused, weights[2], diffusion.linear(reset * h, self.candidate.weight)).tanh_()
        return torch.lerp(candidate.to(h.dtype), h, update.to(h.dtype))


class FeedbackGRIN(nn.Module):
    """The Graph Recurrent Imputation Network: two directions that estimate, ask the neighbours, and estimate again.

    One step of a direction, for all nodes at once, with mask ``m`` and covariates ``u``:

    1. first estimate ``x1 = W_1 h + U_1 u``; filled input ``v = m x + (1 - m) x1``;
    2. ``z = W_z [v; m; u; h]``; the neighbours' ``z`` without the node's own, ``n = W_n [S z; R z]``;
       ``p = PReLU(W_p [n; h])``, representation ``[p; h]``; second estimate ``x2 = W_2 [p; h] + U_2 u``;
    3. filled again, ``v = m x + (1 - m) x2``; next state by a :class:`DiffusionGRU` of ``[v; m; u]``.

    All maps but ``U_1`` and ``U_2`` have a bias. The output is a network of both representations, the mask, the node's
    embedding and the covariates. No estimate and no output at a step and node depends on the value observed there (a
    window's normalisation apart), so each observation is a label. Without covariates this is the paper's network.

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
        self.present = None  # U_1 and U_2
        if exogenous_size:
            self.present = PairedLinear(exogenous_size, 2, bias=False, fan_in=hidden_size + exogenous_size)
        sizes = [2 + exogenous_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(DiffusionGRU(size, hidden_size, 1 + 2 * kernel_size) for size in sizes)
        self.between = nn.Dropout(dropout)
        self.start = nn.Parameter(torch.randn(num_layers, 2, 1, n_nodes or 1, hidden_size) / math.sqrt(hidden_size))

        self.state_size = 4 * hidden_size
        self.cross_gate = None if cross_gate == "none" else CrossGate(2 * hidden_size, 3, cross_gate)
        self.embedding = None
        if n_nodes and embedding_size:
            self.embedding = nn.Parameter(torch.randn(n_nodes, embedding_size) * math.sqrt(2 / n_nodes))
        size = self.state_size + 1 + (0 if self.embedding is None else self.embedding.shape[1]) + exogenous_size
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
        # to find out whether a large graph is sparse, its device is waited for
        if not replay.is_wanted(x) or self._drops or x.shape[-1] > SPARSE_NODES:
            return self.read(x, observed, exogenous, adjacency)
        names, parameters = zip(*Reading(self).named_parameters(), strict=True)
        given = [x, observed, adjacency] if exogenous is None else [x, observed, adjacency, exogenous]

        def read(*inputs: Tensor) -> FeedbackOutput:
            (x, observed, adjacency, *exogenous), weights = inputs[: len(given)], inputs[len(given) :]
            arguments = x, observed, exogenous[0] if exogenous else None, adjacency
            return functional_call(Reading(self), dict(zip(names, weights, strict=True)), arguments)

        return FeedbackOutput(*replay.replayed(self, read, [*given, *parameters]))

    @property
    def _drops(self) -> bool:
        return self.training and any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.modules())

    def read(self, x: Tensor, observed: Tensor, exogenous: Tensor | None, adjacency: Tensor) -> FeedbackOutput:
        """Return the same, operation by operation."""
        mask = observed[..., None].to(x.dtype)
        context = mask if exogenous is None else torch.cat([mask, exogenous], dim=-1)
        estimates, forward, backward = self.scan(
            both_ways(x[..., None]), both_ways(observed[..., None]), both_ways(context), adjacency
        )
        seen = mask if self.cross_gate is None else torch.cat([mask, log_distances(observed).to(x.dtype)], dim=-1)
        own = [] if self.embedding is None else [self.embedding.expand(len(x), -1, -1)]
        said = [[]] * len(forward) if exogenous is None else [[u] for u in exogenous.unbind(1)]
        steps = []
        for f, b, seen_t, said_t in zip(forward, reversed(backward), seen.unbind(1), said, strict=True):
            pair = (f, b) if self.cross_gate is None else self.cross_gate(f, b, seen_t)
            steps.append(torch.cat([*pair, seen_t[..., :1], *own, *said_t], dim=-1))
        inputs = torch.stack(steps, dim=1)  # the states are a view of it: they are large
        estimates = torch.cat([e.movedim(-1, 0) for e in aligned(estimates)])
        return FeedbackOutput(self.output(inputs), inputs[..., : self.state_size], estimates)

    def scan(
        self,
        x: Float[Tensor, "2 batch time nodes 1"],
        observed: Bool[Tensor, "2 batch time nodes 1"],
        context: Float[Tensor, "2 batch time nodes context"],
        adjacency: Float[Tensor, "nodes nodes"],
    ) -> tuple[Float[Tensor, "2 batch time nodes 2"], list[Tensor], list[Tensor]]:
        """Return both estimates, and the representations ``(batch, nodes, 2 * hidden)`` of each step.

        Each direction is in its own order of time.
        """
        _, batch, _, nodes, _ = x.shape
        near, far = Diffusion(adjacency), Diffusion(adjacency, self.kernel_size, own=True)
        h = [start.expand(2, batch, nodes, -1) for start in self.start]
        layers: list[Any] = list(self.layers)
        size = h[0].shape[-1]
        heard_weight, sent_weight = self.folded()
        # what the last layer's state says, to the second estimate and to the gates
        said_weight = torch.cat([heard_weight, layers[-1].gates.weight], dim=-1)
        second_weight, own_weight = self.second.weight.split(size, dim=1)
        estimate_weight = torch.cat([self.first.weight, own_weight], dim=-1)
        offset = torch.cat([self.first.bias, self.second.bias], dim=-1)
        if self.present is None:
            offset = offset[:, :, None, None].expand(-1, batch, x.shape[2], nodes, -1)
        else:
            covariates = context[..., 1:]
            offset = torch.baddbmm(offset, covariates.flatten(1, 3), self.present.weight)
            offset = offset.unflatten(1, covariates.shape[1:4])
        input_weights = [gru.input_weights() for gru in layers]
        slope = self.slope.flatten()

        # what does not depend on the loop is sent before it
        one = torch.ones_like(context[..., :1])
        steps = (
            x,
            observed,
            torch.cat([near(torch.cat([context, one], dim=-1)), one], dim=-1),
            torch.cat([far(context), one], dim=-1),
            offset,
        )
        estimates, forward, backward = [], [], []
        for x_t, observed_t, sent_t, diffused_t, offset_t in zip(*(s.unbind(2) for s in steps), strict=True):
            heard, *said = far.linear(h[-1], said_weight).split(size, dim=-1)
            first, second = paired(h[-1], estimate_weight, offset_t).split(1, dim=-1)
            value = torch.where(observed_t, x_t, first)
            heard = paired(torch.cat([near(value), sent_t], dim=-1), sent_weight, heard)
            heard = prelu(heard[None].flatten(2), slope).view(heard.shape)  # a slope a direction
            second = paired(heard, second_weight, second)
            value = torch.where(observed_t, x_t, second)
            estimates.append(torch.cat([first, second], dim=-1))
            f, b = torch.cat([heard, h[-1]], dim=-1).unbind()
            forward.append(f)
            backward.append(b)

            diffused = torch.cat([far(value), diffused_t], dim=-1)
            for layer, (gru, weights) in enumerate(zip(layers, input_weights, strict=True)):
                if layer:
                    diffused = torch.cat([far(self.between(h[layer - 1])), one[:, :, 0]], dim=-1)
                is_last = layer == self.num_layers - 1
                gates = said if is_last else far.linear(h[layer], gru.gates.weight).split(size, dim=-1)
                h[layer] = gru(diffused, weights, h[layer], gates, far)
        return torch.stack(estimates, dim=2), forward, backward

    def folded(self) -> tuple[Float[Tensor, "2 terms hidden"], Float[Tensor, "2 sent hidden"]]:
        """Return what turns ``D h``, and ``[S v; R v; S c; R c; 1]`` with ``c = [m; u; 1]``, into the PReLU's argument.

        From the message to there all maps are linear: the products of their weights take the place of one product each
        in every step.
        """
        hidden = self.decoder.weight.shape[-1]
        heard, own = self.decoder.weight.split(hidden, dim=1)
        # from a message, along the edges and against them
        sent = self.neighbours.weight.unflatten(1, (2, hidden)) @ heard[:, None]
        message = torch.cat([self.message.weight, self.message.bias], dim=1)
        parts = [1, message.shape[1] - hidden - 2, hidden, 1]
        value, context, state, one = (message[:, None] @ sent).split(parts, dim=2)
        context = torch.cat([context, one], dim=2)
        bias = self.neighbours.bias @ heard + self.decoder.bias
        along, against = state.unbind(1)
        # no part of a message travels further than one edge
        further = own.new_zeros(2, (self.kernel_size - 1) * hidden, hidden)
        heard_weight = torch.cat([own, along, further, against, further], dim=1)
        return heard_weight, torch.cat([value.flatten(1, 2), context.flatten(1, 2), bias], dim=1)


class Reading(nn.Module):
    """:meth:`FeedbackGRIN.read` as a module: a call of it calls no hooks of the network's."""

    def __init__(self, network: FeedbackGRIN):
        super().__init__()
        self.network = network

    def forward(self, *arguments: Any) -> FeedbackOutput:
        return self.network.read(*arguments)


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
