"""The only home of missingness: what is observed, how far away it is, and statistics over it.

A mask is always called ``observed`` (``True`` = a value was recorded). A missing value is NaN in a tensor that comes
from a user; every function here takes the mask beside the values, so that no NaN ever enters arithmetic.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from birnn_forecast.eager import is_whole


def observed_mask(x: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Return ``True`` where `x` holds a value."""
    return ~torch.isnan(x)


def fill(
    x: Float[Tensor, "*shape"], observed: Bool[Tensor, "*shape"], value: Tensor | float
) -> Float[Tensor, "*shape"]:
    """Replace what is not observed by `value`; no gradient reaches a replaced entry."""
    if is_whole(observed):
        return x
    return torch.where(observed, x, torch.as_tensor(value, dtype=x.dtype, device=x.device))


def first_step(observed: Bool[Tensor, "batch time channels"]) -> Int[Tensor, " batch"]:
    """Return the index of each row's first step with any value (the last index if there is none).

    The steps before it carry nothing: left padding and a leading gap are one and the same.
    """
    time = observed.shape[1]
    if is_whole(observed[:, 0].any(dim=1)):
        return torch.zeros(len(observed), dtype=torch.long)
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


def neighbours(
    observed: Bool[Tensor, "batch time channels"],
) -> tuple[Int[Tensor, "batch time channels"], Int[Tensor, "batch time channels"]]:
    """Return the index of the last observed step before each step (-1: none) and of the first after it (``time``)."""
    before = pad(previous_observed(observed)[:, :-1], (0, 0, 1, 0), value=-1)
    after = pad(next_observed(observed)[:, 1:], (0, 0, 0, 1), value=observed.shape[1])
    return before, after


def interpolate_others(
    x: Float[Tensor, "batch time channels"], observed: Bool[Tensor, "batch time channels"]
) -> Float[Tensor, "batch time channels"]:
    """Interpolate every step linearly from the observations before and after it, its own value left out.

    Beyond the first and the last observation the nearest one holds; 0 where there is none.
    """
    time = x.shape[1]
    known = fill(x, observed, 0.0)
    before, after = neighbours(observed)
    first, last = before < 0, after == time
    left = torch.gather(known, 1, torch.where(first, after.clamp(max=time - 1), before))
    right = torch.gather(known, 1, torch.where(last, before.clamp(min=0), after))
    steps = torch.arange(time, device=x.device)[None, :, None]
    share = (steps - before).to(x.dtype) / (after - before).to(x.dtype)
    return left + (right - left) * torch.where(first | last, 0.0, share)


