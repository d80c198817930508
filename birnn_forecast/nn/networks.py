"""The assembled networks: a window with gaps and its covariates in, raw parameters of horizon and window out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from birnn_forecast.eager import is_whole
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
from birnn_forecast.nn.decoders import SKIPS, HorizonDecoder, StepHead
from birnn_forecast.nn.normalization import MaskedInstanceNorm
from birnn_forecast.nn.patching import PatchEncoder
from birnn_forecast.nn.pooling import POOLINGS
from birnn_forecast.nn.recurrent import BidirectionalEncoder, URNNEncoder, valid_steps
from birnn_forecast.nn.segments import Segments

STEP_HEAD_PARAMS = ("hidden_sizes", "activation", "dropout")

ENCODERS: dict[str, Callable[..., Any]] = {
    "birnn": BidirectionalEncoder,
    "cnn": CNNEncoder,
    "urnn": URNNEncoder,
}


class Sizes(NamedTuple):
    """What the data fixes: lengths in steps, numbers of features, and raw parameters per component.

    ``static_covariates`` counts those of all components, ``static_width`` those of one.
    """

    input_length: int
    horizon: int
    shift: int
    targets: int
    past_covariates: int = 0
    future_covariates: int = 0
    static_covariates: int = 0
    static_width: int = 0
    parameters: int = 1


class Window(NamedTuple):
    """One batch of input chunks; NaN marks what is missing in every field but `target`.

    ``target`` is normalised and holds any number where ``observed`` is False. ``guide`` takes its place in components
    of which nothing is observed (0 without it). ``unit`` are level and scale of the window's components in a unit that
    they share.
    """

    target: Tensor
    observed: Tensor
    past_covariates: Tensor | None = None
    historic_future_covariates: Tensor | None = None
    future_covariates: Tensor | None = None
    static_covariates: Tensor | None = None
    guide: Tensor | None = None
    unit: tuple[Tensor, Tensor] | None = None


class Encoding(NamedTuple):
    """A window as the encoder sees it: the target, its gaps filled, and a state per step, all at once or in segments.

    Some networks have the estimate of every step by then, others that it was made from, ``(estimates, batch, time,
    targets)``, and what those of the two directions differ by, ``(batch, time, targets)``.
    """

    target: Tensor
    states: Any
    final: Tensor
    valid: Tensor
    estimate: Tensor | None = None
    earlier_estimates: Tensor | None = None
    disagreement: Tensor | None = None


class ForecastNetwork(nn.Module):
    """Encode the window once; from that, decode the horizon and estimate every step of the window.

    The horizon is decoded from the pooled states, beside an optional skip path. The estimates correct the values that
    the gaps are filled with.

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
    reconstructs
        Whether to have the head that estimates the window's own steps.
    patch_length
        Steps that the encoder reads at once, by :class:`PatchEncoder`; None for step by step.
    tbptt_length
        Steps of :class:`Segments` in which training reads a longer window; None to read it at once.
    """

    locations: Tensor
    Norm = MaskedInstanceNorm
    sees_own_values = True
    mixes_components = True
    estimates_some = True  # `reconstruct` takes `steps`
    earlier_weight = disagreement_weight = 1.0  # of the losses of what an encoding has of these
    step_head_reads_covariates = False  # at the step itself, beside its state
    whole = 1 / 3  # share of the rows that training leaves whole: forecasts meet such windows most

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
        reconstructs: bool = True,
        patch_length: int | None = None,
        tbptt_length: int | None = None,
    ):
        super().__init__()
        self.sizes, self.season_length, self.tbptt_length = sizes, season_length, tbptt_length
        outputs = sizes.targets * sizes.parameters
        self.encoder = self._make_encoder(encoder, encoder_params, patch_length)
        self.pooling = POOLINGS[pooling](self.encoder.state_size, self.encoder.final_size)
        self.decoder = HorizonDecoder(
            code_size=self.pooling.output_size + 2 * sizes.static_covariates,
            state_size=self.encoder.state_size,
            horizon=sizes.horizon,
            output_size=outputs,
            future_size=2 * sizes.future_covariates,
            start_at_zero=skip is not None,
            **decoder_params,
        )
        self.skip = SKIPS[skip](sizes.input_length, sizes.horizon, sizes.shift, season_length) if skip else None
        self.step_head = None
        if reconstructs:
            common = {name: decoder_params[name] for name in STEP_HEAD_PARAMS if name in decoder_params}
            size = self.encoder.state_size + 2 * sizes.static_covariates
            if self.step_head_reads_covariates:
                size += 2 * (sizes.past_covariates + sizes.future_covariates)
            self.step_head = StepHead(size, outputs, **common)
        with torch.no_grad():
            for head in (self.decoder, self.step_head):
                if head is not None:
                    head.output.bias += torch.tensor(offsets).repeat(sizes.targets)
        self.register_buffer("locations", torch.tensor(locations), persistent=False)

    def _make_encoder(self, encoder: str, params: dict, patch_length: int | None) -> Any:
        sizes = self.sizes
        # per target: value, observed, steps since and until an observation; per covariate: value, observed
        features = 4 * sizes.targets + 2 * (sizes.past_covariates + sizes.future_covariates)
        if patch_length is None:
            return ENCODERS[encoder](input_size=features, **params)
        return PatchEncoder(patch_length, ENCODERS[encoder], features, **params)

    def forward(self, window: Window) -> Float[Tensor, "batch horizon targets parameters"]:
        """Return the raw parameters of each component at each step of the horizon, in the normalised unit."""
        return self.forecast(window, self.encode(window))

    def encode(self, window: Window) -> Encoding:
        """Fill the window's gaps and read it from both ends."""
        target = fill_gaps(window, self.season_length)
        covariates = [c for c in (window.past_covariates, window.historic_future_covariates) if c is not None]
        observed = torch.cat([window.observed, *(observed_mask(c) for c in covariates)], dim=-1)
        start = first_step(observed)
        valid = valid_steps(start, target.shape[1])
        features = [target, *gap_features(window.observed, start, target.dtype)]
        for covariate in covariates:
            features += with_mask(covariate)
        x = torch.cat(features, dim=-1)
        # a window that shows nothing has only its guide, and no states to correct it by
        shown = observed.any(dim=(1, 2))[:, None, None]
        if self.tbptt_length and x.shape[1] > self.tbptt_length and self.training and torch.is_grad_enabled():
            segments = Segments(self.encoder, x, start, self.tbptt_length, shown)
            return Encoding(target, segments, segments.final(), valid)
        states, final = self.encoder(x, start)
        return Encoding(target, states if is_whole(shown) else states * shown, final, valid)

    def forecast(self, window: Window, encoding: Encoding) -> Float[Tensor, "batch horizon targets parameters"]:
        """Return the raw parameters of each component at each step of the horizon, in the normalised unit."""
        # nothing ahead depends on how long ago the window's first observation was
        if isinstance(encoding.states, Segments):
            code = encoding.states.pooled(self.pooling, encoding.final, encoding.valid)
            states = encoding.states.latest(self.sizes.horizon)
            states = states * encoding.valid[:, -states.shape[1] :, None]
        else:
            states = encoding.states
            if not is_whole(encoding.valid):
                states = states * encoding.valid[:, :, None]
            code = self.pooling(states, encoding.final, encoding.valid)
        if window.static_covariates is not None:
            code = torch.cat([code, *with_mask(window.static_covariates.flatten(1))], dim=-1)
        out = self.decoder(code, states, self._future_features(window))
        out = self._per_component(out)
        if self.skip is not None:
            out = out + self.skip(encoding.target, window.observed)[..., None] * self.locations.to(out.dtype)
        return out

    def reconstruct(
        self, window: Window, encoding: Encoding, steps: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "batch time targets parameters"]:
        """Return the raw parameters of each component at each step of the window, in the normalised unit.

        What is observed is an input: only of a value that was hidden is this an estimate. With `steps`, the rows and
        times of some steps, each of them is a window of one step.
        """
        if self.step_head is None:
            raise ValueError("A network made with `reconstructs=False` has no head for the window's own steps.")
        target, static = encoding.target, window.static_covariates
        if isinstance(encoding.states, Segments):
            out = torch.cat(encoding.states.map(lambda states: self._estimates(states, static)), dim=1)
            out, target = (x if steps is None else x[steps][:, None] for x in (out, target))
        elif steps is not None:
            target = target[steps][:, None]
            out = self._estimates(encoding.states[steps][:, None], None if static is None else static[steps[0]])
        else:
            out = self._estimates(encoding.states, static)
        out = self._per_component(out)
        return out + target[..., None] * self.locations.to(out.dtype)

    def _estimates(self, states: Tensor, static: Tensor | None) -> Tensor:
        """Return the raw parameters of some steps."""
        if static is not None:
            static = torch.cat(with_mask(static.flatten(1)), dim=-1)
            states = torch.cat([states, static[:, None].expand(-1, states.shape[1], -1)], dim=-1)
        assert self.step_head is not None
        return self.step_head(states)

    def _per_component(self, out: Tensor) -> Tensor:
        return out.unflatten(-1, (self.sizes.targets, self.sizes.parameters))

    def _future_features(self, window: Window) -> Tensor | None:
        if window.future_covariates is None:
            return None
        # a missing future value takes the mean of all known ones, past and future
        history = window.historic_future_covariates
        span = window.future_covariates if history is None else torch.cat([history, window.future_covariates], dim=1)
        return torch.cat(with_mask(span), dim=-1)[:, -self.sizes.horizon :]


