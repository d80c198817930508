import numpy as np
import pytest
import torch
import torchmetrics
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils import likelihood_models as lm
from darts.utils.likelihood_models.base import LikelihoodType

from birnn_forecast import losses
from birnn_forecast.nn.normalization import MaskedInstanceNorm, WindowStatistics

# likelihood -> values inside its support
SUPPORTS = {
    "Gaussian": lambda u: 3 * u - 1,
    "Laplace": lambda u: 3 * u - 1,
    "Cauchy": lambda u: 3 * u - 1,
    "Gumbel": lambda u: 3 * u - 1,
    "Poisson": lambda u: (9 * u).floor(),
    "NegativeBinomial": lambda u: (9 * u).floor(),
    "Bernoulli": lambda u: (u > 0.5).to(u.dtype),
    "Geometric": lambda u: (5 * u).floor(),
    "Exponential": lambda u: u + 0.1,
    "Gamma": lambda u: u + 0.1,
    "HalfNormal": lambda u: u + 0.1,
    "LogNormal": lambda u: u + 0.1,
    "Weibull": lambda u: u + 0.1,
    "Beta": lambda u: 0.05 + 0.9 * u,
    "ContinuousBernoulli": lambda u: u,
    "Quantile": lambda u: 3 * u - 1,
}


def make_likelihood(name):
    return lm.QuantileRegression([0.1, 0.5, 0.9]) if name == "Quantile" else getattr(lm, f"{name}Likelihood")()


def batch(likelihood_name, batch_size=4, time=5, components=2, missing=0.4):
    torch.manual_seed(0)
    likelihood = make_likelihood(likelihood_name)
    raw = torch.randn(batch_size, time, components, likelihood.num_parameters, dtype=torch.float64)
    target = SUPPORTS[likelihood_name](torch.rand(batch_size, time, components, dtype=torch.float64))
    observed = torch.rand(batch_size, time, components) > missing
    return likelihood, raw, target, observed


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_likelihood_loss_is_the_mean_over_observed_targets(name, weighted):
    likelihood, raw, target, observed = batch(name)
    weight = torch.rand_like(target).masked_fill(~observed, float("nan")) if weighted else None
    raw.requires_grad_()
    with_gaps = target.masked_fill(~observed, float("nan"))
    loss = losses.masked_loss(raw, with_gaps, None, likelihood, weight)
    # each observed value alone through Darts, then the plain mean
    alone = [
        likelihood.compute_loss(
            raw[b : b + 1, t : t + 1, c : c + 1],
            target[b : b + 1, t : t + 1, c : c + 1],
            torch.ones(1, 1, 1, dtype=torch.float64) if weight is None else weight[b : b + 1, t : t + 1, c : c + 1],
        ).item()
        for b, t, c in observed.nonzero()
    ]
    assert loss.item() == pytest.approx(np.mean(alone), rel=1e-6)
    loss.backward()
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[~observed] == 0).all()


def test_a_prior_keeps_its_strength():
    likelihood = lm.GaussianLikelihood(prior_mu=0.0, prior_sigma=1.0, prior_strength=10.0)
    plain = lm.GaussianLikelihood()
    _, raw, target, observed = batch("Gaussian")
    raw = raw.float()
    with_gaps = target.float().masked_fill(~observed, float("nan"))
    penalty = likelihood.compute_loss(raw, target.float(), None) - plain.compute_loss(raw, target.float(), None)
    masked = losses.masked_loss(raw, with_gaps, None, likelihood, None)
    torch.testing.assert_close(masked - losses.masked_loss(raw, with_gaps, None, plain, None), penalty)


def test_dirichlet_takes_the_steps_at_which_all_components_are_observed():
    torch.manual_seed(0)
    likelihood = lm.DirichletLikelihood()
    raw = torch.randn(3, 4, 3, 1)
    target = torch.softmax(torch.randn(3, 4, 3), dim=-1)
    with_gaps = target.clone()
    with_gaps[0, 1, 2] = with_gaps[2, 3, 0] = float("nan")
    kept = ~torch.isnan(with_gaps).any(-1)
    expected = np.mean(
        [
            likelihood.compute_loss(raw[b : b + 1, t : t + 1], target[b : b + 1, t : t + 1], None).item()
            for b, t in kept.nonzero()
        ]
    )
    assert losses.masked_loss(raw, with_gaps, None, likelihood, None).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("criterion", [torch.nn.MSELoss, torch.nn.L1Loss, torch.nn.SmoothL1Loss])
def test_criterion_sees_observed_targets_only(criterion):
    _, raw, target, observed = batch("Gaussian")
    prediction = raw[..., :1].requires_grad_()
    with_gaps = target.masked_fill(~observed, float("nan"))
    loss = losses.masked_loss(prediction, with_gaps, criterion(), None, None)
    torch.testing.assert_close(loss, criterion()(prediction[..., 0][observed], target[observed]))
    weight = torch.rand(4, 5, 1, dtype=torch.float64)
    weighted = losses.masked_loss(prediction, with_gaps, criterion(reduction="none"), None, weight)
    each = criterion(reduction="none")(prediction[..., 0], target) * weight
    torch.testing.assert_close(weighted, each[observed].mean())


def test_nothing_observed_is_zero_with_a_graph():
    prediction = torch.randn(2, 3, 1, 1, requires_grad=True)
    loss = losses.masked_loss(prediction, torch.full((2, 3, 1), float("nan")), torch.nn.MSELoss(), None, None)
    loss.backward()
    assert loss.item() == 0
    assert (prediction.grad == 0).all()


