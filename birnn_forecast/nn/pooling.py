"""From the states of all steps to one vector for the window."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class LastPooling(nn.Module):
    """The state each direction ends with, as the recurrent encoder hands it over."""

    def __init__(self, state_size: int, final_size: int):
        super().__init__()
        self.output_size = final_size

    def forward(
        self,
        states: Float[Tensor, "batch time state"],
        final: Float[Tensor, "batch final"],
        valid: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch final"]:
        return final


class MeanPooling(nn.Module):
    """The mean of the valid steps' states."""

    def __init__(self, state_size: int, final_size: int):
        super().__init__()
        self.output_size = state_size

    def forward(
        self,
        states: Float[Tensor, "batch time state"],
        final: Float[Tensor, "batch final"],
        valid: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch state"]:
        weight = valid.to(states.dtype) / valid.sum(dim=1, keepdim=True).clamp(min=1).to(states.dtype)
        return (states * weight[:, :, None]).sum(dim=1)

    def part(self, states: Tensor, final: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`whole` needs of a segment."""
        return (states * valid[:, :, None]).sum(dim=1), valid.sum(dim=1, keepdim=True).to(states.dtype)

    def whole(
        self, sums: Float[Tensor, "segments batch state"], counts: Float[Tensor, "segments batch 1"]
    ) -> Float[Tensor, "batch state"]:
        """Return the pooled states of segments one after the other."""
        return sums.sum(dim=0) / counts.sum(dim=0).clamp(min=1)


class AttentionPooling(nn.Module):
    """Additive attention over the valid steps: ``softmax_t(v . tanh(W h_t + U q)) h_t``.

    References
    ----------
    D. Bahdanau, K. Cho, Y. Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate", ICLR 2015,
    https://arxiv.org/abs/1409.0473, eq. 5-6 and appendix A.1.2; the query ``q`` is the encoder's final state.
    """

    def __init__(self, state_size: int, final_size: int):
        super().__init__()
        self.output_size = state_size
        self.key = nn.Linear(state_size, state_size, bias=False)
        self.query = nn.Linear(final_size, state_size)
        self.score = nn.Linear(state_size, 1, bias=False)

    def weights(
        self,
        states: Float[Tensor, "batch time state"],
        final: Float[Tensor, "batch final"],
        valid: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch time"]:
        """Return the attention weights: 0 where not valid, summing to 1."""
        return torch.softmax(self._energy(states, final).masked_fill(~valid, float("-inf")), dim=1)

    def _energy(self, states: Tensor, final: Tensor) -> Tensor:
        return self.score(torch.tanh(self.key(states) + self.query(final)[:, None, :])).squeeze(-1)

    def forward(
        self,
        states: Float[Tensor, "batch time state"],
        final: Float[Tensor, "batch final"],
        valid: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch state"]:
        return (self.weights(states, final, valid)[:, :, None] * states).sum(dim=1)

    def part(self, states: Tensor, final: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`whole` needs of a segment: its highest energy, and sums in proportion to that."""
        energy = self._energy(states, final)
        energy = energy.masked_fill(~valid, torch.finfo(energy.dtype).min)
        highest = energy.detach().amax(dim=1, keepdim=True)
        weight = (energy - highest).exp() * valid
        return highest, weight.sum(dim=1, keepdim=True), (weight[:, :, None] * states).sum(dim=1)

    def whole(
        self,
        highest: Float[Tensor, "segments batch 1"],
        weights: Float[Tensor, "segments batch 1"],
        sums: Float[Tensor, "segments batch state"],
    ) -> Float[Tensor, "batch state"]:
        """Return the pooled states of segments one after the other."""
        share = (highest - highest.amax(dim=0)).exp()
        return (share * sums).sum(dim=0) / (share * weights).sum(dim=0)


POOLINGS: dict[str, Callable[[int, int], Any]] = {
    "last": LastPooling,
    "mean": MeanPooling,
    "attention": AttentionPooling,
}
