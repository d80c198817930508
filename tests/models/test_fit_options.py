"""What steers a fit: losses, metrics, optimisers, schedules, trainer options, normalisation."""

import functools

import numpy as np
import pytest
import torch
import torchmetrics
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.callbacks import TFMProgressBar
from darts.utils.data.torch_datasets.utils import PLModuleOutput
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import Callback, EarlyStopping

from birnn_forecast import BiGRUModel, GRINModel
from birnn_forecast.losses import masked_loss, update_metrics
from tests.conftest import make_model, make_series, quiet_trainer
from tests.models.contract_helpers import Recorder, assert_finite_weights, differs, fitted, two_models


def recorded(cls, series, fit=None, **kwargs):
    recorder = Recorder()
    model = fitted(cls, series, fit=fit, pl_trainer_kwargs=quiet_trainer(callbacks=[recorder]), **kwargs)
    return model, recorder


def test_loss_fn(model_class):
    series = make_series(60, missing=0.2)
    losses = [torch.nn.MSELoss(), torch.nn.SmoothL1Loss(), torch.nn.L1Loss(), torch.nn.HuberLoss(delta=0.1)]
    logged = [recorded(model_class, series, loss_fn=loss)[1].logged[0]["train_loss"] for loss in losses]
    assert np.isfinite(logged).all()
    assert len({round(value, 3) for value in logged}) == 4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [torch.nn.MSELoss, torch.nn.SmoothL1Loss, torch.nn.L1Loss])
def test_loss_is_the_mean_over_the_observed(loss, weighted):
    prediction, target = torch.randn(5, 4, 2, 1), torch.randn(5, 4, 2)
    weight = torch.rand(5, 4, 1) if weighted else None
    criterion = loss(reduction="none") if weighted else loss()
    output = PLModuleOutput(prediction=prediction)
    # without a gap: Darts' own loss
    module = fitted(BiGRUModel, make_series(components=2)).model
    theirs = PLForecastingModule._compute_loss(module, output, target, criterion, weight)
    assert module._compute_loss(output, target, criterion, weight) == theirs
    torch.testing.assert_close(masked_loss(prediction, target, criterion, None, weight), theirs)
    # with gaps: by hand
    target[0, :2, 1] = target[3] = torch.nan
    values = [
        loss()(prediction[(*i, 0)], target[i]) * (weight[i[0], i[1], 0] if weighted else 1)
        for i in np.ndindex(5, 4, 2)
        if not target[i].isnan()
    ]
    assert len(values) == 5 * 4 * 2 - 2 - 8
    torch.testing.assert_close(module._compute_loss(output, target, criterion, weight), torch.stack(values).mean())


@two_models
def test_loss_without_any_target_is_zero_and_has_no_gradient(model_class):
    module = fitted(model_class).model
    prediction = torch.randn(2, 4, 1, 1, requires_grad=True)
    loss = module._compute_loss(
        PLModuleOutput(prediction=prediction), torch.full((2, 4, 1), torch.nan), torch.nn.MSELoss(), None
    )
    loss.backward()
    assert loss == 0
    assert (prediction.grad == 0).all()


# Darts logs metrics with `logger=True`, the quiet trainers have none
no_logger = pytest.mark.filterwarnings(r"ignore:You called `self.log\(.*but have no logger configured:UserWarning")

METRICS = [
    torchmetrics.MeanAbsoluteError(),
    torchmetrics.MeanSquaredError(squared=False),
    torchmetrics.MeanAbsolutePercentageError(),
]


@two_models
@no_logger
def test_metrics_are_logged_over_the_observed(model_class):
    metrics = torchmetrics.MetricCollection([metric.clone() for metric in METRICS])
    train, validation = make_series(60, 2, missing=0.3), make_series(60, 2, seed=1, missing=0.3)
    model, _ = recorded(model_class, train, {"val_series": validation}, torch_metrics=metrics, batch_size=7)
    logged = model.trainer.callback_metrics
    for split in ("train", "val"):
        for metric in METRICS:
            assert logged[f"{split}_{type(metric).__name__}"].isfinite()
    # by hand, over every window of the validation series
    actual, predicted = [], []
    for start in range(60 - 16 + 1):
        predicted.append(model.predict(4, validation[start : start + 12]).values())
        actual.append(validation[start + 12 : start + 16].values())
    actual, predicted = np.concatenate(actual), np.concatenate(predicted)
    errors = (predicted - actual)[~np.isnan(actual)]
    assert float(logged["val_MeanAbsoluteError"]) == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert float(logged["val_MeanSquaredError"]) == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-4)
    assert float(logged["val_MeanAbsolutePercentageError"]) == pytest.approx(
        np.abs(errors / actual[~np.isnan(actual)]).mean(), rel=1e-4
    )


