"""What `help` and an editor show: every parameter, each documented once."""

import inspect
import pydoc
from typing import get_type_hints

import pytest
from darts.models import BlockRNNModel
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel

import birnn_forecast
from birnn_forecast import BiGRUModel, BiLSTMModel, BiRNNModel
from birnn_forecast.models._docs import full_docstring, parameter_docs
from birnn_forecast.models._params import TorchModelParams
from tests.conftest import MODELS, make_model


def darts_parameters() -> set[str]:
    """Return the names that Darts accepts for every torch model, as its own check of them does."""
    names = set()
    for owner in (TorchForecastingModel, PLForecastingModule):
        names |= set(inspect.signature(owner.__init__).parameters)
    return names - {"self", "args", "kwargs", "train_sample_shape"}


OWN_OF_EVERY_MODEL = {"input_chunk_length", "output_chunk_length", "output_chunk_shift", "use_reversible_instance_norm"}


def test_every_public_model_is_tested():
    assert set(MODELS) == {name for name in birnn_forecast.__all__ if name.endswith("Model")}


def test_signature_shows_every_parameter(model_class):
    parameters = inspect.signature(model_class).parameters
    own = [
        name
        for name, parameter in inspect.signature(model_class.__init__).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name != "self"
    ]
    assert list(parameters)[: len(own)] == own
    assert set(parameters) == set(own) | darts_parameters()
    assert own[:3] == ["input_chunk_length", "output_chunk_length", "output_chunk_shift"]
    assert not [p for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def test_signature_shows_darts_defaults(model_class):
    parameters = inspect.signature(model_class).parameters
    for owner in (TorchForecastingModel, PLForecastingModule):
        for name, theirs in inspect.signature(owner.__init__).parameters.items():
            if name in darts_parameters() - OWN_OF_EVERY_MODEL:
                ours = parameters[name].default
                assert ours == theirs.default or type(ours) is type(theirs.default), name


def test_signature_holds_what_a_model_records(model_class):
    bound = inspect.signature(model_class).bind(12, 4, n_epochs=3)
    model = model_class(*bound.args, **bound.kwargs)
    assert set(model.model_params) <= set(inspect.signature(model_class).parameters)
    for name, parameter in inspect.signature(model_class).parameters.items():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty:
            assert model.model_params[name] == parameter.default


def test_every_parameter_is_documented_once(model_class):
    lines = model_class.__doc__.splitlines()
    start, end = lines.index("Parameters") + 2, lines.index("References")
    section = lines[start:end]
    names = [line for line in section if line and not line[0].isspace()]
    assert names == list(inspect.signature(model_class).parameters)
    for name, description in parameter_docs(model_class.__doc__).items():
        assert len(description.split()) >= 3, name
    assert model_class.__doc__.count("----------") >= 2


def test_sections_of_the_docstring(model_class):
    doc = model_class.__doc__
    assert doc.splitlines()[0].endswith(".")
    for heading in ("Parameters", "References"):
        assert doc.count(f"\n{heading}\n{'-' * len(heading)}\n") == 1
    cited = {line.split("]")[0].strip(" .[") for line in doc.splitlines() if line.lstrip().startswith(".. [")}
    # what a text cites is listed under "References"
    text = doc.split("\nReferences\n")[0]
    assert {str(i) for i in range(1, 9) if f"[{i}]_" in text} <= cited


def test_help(model_class):
    text = pydoc.plain(pydoc.render_doc(model_class))
    assert f"class {model_class.__name__}(" in text
    assert "n_epochs" in text
    assert "fit(self" in text


def test_typed_dictionary_is_darts_shared_parameters():
    assert set(get_type_hints(TorchModelParams)) == darts_parameters() - OWN_OF_EVERY_MODEL
    assert not TorchModelParams.__required_keys__


def test_fixed_cells_have_the_parameters_of_the_general_model():
    general = dict(inspect.signature(BiRNNModel).parameters)
    del general["model"]
    for cls in (BiGRUModel, BiLSTMModel):
        assert dict(inspect.signature(cls).parameters) == general


def test_fixed_cells_build_the_network_of_the_general_model():
    for cls, cell in ((BiGRUModel, "GRU"), (BiLSTMModel, "LSTM")):
        assert make_model(cls)._encoder_params() == make_model(BiRNNModel, model=cell)._encoder_params()


def test_swapping_in_for_darts_block_rnn():
    theirs = set(inspect.signature(BlockRNNModel.__init__).parameters) - {"self", "kwargs"}
    assert theirs <= set(inspect.signature(BiRNNModel).parameters)


def test_own_description_goes_first():
    summary = """One line.

    Parameters
    ----------
    n_epochs
        Own words.

    Examples
    --------
    >>> 1
    """
    signature = inspect.signature(lambda n_epochs, batch_size: None)
    doc = full_docstring(summary, signature)
    assert "n_epochs\n    Own words.\nbatch_size\n    Number of time series" in doc
    assert doc.endswith("Examples\n--------\n>>> 1\n")


def test_undocumented_parameter_is_an_error():
    with pytest.raises(KeyError, match="colour"):
        full_docstring("One line.", inspect.signature(lambda colour: None))
