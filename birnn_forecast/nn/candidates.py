"""Simple estimates of each value from all others, for a network to choose from and to correct.

None of them knows the value it estimates. All are in the window's normalised unit and relative to ``base``, linear
interpolation over time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from birnn_forecast.masks import by_phase, by_time, fill, interpolate_others, interpolate_phase, masked_mean
from birnn_forecast.nn.node_graph import NeighboursMean, NodeGraph

# phases seen few times are drawn to the window's mean, as if half an observation stood there
PHASE_PRIOR = 0.5
# what a candidate may add, softly limited: neighbours whose units differ may be far off
LARGEST = 3.0


class Estimates(NamedTuple):
    """Simple estimates of every value of a window.

    Attributes
    ----------
    base
        Linear interpolation, ``(batch, time, nodes)``.
    candidates
        What other estimates add to it, ``(batch, time, nodes, n)``.
    support
        Which part of its neighbours (by weight) a node sees at the same time, ``(batch, time, nodes, heads)``.
    """

    base: Tensor
    candidates: Tensor
    support: Tensor


class Candidates(nn.Module):
    """The estimates: along time, along the season, from the neighbours, and from all nodes together.

    - linear interpolation over time;
    - with a season: the mean of each phase plus the interpolated rest; and the interpolation of the phase itself, from
      the seasons before and after;
    - with a graph: for each of its heads the weighted mean of what the neighbours show at the same time, each value
      multiplied by a learnt factor where nodes are known;
    - with known correlations of few nodes: the conditional mean of a normal distribution, given all that is observed at
      the same time ("simple kriging" over components), and the same with its error interpolated over time. The variance
      that single values have of their own is learnt.

    Parameters
    ----------
    season_length
        Steps of a season, or None.
    graph
        The nodes' graph, or None.
    sharpness, n_nodes
        As in :class:`EdgeWeights`.
    correlated
        Whether the graph's correlations are known.
    """

    def __init__(
        self,
        season_length: int | None,
        graph: NodeGraph | None,
        sharpness: Sequence[float] = (),
        n_nodes: int | None = None,
        correlated: bool = False,
    ):
        super().__init__()
        self.season_length = season_length
        self.neighbours = None if graph is None else NeighboursMean(sharpness, n_nodes)
        self.heads = 0 if graph is None else len(sharpness)
        self.own_variance = nn.Parameter(torch.tensor(-1.5)) if correlated else None
        self.count = (2 if season_length else 0) + self.heads + (2 if correlated else 0)

    def forward(
        self,
        x: Float[Tensor, "batch time nodes"],
        observed: Bool[Tensor, "batch time nodes"],
        level: Float[Tensor, "batch 1 nodes"],
        scale: Float[Tensor, "batch 1 nodes"],
        graph: NodeGraph | None,
    ) -> Estimates:
        """Return the estimates; ``x * scale + level`` is in a unit that the nodes share."""
        x = fill(x, observed, 0.0)
        base = interpolate_others(x, observed)
        found: list[Tensor] = []
        support = x.new_zeros(*x.shape, 0)
        if self.season_length:
            found += self._seasonal(x, observed, base)
        if self.neighbours is not None and graph is not None:
            shared = fill(x * scale + level, observed, 0.0)
            means, support = self.neighbours(shared, observed, graph())
            means = (means - level[..., None]) / scale[..., None]
            found += [torch.where(support > 1e-3, means - base[..., None], 0.0)]
            if self.own_variance is not None:
                conditional = (self._kriging(shared, observed, graph.correlation) - level) / scale
                rest = interpolate_others(fill(x - conditional, observed, 0.0), observed)
                found += [torch.stack([conditional - base, conditional + rest - base], dim=-1)]
        candidates = torch.cat(found, dim=-1) if found else x.new_zeros(*x.shape, 0)
        return Estimates(base, LARGEST * torch.tanh(candidates / LARGEST), support)

    def _seasonal(self, x: Tensor, observed: Tensor, base: Tensor) -> list[Tensor]:
        assert self.season_length
        time = x.shape[1]
        mean = masked_mean(x, observed)
        seen = by_phase(observed, self.season_length)
        total = by_phase(fill(x - mean, observed, 0.0), self.season_length).sum(dim=1, keepdim=True)
        profile = total / (seen.sum(dim=1, keepdim=True) + PHASE_PRIOR)
        wave = mean + by_time(profile.expand(-1, seen.shape[1], -1), self.season_length, time)
        wave = wave + interpolate_others(fill(x - wave, observed, 0.0), observed)
        phase, known = interpolate_phase(x, observed, self.season_length)
        return [torch.stack([wave - base, torch.where(known, phase - base, 0.0)], dim=-1)]

    def _kriging(self, x: Tensor, observed: Tensor, correlation: Tensor) -> Tensor:
        """Return each node's mean given the others at the same time: ``x - (P x) / diag(P)``, `P` the precision."""
        assert self.own_variance is not None
        dtype = torch.promote_types(x.dtype, torch.float32)  # no inverse in half precision
        with torch.autocast(x.device.type, enabled=False):
            variance = softplus(self.own_variance.to(dtype)) + 0.01
            noise = torch.where(observed, variance, 1e3)  # nothing is known of what is missing
            precision = inverse(correlation.to(dtype) + torch.diag_embed(noise))
            rest = (precision @ x.to(dtype)[..., None])[..., 0] / torch.diagonal(precision, dim1=-2, dim2=-1)
        return x - rest.to(x.dtype)


def inverse(matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Return the inverse of positive definite matrices."""
    if not torch.compiler.is_compiling():
        return torch.linalg.inv(matrix)
    # ONNX has no inverse: the same by Gauss-Jordan elimination, which needs no pivoting here
    units = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for k, unit in enumerate(units):
        pivot = matrix[..., k : k + 1, k : k + 1]
        row, column = matrix[..., k : k + 1, :] / pivot, matrix[..., :, k : k + 1]
        matrix = matrix - column * row + unit[:, None] * row - column / pivot * unit + unit[:, None] * unit / pivot
    return matrix
