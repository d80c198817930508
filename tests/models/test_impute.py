"""Filling gaps: what is observed stays, what is missing is estimated, and nothing else changes."""

import copy
import functools

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.likelihood_models import GaussianLikelihood, QuantileRegression

from birnn_forecast import BiGRUModel, GRINModel, URNNModel
from birnn_forecast.data.windows import gap_lengths
from birnn_forecast.masks import interpolate, interpolate_seasonal, observed_mask
from birnn_forecast.models._impute import Source, passes
from birnn_forecast.models._trials import trials_of
from tests.conftest import make_model, make_series, quiet_trainer
from tests.models.contract_helpers import FUTURE, PAST, Recorder, add, assert_same, change, differs, fitted
from tests.models.test_likelihoods import LIKELIHOODS, domain, series_for

# what does not depend on the network runs over the two kinds there are
both_networks = pytest.mark.parametrize("model_class", [URNNModel, GRINModel])

WINDOW = 12
QUANTILES = QuantileRegression([0.1, 0.5, 0.9])
LIKELIHOOD = {None: None, "quantiles": QUANTILES, "normal": GaussianLikelihood()}


@functools.cache
def shared(cls, components=2, likelihood=None, dtype=np.float32):
    """Return a model fitted on a series with gaps; imputing leaves it as it is, so that tests can share it."""
    series = make_series(60, components, missing=0.2, dtype=dtype)
    return fitted(cls, series, likelihood=LIKELIHOOD[likelihood])


def record_windows(model, monkeypatch) -> list[tuple[int, ...]]:
    """Return a list that fills with the shape of each batch of windows the model's module estimates."""
    shapes, estimate = [], model.model.estimate

    def counted(x_in, *args):
        shapes.append(tuple(x_in.past_target.shape))
        return estimate(x_in, *args)

    monkeypatch.setattr(model.model, "estimate", counted)
    return shapes


def gappy(length=60, components=2, seed=1, missing=0.3, dtype=np.float32) -> TimeSeries:
    return make_series(length, components, seed, missing, dtype)


def missing(series: TimeSeries) -> np.ndarray:
    return np.isnan(series.values())


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def assert_filled(full: TimeSeries, series: TimeSeries, center=100.0, reach=60.0) -> None:
    """Assert that every gap is filled sensibly and nothing else is touched."""
    assert full.time_index.equals(series.time_index)
    assert list(full.components) == list(series.components)
    known = ~missing(series)
    assert same_bits(full.values()[known], series.values()[known])
    assert np.isfinite(full.values()).all()
    assert np.abs(full.values()[~known] - center).max(initial=0) < reach


def bridge(series: TimeSeries, season=None) -> np.ndarray:
    x = torch.tensor(series.values(), dtype=torch.float64)[None]
    seen = observed_mask(x)
    return (interpolate_seasonal(x, seen, season) if season else interpolate(x, seen))[0].numpy()


# What comes out


@pytest.mark.parametrize(("components", "dtype"), [(1, np.float64), (3, np.float32)])
def test_gaps_are_filled_and_observations_stay(model_class, components, dtype):
    model = shared(model_class, components, dtype=dtype)
    series = gappy(70, components, dtype=dtype)
    full = model.impute(series)
    assert full.dtype == dtype
    assert_filled(full, series)
    # of another precision than the model
    other = series.astype(np.float64 if dtype is np.float32 else np.float32)
    assert_filled(model.impute(other), other)


@both_networks
def test_observations_stay_bit_by_bit(model_class):
    odd = np.array([-0.0, 1e-45, 1e38, -1e-38, 100.1, 16777217.0], dtype=np.float32)
    series = change(gappy(missing=0.0), (np.arange(6) * 9, 0), odd)
    series = change(series, ([20, 30], [1, 1]), np.nan)
    model = shared(model_class)
    full = model.impute(series)
    known = ~missing(series)
    assert same_bits(full.values()[known], series.values()[known])
    complete = change(series, ([20, 30], [1, 1]), 0.0)
    assert same_bits(model.impute(complete).values(), complete.values())


def test_one_or_several_series_in_and_out(model_class):
    model = shared(model_class)
    several = [gappy(length, seed=length) for length in (5, 30, 61)]
    before = [one.values() for one in several]
    full = model.impute(several)
    assert isinstance(full, list)
    assert_same(full, [model.impute(one) for one in several], rtol=1e-4)
    alone = model.impute(several[:1])
    assert isinstance(alone, list)
    assert_same(alone, full[:1], rtol=1e-4)
    assert isinstance(model.impute(several[0]), TimeSeries)
    for one, values in zip(several, before, strict=True):  # what came in is not written to
        assert same_bits(one.values(), values)


@both_networks
def test_without_a_series_it_is_the_training_series(model_class):
    series = gappy()
    model = fitted(model_class, series)
    assert_same(model.impute(), model.impute(series))
    assert_same(model.reconstruct(), model.reconstruct(series))
    several = fitted(model_class, [series, gappy(seed=2)])
    for call in (several.impute, several.reconstruct):
        with pytest.raises(ValueError, match="`series` must be given"):
            call()


INDEXES = {
    "months": pd.date_range("2000-01-01", periods=40, freq="MS"),
    "seven minutes": pd.date_range("2000-01-01", periods=40, freq="7min"),
    "business days": pd.date_range("2000-01-03", periods=40, freq="B"),
    "range": pd.RangeIndex(5, 5 + 40 * 3, 3),
}


