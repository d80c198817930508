"""A head that mixes simple estimates and corrects the mixture."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from birnn_forecast.nn.node_graph import NodeLinear


class MixingHead(nn.Module):
    """Linear interpolation, plus a mixture of what candidates add to it, plus a correction; starts as the first.

    Parameters
    ----------
    state_size, input_size, hidden_size
        Size of a node's state at a step, of what the encoder was given of it, and of the hidden layer.
    n_candidates
        Number of candidates.
    locations, offsets
        As in :class:`ForecastNetwork`.
    n_nodes
        Number of nodes, if each is to have an output map of its own beside the common one.
    """

    def __init__(
        self,
        state_size: int,
        input_size: int,
        hidden_size: int,
        n_candidates: int,
        locations: Sequence[bool],
        offsets: Sequence[float],
        n_nodes: int | None = None,
    ):
        super().__init__()
        self.parameters_per_step = len(offsets)
        self.hidden = nn.Linear(state_size, hidden_size)
        self.direct = nn.Linear(input_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, len(offsets) + n_candidates)
        nn.init.zeros_(self.output.weight)
        self.own_output = None if n_nodes is None else NodeLinear(n_nodes, hidden_size, len(offsets) + n_candidates)
        if self.own_output is not None:
            nn.init.zeros_(self.own_output.weight)
        with torch.no_grad():
            self.output.bias.zero_()
            self.output.bias[: len(offsets)] = torch.tensor(offsets)
        self.register_buffer("locations", torch.tensor(locations), persistent=False)

    def forward(
        self,
        states: Float[Tensor, "batch time nodes state"],
        inputs: Float[Tensor, "batch time nodes features"],
        base: Float[Tensor, "batch time nodes"],
        candidates: Float[Tensor, "batch time nodes n"],
    ) -> Float[Tensor, "batch time nodes parameters"]:
        hidden = nn.functional.silu(self.hidden(states) + self.direct(inputs))
        out = self.output(hidden)
        if self.own_output is not None:
            out = out + self.own_output(hidden)
        raw, shares = out[..., : self.parameters_per_step], out[..., self.parameters_per_step :]
        middle = base + (shares * candidates).sum(dim=-1)
        return raw + middle[..., None] * self.locations.to(raw.dtype)


def least_absolute(x: Float[Tensor, "rows columns"], y: Float[Tensor, " rows"]) -> Float[Tensor, " columns"]:
    """Return the coefficients of least absolute errors, drawn to 0 a little (iteratively reweighted least squares)."""
    ridge = 1e-3 * x.square().mean() * len(y) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    floor = 0.02 * y.abs().mean() + torch.finfo(y.dtype).tiny
    weight = torch.ones_like(y)
    coefficients = x.new_zeros(x.shape[1])
    for _ in range(25):
        weighted = x * weight[:, None]
        normal = weighted.T @ x + ridge * weight.mean() + 1e-12 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        coefficients = torch.linalg.solve(normal, weighted.T @ y)
        weight = 1 / (y - x @ coefficients).abs().clamp(min=floor)
        weight = weight / weight.mean()
    return coefficients
