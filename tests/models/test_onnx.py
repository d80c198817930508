"""The exported graph forecasts what the model forecasts, gaps included, without torch."""

import numpy as np
import onnxruntime
import pytest
import torch
from darts.utils.likelihood_models import GaussianLikelihood, QuantileRegression
from darts.utils.onnx import run_onnx_prediction

from birnn_forecast import BiGRUModel
from tests.conftest import MODELS, make_series
from tests.models.contract_helpers import FUTURE, PAST, assert_same, change, fitted, two_models, with_statics

pytestmark = [
    # from torch and its exporter, about themselves
    pytest.mark.filterwarnings(
        "ignore:The tensor attributes .*_flat_weights.* were assigned during export:UserWarning"
    ),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def exportable(cls, series, **kwargs):
    """Return a fitted model with a loss of its own (an export sets Darts' shared default to evaluation)."""
    return fitted(cls, series, loss_fn=torch.nn.MSELoss(), **kwargs)


def session(model, path):
    model.to_onnx(str(path / "model.onnx"))
    return onnxruntime.InferenceSession(str(path / "model.onnx"))


def assert_graph_is_model(model, path, series, n=4, covariates=None):
    covariates = covariates or {}
    graph = session(model, path)
    for one in series:
        actual = run_onnx_prediction(n, graph, one, verbose=False, **covariates)
        assert_same(actual, model.predict(n, one, **covariates), rtol=tolerance(model, one))


def tolerance(model, series):
    """Return the relative tolerance: a graph sees the window alone, so a silent one gets the level of training."""
    return 0.2 if np.isnan(series.values()[-model.input_chunk_length :]).all() else 1e-4


def gaps(series):
    """Return the series, and with a gap inside the window, before it, at its end, and everywhere."""
    return [series] + [change(series, where, np.nan) for where in (slice(-8, -4), slice(-12, -5), -1, slice(-12, None))]


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["linear", "seasonal"])
@pytest.mark.parametrize("cls", MODELS.values(), ids=MODELS.keys())
def test_every_model_with_every_input(cls, skip, tmp_path):
    series = with_statics(make_series(60, 2, missing=0.2), 1.0)
    covariates = {"past_covariates": change(PAST, 50, np.nan), "future_covariates": change(FUTURE, 61, np.nan)}
    model = exportable(cls, series, fit=covariates, skip=skip, season_length=4)
    assert_graph_is_model(model, tmp_path, gaps(series), n=11, covariates=covariates)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", [GaussianLikelihood(), QuantileRegression([0.1, 0.5, 0.9])], ids=["normal", "q"])
@two_models
def test_likelihood_parameters(model_class, likelihood, tmp_path):
    series = make_series(60, 2, missing=0.2)
    model = exportable(model_class, series, likelihood=likelihood)
    graph = session(model, tmp_path)
    for one in gaps(series):
        # Darts exports the raw parameters, before the likelihood's link functions
        raw = run_onnx_prediction(4, graph, one, verbose=False)
        linked = likelihood.predict_likelihood_parameters(torch.as_tensor(raw.values()).reshape(1, 4, 2, -1))
        expected = model.predict(4, one, predict_likelihood_parameters=True)
        assert list(raw.components) == list(expected.components)
        np.testing.assert_allclose(linked.reshape(4, -1).numpy(), expected.values(), rtol=tolerance(model, one))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "attention", "n_rnn_layers": 2, "normalization": "batch", "merge": "gate"},
        {"pooling": "mean", "n_rnn_layers": 2, "normalization": "layer", "merge": "mul"},
        {"use_reversible_instance_norm": False, "skip": None, "bidirectional": False},
        {"input_chunk_length": 1, "output_chunk_length": 3},
    ],
    ids=str,
)
def test_options(options, tmp_path):
    series = make_series(60, missing=0.2)
    model = exportable(BiGRUModel, series, **options)
    assert_graph_is_model(model, tmp_path, gaps(series), n=7)


def test_export(tmp_path):
    series = make_series(60, missing=0.2)
    assert_graph_is_model(exportable(BiGRUModel, series), tmp_path, gaps(series))
