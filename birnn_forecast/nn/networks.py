"""The assembled networks: a window with gaps and its covariates in, raw parameters of the horizon out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from birnn_forecast.masks import (
    fill,
    first_step,
    interpolate,
    interpolate_seasonal,
    masked_mean,
    observed_mask,
    steps_since,
    steps_until,
)
from birnn_forecast.nn.conv import CNNEncoder
from birnn_forecast.nn.decoders import SKIPS, HorizonDecoder
from birnn_forecast.nn.pooling import POOLINGS
from birnn_forecast.nn.recurrent import BidirectionalEncoder, URNNEncoder, valid_steps

ENCODERS: dict[str, Callable[..., Any]] = {
    "birnn": BidirectionalEncoder,
    "cnn": CNNEncoder,
    "urnn": URNNEncoder,
}


class Sizes(NamedTuple):
    """What the data fixes: lengths in steps, numbers of features, and raw parameters per component."""

    input_length: int
    horizon: int
    shift: int
    targets: int
    past_covariates: int = 0
    future_covariates: int = 0
    static_covariates: int = 0
    parameters: int = 1


class Window(NamedTuple):
    """One batch of input chunks; NaN marks what is missing in every field but `target`.

    ``target`` is normalised and holds any number where ``observed`` is False.
    """

    target: Tensor
    observed: Tensor
    past_covariates: Tensor | None = None
    historic_future_covariates: Tensor | None = None
    future_covariates: Tensor | None = None
    static_covariates: Tensor | None = None


class ForecastNetwork(nn.Module):
    """Encode the window, pool it, decode the horizon, beside an optional skip path.

    Parameters
    ----------
    sizes
        What the data fixes.
    encoder
        Name in ``ENCODERS``.
    encoder_params
        Its parameters, `input_size` excepted.
    pooling
        Name in ``POOLINGS``.
    skip
        Name in ``SKIPS``, or None: a simple forecast that the network corrects. The network's part starts at zero.
    season_length
        Steps of a season, along which gaps are filled, and for the seasonal skip path; or None.
    locations
        For each raw parameter of a component, whether it is a location (in the unit of the series): the skip path is
        added to those.
    offsets
        Initial bias of each raw parameter.
    decoder_params
        Further parameters of :class:`HorizonDecoder`.
    """

    def __init__(
        self,
        sizes: Sizes,
        encoder: str,
        encoder_params: dict,
        pooling: str,
        skip: str | None,
        season_length: int | None,
        locations: Sequence[bool],
        offsets: Sequence[float],
        decoder_params: dict,
    ):
        super().__init__()
        self.sizes, self.season_length = sizes, season_length
        # per target: value, observed, steps since and until an observation; per covariate: value, observed
        features = 4 * sizes.targets + 2 * (sizes.past_covariates + sizes.future_covariates)
        self.encoder = ENCODERS[encoder](input_size=features, **encoder_params)
        self.pooling = POOLINGS[pooling](self.encoder.state_size, self.encoder.final_size)
        self.decoder = HorizonDecoder(
            code_size=self.pooling.output_size + 2 * sizes.static_covariates,
            state_size=self.encoder.state_size,
            horizon=sizes.horizon,
            output_size=sizes.targets * sizes.parameters,
            future_size=2 * sizes.future_covariates,
            start_at_zero=skip is not None,
            **decoder_params,
        )
        self.skip = SKIPS[skip](sizes.input_length, sizes.horizon, sizes.shift, season_length) if skip else None
        with torch.no_grad():
            self.decoder.output.bias += torch.tensor(offsets).repeat(sizes.targets)
        self.register_buffer("locations", torch.tensor(locations), persistent=False)

    def forward(self, window: Window) -> Float[Tensor, "batch horizon targets parameters"]:
        """Return the raw parameters of each component at each step of the horizon, in the normalised unit."""
        if self.season_length:
            target = interpolate_seasonal(window.target, window.observed, self.season_length)
        else:
            target = interpolate(window.target, window.observed)
        states, final, valid = self.encode(window, target)
        code = self.pooling(states, final, valid)
        if window.static_covariates is not None:
            code = torch.cat([code, *with_mask(window.static_covariates.flatten(1))], dim=-1)
        out = self.decoder(code, states, self._future_features(window))
        out = out.unflatten(-1, (self.sizes.targets, self.sizes.parameters))
        if self.skip is not None:
            out = out + self.skip(target, window.observed)[..., None] * self.locations.to(out.dtype)
        return out

    def encode(
        self, window: Window, target: Float[Tensor, "batch time targets"]
    ) -> tuple[Float[Tensor, "batch time state"], Float[Tensor, "batch final"], Bool[Tensor, "batch time"]]:
        """Return the state of every step of the window, the encoder's final state and the valid steps."""
        covariates = [c for c in (window.past_covariates, window.historic_future_covariates) if c is not None]
        observed = torch.cat([window.observed, *(observed_mask(c) for c in covariates)], dim=-1)
        start = first_step(observed)
        valid = valid_steps(start, target.shape[1])
        features = [target, *gap_features(window.observed, start, target.dtype)]
        for covariate in covariates:
            features += with_mask(covariate)
        x = torch.cat(features, dim=-1) * valid[:, :, None]
        return *self.encoder(x, start), valid

    def _future_features(self, window: Window) -> Tensor | None:
        if window.future_covariates is None:
            return None
        # a missing future value takes the mean of all known ones, past and future
        history = window.historic_future_covariates
        span = window.future_covariates if history is None else torch.cat([history, window.future_covariates], dim=1)
        return torch.cat(with_mask(span), dim=-1)[:, -self.sizes.horizon :]


def gap_features(
    observed: Bool[Tensor, "batch time channels"], start: Int[Tensor, " batch"], dtype: torch.dtype
) -> list[Tensor]:
    """Return the mask and the (log) number of steps since the last and until the next observation."""
    since, until = steps_since(observed, start), steps_until(observed)
    return [observed.to(dtype), torch.log1p(since.to(dtype)), torch.log1p(until.to(dtype))]


def with_mask(x: Tensor) -> list[Tensor]:
    """Return a covariate, its gaps filled by the row's mean (static: by 0), and its mask."""
    observed = observed_mask(x)
    filling = masked_mean(x, observed) if x.ndim == 3 else 0.0
    return [fill(x, observed, filling), observed.to(x.dtype)]
