"""What is wrong with an argument or a series is said at once, by its name."""

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries

from birnn_forecast import BiGRUModel, BiRNNModel, CNNBiLSTMModel, URNNModel
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import FUTURE, PAST, change, fitted, two_models

BAD_OPTIONS = {
    "merge": [("max", "'concat', 'sum', 'mean', 'mul', 'gate', got 'max'"), (None, "got None"), (["sum"], "got")],
    "pooling": [("max", "'last', 'mean', 'attention', got 'max'"), (None, "got None")],
    "normalization": [("instance", "'batch', 'layer', None, got 'instance'")],
    "skip": [("naive", "'last', 'linear', 'seasonal', None, got 'naive'")],
    "activation": [
        ("Rélu", "got 'Rélu'"),
        ("Module_", "got"),
        (None, "got None"),
        ("functional", "got"),
        ("Linear", "got"),
    ],
    "hidden_dim": [(0, ">= 1, got 0"), (2.5, "got 2.5"), (True, "got True"), ("8", "got '8'")],
    "n_rnn_layers": [(0, ">= 1, got 0")],
    "decoder_dim": [(-1, ">= 1, got -1")],
    "hidden_fc_sizes": [([8, 0], ">= 1, got 0"), (5, "a list of sizes or None, got 5")],
    "dropout": [(1.0, "below 1, got 1.0"), (-0.1, "got -0.1"), ("a", "got 'a'")],
    "masking_rate": [(1.0, "below 1, got 1.0"), (None, "got None")],
    "bidirectional": [("no", "True or False, got 'no'")],
    "season_length": [(0, ">= 1, got 0"), (2.5, "got 2.5")],
    "patch_length": [(0, ">= 1, got 0"), (2.5, "got 2.5"), (13, r"at most `input_chunk_length` \(12\), got 13")],
    "output_chunk_shift": [(-1, ">= 0, got -1")],
    "output_chunk_length": [(0, ">= 1, got 0")],
}


