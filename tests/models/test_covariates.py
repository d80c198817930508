"""Past, future and static covariates: each combination is used, and each wrong use is refused."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries

from birnn_forecast import BiGRUModel, BiLSTMModel, BiRNNModel, BRITSModel, GRINModel, URNNModel
from tests.conftest import MODELS, make_model, make_series
from tests.models.contract_helpers import (
    FUTURE,
    PAST,
    add,
    assert_finite_weights,
    assert_same,
    change,
    differs,
    fitted,
    with_statics,
)

COMBINATIONS = [combination for combination in product([False, True], repeat=3) if any(combination)]


@pytest.mark.parametrize(("past", "future", "static"), COMBINATIONS)
def test_each_combination(model_class, past, future, static):
    series = make_series(components=2)
    if static:
        series = with_statics(series, 0.5, -1.0)
    covariates = {"past_covariates": PAST} if past else {}
    covariates |= {"future_covariates": FUTURE} if future else {}
    model = fitted(model_class, series, fit=covariates)
    assert (model.uses_past_covariates, model.uses_future_covariates, model.uses_static_covariates) == (
        past,
        future,
        static,
    )
    forecast = model.predict(6, series, **covariates)
    # every input counts
    if past:
        assert differs(model.predict(6, series, PAST + 1, covariates.get("future_covariates")), forecast)
    if future:
        for steps in (slice(108, 120), slice(120, 124)):  # the input chunk and the horizon
            changed = covariates | {"future_covariates": add(FUTURE, steps, 1.0)}
            assert differs(model.predict(6, series, **changed), forecast)
    if static:
        assert differs(model.predict(6, with_statics(series, 1.5, -1.0), **covariates), forecast)


def test_steps_of_the_horizon_read_each_other_step(model_class):
    model = fitted(model_class, fit={"future_covariates": FUTURE}, skip=None)
    forecast = model.predict(4, future_covariates=FUTURE).values()
    last_step_changed = model.predict(4, future_covariates=add(FUTURE, 123, 2.0)).values()
    assert (np.abs(last_step_changed - forecast) > 1e-5).all()


def test_covariates_beyond_the_window_have_no_influence(model_class):
    covariates = {"past_covariates": PAST, "future_covariates": FUTURE}
    model = fitted(model_class, fit=covariates)
    far = {
        "past_covariates": add(add(PAST, slice(0, 108), 9.0), slice(120, 140), 9.0),
        "future_covariates": add(add(FUTURE, slice(0, 108), 9.0), slice(124, 140), 9.0),
    }
    assert_same(model.predict(4, **far), model.predict(4, **covariates))


@pytest.mark.parametrize("name", ["past_covariates", "future_covariates"])
def test_wrong_use(model_class, name):
    series, covariate = make_series(), {"past_covariates": PAST, "future_covariates": FUTURE}[name]
    model = fitted(model_class, [series, series], fit={name: [covariate, covariate]})
    with pytest.raises(ValueError, match=f"Some matching {name} must be passed"):
        model.predict(4, series)
    with pytest.raises(ValueError, match="equal number of components"):
        model.predict(4, series, **{name: covariate.stack(covariate)})
    with pytest.raises(ValueError, match=f"`{name}` at series sequence index `0` do not extend far enough"):
        model.predict(30, series, **{name: covariate})  # too short for the forecast
    with pytest.raises(ValueError, match=f"trained without `{name}`"):
        fitted(model_class, series).predict(4, series, **{name: covariate})


def test_static_covariates_are_ignored_on_request(model_class):
    series = with_statics(make_series(), 1.0)
    model = fitted(model_class, series, use_static_covariates=False)
    assert not model.uses_static_covariates
    assert_same(model.predict(4, with_statics(series, 9.0)), model.predict(4))


def test_static_covariates_wrong_use(model_class):
    series = make_series()
    with pytest.raises(ValueError, match="static"):
        fitted(model_class, with_statics(series, 1.0)).predict(4, series)
    with pytest.raises(ValueError, match="static"):
        fitted(model_class, with_statics(series, 1.0)).predict(4, with_statics(series, 1.0, 2.0))


@pytest.mark.parametrize("rows", [1, 2])
def test_static_covariates_of_all_or_of_each_component(model_class, rows):
    series = make_series(components=2)
    frame = pd.DataFrame({"a": [1.0, 2.0][:rows], "b": [3.0, 4.0][:rows]}).astype(np.float32)
    model = fitted(model_class, series.with_static_covariates(frame), skip=None)
    forecast = model.predict(4)
    for row, column in product(range(rows), ["a", "b"]):
        changed = frame.copy()
        changed.loc[row, column] += 2
        assert differs(model.predict(4, series.with_static_covariates(changed)), forecast)


def test_missing_values_of_each_kind_of_covariate(model_class):
    rng = np.random.default_rng(0)
    past, future = (
        one.with_values(np.where(rng.random(one.values().shape) < 0.3, np.nan, one.values())) for one in (PAST, FUTURE)
    )
    series = [with_statics(make_series(60, seed=1), 1.0, np.nan), with_statics(make_series(60, seed=2), np.nan, 2.0)]
    covariates = {"past_covariates": [past, past], "future_covariates": [future, future]}
    model = fitted(model_class, series, fit=covariates)
    assert_finite_weights(model)
    for forecast in model.predict(10, series, **covariates):
        assert np.isfinite(forecast.values()).all()


def test_what_a_missing_covariate_is_replaced_by(model_class):
    series = with_statics(make_series(), 1.0)
    model = fitted(model_class, series, fit={"past_covariates": PAST, "future_covariates": FUTURE})
    forecast = model.predict(4, series, PAST, FUTURE)
    missing_past = change(PAST, (slice(110, 115), 0), np.nan)
    missing_future = change(FUTURE, 122, np.nan)
    assert differs(model.predict(4, series, missing_past, FUTURE), forecast, by=1e-5)
    assert differs(model.predict(4, series, PAST, missing_future), forecast, by=1e-5)
    assert differs(model.predict(4, with_statics(series, np.nan), PAST, FUTURE), forecast, by=1e-5)
    # a missing value is told apart from the value that fills its place
    window = FUTURE.values()[108:124, 0]
    mean = np.delete(window, 14).mean()
    filled = model.predict(4, series, PAST, change(FUTURE, 122, mean))
    assert differs(model.predict(4, series, PAST, missing_future), filled, by=1e-5)


def test_covariates_wholly_missing(model_class):
    series = with_statics(make_series(), np.nan)
    covariates = {"past_covariates": PAST * np.nan, "future_covariates": FUTURE * np.nan}
    model = fitted(model_class, series, fit=covariates)
    assert_finite_weights(model)
    assert np.isfinite(model.predict(8, **covariates).values()).all()


def test_covariates_may_start_before_and_end_after_the_series(model_class):
    series = make_series(60)[10:]
    exact = {"past_covariates": PAST[10:60], "future_covariates": FUTURE[10:64]}
    longer = {"past_covariates": PAST[3:90], "future_covariates": FUTURE[5:70]}
    model = fitted(model_class, series, fit=longer)
    assert_same(model.predict(4, **longer), fitted(model_class, series, fit=exact).predict(4, **exact))


# everything that changes how a step is read
READINGS = [
    *((cls, {}) for cls in MODELS.values()),
    *((BiRNNModel, {"model": cell}) for cell in ("RNN", "LSTM")),
    *((BiRNNModel, {"merge": merge}) for merge in ("sum", "mean", "mul", "gate")),
    (BiRNNModel, {"bidirectional": False}),
    (BiGRUModel, {"n_rnn_layers": 3, "normalization": "layer", "hidden_fc_sizes": [5]}),
    (BiGRUModel, {"use_reversible_instance_norm": False}),
    (BiGRUModel, {"patch_length": 3}),
    (BiLSTMModel, {"patch_length": 5, "n_rnn_layers": 2}),
    (BiGRUModel, {"tbptt_length": 5}),
    (URNNModel, {"n_rnn_layers": 2}),
    (BRITSModel, {"hidden_fc_sizes": [5], "season_length": 4}),
    (BRITSModel, {"use_reversible_instance_norm": False}),
    *((GRINModel, {"graph": graph}) for graph in (None, "learned")),
    (GRINModel, {"model": "LSTM", "n_rnn_layers": 1, "cross_gate": "none", "node_embedding_dim": 0}),
    (GRINModel, {"recurrence": "feedback"}),
    (GRINModel, {"recurrence": "feedback", "graph": None, "n_rnn_layers": 1, "cross_gate": "none"}),
    (GRINModel, {"recurrence": "feedback", "graph": "learned", "cross_gate": "scalar", "season_length": 4}),
    (GRINModel, {"recurrence": "feedback", "node_embedding_dim": 0, "use_reversible_instance_norm": False}),
]
GONE = [0, 30, 31, 32, 57, *range(80, 95), 119]  # the ends, a block, a value, more than an input chunk


@pytest.mark.parametrize(
    ("cls", "options"), READINGS, ids=lambda x: x.__name__ if isinstance(x, type) else ",".join(map(str, x.values()))
)
def test_what_a_covariate_says_at_a_missing_step_enters_its_estimate(cls, options):
    """That of the step alone; in each component, whether it is known for the past or for the future, too."""
    for components, kinds in ((1, ("past", "future")), (2, ("past",)), (3, ("future",))):
        # in a unit that a network without normalisation can read
        series = make_series(components=components, dtype=np.float64).map(lambda x: (x - 100) / 10)
        series = change(series, GONE, np.nan)
        given = {f"{kind}_covariates": PAST if kind == "past" else FUTURE for kind in kinds}
        model = fitted(cls, series, fit=given, **options)
        full = model.impute(series, calibrate=False, **given).values()
        for (kind, covariates), step in product(given.items(), (0, 31, 57, 87, 119)):
            moved = model.impute(series, calibrate=False, **given | {kind: add(covariates, step, 2.0)}).values()
            assert (np.abs(moved - full)[step] > 1e-6).all(), (kind, step)
            assert np.isfinite(moved).all()


@pytest.mark.parametrize(
    ("cls", "options"),
    [(BiGRUModel, {}), (BRITSModel, {}), (GRINModel, {}), (GRINModel, {"recurrence": "feedback"})],
    ids=str,
)
def test_a_target_that_a_covariate_explains_is_filled_by_it(cls, options):
    x = np.random.default_rng(0).normal(size=(300, 1))
    truth, gone = 3 * x + 10, np.arange(20, 290, 6)
    known = truth.copy()
    known[gone] = np.nan
    series, covariate = (TimeSeries.from_values(values.astype(np.float32)) for values in (known, x))
    params = {"hidden_dim": 16, "n_epochs": 6, "optimizer_kwargs": {"lr": 1e-2}, **options}
    model = make_model(cls, **params).fit(series, past_covariates=covariate)
    error = np.abs(model.impute(series, covariate, calibrate=False).values() - truth)[gone].mean()
    assert error < 0.4 * np.abs(truth - truth.mean())[gone].mean()


@pytest.mark.parametrize(
    ("cls", "options"), [*READINGS[: len(MODELS)], (GRINModel, {"recurrence": "feedback"})], ids=str
)
def test_covariates_may_come_in_any_unit(cls, options):
    """Only their unit differs from one fit to the other, each component's its own."""
    series = make_series(components=2, missing=0.2, dtype=np.float64)
    past, future = (add(one.astype(np.float64), slice(40, 43), np.nan) for one in (PAST, FUTURE))
    found = []
    for a, b in (([1.0, 1.0], [0.0, 0.0]), ([1e-5, 1e3], [0.003, -3e5])):
        moved = past.with_values(past.values() * a + b), future * a[1] + b[1]
        covariates = dict(zip(("past_covariates", "future_covariates"), moved, strict=True))
        model = fitted(cls, series, fit=covariates, **options)
        found.append([model.impute(series, **covariates), model.predict(8, series, **covariates)])
    assert_same(*found, rtol=1e-4)


