"""How far to trust a network's estimates of a series: as far as they beat simple ones on that very series.

Further values of the series are hidden, in gaps like its own, and estimated as if they were missing, by the network (by
the same estimator that fills the gaps) and by simple means. First a mixture of simple estimates is found for each class
of gaps; then the network, and single interpolations, may take its place as far as they are sure to do better. The truth
is what was observed, so that nothing else is needed, and a series unlike those of training is noticed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from birnn_forecast.data.windows import runs
from birnn_forecast.masks import level_and_scale
from birnn_forecast.models._impute import Source
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._raw import central_value, moved_to
from birnn_forecast.models._simple import LINEAR, SimpleEstimates
from birnn_forecast.models._trials import N_CLASSES, OPEN, Trial, gap_classes, trials_of

# values of a class that are looked at, at most
AT_MOST = 20_000
# an estimate with more than so many times the error of the best takes no part in the mixture: what it adds is noise
TOO_FAR = 1.5
# each round gives one part of the mixture to the estimate that improves it most
ROUNDS = 20
# the mixture with the network replaces the simple one not at all if its gain is less than the first number of standard
# errors, in full from the second on; of so few outages twice as many are asked for, and at the ends of a series, where
# trials overlap and nothing comes after, of more
DOUBTFUL, SURE, FEW, FEW_AT_ENDS = 0.5, 1.5, 8, 24
# the same for simple estimates that are no interpolations: so many standard errors; and outages that are worth half
UNLIKELY, LIKELY, HALF = 1.0, 2.5, 1.0
NEVER = -1e9  # a logarithm of nothing
# what the network has in any case, of a difference of up to the component's standard deviation: it alone knows of
# covariates and other components
LEAST_SHARE = 0.03
# errors below this share of a component's scale are as good as none
NO_ERROR = 1e-4


class Evidence(NamedTuple):
    """What was hidden in all trials of a series, one value after another.

    Attributes
    ----------
    truth
        The values ``(values,)``.
    component, number
        Which component a value is of, and the class of its gap, in the trial.
    outage
        A number for each stretch of hidden steps: the same in several components, or trials, is one.
    simple
        The simple estimates ``(n, values)``.
    network
        The network's ``(values,)``.
    """

    truth: np.ndarray
    component: np.ndarray
    number: np.ndarray
    outage: np.ndarray
    simple: np.ndarray
    network: np.ndarray

    def of(self, chosen: np.ndarray) -> "Evidence":
        """Return the part of it at some of the values."""
        return Evidence(*(part[..., chosen] for part in self))


def trial_sources(source: Source) -> tuple[list[Trial], list[Source]]:
    """Return trials of a series, and a source for each, what it hides being wanted."""
    trials = trials_of(np.isnan(source.target)) if source.wanted.any() else []
    return trials, [_source_of(source, trial) for trial in trials]


def _source_of(source: Source, trial: Trial) -> Source:
    span = slice(trial.start, trial.stop)
    past, future = (
        None if values is None else values[span] for values in (source.past_covariates, source.future_covariates)
    )
    target = np.where(trial.hidden, np.nan, source.target[span])
    return replace(source, target=target, wanted=trial.hidden, past_covariates=past, future_covariates=future)


def calibrated(
    module: GapAwareModule,
    source: Source,
    trials: Sequence[Trial],
    raw: np.ndarray,
    trial_raws: Sequence[np.ndarray],
    seasons: Sequence[int],
    seen: bool = True,
) -> np.ndarray:
    """Return the raw parameters with locations moved to the mixture with simple estimates that is best on the trials.

    Parameters
    ----------
    module
        The fitted module. One whose components see each other has one mixture of network and simple estimates for all.
    source
        The series.
    trials
        Its trials, of :func:`trial_sources`.
    raw, trial_raws
        The module's raw parameters ``(time, components, parameters)`` of what is wanted of the series, and of what is
        hidden in each trial.
    seasons
        Steps of the seasons.
    seen
        Whether the data show these seasons; else they are just usual for such series, and have to prove themselves.
    """
    moved = source.wanted & ~np.isnan(source.target).all(axis=0)  # nothing to go by in a component never observed
    if not moved.any():
        return raw
    # components of different units have equal say
    level, scale = (part.numpy() for part in level_and_scale(source.target.astype(np.float64)))
    target = (source.target - level) / scale
    simple = SimpleEstimates(target, seasons)
    found = None
    if trials:
        guesses = [(central_value(one, module)[t.hidden], t) for one, t in zip(trial_raws, trials, strict=True)]
        found = evidence(target, simple, guesses, level, scale)
    steps, component = np.nonzero(moved)
    number = gap_classes(np.isnan(target))[moved]
    weights = guarded_weights(found, simple, seen)  # (component, class, n)
    blend = _mixed(weights, simple, moved, component, number)
    center = np.full(moved.shape, np.nan)
    center[moved] = blend
    network = ((central_value(raw, module) - level) / scale)[moved]
    # a network may have nothing to say of a component of which a trial hides all
    network = np.where(np.isnan(network), blend, network)
    if found is not None:
        before = np.einsum("vn,nv->v", weights[found.component, found.number], found.simple)
        choices = [LINEAR, *(i for i in simple.interpolations() if i != LINEAR)]
        groups = [np.arange(len(scale))] if module.network.mixes_components else np.arange(len(scale))[:, None]
        candidates = np.stack([network, blend, *simple.at(moved, choices)])
        guess = np.where(np.isnan(found.network), before, found.network)
        tried = np.concatenate([[guess, before], found.simple[choices]])
        for group in groups:
            here, there = np.isin(component, group), np.isin(found.component, group)
            if not there.any() or not here.any():
                continue
            shares = network_shares(found.of(there), tried[:, there])
            center[steps[here], component[here]] = np.einsum("vn,nv->v", shares[number[here]], candidates[:, here])
    center[moved] += LEAST_SHARE * (network - center[moved]).clip(-1, 1)
    return moved_to(raw, np.where(moved, center * scale + level, np.nan), module)


def evidence(
    target: np.ndarray,
    simple: SimpleEstimates,
    guesses: Sequence[tuple[np.ndarray, Trial]],
    level: np.ndarray,
    scale: np.ndarray,
) -> Evidence:
    """Return what was hidden in the trials, and what simple estimates and the network made of it."""
    parts = []
    for guess, trial in guesses:
        values = target[trial.start : trial.stop]
        visible = np.where(trial.hidden, np.nan, values)
        component = np.nonzero(trial.hidden)[1]
        stretches = runs(trial.hidden)
        first, last = stretches.start + trial.start, stretches.end + trial.start
        parts.append(
            Evidence(
                truth=values[trial.hidden],
                component=component,
                number=gap_classes(np.isnan(visible))[trial.hidden],
                outage=stretches.spread(first * (len(target) + 1) + last, trial.hidden.shape)[trial.hidden],
                simple=simple.again(visible, trial.hidden),
                network=(guess - level[component]) / scale[component],
            )
        )
    return Evidence(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def guarded_weights(found: Evidence | None, simple: SimpleEstimates, seen: bool) -> np.ndarray:
    """Return the weights ``(components, classes, n)`` of simple estimates, no worse than interpolation.

    Straight lines, or interpolations along the seasons that are seen, stay what they are unless the mixture of all
    simple estimates is sure to do better on the trials. At the ends of a series a season that is not seen has no say.

    Parameters
    ----------
    found
        The evidence, or None.
    simple
        The simple estimates.
    seen
        As in :func:`calibrated`.
    """
    prior = simple.log_prior()
    first = np.full_like(prior, NEVER)
    kept = simple.interpolations() if seen else [LINEAR]
    first[:, kept] = prior[:, kept] if len(kept) > 1 else 0.0
    weights = simple_weights(found, first)
    if found is None:
        return weights
    mixtures = simple_weights(found, prior)
    if not seen:
        prior[:, len(simple.without_season()) :] = NEVER
        mixtures[:, OPEN] = simple_weights(found, prior)[:, OPEN]
    for component in np.unique(found.component):
        own = found.of(found.component == component)
        for number, part in _nearest_parts(own):
            plain, mixture = weights[component, number], mixtures[component, number]
            gain = np.abs(plain @ part.simple - part.truth) - np.abs(mixture @ part.simple - part.truth)
            weights[component, number] += likelihood_of_gain(gain, part.outage) * (mixture - plain)
    return weights


def likelihood_of_gain(gain: np.ndarray, outage: np.ndarray) -> float:
    """Return how far it is to be believed that simple estimates gain on interpolation, between 0 and 1."""
    gains = _by_outage(gain, outage)
    number = len(gains)
    if number < 2 or gains.sum() <= 0:
        return 0.0
    error = np.sqrt(((gains - gains.mean()) ** 2).sum() * number / (number - 1))
    certainty = (gains.sum() / max(error, 1e-12) - UNLIKELY) / (LIKELY - UNLIKELY)
    return float(np.clip(certainty, 0.0, 1.0)) * number / (number + HALF)


def _by_outage(gain: np.ndarray, outage: np.ndarray) -> np.ndarray:
    """Return the sums ``(outages,)`` of what is gained on single values."""
    _, which = np.unique(outage, return_inverse=True)
    return np.bincount(which, weights=gain)


def simple_weights(found: Evidence | None, log_prior: np.ndarray) -> np.ndarray:
    """Return the weights ``(components, classes, n)`` of simple estimates in each class of gaps.

    They are those of Bayesian model averaging, errors having a Laplace distribution of unknown scale: the prior times
    the mean absolute error to the power of minus the number of outages. A class without any evidence has that of the
    nearest one with some, of two the longer.

    Parameters
    ----------
    found
        The evidence, or None.
    log_prior
        ``(components, n)``.

    References
    ----------
    J. A. Hoeting et al., "Bayesian Model Averaging: A Tutorial", Statistical Science 1999,
    https://doi.org/10.1214/ss/1009212519.
    """
    linear = np.zeros(log_prior.shape[1])
    linear[LINEAR] = 1.0
    weights = np.tile(linear, (len(log_prior), N_CLASSES, 1))
    if found is None:
        return weights
    for component in np.unique(found.component):
        own = found.of(found.component == component)
        for number, part in _nearest_parts(own):
            log_weight = log_prior[component] - _losses(part)
            weight = np.exp(log_weight - log_weight.max())
            weight[weight < 1e-3 * weight.sum()] = 0.0
            weights[component, number] = weight / weight.sum()
    return weights


def _losses(part: Evidence) -> np.ndarray:
    """Return for each simple estimate what it loses against linear interpolation: the logarithm of a likelihood.

    Only values count for which it is another one: a phase that was never observed says nothing about the season.
    """
    errors = np.abs(part.simple - part.truth)
    other = np.abs(part.simple - part.simple[LINEAR]) > 1e-9
    all_outages = len(np.unique(part.outage))
    losses = np.zeros(len(errors))
    for i in np.flatnonzero(other.any(axis=1)):
        values = other[i]
        outages = all_outages if values.all() else len(np.unique(part.outage[values]))
        ratio = (errors[i, values].mean() + NO_ERROR) / (errors[LINEAR, values].mean() + NO_ERROR)
        losses[i] = outages * np.log(ratio)
    return losses


def _nearest_parts(found: Evidence) -> list[tuple[int, Evidence]]:
    """Return for each class the evidence of the nearest one that has some, of two the longer."""
    known = np.unique(found.number).tolist()
    parts = {number: found.of(np.flatnonzero(found.number == number)) for number in known}
    for number, part in parts.items():
        parts[number] = part.of(np.arange(len(part.truth))[:: -(-len(part.truth) // AT_MOST)])
    return [(i, parts[min(known, key=lambda other: (abs(other - i), -other))]) for i in range(N_CLASSES)]


def network_shares(found: Evidence, estimates: np.ndarray) -> np.ndarray:
    """Return the shares ``(classes, n)`` of network, simple mixture and interpolations in each class of gaps.

    The mixture of them that has the least absolute errors is found greedily. It replaces the simple one as far as it is
    sure to be better: by the standard error of its gain, outage by outage, and by their number.

    Parameters
    ----------
    found
        The evidence.
    estimates
        ``(n, values)``: the network's, the simple mixture, others.

    References
    ----------
    R. Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004,
    https://doi.org/10.1145/1015330.1015432 (greedy, with replacement).
    """
    simple = np.zeros(len(estimates))
    simple[1] = 1.0
    shares = np.zeros((N_CLASSES, len(estimates)))
    done: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for number, part in _nearest_parts(found._replace(simple=estimates)):
        if id(part) not in done:
            greedy = greedy_shares(part.truth, part.simple)
            gain = np.abs(part.simple[1] - part.truth) - np.abs(greedy @ part.simple - part.truth)
            done[id(part)] = greedy, gain, part.outage
        greedy, gain, outage = done[id(part)]
        few = FEW_AT_ENDS if number == OPEN else FEW
        shares[number] = simple + trust(gain, outage, few) * (greedy - simple)
    return shares


def greedy_shares(truth: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    """Return the shares ``(n,)`` of estimates ``(n, values)`` in the mixture with the least absolute errors."""
    alone = np.abs(estimates - truth).mean(axis=1)
    able = np.flatnonzero(alone <= TOO_FAR * alone.min())
    picks, total = np.zeros(len(estimates)), np.zeros_like(truth)
    for size in range(1, ROUNDS + 1):
        best = able[np.abs((total + estimates[able]) / size - truth).mean(axis=1).argmin()]
        picks[best] += 1
        total = total + estimates[best]
    return picks / ROUNDS


def trust(gain: np.ndarray, outage: np.ndarray, few: int = FEW) -> float:
    """Return how far a gain is to be believed, between 0 and 1; with `few` outages half as far as with many."""
    gains = _by_outage(gain, outage)
    if gains.sum() <= 0:
        return 0.0
    # the mean among what is added: that of a single outage, or of equal ones, has an error, too
    error = np.sqrt(((gains - gains.mean()) ** 2).sum() + gains.mean() ** 2)
    certainty = gains.sum() / error / (1 + few / len(gains))
    return float(np.clip((certainty - DOUBTFUL) / (SURE - DOUBTFUL), 0.0, 1.0))


def _mixed(
    weights: np.ndarray, simple: SimpleEstimates, where: np.ndarray, component: np.ndarray, number: np.ndarray
) -> np.ndarray:
    """Return the mixture ``(values,)`` of simple estimates where it is asked for."""
    pairs = np.unique(component * N_CLASSES + number)
    chosen = np.flatnonzero(weights.reshape(-1, weights.shape[2])[pairs].any(axis=0)).tolist()
    out = np.zeros(len(component))
    for i, estimate in zip(chosen, simple.at(where, chosen), strict=True):
        out += weights[component, number, i] * estimate
    return out
