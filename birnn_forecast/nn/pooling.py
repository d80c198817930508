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
        energy = self.score(torch.tanh(self.key(states) + self.query(final)[:, None, :])).squeeze(-1)
        return torch.softmax(energy.masked_fill(~valid, float("-inf")), dim=1)

    def forward(
        self,
        states: Float[Tensor, "batch time state"],
        final: Float[Tensor, "batch final"],
        valid: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch state"]:
        return (self.weights(states, final, valid)[:, :, None] * states).sum(dim=1)


POOLINGS: dict[str, Callable[[int, int], Any]] = {
    "last": LastPooling,
    "mean": MeanPooling,
    "attention": AttentionPooling,
}
