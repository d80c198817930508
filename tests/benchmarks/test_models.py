"""Every contender on tiny views: shapes, quantiles, what it may see, and reproducibility."""

import importlib.util
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.models import NLinearModel

from benchmarks.interface import LEVELS, Budget, ForecastView, ImputationView
from benchmarks.models import MODELS, SUITE_MODELS, imputers, nets, ours, statistical
from benchmarks.models.common import interpolated
from benchmarks.quiet import quiet

FORECASTERS = [name for name, model in MODELS.items() if model.kind == "forecast" and model.family != "extra"]
LOCAL = [name for name in FORECASTERS if not MODELS[name].trained]
NETS = [name for name in FORECASTERS if MODELS[name].trained]
IMPUTERS = [name for name, model in MODELS.items() if model.kind == "impute" and model.family != "extra"]
# they search or fit for seconds, or differ little from one that is tested
COSTLY = {"AutoARIMA", "median of five", "SARIMAX", "Theta", "AutoCES", "MFLES", "TBATS", "UnobservedComponents"}
COSTLY |= {"BiLSTM", "U-RNN", "BiGRU, one direction", "BiGRU, no masking", "BlockRNN GRU", "N-HiTS", "TCN", "DLinear"}
COSTLY |= {"GRIN", "GRIN, no graph", "GRIN, no gate", "Kalman smoothing"}
HORIZON, SEASON = 3, 4
BUDGET = Budget(steps=3)


