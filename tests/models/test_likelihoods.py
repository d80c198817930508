"""Every likelihood of Darts: shapes, domain, gaps, and the loss over what is observed."""

import numpy as np
import pytest
import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import PLModuleOutput
from darts.utils.likelihood_models import torch as likelihoods
from darts.utils.likelihood_models.torch import DirichletLikelihood, GaussianLikelihood, QuantileRegression

from birnn_forecast import BiGRUModel, CNNBiLSTMModel, URNNModel
from birnn_forecast.losses import PARAMETER_ROLES, masked_loss
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import assert_finite_weights, assert_same, differs, fitted, two_models

LIKELIHOODS = {
    name: cls
    for name, cls in vars(likelihoods).items()
    if isinstance(cls, type) and issubclass(cls, likelihoods.TorchLikelihood) and cls is not likelihoods.TorchLikelihood
}
REAL = ("Gaussian", "Laplace", "Cauchy", "Gumbel", "QuantileRegression")
COUNTS = ("Poisson", "NegativeBinomial", "Geometric")
SHARES = ("Beta", "ContinuousBernoulli", "Dirichlet")


def series_for(name: str, components: int = 2, missing: float = 0.2):
    """Return a series inside the support of a likelihood, with gaps."""
    series = make_series(60, components, missing=missing)
    share = series.map(lambda x: (x - 80) / 50)
    if name.startswith(COUNTS):
        return (share * 5 if name.startswith("Geometric") else series).map(lambda x: np.round(x))
    if name.startswith("Bernoulli"):
        return share.map(lambda x: np.where(np.isnan(x), x, x > 0.4).astype(np.float32))
    if name.startswith("Dirichlet"):
        values = np.stack([share.values()[:, 0], 1 - share.values()[:, 0]], axis=1)
        return share.with_values(values)
    return share if name.startswith(SHARES) else series


def domain(name: str, samples: np.ndarray) -> bool:
    """Return whether samples are in the support of a likelihood."""
    if name.startswith(REAL):
        return bool(np.isfinite(samples).all())
    if name.startswith(COUNTS):
        return bool((samples >= 0).all() and (samples == np.round(samples)).all())
    if name.startswith("Bernoulli"):
        return bool(np.isin(samples, [0, 1]).all())
    if name.startswith(SHARES):
        return bool((samples >= 0).all() and (samples <= 1).all())
    return bool((samples > 0).all() and np.isfinite(samples).all())


def test_all_likelihoods_of_darts_are_met():
    assert len(LIKELIHOODS) == 17
    types = {cls().type for name, cls in LIKELIHOODS.items() if cls is not QuantileRegression}
    assert types == set(PARAMETER_ROLES)
    for cls in LIKELIHOODS.values():
        if cls is not QuantileRegression:
            assert len(PARAMETER_ROLES[cls().type]) == cls().num_parameters


@pytest.mark.parametrize(
    ("cls", "norm"), [(BiGRUModel, True), (CNNBiLSTMModel, True), (URNNModel, True), (URNNModel, False)]
)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood(cls, name, norm):
    series = series_for(name)
    likelihood = LIKELIHOODS[name]()
    fit = {"val_series": series}
    model = fitted(cls, series, fit=fit, likelihood=likelihood, use_reversible_instance_norm=norm)
    assert_finite_weights(model)
    assert model.supports_probabilistic_prediction
    assert model.supports_likelihood_parameter_prediction
    samples = model.predict(6, num_samples=7)
    assert samples.all_values().shape == (6, 2, 7)
    assert domain(name, samples.all_values())
    parameters = model.predict(4, predict_likelihood_parameters=True)
    assert list(parameters.components) == likelihood.component_names(series)
    assert parameters.n_components == 2 * likelihood.num_parameters
    assert np.isfinite(parameters.values()).all()


def test_parameters_are_grouped_by_component(model_class):
    # the level of a component shows in its own parameters alone
    series = make_series(components=2)
    series = series.with_values(series.values() * np.float32([1, 10]))
    model = fitted(model_class, series, likelihood=GaussianLikelihood())
    parameters = model.predict(4, predict_likelihood_parameters=True)
    assert list(parameters.components) == ["0_mu", "0_sigma", "1_mu", "1_sigma"]
    mu0, sigma0, mu1, sigma1 = parameters.values().T
    assert (np.abs(mu0 - 100) < 30).all()
    assert (np.abs(mu1 - 1000) < 300).all()
    np.testing.assert_allclose(sigma1 / sigma0, 10, rtol=0.5)


