"""Components are told apart by their names: any order will do, other names will not."""

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.utils.data import SequentialTorchTrainingDataset
from darts.utils.likelihood_models import GaussianLikelihood, QuantileRegression

from birnn_forecast import BiGRUModel, GRINModel
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import assert_same, two_models

NAMES = ["north", "south", "east"]
ORDER = ["east", "north", "south"]


def named(series: TimeSeries, names) -> TimeSeries:
    return series.with_columns_renamed(list(series.components), list(names))


def target(seed=0, static=True) -> TimeSeries:
    series = named(make_series(60, components=3, seed=seed, missing=0.2), NAMES)
    if not static:
        return series
    table = pd.DataFrame({"height": [1.0, 2.0, 3.0], "depth": [0.0, 5.0, -1.0]}, index=NAMES, dtype=np.float32)
    return series.with_static_covariates(table)


def shuffled(series: TimeSeries) -> TimeSeries:
    """Return the same components in another order, static covariates in another order, too."""
    other = series[ORDER] if list(series.components) == NAMES else series[list(series.components)[::-1]]
    if series.static_covariates is None:
        return other
    return other.with_static_covariates(other.static_covariates[["depth", "height"]])


PAST = named(make_series(80, components=2, seed=5), ["rain", "wind"])
FUTURE = named(make_series(80, components=2, seed=6), ["price", "day"])


def assert_same_by_name(actual, expected):
    assert {*actual.components} == {*expected.components}
    assert_same(actual[list(expected.components)], expected, rtol=1e-5)


