import tracemalloc

import numpy as np
import pytest
from darts import TimeSeries

from birnn_forecast import BiGRUModel
from birnn_forecast.data.windows import Blend, gap_lengths
from birnn_forecast.imputation import LinearImputer
from birnn_forecast.models import _views
from birnn_forecast.models._calibration import Evidence, greedy_shares, network_shares, simple_weights, trust
from birnn_forecast.models._simple import LINEAR, SimpleEstimates
from birnn_forecast.models._trials import N_CLASSES, gap_classes
from tests.conftest import make_series
from tests.models.contract_helpers import change, fitted, two_models


def hidden_values(truth, estimates, numbers=0) -> Evidence:
    """Return evidence of one component, each value an outage of its own, from estimates ``(n, values)``."""
    n = len(truth)
    return Evidence(truth, np.zeros(n, int), np.broadcast_to(numbers, n), np.arange(n), estimates, estimates[0])


def test_gaps_are_told_apart_by_length_and_at_the_ends():
    missing = np.zeros((200, 2), dtype=bool)
    missing[[3, 10, 11], 0] = True
    missing[20:26, 0] = missing[30:37, 0] = missing[60:100, 0] = missing[195:, 0] = missing[:2, 1] = True
    classes = gap_classes(missing)
    assert classes[[3, 10, 20, 30, 60, 199], 0].tolist() == [0, 0, 1, 2, 3, 4]
    assert classes[0, 1] == 4
    assert (classes[~missing] == 0).all()


def test_without_evidence_gaps_are_filled_by_straight_lines():
    weights = simple_weights(None, np.log(np.full((2, 5), 0.2)))
    assert (weights[..., LINEAR] == 1).all()
    assert (weights.sum(axis=-1) == 1).all()


def test_simple_estimates_weigh_what_the_evidence_says():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    estimates = truth + np.array([[2.0], [1.0], [1.0], [3.0]]) * rng.normal(size=(4, 200))
    prior = np.log(np.array([[0.7, 0.1, 0.1, 0.1]]))
    few, many = (simple_weights(hidden_values(truth[:n], estimates[:, :n]), prior)[0, 0] for n in (3, 200))
    assert many[1] + many[2] > 0.999
    # by the prior, times the errors to the power of minus the number of outages
    errors = np.abs(estimates[:, :3] - truth[:3]).mean(axis=1)
    np.testing.assert_allclose(few, np.exp(prior[0]) * errors**-3 / (np.exp(prior[0]) * errors**-3).sum(), atol=1e-2)


def test_a_class_without_evidence_has_that_of_the_nearest():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=100)
    estimates = np.stack([truth + rng.normal(size=100), truth])
    numbers = np.repeat([1, 3], 50)
    estimates[:, 50:] = estimates[::-1, 50:]  # the first is right in the longer gaps
    weights = simple_weights(hidden_values(truth, estimates, numbers), np.log(np.full((1, 2), 0.5)))[0]
    assert weights.argmax(axis=1).tolist() == [1, 1, 0, 0, 0]


def test_what_is_hidden_in_the_same_place_again_is_no_more_evidence():
    truth, estimates = np.zeros(6), np.ones((2, 6)) * np.array([[1.0], [0.5]])
    once = hidden_values(truth[:2], estimates[:, :2])
    again = hidden_values(truth, estimates)._replace(outage=np.arange(6) % 2)
    prior = np.log(np.full((1, 2), 0.5))
    np.testing.assert_allclose(simple_weights(once, prior)[0, 0], simple_weights(again, prior)[0, 0])


def test_estimates_are_judged_only_where_they_differ_from_straight_lines():
    truth = np.zeros(40)
    estimates = np.ones((2, 40))
    estimates[1, :20] = 0.5  # elsewhere the phase was never observed
    half = simple_weights(hidden_values(truth, estimates), np.log(np.full((1, 2), 0.5)))
    alone = simple_weights(hidden_values(truth[:20], estimates[:, :20]), np.log(np.full((1, 2), 0.5)))
    np.testing.assert_allclose(half, alone)