def fill_gaps(window: Window, season_length: int | None) -> Float[Tensor, "batch time targets"]:
    """Return the target with its gaps interpolated, along the season if there is one."""
    if is_whole(window.observed):
        return window.target
    if season_length:
        target = interpolate_seasonal(window.target, window.observed, season_length)
    else:
        target = interpolate(window.target, window.observed)
    if window.guide is not None:
        target = torch.where(window.observed.any(dim=1, keepdim=True), target, window.guide)
    return target


def gap_features(
    observed: Bool[Tensor, "batch time channels"], start: Int[Tensor, " batch"], dtype: torch.dtype
) -> list[Tensor]:
    """Return the mask and the (log) number of steps since the last and until the next observation."""
    if is_whole(observed):
        nothing = torch.zeros_like(observed, dtype=dtype)
        return [torch.ones_like(nothing), nothing, nothing]
    since, until = steps_since(observed, start), steps_until(observed)
    return [observed.to(dtype), torch.log1p(since.to(dtype)), torch.log1p(until.to(dtype))]


def with_mask(x: Tensor) -> list[Tensor]:
    """Return a covariate, its gaps filled by the row's mean (static: by 0), and its mask."""
    observed = observed_mask(x)
    if is_whole(observed):
        return [x, torch.ones_like(x)]
    filling = masked_mean(x, observed) if x.ndim == 3 else 0.0
    return [fill(x, observed, filling), observed.to(x.dtype)]
