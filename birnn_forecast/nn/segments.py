"""Truncated back-propagation through time: long windows read segment by segment, with memory for one segment.

In either direction the state that a segment starts from is a constant, so the segments' gradients do not depend on each
other. A first pass without gradients finds these states; after it, each segment is read where it is asked for, and read
again for its gradient, instead of being kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from birnn_forecast.nn.conv import CNNEncoder
from birnn_forecast.nn.pooling import LastPooling
from birnn_forecast.nn.recurrent import LayerStart, new_seed


class Segments:
    """The states of a window in segments of `length` steps, counted back from its end; the first may be shorter.

    What is kept grows with the window only by its features and by what is read off the states.

    Parameters
    ----------
    encoder
        One of ``birnn_forecast.nn.networks.ENCODERS``.
    x, start
        What it reads.
    length
        Steps over which a gradient goes back (in the backward direction, ahead).
    shown
        What states are multiplied by, the final one excepted.

    References
    ----------
    R. J. Williams, J. Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories", Neural Computation 2 (1990), https://doi.org/10.1162/neco.1990.2.4.490; T. Chen et al., "Training
    Deep Nets with Sublinear Memory Cost", 2016, https://arxiv.org/abs/1604.06174.
    """

    def __init__(
        self,
        encoder: Any,
        x: Float[Tensor, "batch time features"],
        start: Int[Tensor, " batch"],
        length: int,
        shown: Bool[Tensor, "batch 1 1"],
    ):
        self.x, self.start, self.shown = x, start, shown
        self.front = encoder if isinstance(encoder, CNNEncoder) else None
        self.encoder = encoder.recurrent if self.front is not None else encoder
        time = x.shape[1]
        self.first = [0, *range(time % length or length, time, length)]
        self.last = [*self.first[1:], time]
        self.starts = [(start - a).clamp(0, b - a) for a, b in zip(self.first, self.last, strict=True)]
        self.seeds = [new_seed() if self.front is not None else 0 for _ in self.first]
        self.layers = self._carried()

    def _carried(self) -> list[list[LayerStart]]:
        """Return what each layer starts each segment from."""

        def read(x: Tensor) -> Callable[[], Tensor]:
            return lambda: x

        inputs: list[Callable[[], Tensor]] = [lambda i=i: self._input(i) for i in range(len(self.first))]
        layers = []
        with torch.no_grad():
            for layer in range(len(self.encoder.forwards)):
                found, outputs = self.encoder.carry(layer, inputs, self.starts)
                inputs = [read(x) for x in outputs]
                layers.append(found)
        return layers

    def _input(self, number: int) -> Tensor:
        first, last = self.first[number], self.last[number]
        if self.front is None:
            return self.x[:, first:last]
        before, after = self.front.reach
        begin = max(first - before, 0)
        x = self.x[:, begin : last + after]
        start = (self.start - begin).clamp(0, x.shape[1])
        return self.front.front(x, start, self.seeds[number])[:, first - begin : last - begin]

    def read(self, number: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a segment's states, merged and of either direction."""
        return self.encoder.read(self._input(number), self.starts[number], [layer[number] for layer in self.layers])

    def map(
        self,
        function: Callable[..., Any],
        *tensors: Shaped[Tensor, "batch time ..."],
        numbers: Sequence[int] | None = None,
    ) -> list[Any]:
        """Return ``function(states, *tensors)`` of each segment (or of some); nothing else is kept for gradients."""

        def run(number: int, x: Tensor) -> Any:
            first, last = self.first[number], self.last[number]
            return function(self.read(number)[0] * self.shown, *(t[:, first:last] for t in tensors))

        # of the tensor only the device counts, whose random numbers are drawn again when a segment is
        return [checkpoint(run, number, self.x, use_reentrant=False) for number in numbers or range(len(self.first))]

    def latest(self, steps: int) -> Float[Tensor, "batch steps state"]:
        """Return the states of the window's last steps, of all where it has no more."""
        steps = min(steps, self.last[-1])
        numbers = [i for i, last in enumerate(self.last) if last > self.last[-1] - steps]
        return torch.cat(self.map(lambda states: states, numbers=numbers), dim=1)[:, -steps:]

    def final(self) -> Float[Tensor, "batch final"]:
        """Return the encoder's final state."""
        holders = [((self.start >= a) & (self.start < b)) for a, b in zip(self.first, self.last, strict=True)]

        def ends(number: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
            _, f, b = self.read(number)
            if b is not None:
                index = self.starts[number].clamp(max=b.shape[1] - 1)[:, None, None].expand(-1, 1, b.shape[-1])
                b = torch.gather(b, 1, index) * holders[number][:, None, None]
            return f[:, -1:], b

        last = len(self.first) - 1
        numbers = [i for i, here in enumerate(holders) if i == last or bool(here.any())]
        found = [checkpoint(ends, number, self.x, use_reentrant=False) for number in numbers]
        firsts = [b for _, b in found if b is not None]
        return self.encoder.final(found[-1][0], torch.stack(firsts).sum(0) if firsts else None)

    def pooled(self, pooling: Any, final: Tensor, valid: Tensor) -> Tensor:
        """Return what `pooling` makes of the valid states."""
        if isinstance(pooling, LastPooling):
            return final
        parts = self.map(lambda states, valid: pooling.part(states * valid[:, :, None], final, valid), valid)
        return pooling.whole(*(torch.stack(part) for part in zip(*parts, strict=True)))