def by_phase(x: Tensor, season_length: int) -> Tensor:
    """Reshape ``(batch, time, channels)`` to ``(batch, seasons, season_length * channels)``, 0 (False) before it."""
    batch, time, channels = x.shape
    seasons = -(-time // season_length)
    return pad(x, (0, 0, seasons * season_length - time, 0)).reshape(batch, seasons, season_length * channels)


def by_time(x: Tensor, season_length: int, time: int) -> Tensor:
    """Undo :func:`by_phase` for the last `time` steps."""
    return x.reshape(x.shape[0], x.shape[1] * season_length, -1)[:, -time:]


def interpolate_phase(
    x: Float[Tensor, "batch time channels"], observed: Bool[Tensor, "batch time channels"], season_length: int
) -> tuple[Float[Tensor, "batch time channels"], Bool[Tensor, "batch time channels"]]:
    """Interpolate every step from the observations of its phase in earlier and later seasons, its own value left out.

    Returns the values, and where there was an observation to take them from.
    """
    time = x.shape[1]
    seen = by_phase(observed, season_length)
    values = interpolate_others(by_phase(fill(x, observed, 0.0), season_length), seen)
    found = seen.sum(dim=1, keepdim=True) - seen.long() > 0
    return by_time(values, season_length, time), by_time(found, season_length, time)


def interpolate_seasonal(
    x: Float[Tensor, "batch time channels"], observed: Bool[Tensor, "batch time channels"], season_length: int
) -> Float[Tensor, "batch time channels"]:
    """Fill gaps along a season: a straight line, the mean of each phase around it, and the interpolated rest.

    The line is the least-squares fit to the observed values, level unless they are spread over as much time as one and
    a half seasons (else a season's rise would pass for a trend). A phase that was never observed is interpolated
    between its neighbours.
    """
    batch, time, channels = x.shape
    steps = torch.arange(time, device=x.device, dtype=x.dtype)[None, :, None].expand_as(x)
    centred = steps - masked_mean(steps, observed)
    spread = masked_mean(centred.square(), observed)
    enough = spread >= (1.5 * season_length) ** 2 / 12  # the variance of the steps of one and a half seasons
    slope = torch.where(enough, masked_mean(centred * fill(x, observed, 0.0), observed) / spread.clamp(min=1e-6), 0.0)
    line = slope * centred
    seen = by_phase(observed, season_length)
    rest = by_phase(fill(x - line, observed, 0.0), season_length)
    profile = masked_mean(rest, seen).reshape(batch, season_length, channels)
    profile = interpolate(profile, seen.any(dim=1).reshape(batch, season_length, channels))
    wave = line + profile.repeat(1, rest.shape[1], 1)[:, -time:]
    return fill(x, observed, wave + interpolate(x - wave, observed))


# probabilities that what is hidden in a row includes the gaps of another row, single values, blocks (drawn twice), a
# block of all channels; the last three are more likely in rows that no gaps are transplanted into
TRANSPLANT, POINTS, BLOCKS, BLACKOUT, MORE_LIKELY = 0.9, 0.2, 0.2, 0.1, 2.5
# ... and that nothing is left of a channel, or of the row
SILENT, BLANK = 0.03, 0.03


def hide(
    observed: Bool[Tensor, "batch time channels"],
    rate: float,
    whole: float = 1 / 3,
    blank: bool = False,
    seed: int | None = None,
) -> Bool[Tensor, "batch time channels"]:
    """Return the mask with some of the observations taken away.

    Rows that do not stay whole lose any of

    - what another row of the batch misses, in some of the channels;
    - single values, each with a probability drawn up to `rate`;
    - blocks of steps of a length drawn up to that share of the window, independently in some of the channels;
    - such a block in all channels together, which may lie at the window's end;
    - all values of a channel, if there are several.

    Parameters
    ----------
    observed
        What is there to be hidden.
    rate
        Largest share of a window that each of the patterns drawn here hides; with 0 nothing is hidden.
    whole
        Share of the rows of which nothing is hidden.
    blank
        Whether to hide everything in a few rows: what is then left to learn from are covariates.
    seed
        Draws the same for equal shapes; default: torch's generator draws.
    """
    if rate == 0:
        return observed
    batch, time, channels = observed.shape
    generator = None if seed is None else torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        if generator is not None:  # the same on every device
            return torch.rand(*shape, generator=generator).to(observed.device)
        return torch.rand(*shape, device=observed.device)

    def some_rows(probability: Tensor | float) -> Tensor:
        return draw(batch, 1, 1) < probability

    def block(n: int) -> Tensor:
        length = (rate * time * draw(batch, 1, n)).clamp(min=1)
        start = (time + length) * draw(batch, 1, n) - length
        return (steps >= start) & (steps < start + length)

    steps = torch.arange(time, device=observed.device)[None, :, None]
    gaps = ~observed[draw(batch).argsort()]
    hidden = gaps & (draw(batch, 1, channels) < 1.5 * draw(batch, 1, 1)) & some_rows(TRANSPLANT)
    times = torch.where((hidden & observed).any(dim=1, keepdim=True).any(dim=2, keepdim=True), 1.0, MORE_LIKELY)
    hidden = hidden | ((draw(batch, time, channels) < rate * draw(batch, 1, 1)) & some_rows(times * POINTS))
    for _ in range(2):
        chosen = draw(batch, 1, channels) < 0.2 + 0.8 * draw(batch, 1, 1)
        hidden = hidden | (block(channels) & chosen & some_rows(times * BLOCKS))
    hidden = hidden | (block(1) & some_rows(times * BLACKOUT))
    if channels > 1:
        hidden = hidden | (draw(batch, 1, channels) < SILENT)
    # no row goes without: at least the value that is drawn first
    nothing = ~(hidden & observed).any(dim=1, keepdim=True).any(dim=2, keepdim=True)
    drawn = torch.where(observed, draw(batch, time, channels), 2.0)
    hidden = hidden | (nothing & (drawn < (drawn.amin(dim=(1, 2), keepdim=True) + 1e-9).clamp(min=rate / 3)))
    if blank:
        hidden = hidden | some_rows(BLANK)
    return observed & ~(hidden & some_rows(1 - whole))


def masked_mean(
    x: Float[Tensor, "batch time channels"], observed: Bool[Tensor, "batch time channels"]
) -> Float[Tensor, "batch 1 channels"]:
    """Return the mean over the observed steps, 0 where there is none."""
    if is_whole(observed):
        return x.sum(dim=1, keepdim=True) / x.shape[1]
    count = observed.sum(dim=1, keepdim=True).clamp(min=1)
    return fill(x, observed, 0.0).sum(dim=1, keepdim=True) / count.to(x.dtype)


def masked_var(
    x: Float[Tensor, "batch time channels"],
    observed: Bool[Tensor, "batch time channels"],
    mean: Float[Tensor, "#batch 1 channels"],
) -> Float[Tensor, "batch 1 channels"]:
    """Return the (population) variance around `mean` over the observed steps, 0 where there is none."""
    return masked_mean((fill(x, observed, 0.0) - mean).square(), observed)


def level_and_scale(values: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of what is observed in each column, 0 and 1 where that is nothing."""
    seen = torch.as_tensor(~np.isnan(values))[None]
    x = torch.as_tensor(values)[None]
    mean = masked_mean(x, seen)
    scale = masked_var(x, seen, mean).sqrt().flatten()
    return mean.flatten(), torch.where(scale > 0, scale, 1.0)