def test_the_network_takes_the_place_of_simple_estimates_as_far_as_it_is_sure_to_be_better():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=3000)
    simple = truth + rng.normal(size=3000)
    network = truth + 0.2 * rng.normal(size=3000)

    def share(network, n):
        return network_shares(hidden_values(truth[:n], simple[None, :n]), np.stack([network, simple])[:, :n])[0, 0]

    assert share(network, 3000) > 0.98
    assert share(network, 1) == 0
    assert share(simple + 0.1, 3000) == 0


def test_a_gain_in_one_long_outage_is_no_evidence():
    gain = np.ones(300)
    assert trust(gain, np.zeros(300)) == 0
    assert trust(gain, np.arange(300) // 50) == 1  # six times the same
    assert trust(gain, np.arange(300)) == 1
    assert trust(-gain, np.arange(300)) == 0
    # all of it from one of six
    assert trust(np.where(np.arange(300) < 250, -0.1, 1.0), np.arange(300) // 50) == 0
    half = np.tile([3.0, -1.0], 8)  # a standard error of 8.1 of a sum of 16, of 16 outages
    np.testing.assert_allclose(trust(half, np.arange(16)), 16 / np.sqrt(65) / 1.5 - 0.5, rtol=1e-6)


def test_mixtures_average_independent_errors_and_leave_out_what_is_far_worse():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=3000)
    shares = greedy_shares(truth, truth + rng.normal(size=(2, 3000)))
    assert np.abs(shares - 0.5).max() <= 0.1
    good, bad = truth + rng.normal(size=3000), truth + 2 * rng.normal(size=3000)
    # the best mixture in least squares would have a fifth of the bad one
    assert greedy_shares(truth, np.stack([good, bad])).tolist() == [1, 0]


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
    linear = LinearImputer().impute(walk).values()
    gaps = np.isnan(walk.values())

    def distance(**kwargs):
        return np.abs(model.impute(walk, **kwargs).values() - linear)[gaps].mean()

    assert distance() < 0.1 * distance(calibrate=False)


PATTERNS = {
    "single values": lambda n, rng: rng.random(n) < 0.15,
    "every second": lambda n, rng: np.arange(n) % 2 == 1,
    "one in 24": lambda n, rng: np.arange(n) % 24 != 3,
    "working hours": lambda n, rng: (np.arange(n) % 24 < 9) | (np.arange(n) % 24 > 17),
    "one outage": lambda n, rng: (np.arange(n) > n // 3) & (np.arange(n) < n // 2),
    "silent end": lambda n, rng: np.arange(n) >= n - n // 6,
}


@pytest.fixture(scope="module")
def wrong():
    """A model that is wrong everywhere, by far."""
    model = fitted(BiGRUModel, make_series(60, missing=0.2))
    model.model.network.step_head.output.bias.data += 10.0
    return model


@pytest.mark.parametrize("n", [20, 130, 500])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_wrong_model_does_no_harm_in_any_pattern_of_gaps(wrong, pattern, n):
    # little to tell by, or gaps that fall on themselves when they are moved: straight lines are right for a walk
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(n, 1)).cumsum(axis=0)
    hidden = PATTERNS[pattern](n, rng)[:, None]
    series = make_series(n).with_values(walk.astype(np.float32))
    seen = change(series, hidden, np.nan)
    error, linear = (
        np.abs(one.values() - walk)[hidden].mean() for one in (wrong.impute(seen), LinearImputer().impute(seen))
    )
    assert error <= 1.25 * linear


def test_a_good_model_stays():
    # what the network knows of the season, straight lines do not
    series = make_series(600, missing=0.0)
    model = fitted(BiGRUModel, series, n_epochs=15, hidden_dim=16, input_chunk_length=24)
    seen = change(series, np.repeat(np.arange(0, 600, 20), 6) + np.tile(np.arange(6, 12), 30), np.nan)
    hidden = np.isnan(seen.values())
    errors = {
        name: np.abs(one.values() - series.values())[hidden].mean()
        for name, one in {
            "calibrated": model.impute(seen),
            "alone": model.impute(seen, calibrate=False),
            "linear": LinearImputer().impute(seen),
        }.items()
    }
    assert errors["alone"] < 0.5 * errors["linear"]
    assert errors["calibrated"] < 1.03 * errors["alone"]


def test_calibration_reads_nothing_but_the_series(model_class):
    series = change(make_series(150, 2, missing=0.2), (slice(60, 75), 0), np.nan)
    model = fitted(model_class, make_series(80, 2, missing=0.2))
    alone = model.impute(series)
    together = model.impute([make_series(90, 2, seed=3, missing=0.4), series])[1]
    np.testing.assert_allclose(together.values(), alone.values(), rtol=1e-5)
    observed = ~np.isnan(series.values())
    assert np.array_equal(alone.values()[observed], series.values()[observed])


def test_trials_are_estimated_as_the_series_is(monkeypatch):
    model = fitted(BiGRUModel, make_series(60, missing=0.2))
    strides = []
    estimates = model._run_module

    def record(module, sources, stride, batch_size, verbose):
        strides.append((stride, batch_size))
        return estimates(module, sources, stride, batch_size, verbose)

    monkeypatch.setattr(model, "_run_module", record)
    model.impute(make_series(100, missing=0.3), stride=2, batch_size=7)
    assert strides == [(2, 7)] * 2


def test_many_series_are_tried_a_few_at_a_time(monkeypatch):
    model = fitted(BiGRUModel, make_series(60, missing=0.2))
    series = [make_series(100, missing=0.3, seed=seed) for seed in range(4)]
    full = model.impute(series)
    monkeypatch.setattr("birnn_forecast.models._imputing.TRIED_AT_ONCE", 150)
    for one, other in zip(model.impute(series), full, strict=True):
        np.testing.assert_allclose(one.values(), other.values(), rtol=1e-5)


def test_calibration_is_an_option():
    with pytest.raises(TypeError):
        fitted(two_models.args[1][0]).impute(make_series(40, missing=0.2), callibrate=False)


# Time and memory grow with the length, no faster


def long_series(n: int):
    t = np.arange(n)
    values = np.sin(t / 50) + 0.1 * np.random.default_rng(0).normal(size=n)
    values[np.random.default_rng(1).random(n) < 0.05] = np.nan
    values[n // 2 : n // 2 + 40] = np.nan  # longer than a window
    return TimeSeries.from_values(values.astype(np.float32))


@pytest.mark.parametrize("method", ["impute", "reconstruct"])
def test_arrays_as_long_as_the_series_are_few(method, monkeypatch):
    model = fitted(BiGRUModel, make_series(60, missing=0.2))
    made = []

    class Counting(Blend):
        def __init__(self, shape):
            made.append(shape[0])
            super().__init__(shape)

    monkeypatch.setattr(_views, "Blend", Counting)
    getattr(model, method)(long_series(3000))
    # four at most for each pass or trial, however many windows there are
    assert sum(made) <= 4 * 17 * 3000


def test_memory_grows_with_the_length_and_no_faster():
    model = fitted(BiGRUModel, make_series(60, missing=0.2))
    model.impute(long_series(300))

    def peak(n):
        series = long_series(n)
        tracemalloc.start()
        model.impute(series)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found / n

    small, large = peak(5_000), peak(20_000)
    assert large < 1.1 * small
    assert large < 3_000  # bytes a step


def test_numbers_of_classes_fit():
    missing = np.ones((3, 1), dtype=bool)
    assert gap_classes(missing).max() < N_CLASSES
    assert gap_lengths(missing).max() == 3
    assert SimpleEstimates(np.full((3, 1), np.nan), ()).n