def marked(names: list[str]) -> list:
    """Return the names as parameters of a test, the costly ones marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in COSTLY)) for name in names]


def made(n: int, components: int = 1, seed: int = 0, gaps: float = 0.0) -> TimeSeries:
    rng = np.random.default_rng(seed)
    wave = 5 * np.sin(2 * np.pi * np.arange(n)[:, None] / SEASON + np.arange(components))
    values = 50 + wave + rng.normal(size=(n, components))
    last = values[-1].copy()
    values[rng.random(values.shape) < gaps] = np.nan
    values[-1] = last
    return TimeSeries.from_values(values.astype(np.float32))


def forecast_view(components: int = 1, gaps: float = 0.0, covariates: bool = False) -> ForecastView:
    whole = [made(n, components, seed, gaps) for seed, n in enumerate((40, 36))]
    train = [series[:-HORIZON] for series in whole]
    contexts, of = [*train, train[0][:-5], train[1][:3]], [0, 1, 0, 1]  # the last one is shorter than any input chunk
    known = {}
    if covariates:
        table = [made(n + HORIZON, 2, 7, gaps) for n in (40, 36)]
        known["train_future_covariates"] = [one[: len(part)] for one, part in zip(table, train, strict=True)]
        known["future_covariates"] = [table[i][: len(c) + HORIZON] for i, c in zip(of, contexts, strict=True)]
    return ForecastView(train, contexts, of, HORIZON, SEASON, **known)


def changed(view: ForecastView, number: int) -> ForecastView:
    """Return the view with one context ending elsewhere."""
    contexts = list(view.contexts)
    values = contexts[number].values().copy()
    values[-2:] += 20
    contexts[number] = contexts[number].with_values(values)
    return ForecastView(view.train, contexts, view.series_of, view.horizon, view.season)


def imputation_view(components: int = 2) -> ImputationView:
    return ImputationView([made(80, components, 1, 0.2)], [made(40, components, s, 0.3) for s in (2, 3)], SEASON)


def check_forecast(view: ForecastView, answer) -> None:
    shape = (len(view.contexts), view.horizon, view.train[0].n_components)
    assert answer.values.shape == shape
    assert np.isfinite(answer.values).all()
    if answer.quantiles is not None:
        assert answer.quantiles.shape == (*shape, len(LEVELS))
        assert np.isfinite(answer.quantiles).all()
        assert (np.diff(answer.quantiles, axis=-1) >= 0).all()
    json.dumps(answer.notes)


def test_the_registry_is_complete():
    assert set(SUITE_MODELS) == {"smoke", "mseries", "ltsf", "covariates", "gaps", "imputation", "finance"}
    for name, model in MODELS.items():
        assert model.name == name
        json.dumps(model.config)
        assert model.ablation_of is None or model.ablation_of in MODELS
        assert model.expected_seconds(10, 100, Budget(seconds=60)) > 0
    for names in SUITE_MODELS.values():
        assert len({*names}) == len(names)
        assert {*names} <= {*MODELS}


@pytest.mark.parametrize("name", marked(NETS))
def test_a_net_answers_in_spite_of_gaps_and_the_same_again(name):
    view = forecast_view(components=2, gaps=0.2)
    answer = MODELS[name].run(view, BUDGET, 1)
    check_forecast(view, answer)
    assert answer.notes["steps"] == answer.notes["validations"] == 3
    assert answer.n_parameters > 0
    again = MODELS[name].run(view, BUDGET, 1)
    assert answer.values.tobytes() == again.values.tobytes()
    assert answer.quantiles.tobytes() == again.quantiles.tobytes()


@pytest.mark.parametrize("name", marked(LOCAL))
@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_a_local_forecast_follows_its_own_context_only(name, gaps):
    view = forecast_view(gaps=gaps)
    before = MODELS[name].run(view, BUDGET, 1)
    check_forecast(view, before)
    assert (before.quantiles is None) == any("quantiles" in limit for limit in MODELS[name].cannot)
    assert before.n_parameters is None
    # on three values many methods fail: that one is the seasonal naive forecast
    assert before.notes["fallbacks"] <= 4
    after = MODELS[name].run(changed(view, 0), BUDGET, 1)
    assert (before.values[0] != after.values[0]).any()
    np.testing.assert_array_equal(before.values[1:], after.values[1:])


def test_components_are_forecast_one_by_one():
    view = forecast_view(components=3, gaps=0.2)
    whole = MODELS["AutoTheta"].run(view, BUDGET, 1)
    check_forecast(view, whole)
    last = ForecastView([t["2"] for t in view.train], [c["2"] for c in view.contexts], view.series_of, HORIZON, SEASON)
    np.testing.assert_array_equal(whole.values[..., 2:], MODELS["AutoTheta"].run(last, BUDGET, 1).values)


def check_no_peeking(run) -> None:
    """Assert that no forecast depends on another context, though the first goes on where the third ends."""
    view = forecast_view()
    before, after = (run(one, BUDGET, 1).values for one in (view, changed(view, 0)))
    assert (before[0] != after[0]).any()
    # samples of later forecasts are drawn after those of the first
    np.testing.assert_allclose(before[1:], after[1:], rtol=1e-6)


@pytest.mark.parametrize("name", marked(NETS))
def test_a_net_knows_nothing_of_other_contexts(name):
    check_no_peeking(MODELS[name].run)


def test_a_model_that_peeks_into_later_contexts_is_found():
    def peek(view, budget, seed):
        answer = MODELS["naive"].run(view, budget, seed)
        answer.values[2] = view.contexts[0].values()[-HORIZON:]
        return answer

    with pytest.raises(AssertionError):
        check_no_peeking(peek)


@pytest.mark.parametrize("name", marked(["UnobservedComponents", "BiGRU", "TFT", "RNN LSTM"]))
def test_future_covariates_are_read(name):
    view = forecast_view(covariates=True)
    before = MODELS[name].run(view, BUDGET, 1)
    check_forecast(view, before)
    assert not any("covariates" in limit for limit in MODELS[name].cannot)
    other = list(view.future_covariates)
    values = other[0].values().copy()
    values[-HORIZON:] += 3
    other[0] = other[0].with_values(values)
    after = MODELS[name].run(
        ForecastView(
            view.train,
            view.contexts,
            view.series_of,
            HORIZON,
            SEASON,
            train_future_covariates=view.train_future_covariates,
            future_covariates=other,
        ),
        BUDGET,
        1,
    )
    assert (before.values[0] != after.values[0]).any()


@pytest.mark.parametrize("name", ["BiGRU", "NLinear", "RNN LSTM", "TCN"])
def test_points_are_forecast_where_the_squared_error_ranks(name):
    view = forecast_view(components=2)
    view = ForecastView(view.train, [c[-12:] for c in view.contexts], view.series_of, 6, SEASON, 12, metric="mse")
    answer = MODELS[name].run(view, BUDGET, 1)
    check_forecast(view, answer)
    assert answer.quantiles is None


def test_a_horizon_beyond_the_output_is_sampled():
    view = forecast_view()
    view = ForecastView(view.train, view.contexts, view.series_of, 12, SEASON)  # the input chunk has 9 steps
    check_forecast(view, MODELS["TCN"].run(view, BUDGET, 1))


def test_scalers_see_the_training_parts_only():
    view = forecast_view(components=2)
    for net in (ours.OURS["BiGRU"], nets.DARTS["TFT"]):
        one, other = nets.prepared(view, net), nets.prepared(changed(view, 0), net)
        for a, b in zip(one.train, other.train, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a.mean(axis=0), 0, atol=1e-5)
            np.testing.assert_allclose(a.std(axis=0), 1, atol=1e-5)
        np.testing.assert_array_equal(one.centre, other.centre)
        np.testing.assert_array_equal(one.scale, other.scale)


def test_validation_windows_are_not_trained_on():
    view = forecast_view()
    series = nets.prepared(view, nets.DARTS["NLinear"])
    windows = nets.held_out(series, 8, HORIZON, together=False)
    for part, whole in zip(windows.train, series.train, strict=True):
        assert len(part) <= len(whole) - HORIZON
        np.testing.assert_array_equal(part.values(), whole[: len(part)].astype(np.float32))
    ends = [one.values()[-HORIZON:] for one in windows.validation]
    for part in windows.train:
        trained = part.values()
        for end in ends:
            assert not any((trained[k : k + HORIZON] == end).all() for k in range(len(trained) - HORIZON + 1))


@pytest.mark.parametrize(
    ("lengths", "horizon", "season", "chunk"),
    [([200] * 5, 6, 12, 36), ([60] * 5, 18, 12, 24), ([14, 30, 40, 40, 40, 40], 6, 1, 18), ([10], 6, 1, 4)],
)
def test_the_input_chunk_leaves_windows_to_most_series(lengths, horizon, season, chunk):
    series = [made(n) for n in lengths]
    assert nets.chunk_length(ForecastView(series, series, [*range(len(series))], horizon, season)) == chunk


def test_series_too_short_for_any_window_are_an_error():
    series = [made(7)]
    with pytest.raises(ValueError, match="No training part has the 7 steps"):
        MODELS["NLinear"].run(ForecastView(series, series, [0], 3, 1), BUDGET, 1)


def test_the_best_weights_are_noted_and_training_stops_without_progress():
    module = torch.nn.Linear(1, 1)
    trainer = SimpleNamespace(sanity_checking=False, should_stop=False, global_step=0, callback_metrics={})
    best = nets.BestWeights(("missing", "val_loss"), patience=2)
    for value, loss in enumerate((3.0, 1.0, float("nan"), 2.0)):
        assert not trainer.should_stop
        module.weight.data.fill_(value)
        trainer.global_step, trainer.callback_metrics = 10 * value, {"val_loss": torch.tensor(loss)}
        best.on_validation_end(trainer, module)
    assert trainer.should_stop
    best.on_train_end(trainer, module)
    assert module.weight.item() == 1
    assert best.notes() == {"steps": 30, "best step": 10, "validations": 4}


def test_a_trained_net_has_its_best_weights():
    class FirstTwo(nets.BestWeights):
        """Takes the first two validations for the best."""

        def on_validation_end(self, trainer, pl_module):
            if self.validations < 2:
                super().on_validation_end(trainer, pl_module)

        def on_train_end(self, trainer, pl_module):
            self.last = {name: weight.clone() for name, weight in pl_module.state_dict().items()}
            super().on_train_end(trainer, pl_module)

    best = FirstTwo()
    with quiet():
        model = nets.fitted(
            partial(NLinearModel, 8, 3),
            Budget(steps=8),
            1,
            16,
            best,
            series=made(60, seed=1),
            val_series=made(11, seed=2),
        )
    assert best.step <= 4
    assert best.trained == 8
    for name, weight in model.model.state_dict().items():
        torch.testing.assert_close(weight, best.weights[name], rtol=0, atol=0)
    assert any((weight != best.last[name]).any() for name, weight in best.weights.items())


def test_a_failing_series_is_counted_and_gets_the_seasonal_naive_forecast():
    def fails_below(past):
        if past.values[-1] < -1000:
            raise ZeroDivisionError("too low")
        return statistical.naive(past)

    view = forecast_view()
    contexts = [view.contexts[0], view.contexts[1] - 5000, *view.contexts[2:]]
    view = ForecastView(view.train, contexts, view.series_of, HORIZON, SEASON)
    answer = statistical.run(view, BUDGET, 1, (fails_below,))
    assert answer.notes == {"fallbacks": 1, "first error": "ZeroDivisionError: too low"}
    np.testing.assert_array_equal(answer.values[1], MODELS["seasonal naive"].run(view, BUDGET, 1).values[1])
    with pytest.raises(RuntimeError, match="failed on all of 4 series: ZeroDivisionError: too low"):
        statistical.run(
            ForecastView(view.train, [contexts[1]] * 4, [1] * 4, HORIZON, SEASON), BUDGET, 1, (fails_below,)
        )


def test_a_context_without_a_value_is_forecast_from_the_training_part():
    view = forecast_view()
    contexts = [view.contexts[0], view.contexts[1] * np.nan, *view.contexts[2:]]
    view = ForecastView(view.train, contexts, view.series_of, HORIZON, SEASON)
    for name in ("seasonal naive", "AutoTheta", "BiGRU", "NLinear"):
        check_forecast(view, MODELS[name].run(view, BUDGET, 1))
    assert MODELS["naive"].run(view, BUDGET, 1).notes["contexts without a value"] == 1


def test_baselines_by_hand():
    y = np.array([1.0, 2, 3, 5, 2, np.nan, 4, 6], dtype=np.float32)
    series = [TimeSeries.from_values(y)]
    view = ForecastView(series, series, [0], 6, 4)

    def forecast(name):
        return MODELS[name].run(view, BUDGET, 1).values[0, :, 0]

    np.testing.assert_allclose(forecast("seasonal naive"), [2, 2, 4, 6, 2, 2])
    np.testing.assert_allclose(forecast("naive"), 6)
    np.testing.assert_allclose(forecast("drift"), 6 + 5 / 7 * np.arange(1, 7))


def test_naive2_takes_a_significant_season_only():
    season = np.tile([0.5, 1.0, 1.5, 1.0], 10) * 100
    for values, wanted in ((season, season[:8]), (np.random.default_rng(0).normal(size=40) + 50, None)):
        series = [TimeSeries.from_values(values.astype(np.float32))]
        found = MODELS["Naive2"].run(ForecastView(series, series, [0], 8, 4), BUDGET, 1).values[0, :, 0]
        np.testing.assert_allclose(found, np.full(8, values[-1]) if wanted is None else wanted, rtol=1e-5)


def test_interpolation_uses_the_season_where_it_is_known():
    wave = np.tile([0.0, 1, 2, 3], 6)[:, None]
    gappy = wave.copy()
    gappy[9:12] = np.nan
    np.testing.assert_allclose(interpolated(gappy, 4), wave, atol=1e-6)
    np.testing.assert_allclose(interpolated(gappy, 1)[9:12, 0], [0, 0, 0])
    assert (interpolated(np.full((5, 1), np.nan), 4) == 0).all()


@pytest.mark.parametrize("name", marked(IMPUTERS))
@pytest.mark.parametrize("components", [1, 3])
def test_every_imputer_answers(name, components):
    view = imputation_view(components)
    if components == 3:  # one that shows nothing in one of the series
        values = view.series[1].values().copy()
        values[:, 1] = np.nan
        view = ImputationView(view.train, [view.series[0], view.series[1].with_values(values)], SEASON)
    answer = MODELS[name].run(view, BUDGET, 1)
    given = np.concatenate([one.values() for one in view.series])
    assert answer.values.shape == given.shape
    assert np.isfinite(answer.values).all()
    observed = ~np.isnan(given)
    np.testing.assert_array_equal(answer.values[observed], given[observed])
    assert (answer.quantiles is None) == any("quantiles" in limit for limit in MODELS[name].cannot)
    if answer.quantiles is not None:
        assert answer.quantiles.shape == (*given.shape, len(LEVELS))
        assert (np.diff(answer.quantiles, axis=-1) >= 0).all()
    if components == 3:
        again = MODELS[name].run(view, BUDGET, 1)
        assert answer.values.tobytes() == again.values.tobytes()
    json.dumps(answer.notes)


def test_the_moving_average_weighs_what_is_near():
    y = np.array([0.0, np.nan, 8.0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(imputers._averaged(y)[1], 4.0)
    np.testing.assert_allclose(imputers._averaged(y)[5], 8.0)  # the other one is too far away
    far = np.concatenate([[1.0], np.full(300, np.nan), [3.0]])
    assert np.isfinite(imputers._averaged(far)).all()


def test_the_last_tenth_is_for_validation():
    (part,), windows = imputers.split([made(200)], 10)
    assert len(part) == 180
    assert all(len(one) == 11 for one in windows)
    assert windows[-1].start_time() >= part.end_time()
    with pytest.raises(ValueError, match="No training part has the 22 steps"):
        imputers.split([made(20)], 10)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.family == "extra"])
def test_extras_say_what_to_install(name):
    model = MODELS[name]
    package = "pypots" if model.kind == "impute" else "neuralforecast"
    view = imputation_view() if model.kind == "impute" else forecast_view()
    if importlib.util.find_spec(package) is None:
        with pytest.raises(ImportError, match=r"(?i)" + package):
            model.run(view, BUDGET, 1)
    else:
        assert np.isfinite(model.run(view, BUDGET, 1).values).all()
