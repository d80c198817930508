"""Recurrent encoders that read a window from both sides, whatever part of it is padding.

All take ``(batch, time, features)`` and each row's ``start``, the index of its first step; what lies before it is
padding or a gap, and touches nothing from there on. They return the states of every step and the final state. Before
the start a state holds what the backward direction, which runs on, knows of the steps after it.

An encoder also reads one segment of a window by itself (``read``), once it has been told what comes out of the others
(``carry``, layer by layer): see :mod:`birnn_forecast.nn.segments`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence

from birnn_forecast.eager import is_eager, is_whole
from birnn_forecast.nn import recurrence
from birnn_forecast.nn.merge import MERGES
from birnn_forecast.nn.normalization import NORMALIZATIONS

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def valid_steps(start: Int[Tensor, " batch"], time: int) -> Tensor:
    """Return ``(batch, time)``, True from each row's first step on."""
    return torch.arange(time, device=start.device)[None, :] >= start[:, None]


def begin_at_once(start: Int[Tensor, " batch"]) -> bool:
    """Return whether all rows are known to begin at the first step."""
    return is_eager(start) and not bool(start.any())


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


class LayerStart(NamedTuple):
    """What a layer starts a segment from: the states handed on by the segments before and after, and random numbers.

    A state of an LSTM has its cell beside it. None is a state of 0, and no seed of its own.
    """

    forward: Tensor | None = None
    backward: Tensor | None = None
    seed: int | None = None


def first_states(
    states: Float[Tensor, "batch time hidden"], start: Int[Tensor, " batch"]
) -> Float[Tensor, "batch 1 hidden"]:
    """Return the states at each row's first step."""
    if begin_at_once(start):
        return states[:, :1]
    return torch.gather(states, 1, start[:, None, None].expand(-1, 1, states.shape[-1]))


class Scan(nn.Module):
    """One recurrent layer in one direction.

    Each direction starts at its end of the row's valid steps with a zero state: the forward one at ``start``, the
    backward one at the window's end. A segment of a window starts from the state that its neighbour ends with, which
    is a constant: no gradient goes there.
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int, backward: bool = False):
        super().__init__()
        self.backward = backward
        self.rnn = CELLS[cell](input_size, hidden_size, batch_first=True)
        reset_recurrent_parameters(self.rnn)

    def forward(
        self,
        x: Float[Tensor, "batch time features"],
        start: Int[Tensor, " batch"],
        initial: Float[Tensor, "batch carried"] | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the states; what stands before ``start`` is unspecified."""
        states = recurrence.states([self.rnn], [self.backward], x.transpose(0, 1), start, [initial])
        if states is not None:
            return states[0].transpose(0, 1)
        return self._in_time(self.rnn(self._in_order(x, start), self._hidden(initial, x))[0], start)

    @torch.no_grad()
    def run_on(
        self,
        x: Float[Tensor, "batch time features"],
        start: Int[Tensor, " batch"],
        initial: Float[Tensor, "batch carried"] | None,
    ) -> tuple[Float[Tensor, "batch time hidden"], Float[Tensor, "batch carried"]]:
        """Return the states of a segment and the one to hand on; a row that has not begun hands on 0."""
        begun = (self.backward | (start < x.shape[1]))[:, None]
        found = recurrence.run_on(self.rnn, self.backward, x.transpose(0, 1), start, initial)
        if found is not None:
            return found[0].transpose(0, 1), found[1] * begun
        ordered, hidden = self._in_order(x, start), self._hidden(initial, x)
        out, end = self.rnn(ordered, hidden)
        if not self.backward and start.any():
            # rows that begin later are followed by repeated steps
            lengths = (x.shape[1] - start).clamp(min=1).cpu()
            end = self.rnn(pack_padded_sequence(ordered, lengths, batch_first=True, enforce_sorted=False), hidden)[1]
        carried = torch.cat(end if isinstance(end, tuple) else [end], dim=-1).squeeze(0)
        return self._in_time(out, start), torch.where(begun, carried, 0.0)

    def _in_order(self, x: Tensor, start: Tensor) -> Tensor:
        """Return the steps in the order in which they are read, each row's first one first."""
        return x.flip(1) if self.backward else shift_time(x, start)

    def _in_time(self, states: Tensor, start: Tensor) -> Tensor:
        return states.flip(1) if self.backward else shift_time(states, -start)

    def _hidden(self, carried: Tensor | None, x: Tensor) -> Any:
        """Return the state (and the cell) to start from, as torch wants it."""
        if carried is None:
            return None
        parts = [part.contiguous()[None] for part in carried.detach().to(x.dtype).split(self.rnn.hidden_size, dim=-1)]
        return tuple(parts) if len(parts) > 1 else parts[0]


