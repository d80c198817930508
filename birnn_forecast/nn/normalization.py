"""Normalisation: of the window's target (reversible, over observed values) and between recurrent layers."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from birnn_forecast.eager import is_whole
from birnn_forecast.masks import fill, masked_mean, masked_var


class WindowStatistics(NamedTuple):
    """Level and scale of each window, ``(batch, 1, components)``, in the unit of the series.

    ``flat`` is True where all that was seen is one value: to stay with it, see :meth:`settled`.
    """

    mean: Tensor
    scale: Tensor
    flat: Tensor

    def settled(self) -> "WindowStatistics":
        """Return the statistics of an answer: a flat window has no scale, whatever it was trained with."""
        if is_whole(~self.flat):
            return self
        return self._replace(scale=torch.where(self.flat, 0.0, self.scale))

    def in_unit(self, unit: Tensor | None) -> "WindowStatistics":
        """Return the same measured in `unit`, ``(batch, 1, components)``; None: as they are."""
        return self if unit is None else self._replace(mean=self.mean / unit, scale=self.scale / unit)


class SeriesStatistics(NamedTuple):
    """What the series of each window has shown, ``(batch, 1, components)`` in its unit, NaN where it has shown nothing.

    Mean and standard deviation of all its values, and of its last ones; in prediction of those up to the window's end.
    """

    mean: Tensor
    scale: Tensor
    last_mean: Tensor
    last_scale: Tensor

    @classmethod
    def of(cls, history: Float[Tensor, "batch 4 components"]) -> "SeriesStatistics":
        """Take apart what a batch brings."""
        return cls(*history[:, :, None].unbind(1))


class InstanceNorm(nn.Module):
    """What is common to ways of normalising a window: an optional learnt weight and bias per component."""

    def __init__(self, input_dim: int, affine: bool):
        super().__init__()
        self.affine = affine
        if affine:
            self.affine_weight = nn.Parameter(torch.ones(input_dim))
            self.affine_bias = nn.Parameter(torch.zeros(input_dim))

    def normalise(
        self, x: Float[Tensor, "batch time components"], statistics: WindowStatistics
    ) -> Float[Tensor, "batch time components"]:
        """Bring values into the unit that `statistics` stand for."""
        y = (x - statistics.mean) / torch.where(statistics.scale > 0, statistics.scale, 1.0)
        return y * self.affine_weight + self.affine_bias if self.affine else y

    def _normalised(
        self, x: Tensor, observed: Tensor, mean: Tensor, scale: Tensor, flat: Tensor
    ) -> tuple[Tensor, WindowStatistics]:
        """Return the window in its own unit, 0 where missing, and its statistics, which have no gradient."""
        statistics = WindowStatistics(mean.detach(), scale.detach(), flat)
        return fill(self.normalise(fill(x, observed, 0.0), statistics), observed, 0.0), statistics

    def undo_affine(self, y: Float[Tensor, "batch time components"]) -> Float[Tensor, "batch time components"]:
        """Take the learnt weight and bias out of a normalised location."""
        if not self.affine:
            return y
        return (y - self.affine_bias) / self.safe_weight

    @property
    def safe_weight(self) -> Tensor:
        """The learnt weight, kept away from 0 with its sign."""
        tiny = torch.where(self.affine_weight < 0, -1e-3, 1e-3).to(self.affine_weight.dtype)
        return torch.where(self.affine_weight.abs() < 1e-3, tiny, self.affine_weight)

    def common_unit(
        self, x: Tensor, observed: Tensor, series: SeriesStatistics | None = None, alone: Tensor | None = None
    ) -> WindowStatistics | None:
        """Return level and scale that the windows of a series share, None if they need none."""
        return None

    def unit(self, statistics: WindowStatistics, common: WindowStatistics | None) -> tuple[Tensor, Tensor] | None:
        """Return level and scale in a unit that components share, None if they may be anything."""
        return None


# a window whose level is further off the training data, in their scale, or that is so much wider, is not one of them
FAR = 5.0


class MaskedInstanceNorm(InstanceNorm):
    """Reversible instance normalisation over the observed values of a window (Kim et al. 2022, RevIN).

    A window with no more than one observed value has no scale of its own, one without any has no level either: it
    takes those of the last values of its series. Where these are not known (a network that is called by itself), it
    takes what training windows have on average, which is kept in buffers: their level, and their scale, or their scale
    in relation to their level where this is smaller.

    Parameters
    ----------
    input_dim
        Number of target components.
    eps
        Added to the variance, in the squared unit of the series. The default 0 keeps forecasts equivariant to the
        series' unit at any scale (Darts' ``RINorm`` adds 1e-5).
    affine
        Whether to learn a weight and a bias per component after normalising.

    References
    ----------
    T. Kim et al., "Reversible Instance Normalization for Accurate Time-Series Forecasting against Distribution Shift",
    ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    """

    typical_mean: Tensor
    typical_var: Tensor
    typical_scale: Tensor
    typical_ratio: Tensor
    windows_tracked: Tensor
    varying_tracked: Tensor

    def __init__(self, input_dim: int, eps: float = 0.0, affine: bool = True):
        super().__init__(input_dim, affine)
        self.eps = eps
        self.register_buffer("typical_mean", torch.zeros(1, 1, input_dim))
        self.register_buffer("typical_var", torch.ones(1, 1, input_dim))
        self.register_buffer("typical_scale", torch.zeros(1, 1, input_dim))
        self.register_buffer("typical_ratio", torch.zeros(1, 1, input_dim))
        self.register_buffer("windows_tracked", torch.zeros(1, 1, input_dim, dtype=torch.long))
        self.register_buffer("varying_tracked", torch.zeros(1, 1, input_dim, dtype=torch.long))

    def forward(
        self,
        x: Float[Tensor, "batch time components"],
        observed: Bool[Tensor, "batch time components"],
        level: Float[Tensor, "batch 1 components"] | None = None,
        series: SeriesStatistics | None = None,
        common: WindowStatistics | None = None,
    ) -> tuple[Float[Tensor, "batch time components"], WindowStatistics]:
        """Return the normalised window (0 where missing) and the statistics that undo it.

        `level` takes the place of that of the series for windows without any observation, NaN for none.
        """
        mean = masked_mean(x, observed)
        var = masked_var(x, observed, mean)
        varies = var > rounding_of(mean).square()
        if self.training:
            self._track(x, observed, mean, var, varies)
        if is_whole(varies):
            return self._normalised(x, observed, mean, (var + self.eps).sqrt(), ~varies)
        count = observed.sum(dim=1, keepdim=True)
        last_level, last_scale = self._borrowed(mean, count)
        flat = (count > 1) & ~varies
        if series is not None:
            flat = flat | ((count < 2) & (series.last_scale == 0))  # nothing but equal values, ever
            last_level = torch.where(torch.isnan(series.last_mean), last_level, series.last_mean)
            last_scale = torch.where(torch.isnan(series.last_scale), last_scale, series.last_scale)
        if level is not None:
            last_level = torch.where(torch.isnan(level), last_level, level)
        mean = torch.where(count > 0, mean, last_level)
        scale = torch.where(varies, (var + self.eps).sqrt(), positive(last_scale, mean))
        return self._normalised(x, observed, mean, scale, flat)

    def _borrowed(self, mean: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return level and scale that training windows have on average."""
        scale = torch.where(
            count > 0, self._borrowed_scale(torch.where(count > 0, mean, self.typical_mean)), self.typical_var.sqrt()
        )
        return self.typical_mean, scale

    def _borrowed_scale(self, mean: Tensor) -> Tensor:
        """Return the scale for a window of which only the level is known."""
        relative = self.typical_ratio * mean.abs()
        scale = torch.where(relative > 0, torch.minimum(relative, self.typical_scale), self.typical_scale)
        # no training window varies (an input chunk of one step): the scale of all of them together
        return torch.where(self.varying_tracked > 0, scale, self.typical_var.sqrt())

    @torch.no_grad()
    def _track(self, x: Tensor, observed: Tensor, mean: Tensor, var: Tensor, varies: Tensor) -> None:
        flat, seen = x.reshape(1, -1, x.shape[-1]), observed.reshape(1, -1, x.shape[-1])
        rows = observed.any(dim=1, keepdim=True).sum(dim=0, keepdim=True)
        self.windows_tracked.add_(rows)
        share = (rows / self.windows_tracked.clamp(min=1)).to(x.dtype)
        self.typical_mean.add_(share * (masked_mean(flat, seen) - self.typical_mean))
        self.typical_var.add_(share * (masked_var(flat, seen, self.typical_mean) - self.typical_var))
        scale = var.sqrt()
        ratio = scale / torch.maximum(mean.abs(), 1e-3 * scale)
        rows = varies.sum(dim=0, keepdim=True)
        self.varying_tracked.add_(rows)
        share = (rows / self.varying_tracked.clamp(min=1)).to(x.dtype)
        for typical, value in ((self.typical_scale, scale), (self.typical_ratio, ratio)):
            average = masked_mean(value.transpose(0, 1), varies.transpose(0, 1))
            typical.add_(share * (average - typical))


