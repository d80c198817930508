"""How the forward and the backward state of a step become one.

Before a window's start, where the forward direction has no state yet, it is `neutral`.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Concat(nn.Module):
    """``[f; b]``, as ``nn.GRU(bidirectional=True)`` returns it."""

    neutral = 0.0

    def __init__(self, hidden_size: int):
        super().__init__()
        self.output_size = 2 * hidden_size

    def forward(
        self, f: Float[Tensor, "batch time hidden"], b: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time merged"]:
        return torch.cat([f, b], dim=-1)


class Sum(nn.Module):
    """``f + b``."""

    neutral = 0.0

    def __init__(self, hidden_size: int):
        super().__init__()
        self.output_size = hidden_size

    def forward(
        self, f: Float[Tensor, "batch time hidden"], b: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time hidden"]:
        return f + b


class Mean(Sum):
    """``(f + b) / 2``."""

    def forward(
        self, f: Float[Tensor, "batch time hidden"], b: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time hidden"]:
        return (f + b) / 2


class Product(Sum):
    """``f * b``, element by element; ``b`` where there is no forward state yet."""

    neutral = 1.0

    def forward(
        self, f: Float[Tensor, "batch time hidden"], b: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time hidden"]:
        return f * b


class Gate(nn.Module):
    """A learnt gate decides, per unit and step, what each direction takes from the other.

    ``g, r = sigmoid(W [f; b] + c)``, then ``[(1 - g) f + g b; (1 - r) b + r f]``. Closed gates (``g = r = 0``) are
    exactly :class:`Concat`; the bias starts at -2, nearly closed.
    """

    neutral = 0.0

    def __init__(self, hidden_size: int):
        super().__init__()
        self.output_size = 2 * hidden_size
        self.gates = nn.Linear(2 * hidden_size, 2 * hidden_size)
        nn.init.constant_(self.gates.bias, -2.0)

    def forward(
        self, f: Float[Tensor, "batch time hidden"], b: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time merged"]:
        own = torch.cat([f, b], dim=-1)
        other = torch.cat([b, f], dim=-1)
        gate = torch.sigmoid(self.gates(own))
        return own + gate * (other - own)


MERGES: dict[str, Callable[[int], Any]] = {"concat": Concat, "sum": Sum, "mean": Mean, "mul": Product, "gate": Gate}


class CrossGate(nn.Module):
    """The directions keep apart, and each takes from the other what a learnt gate lets through.

    ``g, r = sigmoid(W [f; b; context] + c)``, then ``f' = f + g (b - f)`` and ``b' = b + r (f - b)``. Closed gates
    (``g = r = 0``) leave both as they are; the bias starts at -2, nearly closed.

    Parameters
    ----------
    hidden_size
        Size of each direction's states.
    context_size
        What else the gates see: the mask, how far the observations are.
    kind
        ``"scalar"``: one gate per direction and step; ``"vector"``: one for each unit.
    """

    def __init__(self, hidden_size: int, context_size: int, kind: str = "vector"):
        super().__init__()
        units = {"scalar": 1, "vector": hidden_size}
        if kind not in units:
            raise ValueError(f"`kind` must be one of {', '.join(map(repr, units))}, got {kind!r}.")
        self.gates = nn.Linear(2 * hidden_size + context_size, 2 * units[kind])
        nn.init.constant_(self.gates.bias, -2.0)

    def forward(
        self,
        f: Float[Tensor, "*steps hidden"],
        b: Float[Tensor, "*steps hidden"],
        context: Float[Tensor, "*steps context"],
    ) -> tuple[Float[Tensor, "*steps hidden"], Float[Tensor, "*steps hidden"]]:
        g, r = torch.sigmoid(self.gates(torch.cat([f, b, context], dim=-1))).chunk(2, dim=-1)
        return f + g * (b - f), b + r * (f - b)