def test_every_likelihood_of_darts_has_its_roles():
    for kind in LikelihoodType:
        if kind is LikelihoodType.Quantile:
            continue
        name = f"{kind.name}Likelihood"
        if hasattr(lm, name):
            likelihood = getattr(lm, name)()
            assert len(losses.parameter_roles(likelihood)) == likelihood.num_parameters, name
    assert losses.parameter_roles(lm.QuantileRegression([0.1, 0.5, 0.9])) == ("location",) * 3
    assert losses.parameter_roles(None) == ("location",)


def test_quantiles_start_apart_around_the_skip_path():
    offsets = losses.initial_offsets(lm.QuantileRegression([0.1, 0.5, 0.9]))
    np.testing.assert_allclose(offsets, [-0.640776, 0.0, 0.640776], atol=1e-6)
    assert losses.initial_offsets(None) == (0.0,)
    assert losses.initial_offsets(lm.GaussianLikelihood()) == (0.0, 0.0)


# families closed under a change of unit: the density of `k x` under the parameters of the unit `k` is 1/k times as high
SCALED = ["Gaussian", "Laplace", "Cauchy", "Gumbel", "Exponential", "Gamma", "LogNormal", "HalfNormal", "Weibull"]


def statistics_of(mean, scale) -> WindowStatistics:
    return WindowStatistics(mean.double(), scale.double(), torch.zeros_like(mean, dtype=torch.bool))


@pytest.mark.parametrize("name", SCALED)
def test_parameters_follow_the_unit_of_the_series(name):
    likelihood, raw, target, _ = batch(name, missing=0.0)
    roles = losses.parameter_roles(likelihood)
    norm = MaskedInstanceNorm(2).double()
    torch.nn.init.constant_(norm.affine_weight, -1.5)
    statistics = statistics_of(torch.full((4, 1, 2), 5.0), torch.full((4, 1, 2), 2.0))
    factor = 1000.0
    scaled = statistics_of(factor * statistics.mean, factor * statistics.scale)
    loss = likelihood.compute_loss(losses.denormalise(raw, statistics, norm, roles), target, None)
    other = likelihood.compute_loss(losses.denormalise(raw, scaled, norm, roles), factor * target, None)
    assert (other - loss).item() == pytest.approx(np.log(factor), rel=5e-3)


def test_geometric_follows_the_level_of_the_series():
    likelihood, raw, *_ = batch("Geometric")
    norm = MaskedInstanceNorm(2).double()
    for level in (50.0, 50_000.0):
        statistics = statistics_of(torch.full((4, 1, 2), level), torch.ones(4, 1, 2))
        p = likelihood._params_from_output(losses.denormalise(0 * raw, statistics, norm, ("log odds",)))[0]
        torch.testing.assert_close((1 - p) / p, torch.full_like(p, level))


def test_softplus_inverse_holds_over_the_range_of_float32():
    y = torch.tensor([1e-30, 1e-6, 0.1, 1.0, 19.9, 20.1, 1e6])
    torch.testing.assert_close(torch.nn.functional.softplus(losses.inverse_softplus(y)), y, rtol=1e-4, atol=1e-7)


def test_metrics_over_single_values_take_every_observed_one_the_others_complete_steps():
    torch.manual_seed(0)
    prediction, target = torch.randn(50, 2), torch.randn(50, 2)
    with_gaps = target.masked_fill(torch.rand(50, 2) < 0.3, float("nan"))
    observed = ~torch.isnan(with_gaps)
    complete = observed.all(-1)
    metrics = PLForecastingModule.configure_torch_metrics(
        [
            torchmetrics.MeanAbsoluteError(),
            torchmetrics.MeanSquaredError(num_outputs=2),
            torchmetrics.R2Score(),
        ]
    )
    metrics = torchmetrics.MetricCollection(dict(metrics.items()), compute_groups=False)
    losses.update_metrics(metrics, prediction, with_gaps)
    result = metrics.compute()
    torch.testing.assert_close(result["MeanAbsoluteError"], (prediction - target)[observed].abs().mean())
    torch.testing.assert_close(result["MeanSquaredError"], (prediction - target)[complete].square().mean(0))
    torch.testing.assert_close(
        result["R2Score"], torchmetrics.functional.r2_score(prediction[complete], target[complete])
    )


@pytest.mark.parametrize("affine", [False, True])
def test_locations_together_are_brought_back_as_one_by_one(affine):
    norm = MaskedInstanceNorm(2, affine=affine).double()
    if affine:
        norm.affine_weight.data, norm.affine_bias.data = torch.tensor([[-0.5, 1e-5], [3.0, -2.0]], dtype=torch.double)
    raw = torch.randn(3, 4, 2, 3, dtype=torch.double)
    statistics = statistics_of(torch.randn(3, 1, 2), torch.rand(3, 1, 2))
    together = losses.denormalise(raw, statistics, norm, ("location",) * 3)
    apart = losses.denormalise(raw, statistics, norm, ("location", "location", "free"))
    torch.testing.assert_close(together[..., :2], apart[..., :2], rtol=1e-10, atol=1e-10)
    last = losses.denormalise(raw[..., 2:].repeat(1, 1, 1, 2), statistics, norm, ("location", "free"))
    torch.testing.assert_close(together[..., 2], last[..., 0], rtol=1e-10, atol=1e-10)
