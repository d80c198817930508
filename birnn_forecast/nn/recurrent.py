"""Recurrent encoders that read a window from both sides, whatever part of it is padding.

All take ``(batch, time, features)`` and each row's ``start``, the index of its first step; what lies before it is
padding or a gap, and touches nothing from there on. They return the states of every step and the final state. Before
the start a state holds what the backward direction, which runs on, knows of the steps after it.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from birnn_forecast.eager import is_whole
from birnn_forecast.nn import recurrence
from birnn_forecast.nn.merge import MERGES
from birnn_forecast.nn.normalization import NORMALIZATIONS

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def valid_steps(start: Int[Tensor, " batch"], time: int) -> Tensor:
    """Return ``(batch, time)``, True from each row's first step on."""
    return torch.arange(time, device=start.device)[None, :] >= start[:, None]


def shift_time(
    x: Float[Tensor, "batch time features"], by: Int[Tensor, " batch"]
) -> Float[Tensor, "batch time features"]:
    """Return ``y[b, t] = x[b, t + by[b]]``, repeating the edges."""
    steps = torch.arange(x.shape[1], device=x.device)[None, :] + by[:, None]
    index = steps.clamp(0, x.shape[1] - 1)[:, :, None].expand_as(x)
    return torch.gather(x, 1, index)


def reset_recurrent_parameters(rnn: nn.RNNBase) -> None:
    """Initialise as the field does.

    Input weights by Glorot & Bengio (2010), recurrent weights orthogonal (Saxe et al. 2014) per gate, biases 0 but the
    LSTM's forget gate, which starts at 1 (Jozefowicz et al. 2015).
    """
    hidden = rnn.hidden_size
    for name, parameter in rnn.named_parameters():
        for i, gate in enumerate(parameter.data.split(hidden)):
            if "weight_ih" in name:
                nn.init.xavier_uniform_(gate)
            elif "weight_hh" in name:
                nn.init.orthogonal_(gate)
            else:
                nn.init.constant_(gate, 1.0 if isinstance(rnn, nn.LSTM) and "bias_ih" in name and i == 1 else 0.0)


class Scan(nn.Module):
    """One recurrent layer in one direction.

    Each direction starts at its end of the row's valid steps with a zero state: the forward one at ``start``, the
    backward one at the window's end.
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int, backward: bool = False):
        super().__init__()
        self.backward = backward
        self.rnn = CELLS[cell](input_size, hidden_size, batch_first=True)
        reset_recurrent_parameters(self.rnn)

    def forward(
        self, x: Float[Tensor, "batch time features"], start: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the states; what stands before ``start`` is unspecified."""
        states = recurrence.states([self.rnn], [self.backward], x.transpose(0, 1), start)
        if states is not None:
            return states[0].transpose(0, 1)
        if self.backward:
            return self.rnn(x.flip(1))[0].flip(1)
        return shift_time(self.rnn(shift_time(x, start))[0], -start)