@both_networks
@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES.keys())
def test_everything_that_belongs_to_the_series_is_kept(model_class, index):
    statics = pd.DataFrame({"static": [1.0, 2.0, 3.0]}, dtype=np.float32)
    series = TimeSeries(
        times=index,
        values=gappy(40, 3).values(),
        components=["sum", "ä", "b c"],
        static_covariates=statics,
        hierarchy={"ä": ["sum"], "b c": ["sum"]},
        metadata={"unit": "km"},
    )
    model = fitted(model_class, series)
    for full in (model.impute(), model.reconstruct(), *model.impute([series, series])):
        assert full.time_index.equals(series.time_index)
        assert full.freq == series.freq
        assert list(full.components) == list(series.components)
        assert full.static_covariates.equals(series.static_covariates)
        assert full.hierarchy == series.hierarchy
        assert full.metadata == series.metadata
        assert full.dtype == series.dtype
        assert full.n_samples == 1


# How long


@pytest.mark.parametrize("length", [1, 2, 11, 12, 13, 50])
def test_any_length(model_class, length):
    model = shared(model_class)
    for seed in range(2):
        series = change(gappy(length, seed=seed, missing=0.5), 0, 100.0)
        assert_filled(model.impute(series), series)
    for at in (0, length - 1):  # a single gap, at an end
        series = change(gappy(length, missing=0.0), (at, 0), np.nan)
        if length > 1:
            assert_filled(model.impute(series), series)