@pytest.mark.parametrize(
    ("name", "value", "message"), [(name, *case) for name, cases in BAD_OPTIONS.items() for case in cases]
)
def test_bad_option(name, value, message):
    with pytest.raises(ValueError, match=f"`{name}` must be .*{message}"):
        make_model(BiGRUModel, **{name: value})


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (BiRNNModel, "model", "Transformer"),
        (BiRNNModel, "model", None),
        (URNNModel, "model", "gru"),
        (CNNBiLSTMModel, "n_filters", 0),
        (CNNBiLSTMModel, "kernel_size", 0),
        (CNNBiLSTMModel, "n_conv_layers", 0),
    ],
)
def test_bad_option_of_one_model(cls, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got {value!r}"):
        make_model(cls, **{name: value})


@pytest.mark.parametrize("value", [0, -3, (5, 3), "12", 2.5])
def test_bad_input_chunk_length(value):
    with pytest.raises(ValueError, match="input_chunk_length"):
        make_model(BiGRUModel, input_chunk_length=value)


def test_predict_before_fit(model_class):
    with pytest.raises(ValueError, match="must be fit before"):
        make_model(model_class).predict(4, make_series())


BAD_SERIES = {
    "infinite": (change(make_series(), 30, np.inf), "infinite value in component '0' at 2002-07-01"),
    "negative infinite": (change(make_series(components=2), (30, 1), -np.inf), "component '1' at 2002-07-01"),
}


@pytest.mark.parametrize("kind", BAD_SERIES)
def test_bad_series(model_class, kind):
    series, message = BAD_SERIES[kind]
    good = make_series(components=series.n_components)
    model = fitted(model_class, good)
    with pytest.raises(ValueError, match=f"`series` must .*{message}"):
        make_model(model_class).fit(series)
    with pytest.raises(ValueError, match=rf"`series\[1\]` must .*{message}"):
        make_model(model_class).fit([good, series])
    with pytest.raises(ValueError, match=f"`val_series` must .*{message}"):
        make_model(model_class).fit(good, val_series=series)
    with pytest.raises(ValueError, match=rf"`series\[1\]` must .*{message}"):
        model.predict(4, [good, series])
    with pytest.raises(ValueError, match="`series` must"):
        model.historical_forecasts(series, retrain=False)


@pytest.mark.parametrize("name", ["past_covariates", "future_covariates"])
def test_bad_covariates(model_class, name):
    good = {"past_covariates": PAST, "future_covariates": FUTURE}[name]
    bad = change(good, 115, np.inf)
    series = make_series()
    with pytest.raises(ValueError, match=f"`{name}` must be finite or NaN, got an infinite value"):
        make_model(model_class).fit(series, **{name: bad})
    model = fitted(model_class, series, fit={name: good})
    with pytest.raises(ValueError, match=f"`{name}` must be finite or NaN, got an infinite value"):
        model.predict(4, **{name: bad})


def test_bad_static_covariates(model_class):
    series = make_series()
    words = series.with_static_covariates(pd.DataFrame({"place": ["here"]}))
    with pytest.raises(ValueError, match="static"):
        make_model(model_class).fit(words)


@two_models
@pytest.mark.parametrize("dtype", [np.int64, object, bool])
def test_other_types_than_floats_are_converted_by_darts(model_class, dtype):
    values = (make_series(60).values() > 100).astype(dtype)
    series = TimeSeries.from_times_and_values(make_series(60).time_index, values)
    model = fitted(model_class, series)
    assert model.model.dtype == torch.float64
    assert np.isfinite(model.predict(6).values()).all()


def test_series_without_a_value(model_class):
    series = make_series(40)
    empty = series.with_values(series.values() * np.nan)
    with pytest.raises(ValueError, match="`series` must hold at least one observed value, but all of its 40 are NaN"):
        make_model(model_class).fit(empty)
    with pytest.raises(ValueError, match=r"`series\[2\]` must hold at least one observed value"):
        make_model(model_class).fit([series, series, empty])
    with pytest.warns(UserWarning, match="Without any observed value, forecast as NaN"):
        assert np.isnan(fitted(model_class, series).predict(6, empty).values()).all()


@two_models
def test_too_short_series(model_class):
    with pytest.raises(ValueError, match="too short"):
        make_model(model_class).fit(make_series(15))
    make_model(model_class).fit(make_series(16))
    with pytest.raises(ValueError, match="too short"):
        make_model(model_class).fit(make_series(40), val_series=make_series(10))
    with pytest.raises(ValueError, match="too short"):
        fitted(model_class).predict(4, make_series(11))


def test_other_number_of_components(model_class):
    model = fitted(model_class, make_series(components=2))
    with pytest.raises(ValueError, match="equal number of components"):
        model.predict(4, make_series())
    with pytest.raises(ValueError, match="dimensionality"):
        model.fit(make_series())


def test_unknown_key_of_the_instance_norm():
    with pytest.raises(ValueError, match=r"takes 'affine' and 'eps' as keys, got \['foo'\]"):
        make_model(BiGRUModel, use_reversible_instance_norm={"foo": 1})


def test_labels_that_are_all_missing(model_class):
    series = make_series(40)
    history_only = series.with_values(np.where(np.arange(40)[:, None] < 12, series.values(), np.nan))
    with pytest.raises(ValueError, match="`series` must have an observed value after its first 12 steps"):
        make_model(model_class).fit(history_only)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_of_observed_values_must_be_finite(bad):
    series = make_series(40, components=2, missing=0.2)
    values = np.ones((50, 1), dtype=np.float32)
    values[20] = bad
    weight = make_series(50).with_values(values)
    with pytest.raises(ValueError, match=r"`sample_weight\[1\]` must be finite wherever the target is observed"):
        make_model(BiGRUModel).fit([series, series], sample_weight=[make_series(50) * 0 + 1, weight])