def both_states(
    forward: Any,
    backward: Any,
    x: Float[Tensor, "batch time features"],
    start: Int[Tensor, " batch"],
    initial: LayerStart | None = None,
) -> tuple[Float[Tensor, "batch time hidden"], Float[Tensor, "batch time hidden"]]:
    """Return the states of two :class:`Scan` that read the same steps, in one call where that is faster."""
    initial = initial or LayerStart()
    if not any(scan._forward_hooks or scan._forward_pre_hooks for scan in (forward, backward)):
        rnns, states = [forward.rnn, backward.rnn], [initial.forward, initial.backward]
        found = recurrence.states(rnns, [False, True], x.transpose(0, 1), start, states)
        if found is not None:
            f, b = (s.transpose(0, 1) for s in found)
            return f, b
    return forward(x, start, initial.forward), backward(x, start, initial.backward)


def dropped(dropout: Any, x: Tensor, seed: int | None) -> Tensor:
    """Return `x` after `dropout`; with a seed, the same units are dropped each time."""
    if seed is None or isinstance(dropout, nn.Identity):
        return dropout(x)
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        return dropout(x)


def new_seed() -> int:
    """Return a seed that depends on torch's."""
    return int(torch.randint(2**31, ()))


class Layers(nn.Module):
    """What encoders of several layers share: between two of them, normalise and drop out."""

    norms: nn.ModuleList
    dropouts: nn.ModuleList

    def _between(self, layer: int, x: Tensor, valid: Tensor | None, seed: int | None) -> Tensor:
        return dropped(self.dropouts[layer], self.norms[layer](x, valid), seed) if layer < len(self.norms) else x


