"""Recurrent layers over nodes, with gates between the directions and messages between the nodes."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from birnn_forecast.nn import recurrence
from birnn_forecast.nn.merge import CrossGate
from birnn_forecast.nn.node_graph import Exchange, NodeGraph
from birnn_forecast.nn.recurrent import CELLS, reset_recurrent_parameters, shift_time, valid_steps

# beyond this many numbers in a layer's states, what is needed for the gradient is computed again instead of kept
KEPT_STATES = 20_000_000


class StackedEncoder(nn.Module):
    """Recurrent layers over each node, in two directions that stay apart, with gates and messages between.

    After each layer the directions take from each other what a :class:`CrossGate` lets through; before the next one,
    each node hears from its neighbours (:class:`Exchange`), each direction on its own.

    Parameters
    ----------
    cell
        One of ``CELLS``.
    input_size
        Features per step and node.
    hidden_size, num_layers
        As in ``torch.nn.GRU``.
    cross_gate
        "none", "scalar" or "vector".
    message_size
        Size of a message.
    sharpness, n_nodes, own_maps
        As in :class:`Exchange`; without `sharpness` nothing is sent.
    dropout
        Share of units dropped after each layer.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        cross_gate: str,
        message_size: int,
        sharpness: Sequence[float],
        n_nodes: int | None,
        own_maps: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.forwards, self.backwards, self.gates, self.exchanges = (nn.ModuleList() for _ in range(4))
        self.dropouts = nn.ModuleList()
        size = input_size
        for layer in range(num_layers):
            self.forwards.append(NodeScan(cell, size, hidden_size))
            self.backwards.append(NodeScan(cell, size, hidden_size, backward=True))
            if cross_gate != "none":
                self.gates.append(CrossGate(hidden_size, 3, cross_gate))
            self.dropouts.append(nn.Dropout(dropout) if dropout else nn.Identity())
            size = hidden_size
            if sharpness and (layer < num_layers - 1 or num_layers == 1):
                pair = [Exchange(hidden_size, message_size, sharpness, n_nodes, own_maps) for _ in range(2)]
                self.exchanges.append(nn.ModuleList(pair))
        self.state_size = self.final_size = 2 * hidden_size

    def forward(
        self,
        x: Float[Tensor, "batch time nodes features"],
        context: Float[Tensor, "batch time nodes context"],
        start: Int[Tensor, " batch"],
        graph: NodeGraph | None,
    ) -> Float[Tensor, "batch time nodes state"]:
        """Return both directions' states side by side; before the start, the forward ones are 0."""
        # time first, as the recurrences want it
        f = b = x.transpose(0, 1).contiguous()
        context = context.transpose(0, 1)
        # a mask takes time where there is nothing to mask
        padded = torch.compiler.is_compiling() or bool(start.any())
        valid = valid_steps(start, len(f)).T[:, :, None, None].to(x.dtype) if padded else None
        adjacency = None if graph is None else graph()
        large = is_large(f, self.state_size // 2)
        for number in range(len(self.forwards)):
            inputs = (number, f, b, context, start if padded else None, valid, adjacency)
            f, b = checkpoint(self._layer, *inputs, use_reentrant=False) if large else self._layer(*inputs)
        return torch.cat([f, b], dim=-1).transpose(0, 1)

    def _layer(
        self,
        number: int,
        f: Tensor,
        b: Tensor,
        context: Tensor,
        start: Tensor | None,
        valid: Tensor | None,
        adjacency: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        def masked(state: Tensor) -> Tensor:
            return state if valid is None else state * valid

        f = masked(self.dropouts[number](self.forwards[number](f, start)))
        b = self.dropouts[number](self.backwards[number](b, start))
        if self.gates:
            f, b = self.gates[number](f, b, context)
            f = masked(f)
        if number < len(self.exchanges) and adjacency is not None:
            pair: Any = self.exchanges[number]
            f, b = f + masked(pair[0](f, adjacency)), b + pair[1](b, adjacency)
        return f, b


def is_large(x: Float[Tensor, "time batch nodes features"], hidden_size: int) -> bool:
    """Return whether a layer's states are too many to keep all that a gradient needs."""
    return torch.is_grad_enabled() and x[..., 0].numel() * hidden_size > KEPT_STATES


class NodeScan(nn.Module):
    """A recurrence over each node of each window, in one direction; of a very large batch it keeps only its input."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, backward: bool = False):
        super().__init__()
        self.backward = backward
        self.rnn = CELLS[cell](input_size, hidden_size)
        reset_recurrent_parameters(self.rnn)

    def forward(
        self, x: Float[Tensor, "time batch nodes features"], start: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "time batch nodes hidden"]:
        """Return the states; what stands before `start` (None: nothing does) is unspecified."""
        if is_large(x, self.rnn.hidden_size):
            at_once = max(KEPT_STATES // (2 * x[:, :, 0, 0].numel() * self.rnn.hidden_size), 1)
            parts = x.split(at_once, dim=2)
            return torch.cat([checkpoint(self._run, part, start, use_reentrant=False) for part in parts], dim=2)
        return self._run(x, start)

    def _run(self, x: Tensor, start: Tensor | None) -> Tensor:
        rows = x.flatten(1, 2)
        starts = None if start is None else start.repeat_interleave(x.shape[2])
        fast = recurrence.states([self.rnn], [self.backward], rows, starts)
        if fast is not None:
            states = fast[0]
        elif self.backward:
            states = self.rnn(rows.flip(0))[0].flip(0)
        elif starts is None:
            states = self.rnn(rows)[0]
        else:
            shifted = shift_time(rows.transpose(0, 1), starts).transpose(0, 1)
            states = shift_time(self.rnn(shifted)[0].transpose(0, 1), -starts).transpose(0, 1)
        return states.unflatten(1, x.shape[1:3])