def test_what_covariates_are_where_there_is_no_series_does_not_count():
    series, other = make_series(60, seed=1), make_series(30, seed=2).shift(90)
    model = fitted(BiGRUModel, [series, other], fit={"past_covariates": [PAST, PAST * 3]})
    # nor where no input chunk reaches, in the last horizon
    values = np.concatenate([PAST.values()[:56], 3 * PAST.values()[90:116]])
    expected = np.stack([values.mean(axis=0), values.std(axis=0)])
    np.testing.assert_allclose(model.model.unit_of("past_covariates"), expected, rtol=1e-5)
    # kept when the training goes on with others
    model.fit(series, past_covariates=PAST * 9)
    np.testing.assert_allclose(model.model.unit_of("past_covariates"), expected, rtol=1e-5)


def test_covariates_that_never_change_or_are_never_known(model_class):
    for value in (7.0, 0.0, np.nan):
        constant = PAST.with_values(np.full_like(PAST.values(), value))
        constant = change(constant, (slice(None), 1), PAST.values()[:, 1])
        model = fitted(model_class, fit={"past_covariates": constant})
        mean, scale = model.model.unit_of("past_covariates")
        assert mean[0] == np.nan_to_num(value)
        assert scale[0] == 1
        assert np.isfinite(model.predict(4).values()).all()
