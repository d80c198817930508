"""The unit that covariates are read in: their level and scale in training, so that any unit of theirs will do."""

from collections.abc import Sequence

import numpy as np
import torch
from darts import TimeSeries
from torch import Tensor

# a standard deviation below that share of the level is rounding
CONSTANT = 1e-6


def covariate_unit(covariates: Sequence[TimeSeries], series: Sequence[TimeSeries], unread: int = 0) -> Tensor:
    """Return mean and standard deviation ``(2, components)`` of what is observed of each covariate.

    They are taken over the steps of the series that the covariates belong to, one to each, the last `unread` of them
    left out. The standard deviation is 1 where a covariate is constant, or never observed (and the mean 0).
    """
    pairs = zip(covariates, series, strict=True)
    read = [(one, target[: len(target) - unread] if unread else target) for one, target in pairs]
    tables = [one.slice_intersect(target).all_values(copy=False)[:, :, 0] for one, target in read]
    count = sum((~np.isnan(table)).sum(axis=0) for table in tables)
    total = sum(np.nansum(table, axis=0, dtype=np.float64) for table in tables)
    mean = total / np.maximum(count, 1)
    squares = sum(np.nansum(np.square(table - mean), axis=0) for table in tables)
    scale = np.sqrt(squares / np.maximum(count, 1))
    varies = scale > CONSTANT * np.abs(mean)
    return torch.as_tensor(np.stack([mean, np.where(varies, scale, 1.0)]), dtype=torch.get_default_dtype())
