"""``tbptt_length`` in Darts' workflows."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from birnn_forecast import BiGRUModel, BRITSModel, GRINModel
from tests.conftest import MODELS, make_model, make_series, quiet_trainer
from tests.models.contract_helpers import assert_same

SERIES = make_series(80, missing=0.1)
OFFERED = {name: cls for name, cls in MODELS.items() if cls not in (GRINModel, BRITSModel)}

recurrent_models = pytest.mark.parametrize("model_class", OFFERED.values(), ids=OFFERED)


def weights(model):
    return np.concatenate([p.detach().numpy().ravel() for p in model.model.parameters()])


@recurrent_models
def test_it_truncates_training_and_nothing_else(model_class):
    whole, as_long, shorter = (
        make_model(model_class, tbptt_length=length, optimizer_kwargs={"lr": 1e-2}).fit(SERIES)
        for length in (None, 12, 5)
    )
    np.testing.assert_array_equal(weights(whole), weights(as_long))
    assert not np.allclose(weights(whole), weights(shorter), atol=1e-4)
    assert np.isfinite(weights(shorter)).all()
    assert not np.isnan(shorter.impute().values()).any()
    # a fitted model predicts as one without the option
    whole.model.load_state_dict(shorter.model.state_dict())
    assert_same(shorter.predict(6), whole.predict(6))


@recurrent_models
def test_it_trains_with_covariates_padding_and_in_bfloat16(model_class):
    covariates = make_series(100).map(lambda x: (x - 100) / 10)
    model = make_model(
        model_class,
        (4, 12),
        tbptt_length=5,
        dropout=0.1,
        n_rnn_layers=2,
        use_reversible_instance_norm={"affine": True},
        pl_trainer_kwargs=quiet_trainer(precision="bf16-mixed"),
    )
    model.fit([SERIES, SERIES[:10]], past_covariates=[covariates] * 2, future_covariates=[covariates] * 2)
    assert np.isfinite(weights(model)).all()


LOAD = """
import sys
import numpy as np
from birnn_forecast import BiGRUModel

model = BiGRUModel.load(sys.argv[1])
assert model.model_params["tbptt_length"] == 5
assert model.model.network.tbptt_length == 5
np.save(sys.argv[1] + ".npy", model.predict(6).values())
model.fit(model.training_series, epochs=2)
"""


def test_a_fresh_process_loads_it(tmp_path):
    path = str(tmp_path / "model.pt")
    model = make_model(BiGRUModel, tbptt_length=5).fit(SERIES)
    model.save(path)
    subprocess.run([sys.executable, "-c", LOAD, path], check=True)
    np.testing.assert_allclose(np.load(path + ".npy"), model.predict(6).values(), rtol=1e-6)


def test_gridsearch_takes_it():
    parameters = {
        "input_chunk_length": [12],
        "output_chunk_length": [4],
        "tbptt_length": [None, 5],
        "n_epochs": [1],
        "pl_trainer_kwargs": [quiet_trainer()],
    }
    _, found, _ = BiGRUModel.gridsearch(parameters, make_series(60), forecast_horizon=4, start=0.8, verbose=False)
    assert found["tbptt_length"] in (None, 5)


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "long"])
def test_lengths_are_checked(length):
    with pytest.raises(ValueError, match="`tbptt_length` must be an integer >= 1, got"):
        make_model(BiGRUModel, tbptt_length=length)


def test_batch_statistics_need_all_steps():
    with pytest.raises(ValueError, match=r"`tbptt_length` must be None with `normalization='batch'`.*got 5: use"):
        make_model(BiGRUModel, tbptt_length=5, normalization="batch")
    make_model(BiGRUModel, tbptt_length=5, normalization="layer")


def test_grin_does_not_offer_it():
    assert "tbptt_length" not in inspect.signature(GRINModel).parameters
    with pytest.raises(ValueError, match="Invalid model creation parameters"):
        make_model(GRINModel, tbptt_length=5)


def test_patches_and_segments_exclude_each_other():
    with pytest.raises(ValueError, match="`tbptt_length` must be None with `patch_length`"):
        make_model(BiGRUModel, tbptt_length=6, patch_length=3)
