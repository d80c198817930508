"""How the forward and the backward state of a step become one."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Concat(nn.Module):
    """``[f; b]``, as ``nn.GRU(bidirectional=True)`` returns it."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.output_size = 2 * hidden_size

    def forward(
        self, f: Float[Tensor, "batch time hidden"], b: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time merged"]:
        return torch.cat([f, b], dim=-1)


class Sum(nn.Module):
    """``f + b``."""

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
    """``f * b``, element by element."""

    def forward(
        self, f: Float[Tensor, "batch time hidden"], b: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time hidden"]:
        return f * b


class Gate(nn.Module):
    """A learnt gate decides, per unit and step, what each direction takes from the other.

    ``g, r = sigmoid(W [f; b] + c)``, then ``[(1 - g) f + g b; (1 - r) b + r f]``. Closed gates (``g = r = 0``) are
    exactly :class:`Concat`; the bias starts at -2, nearly closed.
    """

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
