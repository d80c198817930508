import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birnn_forecast.nn.networks import ForecastNetwork, Sizes, Window

RECURRENT = {"hidden_size": 4, "num_layers": 2}
ENCODERS = {
    "birnn": RECURRENT,
    "birnn-gate": RECURRENT | {"merge": "gate", "normalization": "batch"},
    "cnn": RECURRENT | {"cell": "LSTM", "n_filters": 5, "kernel_size": 3, "n_conv_layers": 2},
    "urnn": RECURRENT,
}
SIZES = Sizes(8, 5, 0, targets=2, past_covariates=1, future_covariates=2, static_covariates=2, parameters=3)


def make_network(encoder="birnn", pooling="attention", skip="linear", sizes=SIZES):
    torch.manual_seed(0)
    network = ForecastNetwork(
        sizes,
        encoder=encoder.split("-")[0],
        encoder_params=ENCODERS[encoder],
        pooling=pooling,
        skip=skip,
        season_length=3,
        locations=[True, True, False],
        offsets=[0.0, 0.0, 0.0],
        decoder_params={"step_size": 4, "reader_size": 3, "hidden_sizes": (6,)},
    ).double()
    # the network's part starts at zero beside a skip path: give it a say
    torch.nn.init.normal_(network.decoder.output.weight)
    torch.nn.init.normal_(network.step_head.output.weight)
    return network.eval()


def run(network, window):
    """Return what both heads read from one encoding: the horizon, then the window's own steps."""
    encoding = network.encode(window)
    return torch.cat([network.forecast(window, encoding), network.reconstruct(window, encoding)], dim=1)


def make_window(seed=0, batch=3, time=8, covariates=True):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, missing=0.3):
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return x.masked_fill(torch.rand(*shape, generator=generator) < missing, float("nan"))

    target = draw(batch, time, 2, missing=0.0)
    observed = torch.rand(batch, time, 2, generator=generator) > 0.4
    if not covariates:
        return Window(target, observed)
    return Window(target, observed, draw(batch, time, 1), draw(batch, time, 2), draw(batch, 5, 2), draw(batch, 2, 1))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("skip", [None, "last", "linear", "seasonal"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), value=st.floats(-1e6, 1e6))
def test_a_value_under_the_mask_changes_neither_output_nor_gradient(encoder, skip, seed, value):
    network, window = make_network(encoder, skip=skip), make_window(seed)
    changed = window._replace(target=torch.where(window.observed, window.target, value))
    results = []
    for one in (window, changed):
        target = one.target.clone().requires_grad_()
        network.zero_grad()
        out = run(network, one._replace(target=target))
        out.square().sum().backward()
        assert (target.grad[~one.observed] == 0).all()
        results.append([out.detach(), target.grad, *(p.grad.clone() for p in network.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_missing_covariates_leave_output_and_gradients_finite(encoder):
    network, window = make_network(encoder), make_window()
    nothing = window._replace(
        past_covariates=torch.full_like(window.past_covariates, float("nan")),
        historic_future_covariates=torch.full_like(window.historic_future_covariates, float("nan")),
        future_covariates=torch.full_like(window.future_covariates, float("nan")),
        static_covariates=torch.full_like(window.static_covariates, float("nan")),
        observed=torch.zeros_like(window.observed),
    )
    out = run(network, nothing)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
def test_every_parameter_gets_a_gradient(encoder, pooling):
    network = make_network(encoder, pooling, skip="seasonal").train()
    run(network, make_window()).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("encoder", ENCODERS)
def test_batch_rows_are_independent(encoder):
    network, window = make_network(encoder), make_window(batch=4)
    together = run(network, window)
    for row in range(4):
        alone = run(network, Window(*(None if field is None else field[row : row + 1] for field in window)))
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
@pytest.mark.parametrize("covariates", [False, True])
def test_missing_steps_on_the_left_equal_no_padding(encoder, pooling, covariates):
    sizes = SIZES if covariates else SIZES._replace(past_covariates=0, future_covariates=0, static_covariates=0)
    network = make_network(encoder, pooling, skip="last", sizes=sizes)
    window = make_window(covariates=covariates)
    window.observed[:, 0] = True  # nothing else marks the first step without covariates

    def pad(x):
        return None if x is None else torch.cat([torch.full_like(x[:, :3], float("nan")), x], dim=1)

    padded = window._replace(
        target=pad(window.target),
        observed=torch.cat([torch.zeros_like(window.observed[:, :3]), window.observed], dim=1),
        past_covariates=pad(window.past_covariates),
        historic_future_covariates=pad(window.historic_future_covariates),
    )
    torch.testing.assert_close(network(padded), network(window))
    steps, padded_steps = (network.reconstruct(one, network.encode(one)) for one in (window, padded))
    torch.testing.assert_close(padded_steps[:, 3:], steps)


def test_the_skip_path_reaches_locations_only():
    network, window = make_network(), make_window()
    torch.nn.init.zeros_(network.decoder.output.weight)
    torch.nn.init.zeros_(network.decoder.output.bias)
    out = network(window)
    assert (out[..., :2] != 0).any()
    assert torch.equal(out[..., 0], out[..., 1])
    assert (out[..., 2] == 0).all()


def test_a_wrong_shape_is_an_error_of_the_signature():
    network, window = make_network(), make_window()
    with pytest.raises(Exception, match="interpolate"):
        network.encode(window._replace(target=window.target[..., 0]))


def test_estimates_start_as_the_filled_gaps():
    network, window = make_network(), make_window()
    torch.nn.init.zeros_(network.step_head.output.weight)
    torch.nn.init.zeros_(network.step_head.output.bias)
    encoding = network.encode(window)
    out = network.reconstruct(window, encoding)
    assert torch.equal(out[..., 0], encoding.target)
    assert torch.equal(out[..., 1], encoding.target)
    assert (out[..., 2] == 0).all()
    torch.testing.assert_close(encoding.target[window.observed], window.target[window.observed])


def test_a_component_without_observations_follows_its_guide():
    network, window = make_network(), make_window()
    window.observed[:, :, 0] = False
    guide = torch.randn(3, 8, 2, dtype=torch.float64)
    filled = network.encode(window._replace(guide=guide)).target
    assert torch.equal(filled[..., 0], guide[..., 0])
    torch.testing.assert_close(filled[..., 1], network.encode(window).target[..., 1])
    assert (network.encode(window).target[..., 0] == 0).all()
