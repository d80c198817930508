import numpy as np
import pytest
from darts import TimeSeries

from benchmarks import gate_gaps


@pytest.mark.parametrize("blocks", [False, True])
def test_removes_the_share_it_says(blocks):
    series = TimeSeries.from_values(np.arange(1000, dtype=np.float32))
    gappy = gate_gaps.remove(series, 12, blocks, np.random.default_rng(0))
    missing = np.isnan(gappy.values()[:, 0])
    assert missing.sum() == 300
    np.testing.assert_array_equal(gappy.values()[~missing], series.values()[~missing])
    # runs of missing values: mostly single ones, or blocks of a season (fewer by far)
    runs = np.flatnonzero(np.diff(missing.astype(int)) == 1).size
    assert runs < 30 if blocks else runs > 150


def test_a_ratio_above_its_goal_is_a_miss():
    row = {"BiGRU full": 1.0}
    for kind in ("random", "blocks"):
        row |= {f"BiGRU {kind}": 1.15, f"BlockRNN {kind}": 2.0, f"BlockRNN + RIN {kind}": 1.1}
    results = {goal: ratio <= most for _, goal, ratio, most in gate_gaps.verdicts({"data": row})}
    assert results == {
        "random: with gaps / without": False,
        "random: BiGRU / best BlockRNN": False,
        "blocks: with gaps / without": True,
        "blocks: BiGRU / best BlockRNN": False,
    }
