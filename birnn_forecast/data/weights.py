"""Which values of a series have a say in training."""

import numpy as np
from darts import TimeSeries


def counted_values(series: TimeSeries, weight: TimeSeries | None) -> np.ndarray:
    """Return the values ``(time, components)``, NaN where their weight is 0."""
    values = series.all_values(copy=False)[:, :, 0]
    if weight is None:
        return values
    weights = weight.slice_intersect(series)
    first = series.get_index_at_point(weights.start_time())
    counted = np.ones_like(values, dtype=bool)
    counted[first : first + len(weights)] = weights.all_values(copy=False)[:, :, 0] != 0
    return np.where(counted, values, np.nan)