def both_states(
    forward: Any,
    backward: Any,
    x: Float[Tensor, "batch time features"],
    start: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch time hidden"], Float[Tensor, "batch time hidden"]]:
    """Return the states of two :class:`Scan` that read the same steps, in one call where that is faster."""
    if not any(scan._forward_hooks or scan._forward_pre_hooks for scan in (forward, backward)):
        states = recurrence.states([forward.rnn, backward.rnn], [False, True], x.transpose(0, 1), start)
        if states is not None:
            f, b = (s.transpose(0, 1) for s in states)
            return f, b
    return forward(x, start), backward(x, start)


class BidirectionalEncoder(nn.Module):
    """A stack of bidirectional recurrent layers (Schuster & Paliwal 1997).

    Between two layers: merge the directions, normalise, drop out. ``bidirectional=False`` leaves the forward direction.

    Parameters
    ----------
    cell
        One of ``CELLS``.
    input_size, hidden_size, num_layers
        As in ``torch.nn.GRU``.
    bidirectional
        Whether to read from the window's end as well.
    merge
        One of ``MERGES``.
    normalization
        One of ``NORMALIZATIONS``, or None.
    dropout
        Share of units dropped between layers.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: str = "GRU",
        bidirectional: bool = True,
        merge: str = "concat",
        normalization: Literal["batch", "layer"] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.forwards, self.backwards = nn.ModuleList(), nn.ModuleList()
        self.merges, self.norms, self.dropouts = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        merged_size = MERGES[merge](hidden_size).output_size if bidirectional else hidden_size
        for layer in range(num_layers):
            size = merged_size if layer else input_size
            self.forwards.append(Scan(cell, size, hidden_size))
            if bidirectional:
                self.backwards.append(Scan(cell, size, hidden_size, backward=True))
                self.merges.append(MERGES[merge](hidden_size))
            if layer < num_layers - 1:
                self.norms.append(NORMALIZATIONS[normalization](merged_size) if normalization else Unchanged())
                self.dropouts.append(nn.Dropout(dropout) if dropout else nn.Identity())
        self.state_size = self.final_size = merged_size

    def forward(
        self, x: Float[Tensor, "batch time features"], start: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time state"], Float[Tensor, "batch final"]]:
        """Return the merged states of the last layer, and its last forward merged with its first backward state."""
        valid = valid_steps(start, x.shape[1])
        whole = is_whole(valid)
        for layer, scan in enumerate(self.forwards):
            merge: Any = self.merges[layer] if self.backwards else None
            neutral = merge.neutral if merge is not None else 0.0
            f, b = both_states(scan, self.backwards[layer], x, start) if self.backwards else (scan(x, start), None)
            if not whole:
                f = torch.where(valid[:, :, None], f, neutral)
            final = f[:, -1:]
            if b is not None:
                first = b[:, :1] if whole else torch.gather(b, 1, start[:, None, None].expand(-1, 1, b.shape[-1]))
                f, final = merge(f, b), merge(final, first)
            x = f
            if layer < len(self.norms):
                x = self.dropouts[layer](self.norms[layer](x, valid))
        return x, final.squeeze(1)


class URNNEncoder(nn.Module):
    """The asymmetric bidirectional RNN ("U-RNN"): backward first, then forward over ``[input, backward state]``.

    At each step the forward pass reads the input and the backward state that has read what comes after it
    (0 at the window's end); its last state encodes the window.

    References
    ----------
    R. Rozenberg, J. Gesnouin, F. Moutarde, "Asymmetrical Bi-RNN for pedestrian trajectory encoding", 2021,
    https://arxiv.org/abs/2106.04419, section 3.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: str = "GRU",
        normalization: Literal["batch", "layer"] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.backwards = nn.ModuleList(Scan(cell, size, hidden_size, backward=True) for size in sizes)
        self.forwards = nn.ModuleList(Scan(cell, size + hidden_size, hidden_size) for size in sizes)
        self.norms = nn.ModuleList(
            NORMALIZATIONS[normalization](hidden_size) if normalization else Unchanged() for _ in sizes[1:]
        )
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) if dropout else nn.Identity() for _ in sizes[1:])
        self.state_size = self.final_size = hidden_size

    def forward(
        self, x: Float[Tensor, "batch time features"], start: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time state"], Float[Tensor, "batch final"]]:
        """Return the forward states of the last layer (before the start its backward states), and the last of them."""
        valid = valid_steps(start, x.shape[1])
        for layer, (backward, forward) in enumerate(zip(self.backwards, self.forwards, strict=True)):
            b = backward(x, start)
            after = pad(b[:, 1:], (0, 0, 0, 1))
            states = forward(torch.cat([x, after], dim=-1), start)
            x = states if is_whole(valid) else torch.where(valid[:, :, None], states, b)
            if layer < len(self.norms):
                x = self.dropouts[layer](self.norms[layer](x, valid))
        return x, x[:, -1]


class Unchanged(nn.Module):
    """No normalisation."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        return x
