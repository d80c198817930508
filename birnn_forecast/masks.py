"""The only home of missingness: what is observed, how far away it is, and statistics over it.

A mask is always called ``observed`` (``True`` = a value was recorded). A missing value is NaN in a tensor that comes
from a user; every function here takes the mask beside the values, so that no NaN ever enters arithmetic.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def observed_mask(x: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Return ``True`` where `x` holds a value."""
    return ~torch.isnan(x)


def fill(
    x: Float[Tensor, "*shape"], observed: Bool[Tensor, "*shape"], value: Tensor | float
) -> Float[Tensor, "*shape"]:
    """Replace what is not observed by `value`; no gradient reaches a replaced entry."""
    return torch.where(observed, x, torch.as_tensor(value, dtype=x.dtype, device=x.device))


def first_step(observed: Bool[Tensor, "batch time channels"]) -> Int[Tensor, " batch"]:
    """Return the index of each row's first step with any value (the last index if there is none).

    The steps before it carry nothing: left padding and a leading gap are one and the same.
    """
    time = observed.shape[1]
    seen = observed.any(dim=2).long().cumsum(dim=1) > 0
    return (~seen).long().sum(dim=1).clamp(max=time - 1)


def previous_observed(observed: Bool[Tensor, "batch time channels"]) -> Int[Tensor, "batch time channels"]:
    """Return at each step the index of the latest observed step up to and including it, -1 if there is none."""
    time = observed.shape[1]
    steps = torch.arange(time, device=observed.device)[None, :, None]
    index = torch.where(observed, steps, -1)
    if not torch.compiler.is_compiling():
        return torch.cummax(index, dim=1).values
    # ONNX has no cumulative maximum: the same by doubling, log2(time) times
    reach = 1
    while reach < time:
        index = torch.cat([index[:, :reach], torch.maximum(index[:, reach:], index[:, :-reach])], dim=1)
        reach *= 2
    return index


def next_observed(observed: Bool[Tensor, "batch time channels"]) -> Int[Tensor, "batch time channels"]:
    """Return at each step the index of the first observed step from it on, ``time`` if there is none."""
    return observed.shape[1] - 1 - previous_observed(observed.flip(1)).flip(1)


def steps_since(
    observed: Bool[Tensor, "batch time channels"], start: Int[Tensor, " batch"]
) -> Int[Tensor, "batch time channels"]:
    """Return the number of steps since the last observation, 0 where observed.

    Before a channel's first observation the count starts at `start`, the row's first step, with 1.
    """
    steps = torch.arange(observed.shape[1], device=observed.device)[None, :, None]
    since = torch.maximum(previous_observed(observed), start[:, None, None] - 1)
    return (steps - since).clamp(min=0)


def steps_until(observed: Bool[Tensor, "batch time channels"]) -> Int[Tensor, "batch time channels"]:
    """Return the number of steps until the next observation, 0 where observed; the window's end counts as one."""
    steps = torch.arange(observed.shape[1], device=observed.device)[None, :, None]
    return next_observed(observed) - steps


def interpolate(
    x: Float[Tensor, "batch time channels"], observed: Bool[Tensor, "batch time channels"]
) -> Float[Tensor, "batch time channels"]:
    """Fill gaps by linear interpolation, edges by the nearest observation, a channel without any by 0."""
    time = x.shape[1]
    known = fill(x, observed, 0.0)
    before, after = previous_observed(observed), next_observed(observed)
    left = torch.gather(known, 1, torch.where(before < 0, after.clamp(max=time - 1), before))
    right = torch.gather(known, 1, torch.where(after == time, before.clamp(min=0), after))
    steps = torch.arange(time, device=x.device)[None, :, None]
    share = (steps - before).to(x.dtype) / (after - before).clamp(min=1).to(x.dtype)
    return torch.where(observed, known, left + (right - left) * share)


def masked_mean(
    x: Float[Tensor, "batch time channels"], observed: Bool[Tensor, "batch time channels"]
) -> Float[Tensor, "batch 1 channels"]:
    """Return the mean over the observed steps, 0 where there is none."""
    count = observed.sum(dim=1, keepdim=True).clamp(min=1)
    return fill(x, observed, 0.0).sum(dim=1, keepdim=True) / count.to(x.dtype)


def masked_var(
    x: Float[Tensor, "batch time channels"],
    observed: Bool[Tensor, "batch time channels"],
    mean: Float[Tensor, "#batch 1 channels"],
) -> Float[Tensor, "batch 1 channels"]:
    """Return the (population) variance around `mean` over the observed steps, 0 where there is none."""
    return masked_mean((fill(x, observed, 0.0) - mean).square(), observed)
