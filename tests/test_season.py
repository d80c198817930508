"""The usual season of a frequency, and whether series show it: rates over made-up series, gaps, units, order."""

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from hypothesis import given, settings
from hypothesis import strategies as st

from birnn_forecast.season import find_season, season_evidence, strongest_period, usual_season

USUAL = {
    "h": 24, "60min": 24, "30min": 48, "15min": 96, "10min": 144, "5min": 288, "min": 1440, "90min": 16, "2h": 12,
    "3h": 8, "6h": 4, "12h": 2, "24h": 7, "1440min": 7, "D": 7, "7D": 52, "14D": 26, "B": 5, "C": 5, "W": 52,
    "W-SUN": 52, "W-WED": 52, "2W": 26, "4W": 13, "MS": 12, "ME": 12, "BMS": 12, "BME": 12, "CBMS": 12, "2MS": 6,
    "3ME": 4, "6MS": 2, "SMS": 24, "WOM-2TUE": 12, "QS": 4, "QE": 4, "QE-MAR": 4, "BQS-FEB": 4, "2QS": 2, "bh": 8,
    "s": 3600, "10s": 360, "ms": 1000, "100ms": 10,
    "2D": None, "7h": None, "5h": None, "7min": None, "13h": None, "12MS": None, "YS": None, "YE": None,
    "BYE-JUN": None, "2YS": None, "10YS": None, "5MS": None,
}  # fmt: skip


@pytest.mark.parametrize(("freq", "steps"), USUAL.items())
def test_usual_season(freq, steps):
    assert usual_season(freq) == steps
    assert usual_season(pd.tseries.frequencies.to_offset(freq)) == steps


def test_usual_season_of_other_offsets():
    assert usual_season(pd.DateOffset(months=1)) == 12
    assert usual_season(pd.DateOffset(hours=2)) == 12
    assert usual_season(pd.DateOffset(years=1)) is None
    assert usual_season(pd.offsets.BusinessHour(start=["08:00", "13:00"], end=["12:00", "18:00"])) == 9
    for step in (None, 1, np.int64(24)):
        assert usual_season(step) is None


# Made-up series

N = 300


def noise(rng, n):
    return rng.normal(size=n)


def walk(rng, n):
    return rng.normal(size=n).cumsum()


def smooth(rng, n):
    return walk(rng, n).cumsum()


def autoregressive(rng, n):
    x = noise(rng, n)
    for i in range(1, n):
        x[i] += 0.9 * x[i - 1]
    return x


def trend(rng, n):
    return 0.05 * np.arange(n) * rng.normal() + noise(rng, n)


