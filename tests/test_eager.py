"""What is left out where nothing is missing changes nothing."""

import pytest
import torch

from birnn_forecast import eager
from birnn_forecast.eager import is_eager, is_whole
from birnn_forecast.nn.merge import MERGES
from birnn_forecast.nn.recurrent import BidirectionalEncoder, URNNEncoder
from tests.conftest import MODELS, make_model, make_series


def test_only_plain_tensors_are_looked_at():
    mask = torch.ones(3, dtype=torch.bool)
    assert is_whole(mask)
    assert not is_whole(mask & torch.tensor([True, False, True]))
    assert not is_eager(mask.to("meta"))
    found = []
    torch.func.vmap(lambda x: found.append(is_eager(x)) or x)(mask[None])
    torch.compile(lambda x: x & is_whole(x), backend="eager")(mask)
    assert found == [False]


def test_compiled_functions_do_not_look():
    compiled = torch.compile(lambda x: torch.tensor(is_eager(x)), backend="eager", fullgraph=True)
    assert not compiled(torch.ones(3))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_forecasts_and_weights_are_those_of_the_long_way(name, missing, monkeypatch):
    series = make_series(60, missing=missing)
    short = make_model(MODELS[name]).fit(series)
    expected = short.predict(4)
    monkeypatch.setattr(eager, "is_eager", lambda x: False)
    long = make_model(MODELS[name]).fit(series)
    for key, weight in long.model.state_dict().items():
        torch.testing.assert_close(short.model.state_dict()[key], weight, rtol=1e-4, atol=1e-5, msg=key)
    torch.testing.assert_close(
        torch.tensor(long.predict(4).values()), torch.tensor(expected.values()), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("start", [(0, 0, 0), (0, 4, 1)])
def test_states_and_gradients_are_those_of_the_long_way(merge, start, monkeypatch):
    torch.manual_seed(0)
    encoders = [BidirectionalEncoder(3, 4, num_layers=2, merge=merge).double(), URNNEncoder(3, 4).double()]
    x = torch.randn(3, 7, 3, dtype=torch.double, requires_grad=True)
    found = []
    for looks in (True, False):
        if not looks:
            monkeypatch.setattr(eager, "is_eager", lambda x: False)
        for encoder in encoders:
            states, final = encoder(x, torch.tensor(start))
            weights = list(encoder.parameters())
            found += [states, final, *torch.autograd.grad(states.square().sum() + final.sin().sum(), [x, *weights])]
    half = len(found) // 2
    for one, other in zip(found[:half], found[half:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
