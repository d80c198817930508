import numpy as np
import pytest

from birnn_forecast.data.windows import gap_lengths, gaps
from birnn_forecast.models._calibration import best_mixtures, gap_classes, mixed, references, transplanted
from tests.conftest import make_series
from tests.models.contract_helpers import change, fitted, two_models


def test_gaps_are_transplanted_to_where_values_are():
    missing = np.zeros((40, 2), dtype=bool)
    missing[3:7, 0], missing[5:6, 1] = True, True
    hidden = transplanted(missing)
    assert not (hidden & missing).any()
    # again and again, none beside another, no more than half of what is observed
    assert set(gap_lengths(hidden)[hidden[:, 0], 0]) <= {1, 2, 3, 4}
    assert set(gap_lengths(hidden)[hidden[:, 1], 1]) == {1}
    assert hidden.sum() >= 75 // 4
    assert (hidden.sum(axis=0) <= [18, 19]).all()


def test_no_more_is_transplanted_than_is_needed():
    missing = np.zeros((9000, 1), dtype=bool)
    missing[:3000] = np.arange(3000)[:, None] % 2 == 0
    hidden = transplanted(missing)
    assert not (hidden & ~np.roll(missing, 4500, axis=0)).any()
    assert hidden.sum() == pytest.approx(7500 / 10, rel=0.15)


def test_an_outage_of_all_components_is_transplanted_as_one():
    missing = np.random.default_rng(0).random((5000, 1)).repeat(3, axis=1) < 0.2
    hidden = transplanted(missing)
    assert hidden.any()
    assert (hidden == hidden[:, :1]).all()


def test_nothing_is_transplanted_where_nothing_is_missing_or_observed():
    assert not transplanted(np.zeros((9, 1), dtype=bool)).any()
    assert not transplanted(np.ones((9, 1), dtype=bool)).any()


def test_references_interpolate_time_profile_and_phase():
    t = np.arange(60)
    season = np.sin(2 * np.pi * t / 6)
    values = np.stack([season, 0.5 * t, np.full(60, np.nan)], axis=1)
    values[20:32] = np.nan
    linear, profile, phase, *longer = references(values, 6)
    assert not longer  # seven seasons three times do not fit
    np.testing.assert_allclose(linear[20:32, 1], 0.5 * t[20:32])
    np.testing.assert_allclose(profile[20:32, 0], season[20:32], atol=0.02)
    np.testing.assert_allclose(phase[20:32, 0], season[20:32], atol=1e-6)
    np.testing.assert_allclose(phase[20:32, 1], 0.5 * t[20:32])
    assert all((table[:, 2] == 0).all() for table in (linear, profile, phase))
    assert len(references(values, None)) == 1
    assert len(references(np.tile(values, (3, 1)), 6)) == 5


def test_mixtures_take_what_is_right_class_by_class():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 1))
    missing = np.zeros((4000, 1), dtype=bool)
    missing[::4] = True  # gaps of one step
    for start in range(1002, 3900, 40):
        missing[start : start + 10] = True  # and of ten or more
    net, simple = truth.copy(), truth.copy()
    long = gap_classes(missing) == 2
    net[long] += rng.normal(size=long.sum())
    simple[~long] += rng.normal(size=(~long).sum())
    shares = best_mixtures(truth, missing, missing, np.stack([net, simple]))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert shares[0, 0] == 1
    assert shares[2, 1] == 1
    out = mixed(shares, missing, np.stack([net, simple]))
    np.testing.assert_allclose(out[missing], truth[missing])


def test_two_independent_errors_are_averaged():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3000, 1))
    hidden = np.ones_like(truth, dtype=bool)
    shares = best_mixtures(truth, hidden, hidden, truth + rng.normal(size=(2, 3000, 1)))
    assert np.abs(shares - 0.5).max() <= 0.1


def test_what_is_far_worse_takes_no_part():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3000, 1))
    hidden = np.ones_like(truth, dtype=bool)
    good, bad = truth + rng.normal(size=(3000, 1)), truth + 2 * rng.normal(size=(3000, 1))
    shares = best_mixtures(truth, hidden, hidden, np.stack([good, bad]))
    assert (shares[:, 0] == 1).all()  # the best mixture in least squares would have a fifth of the bad one


def test_the_network_has_all_where_there_is_too_little_to_tell_by():
    truth, hidden = np.zeros((100, 1)), np.zeros((100, 1), dtype=bool)
    hidden[:20] = True
    estimates = np.stack([np.ones((100, 1)), np.zeros((100, 1))])
    assert (best_mixtures(truth, hidden, hidden, estimates)[:, 0] == 1).all()


@two_models
def test_a_useless_model_falls_back_to_interpolation(model_class):
    rng = np.random.default_rng(0)
    series = make_series(400, missing=0.3)
    walk = series.with_values(np.where(np.isnan(series.values()), np.nan, rng.normal(size=(400, 1)).cumsum(axis=0)))
    walk = walk.astype(np.float32)
    # learns noise, and is asked for a random walk
    model = fitted(
        model_class, make_series(60, missing=0.2), masking_rate=0.5, optimizer_kwargs={"lr": 0.1}, n_epochs=3
    )
    model.model.network.step_head.output.bias.data += 1.0
    linear = references(walk.values(), None)[0]
    gaps = np.isnan(walk.values())

    def distance(**kwargs):
        return np.abs(model.impute(walk, **kwargs).values() - linear)[gaps].mean()

    assert distance() < 0.5 * distance(calibrate=False)


def test_calibration_reads_nothing_but_the_series(model_class):
    series = change(make_series(150, 2, missing=0.2), (slice(60, 75), 0), np.nan)
    model = fitted(model_class, make_series(80, 2, missing=0.2))
    alone = model.impute(series)
    together = model.impute([make_series(90, 2, seed=3, missing=0.4), series])[1]
    np.testing.assert_allclose(together.values(), alone.values(), rtol=1e-5)
    observed = ~np.isnan(series.values())
    assert np.array_equal(alone.values()[observed], series.values()[observed])


def test_calibration_is_an_option():
    with pytest.raises(TypeError):
        fitted(two_models.args[1][0]).impute(make_series(40, missing=0.2), callibrate=False)


def test_long_gaps_are_judged_by_many_outages():
    missing = np.zeros((12_000, 1), dtype=bool)
    for start in range(0, 12_000, 100):
        missing[start : start + 30] = True
    hidden = transplanted(missing)
    assert len(gaps(hidden[:, 0])) >= 40
    assert hidden.sum() <= (~missing).sum() / 4 * 1.2