class BidirectionalEncoder(Layers):
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
        states, f, b = self.read(x, start)
        return states, self.final(f[:, -1:], None if b is None else first_states(b, start))

    def read(
        self,
        x: Float[Tensor, "batch time features"],
        start: Int[Tensor, " batch"],
        starts: Sequence[LayerStart] | None = None,
    ) -> tuple[
        Float[Tensor, "batch time state"], Float[Tensor, "batch time hidden"], Float[Tensor, "batch time hidden"] | None
    ]:
        """Return the last layer's states, merged and of either direction; `starts` has that of each layer."""
        # a mask takes time where there is nothing to mask
        valid = None if not len(self.norms) and begin_at_once(start) else valid_steps(start, x.shape[1])
        for layer, scan in enumerate(self.forwards):
            initial = starts[layer] if starts else LayerStart()
            if self.backwards:
                f, b = both_states(scan, self.backwards[layer], x, start, initial)
            else:
                f, b = scan(x, start, initial.forward), None
            f, x = self._merged(layer, f, b, valid)
            x = self._between(layer, x, valid, initial.seed)
        return x, f, b

    def final(
        self, last: Float[Tensor, "batch 1 hidden"], first: Float[Tensor, "batch 1 hidden"] | None
    ) -> Float[Tensor, "batch final"]:
        """Return the final state: the last forward and the first backward state."""
        return (last if first is None else self.merges[len(self.forwards) - 1](last, first)).squeeze(1)

    @torch.no_grad()
    def carry(
        self, layer: int, xs: Sequence[Callable[[], Tensor]], starts: Sequence[Tensor]
    ) -> tuple[list[LayerStart], list[Tensor]]:
        """Run a layer over a window's segments, and return what it starts each from and (but the last one) makes of it.

        Parameters
        ----------
        layer
            Number of the layer.
        xs
            Functions that return what the layer reads of each segment.
        starts
            The first step of each row of each segment, the segment's length where it begins later.
        """
        keeps, n = layer < len(self.norms), len(xs)
        forwards, f = hand_on(self.forwards[layer], xs, starts, range(n), keeps)
        backwards, b = [None] * n, [None] * n
        if self.backwards:
            backwards, b = hand_on(self.backwards[layer], xs, starts, reversed(range(n)), keeps)
        found = [LayerStart(*pair, new_seed()) for pair in zip(forwards, backwards, strict=True)]
        outputs = []
        for i in range(n if keeps else 0):
            valid = valid_steps(starts[i], f[i].shape[1])
            outputs.append(self._between(layer, self._merged(layer, f[i], b[i], valid)[1], valid, found[i].seed))
        return found, outputs

    def _merged(self, layer: int, f: Tensor, b: Tensor | None, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the forward states, neutral before the start (None: nothing is), and both directions' merged."""
        merge: Any = None if b is None else self.merges[layer]
        if valid is not None and not is_whole(valid):
            f = torch.where(valid[:, :, None], f, 0.0 if merge is None else merge.neutral)
        return f, f if merge is None else merge(f, b)


def hand_on(
    scan: Any, xs: Sequence[Callable[[], Tensor]], starts: Sequence[Tensor], order: Any, keeps: bool
) -> tuple[list[Any], list[Any]]:
    """Run `scan` over segments in `order`, and return what each starts from, and its states if they are to be kept."""
    initial, states, state = [None] * len(xs), [None] * len(xs), None
    for i in order:
        initial[i] = state
        out, state = scan.run_on(xs[i](), starts[i], state)
        states[i] = out if keeps else None
    return initial, states


class URNNEncoder(Layers):
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
        states = self.read(x, start)[0]
        return states, states[:, -1]

    def read(
        self,
        x: Float[Tensor, "batch time features"],
        start: Int[Tensor, " batch"],
        starts: Sequence[LayerStart] | None = None,
    ) -> tuple[Float[Tensor, "batch time state"], Float[Tensor, "batch time state"], None]:
        """Return the last layer's states, twice; `starts` has what each layer starts from."""
        valid = valid_steps(start, x.shape[1])
        for layer, forward in enumerate(self.forwards):
            initial = starts[layer] if starts else LayerStart()
            inputs, b = self._ahead(layer, x, start, initial.backward)
            x = forward(inputs, start, initial.forward)
            x = x if is_whole(valid) else torch.where(valid[:, :, None], x, b)
            x = self._between(layer, x, valid, initial.seed)
        return x, x, None

    def final(self, last: Float[Tensor, "batch 1 hidden"], first: None) -> Float[Tensor, "batch final"]:
        """Return the final state, the last forward one."""
        return last.squeeze(1)

    @torch.no_grad()
    def carry(
        self, layer: int, xs: Sequence[Callable[[], Tensor]], starts: Sequence[Tensor]
    ) -> tuple[list[LayerStart], list[Tensor]]:
        """Run a layer over a window's segments; as :meth:`BidirectionalEncoder.carry`."""
        keeps, n = layer < len(self.norms), len(xs)
        backwards, _ = hand_on(self.backwards[layer], xs, starts, reversed(range(n)), False)
        scan: Any = self.forwards[layer]
        found, outputs, state = [], [], None
        for x, start, backward in zip(xs, starts, backwards, strict=True):
            found.append(LayerStart(state, backward, new_seed()))
            inputs, b = self._ahead(layer, x(), start, backward)
            f, state = scan.run_on(inputs, start, state)
            if keeps:
                valid = valid_steps(start, b.shape[1])
                outputs.append(self._between(layer, torch.where(valid[:, :, None], f, b), valid, found[-1].seed))
        return found, outputs

    def _ahead(self, layer: int, x: Tensor, start: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what the forward pass reads, and the backward states."""
        scan: Any = self.backwards[layer]
        b = scan(x, start, carried)
        if carried is None:
            after = pad(b[:, 1:], (0, 0, 0, 1))
        else:
            after = torch.cat([b[:, 1:], carried[:, None, : b.shape[-1]].to(b.dtype)], dim=1)
        return torch.cat([x, after], dim=-1), b


class Unchanged(nn.Module):
    """No normalisation."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        return x