@both_networks
def test_long_series_in_bounded_memory(model_class, monkeypatch):
    model = fitted(model_class, input_chunk_length=48)
    rng = np.random.default_rng(0)
    values = 100 + rng.normal(size=(20_000, 1)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    series = TimeSeries.from_values(values)
    shapes = record_windows(model, monkeypatch)
    full = model.impute(series, batch_size=64, stride=24, calibrate=False)
    assert_filled(full, series)
    assert max(shape[0] for shape in shapes) == 64
    assert sum(shape[0] for shape in shapes) == 833  # (20000 - 48) / 24, rounded up, and the last one
    assert {shape[1:] for shape in shapes} == {(48, 1)}
    shapes.clear()
    assert_filled(model.impute(series, batch_size=64), series)
    assert max(shape[0] for shape in shapes) == 64
    for batch_size in (1000, 37):
        np.testing.assert_allclose(
            model.impute(series, batch_size=batch_size, stride=24, calibrate=False).values(), full.values(), rtol=1e-5
        )


@both_networks
def test_batch_size_is_of_no_consequence(model_class):
    model = shared(model_class)
    several = [gappy(length, seed=length, missing=0.5) for length in (3, 30, 61)]
    full = model.impute(several)
    for batch_size in (1, 3, 1000):
        assert_same(model.impute(several, batch_size=batch_size), full, rtol=1e-4)


@both_networks
def test_windows_without_a_gap_are_not_computed(model_class, monkeypatch):
    model = shared(model_class)
    shapes = record_windows(model, monkeypatch)
    series = change(gappy(120, missing=0.0), (60, 0), np.nan)
    model.impute(series, stride=3, calibrate=False)
    assert sum(shape[0] for shape in shapes) == 4  # those that step 60 is in
    shapes.clear()
    model.impute(gappy(120, missing=0.0))
    assert not shapes


# Gaps that windows cannot see across


@both_networks
@pytest.mark.parametrize("season", [None, 12])
def test_a_gap_longer_than_the_window_follows_the_whole_series(model_class, season):
    t = np.arange(150)
    values = 100 + 4.0 * t + (40 * np.sin(2 * np.pi * t / 12) if season else 0)
    truth = TimeSeries.from_values(values.astype(np.float32))
    series = change(truth, slice(50, 104), np.nan)
    model = fitted(model_class, truth, season_length=season)
    full = model.impute(series, calibrate=False)
    # further from an observation than a window reaches; the gap spans 216, a window's head adds a little
    assert np.abs(full.values() - bridge(series, season))[61:93].max() < 25
    assert np.abs(full.values()[61:93, 0] - values[61:93]).max() < 25
    assert_filled(full, series, center=400, reach=400)


def test_bands_do_not_leap_where_no_window_spans_a_gap():
    t = np.arange(400)
    values = 0.5 * t + np.random.default_rng(0).normal(size=400)
    series = TimeSeries.from_values(values.astype(np.float32))
    model = fitted(BiGRUModel, series, likelihood=QUANTILES, n_epochs=4, masking_rate=0.5)
    widths = {}
    for length in (8, 11, 12, 14, 24, 60):
        series = TimeSeries.from_values(np.where((t >= 200) & (t < 200 + length), np.nan, values).astype(np.float32))
        bands = model.impute(series, predict_likelihood_parameters=True)
        widths[length] = (bands.values()[:, 2] - bands.values()[:, 0])[200 : 200 + length]
    assert (widths[60] > 0).all()
    for length in (11, 12, 14, 24, 60):
        assert widths[length].max() < 3 * widths[8].max()
        assert widths[length].min() > widths[8].min() / 5


def test_a_gap_that_no_window_spans_leans_on_both_its_sides():
    t = np.arange(200)
    line = TimeSeries.from_values((3.0 * t).astype(np.float32))
    model = fitted(BiGRUModel, line, n_epochs=1, optimizer_kwargs={"lr": 1e-6})  # windows hold what they see
    for length in (11, 12, 13, 20):
        gap = slice(80, 80 + length)
        full = model.impute(change(line, gap, np.nan), calibrate=False).values()[gap, 0]
        # holding either side to the other would be off by 3 * length
        assert np.abs(full - 3.0 * t[gap]).max() < 3.0 * length / 5
        if length < 13:  # windows reach its middle from both sides
            assert np.abs(full - 3.0 * t[gap])[length // 2] < 0.1


def test_in_a_gap_that_no_window_spans_other_components_count_more_than_interpolation():
    rng = np.random.default_rng(0)
    walk = 100 + np.cumsum(rng.normal(size=300))
    values = np.stack([walk, walk + 3], axis=1) + 0.05 * rng.normal(size=(300, 2))
    truth = TimeSeries.from_values(values.astype(np.float32))
    gap = slice(120, 143)  # windows see either end of it, and none sees both
    series = change(truth, (gap, 0), np.nan)
    model = fitted(GRINModel, truth, input_chunk_length=24, n_epochs=2)
    full = model.impute(series, calibrate=False).values()[gap, 0]
    off = np.abs(full - values[gap, 0]).mean()
    assert off < 0.3 * np.abs(bridge(series, None)[gap, 0] - values[gap, 0]).mean()


@both_networks
@pytest.mark.parametrize("length", [1, 2, 12])
def test_every_value_is_estimated_wherever_it_lies(model_class, length):
    values = np.full((60, 1), np.nan)
    values[[0, 30]] = 100  # the second lies alone in a long gap: hidden, it is in windows that show nothing
    series = TimeSeries.from_values(values.astype(np.float32))
    trained = gappy(80, components=1)
    model = fitted(model_class, trained, input_chunk_length=length, output_chunk_length=1)
    for stride in (1, length):
        assert np.isfinite(model.impute(series, stride=stride).values()).all()
        assert np.isfinite(model.reconstruct(series, stride=stride).values()).all()


def test_a_long_gap_among_many_short_ones_is_calibrated_on_long_ones():
    rng = np.random.default_rng(0)
    missing = rng.random((400, 1)) < 0.1
    missing[200:226] = True
    lengths = np.concatenate([gap_lengths(one.hidden | missing)[one.hidden] for one in trials_of(missing)])
    assert (lengths >= 26).sum() >= 50
    assert (lengths <= 2).sum() >= 10


@both_networks
@pytest.mark.parametrize("where", [slice(0, 40), slice(80, 120)], ids=["leading", "trailing"])
def test_a_long_gap_at_an_end_stays_at_the_level_beside_it(model_class, where):
    # what is missing there is at 300, as is much of the training series; beside it stands 100
    t = np.arange(120)
    values = np.where((t > 30) & (t < 90), 100.0, 300.0) + np.random.default_rng(0).normal(size=120)
    truth = TimeSeries.from_values(values.astype(np.float32))
    series = change(truth, where, np.nan)
    full = fitted(model_class, truth).impute(series, calibrate=False)
    assert np.abs(full.values()[where] - 100).max() < 60
    assert_filled(full, series, center=200, reach=200)


@both_networks
def test_a_long_gap_of_one_component_of_several(model_class):
    series = change(gappy(80, 3, missing=0.1), (slice(20, 70), 1), np.nan)
    assert_filled(shared(model_class, 3).impute(series), series)


def test_a_component_without_any_value(model_class):
    model = shared(model_class, 3)
    for length in (5, 12, 50):
        series = change(gappy(length, 3, missing=0.2), (slice(None), 1), np.nan)
        with pytest.warns(UserWarning, match="filled as NaN: '1'"):
            full = model.impute(series).values()
        assert np.isnan(full[:, 1]).all()
        assert np.isfinite(full[:, [0, 2]]).all()


@pytest.mark.parametrize("length", [1, 5, 50])
def test_nothing_observed_at_all(model_class, length):
    model = shared(model_class)
    series = change(gappy(length), slice(None), np.nan)
    for call in (model.impute, model.reconstruct):
        with pytest.warns(UserWarning, match="Without any observed value, filled as NaN: '0', '1'"):
            assert np.isnan(call(series).values()).all()
    with pytest.warns(UserWarning, match=r"'0' of `series\[0\]`"):
        nothing, full = model.impute([series, gappy(30)])
    assert np.isnan(nothing.values()).all()
    assert_filled(full, gappy(30))


# Options


@both_networks
def test_stride(model_class):
    model = shared(model_class)
    series = gappy(missing=0.4)
    fine, coarse = (model.impute(series, stride=stride, calibrate=False) for stride in (1, WINDOW))
    assert np.abs(fine.values() - coarse.values()).max() < 15
    assert differs(fine, coarse)  # windows overlap, and have a say
    assert_same(model.impute(series), model.impute(series, stride=6))  # half of the window
    for stride in (0, 13, -1, 2.0, True):
        with pytest.raises(ValueError, match="`stride` must be"):
            model.impute(series, stride=stride)


def test_blending_prefers_windows_that_see_both_sides():
    # the last window sees what follows the gap, the first does not
    model = shared(BiGRUModel, 1)
    series = change(gappy(18, 1, missing=0.0), slice(9, 12), np.nan)
    blended = model.impute(series, stride=6).values()[9:12]
    alone = model.impute(series[6:]).values()[3:6]
    np.testing.assert_allclose(blended, alone, rtol=3e-4)
    assert np.abs(blended - model.impute(series[:12]).values()[9:]).max() > 0.05


@both_networks
def test_max_gap(model_class):
    series = change(gappy(missing=0.0), ([10, 11, 12, 30, 40, 41], [0, 0, 0, 0, 1, 1]), np.nan)
    model = shared(model_class)
    full = model.impute(series)
    three, two = {(10, 0), (11, 0), (12, 0)}, {(40, 1), (41, 1)}
    for max_gap, left in ((1, three | two), (2, three), (3, set())):
        some = model.impute(series, max_gap=max_gap)
        assert set(map(tuple, np.argwhere(missing(some)).tolist())) == left
        found = missing(series) & ~missing(some)
        np.testing.assert_allclose(some.values()[found], full.values()[found], rtol=1e-4)
    for max_gap in (0, 1.5, -1, True):
        with pytest.raises(ValueError, match="`max_gap` must be an integer >= 1"):
            model.impute(series, max_gap=max_gap)


@both_networks
def test_components(model_class):
    series = gappy(components=3)
    names = [str(name) for name in series.components]
    model = shared(model_class, 3)
    full = model.impute(series)
    for chosen in (names[1], [names[1]], names[::2], names, []):
        some = model.impute(series, components=chosen)
        inside = np.isin(names, chosen)
        assert (missing(some) == missing(series) & ~inside).all()
        np.testing.assert_allclose(some.values()[:, inside], full.values()[:, inside], rtol=1e-4)
    with pytest.raises(ValueError, match=r"`components` must be among .*, got 'x'"):
        model.impute(series, components=[names[0], "x"])


def test_verbose(capsys):
    shared(URNNModel).impute(gappy(), verbose=True)
    assert "impute" in capsys.readouterr().err
    shared(URNNModel).impute(gappy())
    assert capsys.readouterr().err == ""


# Covariates


def with_covariates(model_class, **kwargs):
    series = gappy(120)
    model = fitted(model_class, series, fit={"past_covariates": PAST, "future_covariates": FUTURE}, **kwargs)
    return model, series


@both_networks
def test_covariates_are_read(model_class):
    model, series = with_covariates(model_class)
    full = model.impute()  # those of training
    assert_filled(full, series)
    assert_same(model.impute(series, PAST, FUTURE), full)
    assert_same(model.impute([series], [PAST], [FUTURE]), [full])
    for past, future in ((PAST + 1, FUTURE), (PAST, FUTURE + 1)):
        changed = model.impute(series, past, future, calibrate=False)
        assert differs(changed, model.impute(calibrate=False), by=1e-3)


@both_networks
def test_longer_covariates_are_cut_to_the_series(model_class):
    model, series = with_covariates(model_class)
    part = series[40:90]
    expected = model.impute(part, PAST[40:90], FUTURE[40:90])
    assert_same(model.impute(part, PAST, FUTURE), expected)
    assert_same(model.impute(part, PAST[30:], FUTURE[:95]), expected)
    # what lies outside of the series is of no consequence, what lies inside is
    outside = np.r_[0:40, 90:140]
    assert_same(model.impute(part, add(PAST, outside, 9.0), add(FUTURE, outside, 9.0)), expected)
    assert differs(model.impute(part, add(PAST, slice(40, 90), 9.0), FUTURE), expected)
    assert differs(model.impute(part, PAST, add(FUTURE, slice(40, 90), 9.0)), expected)


@both_networks
def test_covariates_that_do_not_fit(model_class):
    model, series = with_covariates(model_class)
    cases = [
        ("`past_covariates` must cover `series`", PAST[1:], FUTURE),
        ("`past_covariates` must cover `series`", PAST[:119], FUTURE),
        ("`future_covariates` must cover `series`", PAST, FUTURE[:50]),
        ("`past_covariates` must have 2 components as in training, got 1", FUTURE, FUTURE),
        ("`future_covariates` must have 1 components as in training, got 2", PAST, PAST),
        ("`past_covariates` must be as many as `series` \\(1\\), got 2", [PAST, PAST], FUTURE),
        ("`past_covariates` must have the frequency", TimeSeries.from_values(PAST.values()), FUTURE),
        ("`future_covariates` must be finite or NaN", PAST, change(FUTURE, 3, np.inf)),
    ]
    for message, past, future in cases:
        for call in (model.impute, model.reconstruct, model._impute_forward):
            with pytest.raises(ValueError, match=message):
                call(series, past, future)
    assert_filled(model.impute(series, PAST, FUTURE), series)  # nothing is broken by that
    several = fitted(model_class, [series, series], fit={"past_covariates": [PAST, PAST]})
    with pytest.raises(ValueError, match="`past_covariates` must be as in training, which was with them: give them"):
        several.impute(series)
    with pytest.raises(ValueError, match="`future_covariates` must be as in training, which was without them"):
        several.impute(series, PAST, FUTURE)
    with pytest.raises(ValueError, match="`past_covariates` must be as in training, which was without them"):
        shared(model_class).impute(series, PAST)


@both_networks
def test_covariates_with_gaps_of_their_own(model_class):
    model, series = with_covariates(model_class)
    past = change(change(PAST, (slice(30, 80), 0), np.nan), slice(100, 140), np.nan)
    full = model.impute(series, past, change(FUTURE, slice(None), np.nan))
    assert_filled(full, series)


@both_networks
def test_encoders(model_class):
    encoders = {
        "cyclic": {"past": ["month"], "future": ["month"]},
        "position": {"future": ["relative"]},
        "transformer": None,
    }
    series = gappy(80)
    model = fitted(model_class, series, add_encoders=encoders)
    full = model.impute()
    assert_filled(full, series)
    later = gappy(40, seed=4)
    assert_filled(model.impute(later), later)
    assert_filled(model.reconstruct(later), series=change(later, slice(None), np.nan))
    # the month is read: the same values, half a year on
    plain = fitted(model_class, series, add_encoders={"cyclic": {"future": ["month"]}})
    shifted = TimeSeries.from_times_and_values(later.time_index + pd.DateOffset(months=6), later.values())
    one, other = plain.impute(later).values(), plain.impute(shifted).values()
    assert np.abs(one - other).max() > 1e-3


@both_networks
def test_static_covariates(model_class):
    series = make_series(60, 2, missing=0.2)
    table = pd.DataFrame({"a": [1.0, -1.0], "b": [0.0, 2.0]}, dtype=np.float32)
    model = fitted(model_class, series.with_static_covariates(table))
    full = model.impute(calibrate=False)
    assert differs(model.impute(series.with_static_covariates(table + 1), calibrate=False), full)
    for wrong in (series, series.with_static_covariates(table[["a"]])):
        with pytest.raises(ValueError, match="`series` must have static covariates as in training, 2 x 2 of them"):
            model.impute(wrong)


@pytest.mark.parametrize(("model_class", "kind"), [(BiGRUModel, "past_covariates"), (GRINModel, "future_covariates")])
def test_a_long_span_is_estimated_from_its_covariates(model_class, kind):
    rng = np.random.default_rng(0)
    cause = np.convolve(rng.normal(size=303), [0.5, 0.5, 0.5, 0.5], mode="valid").astype(np.float32)
    truth = TimeSeries.from_values((50 + 10 * cause + rng.normal(size=300)).astype(np.float32))
    inside = slice(150, 150 + 3 * WINDOW)
    series = change(truth, inside, np.nan)
    options = {"n_epochs": 12, "optimizer_kwargs": {"lr": 1e-2}, "hidden_dim": 16, "batch_size": 32}
    model = make_model(model_class, WINDOW, 1, **options)
    full = model.fit(series, **{kind: TimeSeries.from_values(cause)}).impute()
    error = np.abs(full.values() - truth.values())[inside].mean()
    assert error < 0.6 * np.abs(bridge(series) - truth.values())[inside].mean()


# Uncertainty


def triple(series: TimeSeries, component: int, likelihood) -> np.ndarray:
    """Return the columns of one component of the likelihood's parameters."""
    width = likelihood.num_parameters
    return series.values()[:, component * width : (component + 1) * width]


def test_quantiles_in_one_pass(model_class):
    model, series = shared(model_class, likelihood="quantiles"), gappy()
    bands = model.impute(series, predict_likelihood_parameters=True)
    names = model.predict(4, series, predict_likelihood_parameters=True).components
    assert list(bands.components) == list(names)
    assert bands.time_index.equals(series.time_index)
    assert bands.dtype == series.dtype
    full = model.impute(series)
    for component in range(2):
        low, middle, high = triple(bands, component, QUANTILES).T
        gap = missing(series)[:, component]
        assert (low == high)[~gap].all()  # what was observed has no spread
        assert same_bits(middle[~gap], series.values()[~gap, component])
        assert (low < high)[gap].mean() > 0.9
        assert same_bits(middle, full.values()[:, component])
    # a longer gap than the window
    bands = model.impute(change(series, slice(10, 50), np.nan), predict_likelihood_parameters=True)
    assert np.isfinite(bands.values()).all()
    assert np.abs(bands.values() - 100).max() < 80


@both_networks
def test_bands_of_part_of_the_gaps(model_class):
    series = change(gappy(missing=0.0), ([10, 20, 21, 30], [0, 0, 0, 1]), np.nan)
    model = shared(model_class, likelihood="quantiles")
    options = {"predict_likelihood_parameters": True, "components": str(series.components[0]), "max_gap": 1}
    bands = model.impute(series, **options).values().reshape(60, 2, 3)
    assert np.isfinite(bands[10, 0]).all()
    assert np.isnan(bands[[20, 21], [0, 0]]).all()
    assert np.isnan(bands[30, 1]).all()
    samples = model.impute(series, num_samples=3, components=str(series.components[0]), max_gap=1)
    assert np.isnan(samples.all_values()[[20, 21, 30], [0, 0, 1]]).all()
    assert np.isfinite(samples.all_values()[10, 0]).all()


@both_networks
def test_samples(model_class):
    model, series = shared(model_class, likelihood="normal"), gappy()
    samples = model.impute(series, num_samples=50, random_state=1)
    assert samples.all_values().shape == (60, 2, 50)
    assert samples.dtype == series.dtype
    assert samples.time_index.equals(series.time_index)
    assert np.isfinite(samples.all_values()).all()
    known = ~missing(series)
    assert (samples.all_values()[known] == series.values()[known][:, None]).all()
    assert (samples.all_values()[~known].std(axis=1) > 0).all()
    assert_same(model.impute(series, num_samples=50, random_state=1), samples, rtol=0)
    assert differs(model.impute(series, num_samples=50, random_state=2), samples)
    # they scatter about the estimate as the scale says
    many = model.impute(series, num_samples=2000, random_state=1).all_values()[~known]
    parameters = model.impute(series, predict_likelihood_parameters=True).values().reshape(60, 2, 2)[~known]
    np.testing.assert_allclose(many.mean(axis=1), parameters[:, 0], atol=6 * parameters[:, 1].max() / np.sqrt(2000))
    np.testing.assert_allclose(many.std(axis=1), parameters[:, 1], rtol=0.15)
    np.testing.assert_allclose(model.impute(series).values()[~known], parameters[:, 0], rtol=1e-5)


def test_samples_of_a_long_series_are_drawn_in_parts(monkeypatch):
    monkeypatch.setattr("birnn_forecast.models._raw.SAMPLED_AT_ONCE", 100)
    model, series = shared(URNNModel, likelihood="normal"), gappy()
    samples = model.impute(series, num_samples=20, random_state=1).all_values()
    full = model.impute(series).values()
    assert np.isfinite(samples).all()
    assert np.abs(samples.mean(axis=2) - full).max() < 40


FEW = ("CauchyLikelihood", "DirichletLikelihood", "PoissonLikelihood", "LogNormalLikelihood", "QuantileRegression")


@pytest.mark.parametrize(
    ("model_class", "name"), [*((URNNModel, name) for name in LIKELIHOODS), *((GRINModel, name) for name in FEW)]
)
def test_any_likelihood(model_class, name):
    series = series_for(name, missing=0.3)
    model = fitted(model_class, series, likelihood=LIKELIHOODS[name]())
    known = ~missing(series)
    gone = ~known
    full = model.impute()
    assert same_bits(full.values()[known], series.values()[known])
    if name != "CauchyLikelihood":
        assert np.isfinite(full.values()).all()
    bands = model.impute(predict_likelihood_parameters=True)
    assert list(bands.components) == list(model.predict(1, predict_likelihood_parameters=True).components)
    values = bands.values().reshape(60, 2, -1)
    together = gone.any(axis=1, keepdims=True) if name.startswith("Dirichlet") else gone
    assert np.isfinite(values[gone]).all()
    locations = name in ("GaussianLikelihood", "LaplaceLikelihood", "CauchyLikelihood", "GumbelLikelihood")
    if locations or name == "QuantileRegression":
        assert np.isfinite(values).all()
        assert (values[known][:, 0] == series.values()[known]).all()
        assert (values[known][:, 1:] == (0 if locations else series.values()[known][:, None])).all()
        if locations:
            assert (values[gone][:, 1] > 0).all()
    else:
        assert np.isnan(values[~np.broadcast_to(together, gone.shape)]).all()
    samples = model.impute(num_samples=7).all_values()
    assert np.isfinite(samples).all()
    assert (samples[known] == series.values()[known][:, None]).all()
    assert domain(name, samples)
    again = model.reconstruct(num_samples=3)
    assert domain(name, again.all_values())


@pytest.mark.slow
def test_bands_widen_with_the_distance_from_the_observations():
    def walk(length, seed):
        return np.cumsum(np.random.default_rng(seed).normal(size=length)).astype(np.float32)

    model = make_model(
        BiGRUModel,
        input_chunk_length=24,
        output_chunk_length=1,
        hidden_dim=16,
        masking_rate=0.5,
        likelihood=QUANTILES,
        n_epochs=15,
        batch_size=32,
        optimizer_kwargs={"lr": 1e-2},
    ).fit(TimeSeries.from_values(walk(2000, 0)))
    windows = walk(24 * 60, 1).reshape(60, 24)
    windows[:, 8:17] = np.nan
    bands = model.impute([TimeSeries.from_values(w) for w in windows], predict_likelihood_parameters=True)
    widths = np.mean([b.values()[:, 2] - b.values()[:, 0] for b in bands], axis=0)
    assert (widths[:8] == 0).all()
    assert (widths[17:] == 0).all()
    # a random walk between two observations: a Brownian bridge
    by_distance = (widths[8:13] + widths[16:11:-1]) / 2
    assert (np.diff(by_distance) > 0).all()
    distance = np.arange(1, 6)
    np.testing.assert_allclose(by_distance, 2 * 1.2816 * np.sqrt(distance * (10 - distance) / 10), rtol=0.35)
    # with observations on one side only: at the start, and at the end
    for hidden, order in ((slice(0, 9), slice(None, None, -1)), (slice(15, 24), slice(None))):
        windows = walk(24 * 60, 2).reshape(60, 24)
        windows[:, hidden] = np.nan
        bands = model.impute([TimeSeries.from_values(w) for w in windows], predict_likelihood_parameters=True)
        widths = np.mean([b.values()[:, 2] - b.values()[:, 0] for b in bands], axis=0)[hidden][order]
        distance = np.arange(1, 10)
        assert (np.diff(widths[:7]) > 0).all()
        np.testing.assert_allclose(widths, 2 * 1.2816 * np.sqrt(distance), rtol=0.5)


# Errors


@both_networks
def test_what_cannot_be_imputed(model_class):
    model, series = shared(model_class), gappy()
    full = model.impute(series)
    stochastic = TimeSeries.from_values(np.ones((20, 2, 3), dtype=np.float32))
    cases = [
        ("must have the 2 components that the model was fitted on, got 1", series[str(series.components[0])], {}),
        ("must have the 2 components that the model was fitted on, got 3", gappy(components=3), {}),
        ("`series` must be finite or NaN, got an infinite value", change(series, (3, 1), np.inf), {}),
        ("`series` must hold at least one series", [], {}),
        (r"`series\[1\]` must be finite or NaN", [series, change(series, (3, 1), -np.inf)], {}),
        (r"`series\[0\]` must be deterministic, got 3 samples", stochastic, {}),
        ("`num_samples` must be 1 for a model without a likelihood, got 5", series, {"num_samples": 5}),
        ("`num_samples` must be an integer >= 1, got 0", series, {"num_samples": 0}),
        ("`predict_likelihood_parameters` must be False", series, {"predict_likelihood_parameters": True}),
        ("`batch_size` must be an integer >= 1", series, {"batch_size": 0}),
    ]
    for message, wrong, options in cases:
        for call in (model.impute, model.reconstruct):
            with pytest.raises(ValueError, match=message):
                call(wrong, **options)
        assert_same(model.impute(series), full, rtol=0)  # nothing is broken by that
    with pytest.raises(ValueError, match="`num_samples` must be 1 with `predict_likelihood_parameters=True`, got 2"):
        shared(model_class, likelihood="normal").impute(series, num_samples=2, predict_likelihood_parameters=True)


@both_networks
def test_a_model_that_learnt_nothing_about_gaps(model_class):
    series = gappy()
    model = make_model(model_class)
    for call in (model.impute, model.reconstruct, model._impute_forward):
        with pytest.raises(ValueError, match="must be fitted before it can impute"):
            call(series)
    for name in ("imputation_weight", "masking_rate"):
        model = fitted(model_class, series, **{name: 0.0})
        for call in (model.impute, model.reconstruct, model._impute_forward):
            with pytest.raises(ValueError, match=f"`{name}` must be > 0 for a model that imputes, got 0"):
                call(series)
        assert np.isfinite(model.predict(3).values()).all()


# Without their own value


@pytest.mark.parametrize("n_passes", [2, 4])
def test_no_reconstruction_knows_its_own_value(model_class, n_passes):
    model, series = shared(model_class), gappy(40)
    plain = model.reconstruct(series, n_passes=n_passes)
    assert np.isfinite(plain.values()).all()
    observed = np.argwhere(~missing(series))
    for at in map(tuple, observed[[0, 1, 20, 31, -1]]):
        other = model.reconstruct(add(series, at, 7.0), n_passes=n_passes).values()
        assert same_bits(other[at], plain.values()[at])
        assert np.abs(other - plain.values()).max() > 0.1


@both_networks
def test_reconstruction(model_class):
    model, series = shared(model_class, likelihood="quantiles"), gappy(40)
    whole = model.reconstruct(series)
    assert np.abs(whole.values() - 100).max() < 60
    assert_same(model.reconstruct(series, n_passes=4), whole)
    assert differs(model.reconstruct(series, n_passes=3), whole)
    assert_same(model.reconstruct([series, series[:9]]), [whole, model.reconstruct(series[:9])], rtol=1e-4)
    # of missing values: as in `impute`
    gone = missing(series)
    full = model.impute(series, calibrate=False)
    np.testing.assert_allclose(whole.values()[gone], full.values()[gone], rtol=1e-5)
    bands = model.reconstruct(series, predict_likelihood_parameters=True)
    assert bands.n_components == 6
    low, middle, high = bands.values().reshape(40, 2, 3).transpose(2, 0, 1)
    assert same_bits(np.ascontiguousarray(middle), whole.values())
    assert (low < high).mean() > 0.9
    assert model.reconstruct(series, num_samples=5).all_values().shape == (40, 2, 5)
    for n_passes in (1, 0, 2.0, True):
        with pytest.raises(ValueError, match="`n_passes` must be an integer >= 2"):
            model.reconstruct(series, n_passes=n_passes)


@pytest.mark.parametrize("n_passes", [2, 3, 5])
def test_each_value_is_hidden_once_and_never_all_of_a_step(n_passes):
    values = gappy(30, 4).values()
    gone = np.isnan(values)
    first, *others = passes(Source(values, gone), n_passes)
    assert first.target is values
    assert len(others) == n_passes
    assert (sum(one.wanted.astype(int) for one in others) == ~gone).all()
    for one in others:
        assert np.isnan(one.target[one.wanted]).all()
        assert (one.target == values)[~gone & ~one.wanted].all()
        assert not one.wanted.all(axis=1).any()


def test_reconstruction_finds_what_does_not_belong():
    # of a smooth series, what was moved is further from its estimate than anything else
    t = np.arange(150)
    series = TimeSeries.from_values(np.sin(t / 5).astype(np.float32)[:, None])
    spoilt = add(series, (70, 0), 1.5)
    model = fitted(BiGRUModel, series, n_epochs=3)
    assert np.abs(model.reconstruct(spoilt).values() - spoilt.values()).argmax() == 70


def windows(series: TimeSeries, n=4) -> torch.Tensor:
    return torch.tensor(series.values()).unfold(0, WINDOW, 5)[:n].transpose(1, 2)


@pytest.mark.parametrize("likelihood", [None, "normal"])
def test_estimates_have_no_gradient_of_what_is_hidden(model_class, likelihood):
    module = copy.deepcopy(
        shared(model_class, likelihood=likelihood).model
    ).eval()  # Darts' models share their criterion
    x = windows(gappy())
    visible = observed_mask(x) & (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.7)
    x = x.nan_to_num(0.0).requires_grad_()
    estimate = module.estimate(PLModuleInput(past_target=x), visible)
    assert estimate.shape == (*x.shape, len(module.roles))
    (gradient,) = torch.autograd.grad(estimate.square().sum(), x)
    assert (gradient[~visible] == 0).all()
    assert (gradient[visible] != 0).float().mean() > 0.9
    # whatever stands there
    other = module.estimate(PLModuleInput(past_target=torch.where(visible, x, 1e6)), visible)
    assert torch.equal(other, estimate)


# Training


def logs_of(model) -> dict[str, float]:
    return {name: float(value) for name, value in model.trainer.callback_metrics.items()}


@both_networks
def test_losses_are_logged_and_weighed(model_class):
    weight = 0.3
    series, validation = gappy(), gappy(seed=2)
    model = fitted(
        model_class, series, fit={"val_series": validation}, imputation_weight=weight, batch_size=1000, n_epochs=2
    )
    logged = logs_of(model)
    for stage in ("train", "val"):
        parts = logged[f"{stage}_forecast_loss"], logged[f"{stage}_imputation_loss"]
        assert logged[f"{stage}_loss"] == pytest.approx(parts[0] + weight * parts[1], rel=1e-5)
        assert parts[0] > 0
        assert parts[1] > 0


@both_networks
def test_without_imputation_nothing_is_hidden(model_class):
    series = gappy()
    forecasts = []
    for rate in (0.1, 0.8):
        model = fitted(
            model_class, series, fit={"val_series": series}, imputation_weight=0.0, masking_rate=rate, n_epochs=2
        )
        assert {*logs_of(model)} == {"train_loss", "val_loss"}
        assert model.model.network.step_head is None
        assert not model.model.reconstructs
        forecasts.append(model.predict(4))
    assert_same(*forecasts, rtol=0)
    # with it, the rate matters
    forecasts = [fitted(model_class, series, masking_rate=rate, n_epochs=2).predict(4) for rate in (0.1, 0.8)]
    assert differs(*forecasts)


@both_networks
def test_validation_is_the_same_each_time(model_class):
    series, validation = gappy(), gappy(seed=2)
    options = {"optimizer_kwargs": {"lr": 0.0}, "n_epochs": 3, "use_reversible_instance_norm": False}
    seen = Recorder()
    trainer = quiet_trainer(callbacks=[seen])
    fitted(model_class, series, fit={"val_series": validation}, pl_trainer_kwargs=trainer, **options)
    for name in ("val_loss", "val_forecast_loss", "val_imputation_loss"):
        assert len({epoch[name] for epoch in seen.logged}) == 1, name
    assert len({epoch["train_imputation_loss"] for epoch in seen.logged}) == 3  # drawn anew


@both_networks
def test_forecasts_of_validation_see_all_that_was_observed(model_class):
    # the loss of the forecast is that of `predict` on the same windows
    series, validation = gappy(), make_series(30, 2, seed=2)
    model = fitted(model_class, series, fit={"val_series": validation}, batch_size=1000, loss_scale=None)
    logged = logs_of(model)["val_forecast_loss"]
    origins = range(WINDOW, 30 - 4 + 1)
    forecasts = model.predict(4, [validation[:origin] for origin in origins])
    errors = [f.values() - validation[o : o + 4].values() for f, o in zip(forecasts, origins, strict=True)]
    assert logged == pytest.approx(np.square(errors).mean(), rel=1e-4)


def test_hidden_values_are_learnt():
    series = make_series(200, 2, missing=0.2)
    losses = []
    for epochs in (1, 6):
        options = {"n_epochs": epochs, "input_chunk_length": 24}
        model = fitted(BiGRUModel, series, fit={"val_series": make_series(100, 2, seed=1)}, **options)
        losses.append(logs_of(model)["val_imputation_loss"])
    assert losses[1] < 0.8 * losses[0]


def test_sample_weights_weigh_hidden_values():
    # what has no weight is not learnt from
    series = make_series(80)
    zero = TimeSeries.from_times_and_values(series.time_index, np.zeros((80, 1), dtype=np.float32))
    model = fitted(URNNModel, series, fit={"sample_weight": zero})
    assert logs_of(model)["train_imputation_loss"] == 0


# Afterwards


def test_saved_and_loaded_it_imputes_the_same(model_class, tmp_path):
    model, series = shared(model_class, likelihood="quantiles"), gappy()
    model.save(str(tmp_path / "model.pt"))
    loaded = model_class.load(str(tmp_path / "model.pt"))
    assert_same(loaded.impute(series), model.impute(series), rtol=0)
    assert_same(loaded.reconstruct(series), model.reconstruct(series), rtol=0)
    clean = tmp_path / "clean.pt"
    model.save(str(clean), clean=True)
    loaded = model_class.load(str(clean), pl_trainer_kwargs=quiet_trainer())
    assert_same(loaded.impute(series), model.impute(series), rtol=0)
    with pytest.raises(ValueError, match="`series` must be given"):
        loaded.impute()


@both_networks
def test_imputing_leaves_the_model_as_it_was(model_class, monkeypatch):
    model, series = fitted(model_class, dropout=0.3, likelihood=GaussianLikelihood()), gappy(components=1)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    forecast = model.predict(4, num_samples=5, random_state=3)
    state = torch.get_rng_state()
    for training in (False, True):
        model.model.train(training)
        full = model.impute(series)
        model.reconstruct(series)
        model.impute(series, num_samples=5)
        assert model.model.training is training
        assert_same(model.impute(series), full, rtol=0)  # without dropout
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(model.predict(4, num_samples=5, random_state=3), forecast)
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    monkeypatch.setattr(model.model, "estimate", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.impute(series)
    assert model.model.training


@both_networks
def test_training_goes_on_after_imputing(model_class, tmp_path):
    model, series = fitted(model_class, gappy()), gappy()
    full = model.impute(calibrate=False)
    model.save(str(tmp_path / "model.pt"))
    loaded = model_class.load(str(tmp_path / "model.pt"))
    for one in (model, loaded):
        assert_same(one.impute(series, calibrate=False), full)
        one.fit(series, epochs=1)  # warns, had `impute` left something in evaluation mode
        assert differs(one.impute(series, calibrate=False), full)


# Forward


def test_forward_fills_know_nothing_of_what_comes(model_class):
    model = shared(model_class)
    series = change(gappy(50, missing=0.4), (slice(20, 38), 0), np.nan)
    (full,) = model._impute_forward(series)
    assert_filled(full, series)
    for t in (0, 5, 21, 36, 48):
        for other in (add(series, slice(t + 1, None), 50.0), change(series, slice(t + 1, None), np.nan)):
            (same,) = model._impute_forward(other)
            np.testing.assert_allclose(same.values()[: t + 1], full.values()[: t + 1], rtol=1e-5)
    # but what comes is known to `impute`
    assert differs(model.impute(add(series, slice(40, None), 50.0))[:40], model.impute(series)[:40])
    # and what was, to both
    assert differs(model._impute_forward(add(series, slice(0, 20), 50.0))[0][20:], full[20:])
    assert_filled(model._impute_forward([series, series[:3]])[1], series[:3])


@both_networks
def test_forward_fill_computes_only_windows_that_end_in_a_gap(model_class, monkeypatch):
    model = shared(model_class)
    shapes = record_windows(model, monkeypatch)
    series = change(gappy(missing=0.0), ([10, 10, 30, 31], [0, 1, 1, 1]), np.nan)
    model._impute_forward(series)
    assert sum(shape[0] for shape in shapes) == 3


@both_networks
def test_forward_fill_with_covariates(model_class):
    model, series = with_covariates(model_class)
    series = change(series, slice(40, 80), np.nan)
    (full,) = model._impute_forward(series, PAST, FUTURE)
    assert_filled(full, series)
    later = slice(61, None)
    (same,) = model._impute_forward(add(series, later, 30.0), add(PAST, later, 3.0), add(FUTURE, later, 3.0))
    np.testing.assert_allclose(same.values()[:61], full.values()[:61], rtol=1e-5)
    (other,) = model._impute_forward(series, add(PAST, slice(50, 60), 3.0), FUTURE)
    assert differs(other, full)
