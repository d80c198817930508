"""What windows of a series say of its steps, settled to one estimate for each."""

import numpy as np
import torch

from birnn_forecast.data.windows import Blend, spannable, triangle
from birnn_forecast.masks import next_observed, previous_observed
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._raw import as_measured, as_raw, central_value, moved_to


class Views:
    """What windows say of a series, told apart by what they see of a step's surroundings.

    A window that shows observations before and after a step knows best: what those say is blended by the place of the
    step in the window. In a gap that no window spans, some see what is before it and some what is after; they count by
    their nearness to it, and the farther both are, the more does the interpolation of the whole series, unless the
    network has other things to go by: covariates, or other components.

    Parameters
    ----------
    target
        The series ``(time, components)``, NaN where missing.
    length
        Steps of a window.
    module
        Whose raw parameters these are.
    informed
        ``(time, components)``, True where the network knows of something else at that time than the component itself.
    """

    def __init__(self, target: np.ndarray, length: int, module: GapAwareModule, informed: np.ndarray):
        self.length, self.module, self.informed = length, module, informed
        self.shape = (*target.shape, len(module.roles))
        observed = torch.as_tensor(~np.isnan(target))[None]
        steps = np.arange(len(target))[:, None]
        before, after = previous_observed(observed)[0].numpy(), next_observed(observed)[0].numpy()
        self.before = np.where(before >= 0, steps - before, np.inf)
        self.after = np.where(after < len(target), after - steps, np.inf)
        # steps of gaps that some window is not sure to span
        self.open = (self.before + self.after > spannable(length) + 1) & np.isnan(target)
        self.blends: dict[str, Blend] = {}

    def add(self, start: int, estimate: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Add a window's raw parameters, and its steps to the observations before and after (negative: there is none).

        All are ``(time, components, ...)``.
        """
        shape = triangle(self.length)[:, None]
        estimate = as_measured(estimate, self.module)
        self._add("both", start, estimate, shape * ((before >= 0) & (after >= 0)))
        ahead = max(-start, 0)
        is_open = np.zeros(before.shape, dtype=bool)
        is_open[ahead:] = self.open[start + ahead : start + self.length]
        if is_open.any():
            self._add("before", start, estimate, shape * ((before >= 0) & (after < 0) & is_open))
            self._add("after", start, estimate, shape * ((before < 0) & (after >= 0) & is_open))
            self._add("neither", start, estimate, shape * ((before < 0) & (after < 0) & is_open))

    def _add(self, name: str, start: int, estimate: np.ndarray, weight: np.ndarray) -> None:
        if weight.any():
            # a blend is as long as the series: made once, when it is first needed
            if name not in self.blends:
                self.blends[name] = Blend(self.shape)
            self.blends[name].add(start, estimate, weight)

    def _mean(self, name: str) -> np.ndarray:
        return self.blends[name].mean() if name in self.blends else np.full(self.shape, np.nan)

    def _center(self, measured: np.ndarray) -> np.ndarray:
        return central_value(as_raw(measured, self.module), self.module)

    def settled(self, guide: np.ndarray | None) -> np.ndarray:
        """Return the raw parameters ``(time, components, parameters)``; `guide` interpolates the whole series."""
        raw = as_raw(self._mean("both"), self.module)
        if not self.open.any():
            return raw
        rest = self.open & np.isnan(raw).all(axis=-1)
        neither = self._mean("neither")
        aim = self._center(neither)
        if guide is not None:
            aim = np.where(np.isnan(aim), guide, aim)
        sides = [self._mean("before"), self._mean("after")]
        said = [~np.isnan(side).any(axis=-1) for side in sides]
        # who knows of other things needs no second side
        mute = [self.informed & ~said[i] & said[1 - i] for i in range(2)]
        near = [~m / np.maximum(steps, 1) for m, steps in zip(mute, (self.before, self.after), strict=True)]
        trust = [np.maximum(1 - steps / self.length, 0.0) for steps in (self.before, self.after)]
        # what holds the value before and what holds the one after are together a straight line, if trusted equally
        trust = [np.where(said[0] & said[1], np.minimum(*trust), one) for one in trust]
        # without observations on the other side, there is nothing to interpolate with
        alone = np.isinf(self.before) | np.isinf(self.after)
        center, spread = np.zeros(self.shape[:2]), np.zeros(self.shape)
        for side, weight, has_said, share in zip(sides, near, said, trust, strict=True):
            share = np.where(has_said, np.where(alone | self.informed, 1.0, share), 0.0)
            own = np.where(has_said, self._center(side), 0.0)
            center += weight * (share * own + (1 - share) * np.where(np.isnan(aim), own, aim))
            spread += np.where(has_said[..., None], side, 0.0) * weight[..., None]
        weight = near[0] + near[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            center = np.where(weight > 0, center / weight, aim)
            shares = near[0] * said[0] + near[1] * said[1]
            spread = np.where((shares > 0)[..., None], spread / shares[..., None], neither)
        spread = as_raw(_carried(spread), self.module)
        return np.where(rest[..., None], moved_to(spread, np.where(rest, center, np.nan), self.module), raw)


def _carried(raw: np.ndarray) -> np.ndarray:
    """Return raw parameters ``(time, components, parameters)``; where there are none, those of the nearest step."""
    known = torch.as_tensor(~np.isnan(raw).any(axis=-1))[None]
    steps = np.arange(len(raw))[:, None]
    before, after = previous_observed(known)[0].numpy(), next_observed(known)[0].numpy()
    use_before = (before >= 0) & ((after == len(raw)) | (steps - before <= after - steps))
    nearest = np.where(use_before, before, after).clip(max=len(raw) - 1)
    return np.take_along_axis(raw, nearest[..., None], axis=0)