class ShrunkInstanceNorm(InstanceNorm):
    """Instance normalisation over the observed values of a window, drawn to the training data where they are few.

    In units of the training data (mean 0, variance 1 in each component), the level is the mean of what is observed and
    of one 0, the variance that of what is observed and of `prior` values of variance 1/2.

    Parameters
    ----------
    input_dim
        Number of target components.
    eps
        Added to the variance, in the squared unit of the training data.
    affine
        Whether to learn a weight and a bias per component after normalising.
    prior
        Number of values that the training data count for in a window's variance.
    """

    typical_mean: Tensor
    typical_scale: Tensor
    shared: Tensor

    def __init__(self, input_dim: int, eps: float = 0.0, affine: bool = False, prior: float = 8.0):
        super().__init__(input_dim, affine)
        self.eps, self.prior = eps, prior
        self.register_buffer("shared", torch.tensor(True))
        self.register_buffer("typical_mean", torch.zeros(1, 1, input_dim))
        self.register_buffer("typical_scale", torch.ones(1, 1, input_dim))

    def put(self, mean: Float[Tensor, " components"], scale: Float[Tensor, " components"], shared: bool = True) -> None:
        """Put in the training data's mean and standard deviation, in the unit of the series.

        `shared`: they are those of one series, which forecasts are likely to continue.
        """
        self.typical_mean = mean.to(self.typical_mean).reshape(1, 1, -1)
        self.typical_scale = scale.to(self.typical_scale).reshape(1, 1, -1)
        self.shared.fill_(shared)

    def forward(
        self,
        x: Float[Tensor, "batch time components"],
        observed: Bool[Tensor, "batch time components"],
        level: Float[Tensor, "batch 1 components"] | None = None,
        series: SeriesStatistics | None = None,
        common: WindowStatistics | None = None,
    ) -> tuple[Float[Tensor, "batch time components"], WindowStatistics]:
        """Return the normalised window (0 where missing) and the statistics that undo it; `level` as elsewhere.

        `common` is what :meth:`common_unit` returns.
        """
        common = self.common_unit(x, observed, series) if common is None else common
        count = observed.sum(dim=1, keepdim=True)
        z = fill((fill(x, observed, 0.0) - common.mean) / common.scale, observed, 0.0)
        n = count.to(x.dtype)
        mean = z.sum(dim=1, keepdim=True) / (n + 1)
        last_level = common.mean
        if series is not None:
            last_level = torch.where(torch.isnan(series.last_mean), last_level, series.last_mean)
        if level is not None:
            last_level = torch.where(torch.isnan(level), last_level, level)
        mean = torch.where(count > 0, mean, (last_level - common.mean) / common.scale)
        deviations = fill(z - mean, observed, 0.0).square().sum(dim=1, keepdim=True)
        scale = ((deviations + self.prior / 2) / (n + self.prior) + self.eps).sqrt() * common.scale
        own = masked_mean(x, observed)
        varies = masked_var(x, observed, own) > rounding_of(own).square()
        flat = (count > 1) & ~varies
        if series is not None:  # nothing but equal values, ever
            flat = flat | ((count < 2) & (series.last_scale == 0))
        level = torch.where(flat & (count > 0), own, common.mean + mean * common.scale)
        return self._normalised(x, observed, level, scale, flat)

    def common_unit(
        self,
        x: Float[Tensor, "batch time components"],
        observed: Bool[Tensor, "batch time components"],
        series: SeriesStatistics | None = None,
        alone: Bool[Tensor, "batch 1 1"] | None = None,
    ) -> WindowStatistics:
        """Return level and scale that the windows of a series share: those of the series.

        Rows that stand `alone` know of no more than the window. Training on a single series has settled the unit of
        all that look like it; others have their own.
        """
        mean, scale = self.typical_mean, self.typical_scale
        if series is not None:
            mean = torch.where(torch.isnan(series.mean), mean, series.mean)
            scale = torch.where(torch.isnan(series.scale), scale, positive(series.scale, mean))
            mean, scale = self._settled(mean, scale)
        if alone is None:
            return WindowStatistics(mean, scale, mean != mean)
        own = masked_mean(x, observed)
        var = masked_var(x, observed, own)
        count, varies = observed.sum(dim=1, keepdim=True), var > rounding_of(own).square()
        known_mean, known_scale = self.typical_mean, self.typical_scale
        if series is not None:
            known_mean = torch.where(torch.isnan(series.last_mean), known_mean, series.last_mean)
            known_scale = torch.where(torch.isnan(series.last_scale), known_scale, series.last_scale)
        own = torch.where(count > 0, own, known_mean)
        spread = positive(torch.where(varies, var.sqrt(), known_scale), own)
        own, spread = self._settled(own, spread)
        return WindowStatistics(torch.where(alone, own, mean), torch.where(alone, spread, scale), own != own)

    def _settled(self, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit of the one training series where level and scale look like it."""
        like = (mean - self.typical_mean).abs() <= FAR * self.typical_scale
        like = like & (scale <= FAR * self.typical_scale) & (scale >= self.typical_scale / (4 * FAR)) & self.shared
        return torch.where(like, self.typical_mean, mean), torch.where(like, self.typical_scale, scale)

    def unit(self, statistics: WindowStatistics, common: WindowStatistics | None) -> tuple[Tensor, Tensor]:
        """Return level and scale in the unit that windows share."""
        assert common is not None
        return (statistics.mean - common.mean) / common.scale, statistics.scale / common.scale


def rounding_of(mean: Tensor) -> Tensor:
    """Return the standard deviation that equal values may seem to have, by the rounding of their mean."""
    return 8 * torch.finfo(mean.dtype).eps * mean.abs()


def positive(scale: Tensor, mean: Tensor) -> Tensor:
    """Return a scale to divide by: where there is none, the size of the level, or 1."""
    size = torch.where(mean.abs() > 0, mean.abs(), 1.0)
    return torch.where(scale > 0, scale, size)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the features of all valid steps (Ioffe & Szegedy 2015); padding has no say in them."""

    def forward(
        self, x: Float[Tensor, "batch time features"], valid: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time features"]:
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        # a lone step has no batch statistics of its own
        if self.training and int(valid.sum()) > 1:
            steps = x[valid]
            with torch.no_grad():
                super().forward(steps)  # updates the running statistics
            mean, var = steps.mean(dim=0), steps.var(dim=0, correction=0)
        return (x - mean) * (var + self.eps).rsqrt() * self.weight + self.bias


class MaskedLayerNorm(nn.LayerNorm):
    """Layer normalisation of the features of each step (Ba et al. 2016)."""

    def forward(
        self, x: Float[Tensor, "batch time features"], valid: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time features"]:
        return super().forward(x)


NORMALIZATIONS: dict[str, type[nn.Module]] = {"batch": MaskedBatchNorm, "layer": MaskedLayerNorm}
