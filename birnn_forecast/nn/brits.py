"""Bidirectional recurrent imputation, with a decoder of the horizon."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from birnn_forecast.masks import first_step, observed_mask
from birnn_forecast.nn.networks import Encoding, ForecastNetwork, Window, fill_gaps, with_mask
from birnn_forecast.nn.recurrent import first_states, valid_steps
from birnn_forecast.nn.rits import RITS, in_time


class BRITSNetwork(ForecastNetwork):
    """:class:`ForecastNetwork` around a :class:`RITS`: both directions' estimates of a step become one.

    A step's estimate is the mean of both directions', plus a correction read off the states that have not seen it and
    off the covariates at that step.
    Where nothing was observed on one side of a step, it is that of the other direction. The three estimates of each
    direction come with a third of their loss, and what the directions differ by with a tenth.

    References
    ----------
    W. Cao et al., "BRITS: Bidirectional Recurrent Imputation for Time Series", NeurIPS 2018,
    https://arxiv.org/abs/1805.10572, section 4.2.
    """

    sees_own_values = False
    estimates_some = False
    earlier_weight = 1 / 3
    disagreement_weight = 0.1
    step_head_reads_covariates = True

    def _make_encoder(self, encoder: str, params: dict, patch_length: int | None) -> Any:
        covariates = 2 * (self.sizes.past_covariates + self.sizes.future_covariates)
        return RITS(self.sizes.targets, covariates, **params)

    def encode(self, window: Window) -> Encoding:
        """Read the window from both ends, each step's gaps filled by what the steps read before it say."""
        covariates = [c for c in (window.past_covariates, window.historic_future_covariates) if c is not None]
        seen = torch.cat([window.observed, *(observed_mask(c) for c in covariates)], dim=-1)
        start, shown = first_step(seen), seen.any(dim=(1, 2))[:, None, None]
        exogenous = torch.cat([part for c in covariates for part in with_mask(c)], dim=-1) if covariates else None
        found = self.encoder(window.target, window.observed, exogenous, start)
        states = torch.cat(in_time(found.after), dim=-1) * shown
        hidden = states.shape[-1] // 2
        final = torch.cat([states[:, -1, :hidden], first_states(states[..., hidden:], start)[:, 0]], dim=-1)
        encoding = Encoding(fill_gaps(window, self.season_length), states, final, valid_steps(start, states.shape[1]))
        if self.step_head is None:
            return encoding
        f, b = in_time(found.combined)
        estimate = mean_of_informed(f, b, window.observed)
        if window.guide is not None:
            estimate = torch.where(window.observed.any(dim=1, keepdim=True), estimate, window.guide)
        before = torch.cat(in_time(found.before), dim=-1) * shown
        at_step = before if exogenous is None else torch.cat([before, exogenous], dim=-1)
        raw = self._per_component(self._estimates(at_step, window.static_covariates))
        raw = raw + estimate[..., None] * self.locations.to(raw.dtype)
        kinds = (found.history, found.cross, found.combined) if self.sizes.targets > 1 else (found.history,)
        earlier = torch.stack([e for one in kinds for e in in_time(one)])
        return encoding._replace(estimate=raw, earlier_estimates=earlier, disagreement=f - b)

    def reconstruct(
        self, window: Window, encoding: Encoding, steps: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "batch time targets parameters"]:
        """Return the raw parameters of each component at each step of the window, in the normalised unit."""
        if encoding.estimate is None:
            raise ValueError("A network made with `reconstructs=False` has no head for the window's own steps.")
        return encoding.estimate if steps is None else encoding.estimate[steps][:, None]


def mean_of_informed(
    f: Float[Tensor, "batch time targets"],
    b: Float[Tensor, "batch time targets"],
    observed: Bool[Tensor, "batch time targets"],
) -> Float[Tensor, "batch time targets"]:
    """Return the mean of both directions; of one alone where the other has nothing to go by."""
    time = observed.shape[1]
    first, last = first_step(observed), time - 1 - first_step(observed.flip(1))
    steps = torch.arange(time, device=f.device)
    both = torch.lerp(f, b, 0.5)
    leading = (steps < first[:, None])[:, :, None]
    trailing = (steps > last[:, None])[:, :, None]
    return torch.where(leading, b, torch.where(trailing, f, both))