def steps(rng, n):
    x = rng.choice([0.0, 0.1, 1.0]) * noise(rng, n)
    for start in rng.integers(1, n, size=max(n // 60, 2)):
        x[start:] += 3 * rng.normal()
    return x


NULL = {f.__name__: f for f in (noise, walk, smooth, autoregressive, trend, steps)}


def wave(rng, n, period, kind):
    """Return a season of variance 1."""
    t = np.arange(n) + rng.integers(period)
    if kind == "sawtooth":
        shape = (t % period).astype(float)
    elif kind == "spike":
        shape = (t % period == 0).astype(float)
    else:
        weights = {"sine": [1], "harmonics": [1, 0.7, 0.5]}[kind]
        shape = sum(w * np.sin(2 * np.pi * (k + 1) * t / period + rng.random() * 6) for k, w in enumerate(weights))
    return (shape - shape.mean()) / shape.std()


def seasonal(rng, n, period=24, kind="sine", signal=1.0, rest=noise):
    """Return a season of variance `signal` by that of the noise, and a trend."""
    other = rest(rng, n)
    other = other / (other.std() if rest is noise else 1)
    return signal**0.5 * wave(rng, n, period, kind) + other + 0.02 * rng.normal() * np.arange(n)


def hide(rng, x, pattern):
    x, t = x.copy(), np.arange(len(x))
    missing = {
        "none": t < 0,
        "every second": t % 2 == 1,
        "one in 24": t % 24 != 5,
        "working hours": (t % 24 < 8) | (t % 24 >= 17),
        "outage": (t >= len(x) // 4) & (t < len(x) // 2),
        "silent end": t >= len(x) * 3 // 4,
        "random": rng.random(len(x)) < 0.5,
        "blocks": np.repeat(rng.random(len(x) // 10 + 1) < 0.2, 10)[: len(x)],
    }[pattern]
    x[missing] = np.nan
    return x


GAPS = ["none", "every second", "working hours", "outage", "silent end", "random", "blocks"]


def hourly(x, **kwargs):
    x = np.asarray(x, dtype=float)
    times = pd.date_range("2024-01-01", periods=len(x), freq=kwargs.get("freq", "h"))
    return TimeSeries.from_times_and_values(times, x)


def ranged(x):
    return TimeSeries.from_values(np.asarray(x, dtype=float))


@pytest.mark.parametrize("kind", NULL)
@pytest.mark.parametrize("pattern", GAPS)
def test_no_season_where_there_is_none(kind, pattern):
    found = {}
    for n, seed in ((80, 0), (N, 1000)):
        rng = np.random.default_rng(seed)
        found[n] = [find_season(hourly(hide(rng, NULL[kind](rng, n), pattern))) for _ in range(60)]
    share = np.mean([season is not None for seasons in found.values() for season in seasons])
    assert share <= 0.06  # at most 3 % of many


@pytest.mark.parametrize("kind", NULL)
def test_no_period_where_there_is_none(kind):
    rng = np.random.default_rng(2)
    found = [find_season(ranged(NULL[kind](rng, N))) for _ in range(50)]
    assert sum(period is not None for period in found) <= 3


@pytest.mark.parametrize("kind", ["sine", "sawtooth", "harmonics"])
@pytest.mark.parametrize("pattern", [p for p in GAPS if p != "working hours"])
def test_a_season_is_found(kind, pattern):
    rng = np.random.default_rng(3)
    for signal, n, share in ((1.0, N, 0.9), (0.5, 480, 0.85), (4.0, 120, 0.9)):
        found = [find_season(hourly(hide(rng, seasonal(rng, n, 24, kind, signal), pattern))) for _ in range(20)]
        assert set(found) <= {24, None}
        assert np.mean([season == 24 for season in found]) >= share - (0.25 if pattern == "random" else 0)


def test_a_season_is_found_in_three_seasons():
    rng = np.random.default_rng(4)
    for period, freq, signal in ((24, "h", 1.0), (12, "MS", 2.0), (52, "W", 0.5), (7, "D", 5.0), (4, "QS", 20.0)):
        found = [
            find_season(hourly(seasonal(rng, 3 * period + 1, period, "sine", signal), freq=freq)) for _ in range(20)
        ]
        assert np.mean([season == period for season in found]) >= 0.85, period


def test_a_faint_season_is_found_at_a_coarse_resolution():
    rng = np.random.default_rng(15)
    found = [find_season(hourly(seasonal(rng, 72, 24, signal=0.7))) for _ in range(80)]
    assert np.mean([season == 24 for season in found]) >= 0.75


def test_a_season_on_a_random_walk():
    rng = np.random.default_rng(5)
    found = [find_season(hourly(seasonal(rng, N, 24, "harmonics", 4.0, walk))) for _ in range(20)]
    assert np.mean([season == 24 for season in found]) >= 0.9


def test_working_hours():
    rng = np.random.default_rng(6)
    x = 3 * np.exp(-(((np.arange(480) % 24) - 12) ** 2) / 8) + 0.5 * noise(rng, 480)
    assert find_season(hourly(hide(rng, x, "working hours"))) == 24


@pytest.mark.parametrize("rest", [noise, autoregressive])
@pytest.mark.parametrize("kind", ["sine", "sawtooth", "harmonics", "spike"])
@pytest.mark.parametrize("period", [5, 7, 12, 24, 48])
def test_the_strongest_period(period, kind, rest):
    rng = np.random.default_rng(period)
    found = [find_season(ranged(seasonal(rng, 600, period, kind, 4.0, rest))) for _ in range(8)]
    right = np.mean([one == period for one in found])
    near = np.mean([one is not None and abs(one - period) <= 1 for one in found])
    assert right >= 0.75 or near >= 0.9


def test_the_day_and_not_its_half_nor_the_week():
    t = np.arange(840)
    rng = np.random.default_rng(7)
    half = np.sin(2 * np.pi * t / 24) + 1.4 * np.sin(2 * np.pi * t / 12)
    week = np.repeat(rng.normal(size=7), 24)[t % 168]
    for truth in (half, half + 1.5 * week, half + 1.5 * np.sin(2 * np.pi * t / 168)):
        assert find_season(ranged(truth + 0.3 * noise(rng, 840))) == 24


@pytest.mark.parametrize("pattern", GAPS)
def test_the_strongest_period_with_gaps(pattern):
    rng = np.random.default_rng(8)
    x = seasonal(rng, 480, 24, "sawtooth", 4.0)
    assert find_season(ranged(hide(rng, x, pattern))) == 24
    assert find_season(ranged(hide(rng, walk(rng, 480), pattern))) is None


def test_a_phase_alone_shows_no_season():
    rng = np.random.default_rng(9)
    x = hide(rng, seasonal(rng, 2000, 24, signal=10.0), "one in 24")
    assert find_season(hourly(x)) is None
    assert find_season(ranged(x)) is None


@pytest.mark.parametrize("make", [hourly, ranged])
def test_nothing_to_see(make):
    t = np.arange(200.0)
    for x in (np.ones(200), 0.1 * np.ones(200), 0.1 * t, t**2, np.full(200, np.nan), np.where(t == 50, 1.0, np.nan)):
        assert find_season(make(x)) is None
        assert find_season(make(x).astype(np.float32)) is None
    for n in (1, 2, 3, 20, 40):
        assert find_season(make(np.sin(2 * np.pi * t[:n] / 24))) is None


def test_a_season_without_noise():
    t = np.arange(100)
    for x in (np.sin(2 * np.pi * t / 24), np.sin(2 * np.pi * t / 24) + 5 * t):
        assert find_season(hourly(x)) == 24
        assert find_season(ranged(x)) == 24


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scales=st.lists(st.sampled_from([1e-6, 0.01, 1.0, 300.0, 1e6, -1.0]), min_size=3, max_size=3),
    shift=st.floats(-1000, 1000),
    order=st.permutations([0, 1, 2]),
)
def test_units_and_order_have_no_say(seed, scales, shift, order):
    rng = np.random.default_rng(seed)
    x = np.stack([hide(rng, seasonal(rng, 150, 24, signal=0.5), "blocks") for _ in range(3)], axis=1)
    changed = (np.array(scales) * (x + shift))[:, order]
    for period in (12, 24):
        one, other = season_evidence(x, period), season_evidence(changed, period)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert strongest_period(x, 30) == strongest_period(changed, 30)


def test_many_series_say_more_than_one():
    """None of them shows it alone; where there is no season, many show none either."""
    rng = np.random.default_rng(10)
    series = [hourly(seasonal(rng, 60, 24, signal=0.4)) for _ in range(30)]
    assert np.mean([find_season(one) == 24 for one in series]) < 0.5
    assert find_season(series) == 24
    for kind in NULL.values():
        assert find_season([hourly(kind(rng, 60)) for _ in range(30)]) is None
        assert find_season(hourly(np.stack([kind(rng, 200) for _ in range(10)], axis=1))) is None


def test_one_seasonal_component_is_not_all():
    rng = np.random.default_rng(11)
    rows = [seasonal(rng, 200, signal=1.0), *[walk(rng, 200) for _ in range(19)]]
    assert find_season(hourly(np.stack(rows, axis=1))) is None
    assert find_season(hourly(rows[0])) == 24


def test_series_of_any_length_and_a_dead_one():
    rng = np.random.default_rng(12)
    good = [seasonal(rng, n, signal=2.0) for n in (400, 30, 5, 150)]
    assert find_season([hourly(x) for x in (*good, np.full(50, np.nan), np.ones(60))]) == 24
    assert find_season([ranged(x) for x in (*good, np.full(50, np.nan), np.ones(60))]) == 24


def test_a_part_is_looked_at():
    """The end of a long series, some of many: what was long ago has no say."""
    rng = np.random.default_rng(13)
    x = seasonal(rng, 20_000, signal=1.0)
    x[:10_000] = walk(rng, 10_000)
    assert find_season(hourly(x)) == find_season(ranged(x)) == 24
    minutes = seasonal(rng, 8 * 1440, 1440, signal=1.0)
    assert find_season(hourly(minutes, freq="min")) == 1440
    one = hourly(x[-200:])
    assert find_season([one] * 20_000) == 24
    wide = np.stack([seasonal(rng, 400, signal=2.0)] * 200, axis=1)
    assert find_season(hourly(wide)) == find_season(ranged(wide)) == 24


@pytest.mark.parametrize("make", [hourly, ranged])
def test_values_of_weight_0_have_no_say(make):
    rng = np.random.default_rng(14)
    x = seasonal(rng, 300, signal=2.0)
    weight = make(np.arange(300) < 150)
    other = np.where(np.arange(300) < 150, x, 1e6 * walk(rng, 300))
    assert find_season([make(other)]) is None
    assert find_season([make(other)], [weight]) == 24
    assert find_season([make(other)], [weight[:280]]) is None
    assert find_season([make(other[:280]), make(x)], [weight, make(np.zeros(300))]) == 24