@two_models
def test_samples_follow_the_parameters(model_class):
    model = fitted(model_class, likelihood=GaussianLikelihood())
    mu, sigma = model.predict(4, predict_likelihood_parameters=True).values().T
    samples = model.predict(4, num_samples=4000, batch_size=4000).all_values()[:, 0]
    np.testing.assert_allclose(samples.mean(axis=1), mu, atol=5 * sigma.max() / 4000**0.5)
    np.testing.assert_allclose(samples.std(axis=1), sigma, rtol=0.1)
    assert_same(model.predict(6, num_samples=3, random_state=1), model.predict(6, num_samples=3, random_state=1))
    assert differs(
        model.predict(6, num_samples=3, random_state=1), model.predict(6, num_samples=3, random_state=2), by=1e-2
    )


@two_models
def test_parameters_cannot_be_fed_back(model_class):
    model = fitted(model_class, likelihood=GaussianLikelihood())
    with pytest.raises(ValueError, match="smaller than or equal to `output_chunk_length`"):
        model.predict(5, predict_likelihood_parameters=True)
    with pytest.raises(ValueError, match="likelihood"):
        fitted(model_class).predict(4, predict_likelihood_parameters=True)
    with pytest.raises(ValueError, match="num_samples"):
        fitted(model_class).predict(4, num_samples=5)


@two_models
def test_quantiles(model_class):
    series = make_series(components=2, missing=0.2)
    model = fitted(model_class, series, likelihood=QuantileRegression([0.1, 0.5, 0.9]), n_epochs=10, skip="last")
    parameters = model.predict(4, predict_likelihood_parameters=True)
    assert list(parameters.components) == ["0_q0.100", "0_q0.500", "0_q0.900", "1_q0.100", "1_q0.500", "1_q0.900"]
    low, median, high = parameters.values().reshape(4, 2, 3).transpose(2, 0, 1)
    assert (low < median).mean() > 0.9
    assert (median < high).mean() > 0.9


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_darts_loss_over_the_observed(name, weighted):
    generator = torch.Generator().manual_seed(0)
    likelihood = LIKELIHOODS[name]()
    target = torch.as_tensor(series_for(name, missing=0.0).values()[:48]).reshape(4, 12, 2)
    prediction = torch.randn(4, 12, 2, likelihood.num_parameters, generator=generator)
    weight = torch.rand(4, 12, 2, generator=generator) if weighted else None
    joint = isinstance(likelihood, DirichletLikelihood)
    if joint and weighted:
        weight = weight[..., 0]
    hidden = torch.rand(4, 12, 2, generator=generator) < 0.3
    gappy = torch.where(hidden, torch.nan, target)
    # one density for all components counts where all are observed
    observed = (~hidden).all(dim=-1, keepdim=True).expand_as(hidden) if joint else ~hidden
    shape = (1, -1, 2) if joint else (1, -1, 1)
    kept = None
    if weighted:
        kept = weight[observed[..., 0]][None] if joint else weight[observed].reshape(shape)
    expected = likelihood.compute_loss(
        prediction[observed].reshape(*shape, likelihood.num_parameters), target[observed].reshape(shape), kept
    )
    if joint and weighted:
        weight = weight[..., None]
    actual = masked_loss(prediction, gappy, torch.nn.MSELoss(), likelihood, weight)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_loss_without_gaps_is_darts_own(name):
    series = series_for(name, missing=0.0)
    model = fitted(BiGRUModel, series, likelihood=LIKELIHOODS[name]())
    target = torch.as_tensor(series.values()[:48]).reshape(4, 12, 2)
    output = PLModuleOutput(prediction=torch.randn(4, 12, 2, model.likelihood.num_parameters))
    theirs = PLForecastingModule._compute_loss(model.model, output, target, model.model.train_criterion, None)
    ours = model.model._compute_loss(output, target, model.model.train_criterion, None)
    assert ours == theirs
    torch.testing.assert_close(masked_loss(output.prediction, target, None, model.likelihood, None), theirs)


def test_prior_keeps_its_strength_over_gaps():
    plain, prior = GaussianLikelihood(), GaussianLikelihood(prior_mu=0.0, prior_sigma=2.0, prior_strength=3.0)
    prediction = torch.randn(4, 12, 1, 2)
    target = torch.randn(4, 12, 1)
    difference = prior.compute_loss(prediction, target, None) - plain.compute_loss(prediction, target, None)
    target[:, ::3] = torch.nan
    with_prior, without = (masked_loss(prediction, target, None, one, None) for one in (prior, plain))
    torch.testing.assert_close(with_prior - without, difference)


@pytest.mark.parametrize("likelihood", [None, QuantileRegression([0.1, 0.5, 0.9]), GaussianLikelihood()])
def test_weights_may_be_missing_where_the_target_is(likelihood):
    series = make_series(40, missing=0.2)
    weight = series.with_values(np.where(np.isnan(series.values()), np.nan, 1.0).astype(np.float32))
    model = make_model(BiGRUModel, likelihood=likelihood)
    forecast = model.fit(series, sample_weight=weight).predict(4, num_samples=1 if likelihood is None else 5)
    assert np.isfinite(forecast.all_values()).all()