@pytest.mark.parametrize("likelihood", [None, QuantileRegression([0.1, 0.5, 0.9])], ids=["none", "quantiles"])
def test_another_order(model_class, likelihood):
    series, other = target(), shuffled(target())
    past, future = shuffled(PAST), shuffled(FUTURE)
    model = make_model(model_class, likelihood=likelihood)
    model.fit([series, target(1)], past_covariates=[PAST] * 2, future_covariates=[FUTURE] * 2)
    asked = {} if likelihood is None else {"predict_likelihood_parameters": True}
    for kwargs in (asked, {"num_samples": 4, "random_state": 0} if asked else {}):
        # sampled values depend on the order that they are drawn in: their order is that of training, too
        expected = model.predict(4, series, PAST, FUTURE, **kwargs)
        found = model.predict(4, other, past, future, **kwargs)
        assert_same_by_name(found, expected)
        assert [name.split("_")[0] for name in found.components[:: max(len(found.components) // 3, 1)]] == ORDER
    # in one batch with series in order
    mixed = model.predict(4, [series, other, series], [PAST, PAST, past], [future, FUTURE, FUTURE], **asked)
    for one in mixed:
        assert_same_by_name(one, model.predict(4, series, PAST, FUTURE, **asked))
    assert_same_by_name(model.impute(other, past, future, **asked), model.impute(series, PAST, FUTURE, **asked))
    assert_same_by_name(
        model.reconstruct(other, past, future, **asked), model.reconstruct(series, PAST, FUTURE, **asked)
    )
    for last in (True, False):
        options = {"start": 40, "forecast_horizon": 3, "retrain": False, "last_points_only": last, **asked}
        expected = model.historical_forecasts(series, PAST, FUTURE, **options)
        found = model.historical_forecasts(other, past, future, **options)
        pairs = [(found, expected)] if last else zip(found, expected, strict=True)
        for one, two in pairs:
            assert_same_by_name(one, two)


def test_samples_come_in_the_callers_order():
    model = make_model(GRINModel, likelihood=GaussianLikelihood()).fit(target(static=False))
    series = target(static=False)
    found = model.predict(4, series[ORDER], num_samples=50, random_state=0)
    assert list(found.components) == ORDER
    expected = model.predict(4, series, num_samples=50, random_state=0)
    np.testing.assert_allclose(found[NAMES].all_values(), expected.all_values(), rtol=1e-5)


def test_training_series_in_several_orders(model_class):
    options = {"past_covariates": [PAST] * 2, "future_covariates": [FUTURE] * 2}
    series = target(static=False)
    table = np.broadcast_to(np.array([1, 2, 3], dtype=np.float32), (60, 3))
    weights = [series.with_values(table.copy()) for _ in range(2)]
    one = make_model(model_class).fit(
        [target(), target(1)], **options, val_series=target(2), val_past_covariates=PAST, val_future_covariates=FUTURE,
        sample_weight=weights, val_sample_weight=weights[0],
    )  # fmt: skip
    options = {"past_covariates": [PAST, shuffled(PAST)], "future_covariates": [FUTURE, shuffled(FUTURE)]}
    two = make_model(model_class).fit(
        [target(), shuffled(target(1))],
        **options,
        val_series=shuffled(target(2)),
        val_past_covariates=shuffled(PAST),
        val_future_covariates=FUTURE,
        sample_weight=[weights[0], weights[1][ORDER]],
        val_sample_weight=weights[0][ORDER],
    )
    assert_same(two.predict(4, target(), PAST, FUTURE), one.predict(4, target(), PAST, FUTURE))
    # a second fit keeps the order that the weights have
    for model, series in ((one, target()), (two, shuffled(target()))):
        model.fit(series, past_covariates=PAST, future_covariates=FUTURE)
    assert_same(two.predict(4, target(), PAST, FUTURE), one.predict(4, target(), PAST, FUTURE))


def test_other_names(model_class):
    model = make_model(model_class).fit(target(), past_covariates=PAST, future_covariates=FUTURE)
    wrong = {
        "series": (named(target(), ["north", "south", "west"]), PAST, FUTURE),
        "past_covariates": (target(), named(PAST, ["rain", "sun"]), FUTURE),
        "future_covariates": (target(), PAST, named(FUTURE, ["price", "night"])),
    }
    for name, arguments in wrong.items():
        series, past, future = arguments
        for call in (
            lambda s, p, f: model.predict(4, s, p, f),
            model.impute,
            model.reconstruct,
            lambda s, p, f: model.historical_forecasts(s, p, f, start=40, retrain=False),
        ):
            with pytest.raises(ValueError, match=f"`{name}` must have the components .*'(south|rain|price)'.*got .*'"):
                call(series, past, future)
    table = target().static_covariates.rename(columns={"depth": "width"})
    with pytest.raises(ValueError, match=r"static covariates .*'height', 'depth'.* got 'height', 'width'"):
        model.impute(target().with_static_covariates(table), PAST, FUTURE)
    with pytest.raises(ValueError, match=r"`series\[1\]` must have the components"):
        model.impute([target(), wrong["series"][0]], [PAST] * 2, [FUTURE] * 2)


@two_models
def test_names_that_training_series_do_not_share_do_not_matter(model_class):
    series, other = target(static=False), named(target(1, static=False), ["a", "b", "c"])
    model = make_model(model_class).fit([series, other])
    renamed = named(series, ["x", "y", "z"])
    np.testing.assert_allclose(model.predict(4, renamed).values(), model.predict(4, series).values())
    assert list(model.predict(4, renamed).components) == ["x", "y", "z"]


@two_models
def test_the_name_of_a_single_component_does_not_matter(model_class):
    past = named(make_series(80), ["rain"])
    model = make_model(model_class).fit(named(make_series(60), ["sales"]), past_covariates=past)
    series = named(make_series(60, seed=1, missing=0.2), ["sales_q4"])
    forecast = model.predict(4, series, named(past, ["sun"]))
    assert list(forecast.components) == ["sales_q4"]
    assert list(model.impute(series, named(past, ["sun"])).components) == ["sales_q4"]


@two_models
def test_names_of_a_dataset(model_class):
    series = target(static=False)
    dataset = SequentialTorchTrainingDataset(series, input_chunk_length=12, output_chunk_length=4)
    model = make_model(model_class).fit_from_dataset(dataset)
    assert_same_by_name(model.predict(4, series[ORDER]), model.predict(4, series))
    with pytest.raises(ValueError, match="must have the components"):
        model.predict(4, named(series, ["a", "b", "c"]))
    other = SequentialTorchTrainingDataset(series[ORDER], input_chunk_length=12, output_chunk_length=4)
    with pytest.raises(ValueError, match="must have their components in the order of the first training"):
        model.fit_from_dataset(other)


def test_weights_of_components_go_by_name():
    series = target(static=False)
    table = np.broadcast_to(np.array([1, 2, 0], dtype=np.float32), (60, 3))
    weights = series.with_values(table.copy())
    one = make_model(BiGRUModel).fit(series, sample_weight=weights)
    two = make_model(BiGRUModel).fit(series, sample_weight=weights[ORDER])
    assert_same(two.predict(4), one.predict(4))


@two_models
def test_names_are_saved_with_the_model(model_class, tmp_path):
    model = make_model(model_class).fit(target(static=False))
    path = str(tmp_path / "model.pt")
    model.save(path)
    loaded = model_class.load(path)
    again, unchecked = make_model(model_class), make_model(model_class)
    again.load_weights(path)
    unchecked.load_weights(path, skip_checks=True, load_encoders=False)
    for one in (loaded, again, unchecked):
        assert_same_by_name(one.predict(4, target(static=False)[ORDER]), model.predict(4, target(static=False)))
        with pytest.raises(ValueError, match="must have the components"):
            one.predict(4, named(target(static=False), ["a", "b", "c"]))
