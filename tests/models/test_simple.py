import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from hypothesis import given
from hypothesis import strategies as st

from birnn_forecast.imputation import LinearImputer, SeasonalLinearImputer
from birnn_forecast.models._simple import LINEAR, RULES, Rule, SimpleEstimates


def gappy(n=100, components=2, seed=0, missing=0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, components)).cumsum(axis=0)
    values[rng.random(values.shape) < missing] = np.nan
    return values


def all_of(values, seasons=()) -> np.ndarray:
    """Return the estimates ``(n, missing)``."""
    simple = SimpleEstimates(values, seasons)
    estimates = np.stack(list(simple.at(np.isnan(values))))
    assert len(estimates) == simple.n
    return estimates


def one_rule(values, rule) -> np.ndarray:
    return all_of(values)[RULES.index(rule)]


def test_interpolations_are_those_of_the_imputers():
    values = gappy()
    series = TimeSeries.from_times_and_values(pd.RangeIndex(100), values)
    simple = SimpleEstimates(values, [6])
    where = np.isnan(values)
    estimates = np.stack(list(simple.at(where)))
    numbers = simple.interpolations()
    np.testing.assert_allclose(estimates[LINEAR], LinearImputer().impute(series).values()[where])
    np.testing.assert_allclose(estimates[numbers[-1]], SeasonalLinearImputer(6).impute(series).values()[where])
    assert numbers[0] == LINEAR
    assert [one.tolist() for one in simple.at(where, numbers)] == estimates[numbers].tolist()


def test_a_season_is_taken_out_with_the_means_of_its_phases():
    t = np.arange(120)
    values = np.stack([np.sin(2 * np.pi * t / 6), 0.5 * t + np.cos(2 * np.pi * t / 6)], axis=1)
    truth = values.copy()
    values[50:62] = np.nan
    simple = SimpleEstimates(values, [6])
    estimates = [one.reshape(12, 2) for one in simple.at(np.isnan(values))]
    profile = simple.interpolations()[1]
    np.testing.assert_allclose(estimates[profile], truth[50:62], atol=0.05)
    assert np.abs(estimates[LINEAR] - truth[50:62]).max() > 0.5


def test_seasons_that_do_not_fit_are_left_out_and_weeks_are_added():
    assert SimpleEstimates(gappy(11), [8]).groups == [()]
    assert SimpleEstimates(gappy(24), [12]).groups == [(), (12,)]
    assert SimpleEstimates(gappy(120), [5]).groups == [(), (5,), (35,), (5, 35)]
    assert SimpleEstimates(gappy(200), [12, 5]).seasons == [5, 12, 35]


def test_a_phase_that_was_never_observed_is_on_a_straight_line():
    # a season that is seen at working hours only says nothing of the night
    hours = np.arange(240) % 24
    values = (np.sin(hours / 4) + np.arange(240) / 100)[:, None]
    values[(hours < 8) | (hours > 17)] = np.nan
    simple = SimpleEstimates(values, [24])
    estimates = np.stack(list(simple.at(np.isnan(values))))
    of_season = slice(len(RULES), 2 * len(RULES))
    np.testing.assert_allclose(estimates[of_season], np.tile(estimates[LINEAR], (len(RULES), 1)))


@pytest.mark.parametrize("memory", [0.97, 0.7])
def test_a_rule_with_memory_is_the_mean_given_both_sides_of_an_autoregression(memory):
    values = gappy(60, 1)
    mean = np.nanmean(values)
    observed = np.flatnonzero(~np.isnan(values[:, 0]))
    covariance = memory ** np.abs(np.subtract.outer(np.arange(60), np.arange(60)))
    gain = covariance[np.isnan(values[:, 0])][:, observed] @ np.linalg.inv(covariance[np.ix_(observed, observed)])
    expected = mean + gain @ (values[observed, 0] - mean)
    np.testing.assert_allclose(one_rule(values, Rule(memory=memory)), expected, atol=1e-9)


def test_a_rule_with_a_gain_is_the_smoother_of_a_random_walk_plus_noise():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 1)).cumsum(axis=0)
    values[200:205] = np.nan
    gain = 0.35
    noise = (1 - gain) / gain**2  # whose steady state has that gain
    observed = np.flatnonzero(~np.isnan(values[:, 0]))
    steps = np.arange(400)
    covariance = 1e5 + np.minimum.outer(steps, steps)  # begun anywhere
    inner = covariance[np.ix_(observed, observed)] + noise * np.eye(len(observed))
    expected = covariance[200:205][:, observed] @ np.linalg.solve(inner, values[observed, 0])
    np.testing.assert_allclose(one_rule(values, Rule(gain=gain)), expected, atol=0.01)


@given(st.integers(0, 10**6), st.floats(-6, 6), st.floats(-1000, 1000))
def test_estimates_do_not_depend_on_the_unit(seed, power, shift):
    values = gappy(int(np.random.default_rng(seed).integers(5, 60)), 2, seed)
    unit = 10.0**power
    values[0] = 1.0
    other = unit * (values + shift)
    expected = unit * (all_of(values, [6]) + shift)
    np.testing.assert_allclose(all_of(other, [6]), expected, rtol=1e-6, atol=1e-6 * unit)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_constant_is_estimated_as_that(rule):
    values = np.full((30, 1), 5.0)
    values[[0, 7, 8, 20, 29]] = np.nan
    np.testing.assert_allclose(one_rule(values, rule), 5.0)


def test_the_prior_tells_walks_returns_and_noise():
    rng = np.random.default_rng(0)
    walk = rng.normal(size=1000).cumsum()
    returning = np.zeros(1000)
    for i in range(1, 1000):
        returning[i] = 0.9 * returning[i - 1] + rng.normal()
    noisy = walk + 3 * rng.normal(size=1000)
    values = np.stack([walk, returning, rng.normal(size=1000), noisy], axis=1)
    values[rng.random(values.shape) < 0.2] = np.nan
    values /= np.nanstd(values, axis=0)
    best = [RULES[i] for i in SimpleEstimates(values, ()).log_prior().argmax(axis=1)]
    assert best[0] == RULES[LINEAR]
    assert best[1] in (Rule(memory=0.93), Rule(memory=0.85))
    assert best[2].memory <= 0.4 or best[2].gain <= 0.05
    assert best[3] in (Rule(gain=0.35), Rule(gain=0.2))


def test_nothing_observed_gives_nothing():
    values = gappy()
    values[:, 1] = np.nan
    assert (all_of(values, [6])[:, np.nonzero(np.isnan(values))[1] == 1] == 0).all()