def test_metrics_without_gaps_are_darts_own():
    metrics = torchmetrics.MetricCollection([*METRICS, torchmetrics.R2Score()], compute_groups=False)
    ours, theirs, direct = metrics.clone(), metrics.clone(), metrics.clone()
    module = fitted(BiGRUModel, make_series(components=2)).model
    for _ in range(2):
        output, target = PLModuleOutput(prediction=torch.randn(5, 4, 2, 1)), torch.randn(5, 4, 2)
        PLForecastingModule._update_metrics(module, output, target, theirs)
        module._update_metrics(output, target, ours)
        update_metrics(direct, output.prediction.reshape(-1, 2), target.reshape(-1, 2))
    assert ours.compute() == theirs.compute()
    for name, value in theirs.compute().items():
        torch.testing.assert_close(direct.compute()[name], value)


def test_metrics_over_steps_take_the_complete_ones():
    prediction, target = torch.randn(20, 2), torch.randn(20, 2)
    target[3, 0] = target[7] = torch.nan
    metrics = torchmetrics.MetricCollection([torchmetrics.R2Score()], compute_groups=False)
    update_metrics(metrics, prediction, target)
    complete = ~target.isnan().any(dim=1)
    expected = torchmetrics.R2Score()(prediction[complete], target[complete])
    torch.testing.assert_close(metrics.compute()["R2Score"], expected)


@no_logger
def test_metrics_without_any_target_are_not_reported():
    train = make_series(60)
    # with this stride the only window is the last one, whose labels are missing
    empty = train.with_values(np.where(np.arange(60)[:, None] < 13, train.values(), np.nan))
    model, _ = recorded(BiGRUModel, train, {"val_series": empty, "stride": 50}, torch_metrics=METRICS[0].clone())
    assert "train_MeanAbsoluteError" in model.trainer.callback_metrics
    assert "val_MeanAbsoluteError" not in model.trainer.callback_metrics


KINDS = {"none": [], "staggered": [(0, 1), (1, 0)], "some": [(0, 1), (1, 1)], "all": [(1, 1)]}


def observed_as(kind: str) -> torch.Tensor:
    """Return which of 20 steps and 2 components are observed."""
    rows = KINDS[kind] or [(0, 0)]
    return torch.tensor(rows).bool().repeat(20 // len(rows), 1)


@settings(max_examples=15, deadline=None)
@given(epochs=st.lists(st.lists(st.sampled_from([*KINDS]), max_size=3), min_size=1, max_size=4))
@example(epochs=[["some"], ["staggered"], ["none"], [], ["all"]])
def test_metrics_are_computed_one_by_one(epochs):
    """Each one that saw something in an epoch is logged, as a loop has it, and begins anew; the others are left out."""
    module = logging_module()
    metrics = torchmetrics.MetricCollection(
        [torchmetrics.MeanAbsoluteError(), torchmetrics.R2Score(), torchmetrics.CosineSimilarity()],
        compute_groups=False,
    ).clone(prefix="val_", postfix="_own")
    for batches in epochs:
        values, rows = [], []
        for kind in batches:
            prediction, target = torch.randn(20, 2), torch.randn(20, 2)
            observed = observed_as(kind)
            module._update_metrics(
                PLModuleOutput(prediction=prediction.view(5, 4, 2, 1)),
                target.masked_fill(~observed, torch.nan).view(5, 4, 2),
                metrics,
            )
            values += [abs(float(prediction[i] - target[i])) for i in np.ndindex(20, 2) if observed[i]]
            rows += [(prediction[i], target[i]) for i in range(20) if observed[i].all()]
        expected = {"val_MeanAbsoluteError_own": np.mean(values)} if values else {}
        if rows:
            x, y = (torch.stack(part) for part in zip(*rows, strict=True))
            expected["val_R2Score_own"] = (1 - (x - y).square().sum(0) / (y - y.mean(0)).square().sum(0)).mean().item()
            expected["val_CosineSimilarity_own"] = torch.cosine_similarity(x, y).sum().item()
        module.logged.clear()
        module._compute_metrics(metrics)
        assert module.logged == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert not any(metric.update_called for metric in metrics.values())


@functools.cache
def logging_module():
    """Return a module that keeps what it logs."""
    module = fitted(BiGRUModel, make_series(components=2)).model
    module.logged = {}
    module.log_dict = lambda values, **kwargs: module.logged.update({n: float(v) for n, v in values.items()})
    return module


@two_models
@no_logger
def test_metrics_that_cannot_be_computed_do_not_take_the_others_with_them(model_class):
    """No step of training has all components observed, every step of validation has, and the other way round."""
    whole = make_series(60, 2)
    staggered = whole.with_values(
        np.where(np.arange(60)[:, None] % 2 == np.arange(2), whole.values(), np.nan).astype(np.float32)
    )
    metrics = torchmetrics.MetricCollection([torchmetrics.MeanAbsoluteError(), torchmetrics.R2Score()])
    for train, validation, complete in ((staggered, whole, "val"), (whole, staggered, "train")):
        model, _ = recorded(model_class, train, {"val_series": validation}, torch_metrics=metrics, n_epochs=2)
        logged = {name for name in model.trainer.callback_metrics if name.endswith(("Error", "Score"))}
        assert logged == {"train_MeanAbsoluteError", "val_MeanAbsoluteError", f"{complete}_R2Score"}
        for own in (model.model.train_metrics, model.model.val_metrics):
            assert not any(metric.update_called for metric in own.values())


@two_models
def test_optimizer(model_class):
    series = make_series(60)
    sgd = fitted(model_class, series, optimizer_cls=torch.optim.SGD, optimizer_kwargs={"lr": 1e-4, "momentum": 0.5})
    assert isinstance(sgd.model.optimizers(use_pl_optimizer=False), torch.optim.SGD)
    assert differs(sgd.predict(4), fitted(model_class, series).predict(4))


@two_models
def test_learning_rate_schedulers(model_class):
    series, validation = make_series(60), make_series(60, seed=1)
    _, recorder = recorded(
        model_class,
        series,
        n_epochs=3,
        lr_scheduler_cls=torch.optim.lr_scheduler.ExponentialLR,
        lr_scheduler_kwargs={"gamma": 0.5},
    )
    assert recorder.rates == pytest.approx([5e-3, 2.5e-3, 1.25e-3])  # after the epoch's step
    _, recorder = recorded(
        model_class,
        series,
        {"val_series": validation},
        n_epochs=4,
        lr_scheduler_cls=torch.optim.lr_scheduler.ReduceLROnPlateau,
        lr_scheduler_kwargs={"monitor": "val_loss", "patience": 0, "factor": 0.1, "threshold": 1e9},
    )
    assert recorder.rates[-1] < 1e-2


@two_models
def test_early_stopping_over_gaps(model_class):
    stopper = EarlyStopping("val_loss", patience=1, min_delta=1e9)
    model = make_model(model_class, n_epochs=20, pl_trainer_kwargs=quiet_trainer(callbacks=[stopper]))
    model.fit(make_series(60, missing=0.2), val_series=make_series(60, seed=1, missing=0.2))
    assert model.epochs_trained == 2


@two_models
@pytest.mark.parametrize(
    "trainer", [{"gradient_clip_val": 0.1}, {"precision": "64-true"}, {"accumulate_grad_batches": 2}]
)
def test_trainer_options(model_class, trainer):
    series = make_series(60, missing=0.2).astype(np.float64 if "precision" in trainer else np.float32)
    model = fitted(model_class, series, pl_trainer_kwargs=quiet_trainer(**trainer))
    assert_finite_weights(model)
    assert np.isfinite(model.predict(4).values()).all()


def test_reversible_norm_is_equivariant(model_class):
    series = make_series(60, 2, missing=0.2, dtype=np.float64)
    model = fitted(model_class, series)
    shift, scale = np.array([1000.0, -50.0]), np.array([3.0, 0.01])
    refit = model_class is GRINModel  # it reads levels in relation to those of the training data
    if refit:
        scale = np.array([3.0, 3.0])  # the loss weighs components by their scale
    forecast = model.predict(8)
    moved_series = series.with_values(series.values() * scale + shift)
    if refit:
        model = fitted(model_class, moved_series)
    moved = model.predict(8, moved_series)
    np.testing.assert_allclose(moved.values(), forecast.values() * scale + shift, rtol=1e-4 if refit else 1e-6)


def test_reversible_norm_options(model_class):
    series = make_series(60, missing=0.2, dtype=np.float64)
    without = fitted(model_class, series, use_reversible_instance_norm=False)
    assert without.model.rin is None
    moved = without.predict(4, series + 1000)
    assert differs(moved, without.predict(4) + 1000, by=1e-5)
    plain = fitted(model_class, series, use_reversible_instance_norm={"affine": False, "eps": 0.5})
    assert plain.model.rin.eps == 0.5
    assert [name for name, _ in plain.model.named_parameters() if "rin" in name] == []
    learnt = fitted(model_class, series, use_reversible_instance_norm={"affine": True})
    assert [name for name, _ in learnt.model.named_parameters() if "rin" in name]
    assert differs(plain.predict(4), fitted(model_class, series).predict(4))


def test_validation_every_other_epoch():
    class Count(Callback):
        runs = 0

        def on_validation_epoch_end(self, trainer, pl_module):
            Count.runs += not trainer.sanity_checking

    model = make_model(
        BiGRUModel, n_epochs=4, nr_epochs_val_period=2, pl_trainer_kwargs=quiet_trainer(callbacks=[Count()])
    )
    model.fit(make_series(40), val_series=make_series(40, seed=1))
    assert Count.runs == 2


def test_tensorboard_logs_are_written(tmp_path):
    model = make_model(
        BiGRUModel,
        log_tensorboard=True,
        model_name="logged",
        work_dir=str(tmp_path),
        pl_trainer_kwargs={"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    )
    model.fit(make_series(40))
    assert list((tmp_path / "logged").rglob("events.out.tfevents*"))


def test_darts_progress_bar(capsys):
    trainer = quiet_trainer(enable_progress_bar=True, callbacks=[TFMProgressBar()])
    make_model(BiGRUModel, pl_trainer_kwargs=trainer).fit(make_series(40))
    assert "Epoch 0" in capsys.readouterr().out
