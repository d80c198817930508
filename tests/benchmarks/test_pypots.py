"""The peers of PyPOTS: how they are wrapped, and with PyPOTS installed, that they train."""

import importlib.util
import json
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import benchmarks.models.pypots_imputers as peers
from benchmarks.cells import Cell, run_cell
from benchmarks.interface import Budget
from benchmarks.models import MODELS
from tests.benchmarks.test_models import imputation_view

NAN = np.nan
needs_pypots = pytest.mark.skipif(importlib.util.find_spec("pypots") is None, reason="needs PyPOTS")


@needs_pypots
@pytest.mark.slow
@pytest.mark.parametrize("name", list(peers.MODELS))
def test_trains_and_leaves_nothing_behind(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    view = imputation_view(3)
    answer = MODELS[name].run(view, Budget(steps=2), 1)
    assert not list(tmp_path.iterdir())
    assert not any(capfd.readouterr())
    given = np.concatenate([one.values() for one in view.series])
    assert answer.values.shape == given.shape
    assert np.isfinite(answer.values).all()
    np.testing.assert_array_equal(answer.values[~np.isnan(given)], given[~np.isnan(given)])
    assert np.abs(answer.values - 50).max() < 30  # in the unit of the series
    assert answer.notes["steps"] == answer.notes["epochs"] == 2  # all windows are one batch
    assert answer.n_parameters > 10_000
    json.dumps(answer.notes)
    assert MODELS[name].run(view, Budget(steps=2), 1).values.tobytes() == answer.values.tobytes()
    assert MODELS[name].run(view, Budget(steps=2), 2).values.tobytes() != answer.values.tobytes()


@needs_pypots
@pytest.mark.slow
def test_training_ends_with_the_seconds():
    answer = MODELS["SAITS"].run(imputation_view(), Budget(seconds=0.5), 1)
    assert answer.notes["epochs"] > 1
    assert answer.fit_seconds < 2


@needs_pypots
@pytest.mark.slow
def test_our_brits_has_the_estimates_and_gradients_of_theirs():
    from benchmarks.speed_brits import compare

    *_, estimates, gradients = compare(5, 7, repeats=1)
    assert estimates < 1e-5
    assert gradients < 1e-5


@pytest.mark.parametrize("missing", ["tsdb", "pypots.imputation"])
def test_without_pypots_the_row_says_what_to_install(missing, monkeypatch, tmp_path, made_up):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing != "tsdb":
        monkeypatch.setitem(sys.modules, "tsdb", SimpleNamespace())
    with pytest.raises(ImportError, match="pip install 'pypots"):
        MODELS["BRITS"].run(imputation_view(), Budget(steps=1), 1)
    row = run_cell(Cell("fake gaps, 20 %", "BRITS", 1, Budget(steps=1)), None, tmp_path)
    assert row["status"] == "failed"
    assert "pip install" in row["error"]
    assert logging.root.manager.disable == logging.NOTSET


def test_short_tables_begin_with_a_gap():
    table = np.arange(3.0)[:, None]
    np.testing.assert_array_equal(peers.windows(table, 5, 2)[..., 0], [[NAN, NAN, 0, 1, 2]])
    np.testing.assert_array_equal(peers.windows(table, 2, 2)[..., 0], [[0, 1], [1, 2]])


def test_each_step_is_read_where_it_is_farthest_from_an_end():
    # a net that says how far from the start of its window a step is
    model = SimpleNamespace(impute=lambda data: np.broadcast_to(np.arange(6.0)[:, None], data["X"].shape))
    found = peers.filled(model, np.full((12, 1), NAN), 6)[:, 0]
    np.testing.assert_array_equal(found, [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5])
    np.testing.assert_array_equal(peers.filled(model, np.full((4, 1), NAN), 6)[:, 0], [2, 3, 4, 5])


def test_validation_hides_in_the_pattern_of_the_gaps():
    held = np.arange(24.0).reshape(4, 6, 1).copy()
    held[0, 1:3] = NAN
    np.testing.assert_array_equal(np.argwhere(np.isnan(peers.hidden(held)[..., 0])), [[0, 1], [0, 2], [2, 1], [2, 2]])
    whole = peers.hidden(np.zeros((4, 60, 1)))
    assert 0.1 < np.isnan(whole).mean() < 0.3


def test_the_budget_ends_before_the_epoch_that_would_exceed_it(monkeypatch):
    progress = peers.Progress(Budget(steps=25))
    ended = []
    for _ in range(2):
        progress.steps += 10
        ended.append(progress.ended_epoch())
    assert ended == [False, True]
    clock = iter([100.0, 104.0, 108.5])
    monkeypatch.setattr(peers, "cpu_seconds", lambda: next(clock))
    progress = peers.Progress(Budget(seconds=10))
    assert [progress.ended_epoch(), progress.ended_epoch()] == [False, True]


def test_the_learning_rate_rises_and_falls():
    progress = peers.Progress(Budget(steps=100))
    factors = []
    for progress.steps in range(100):
        factors.append(progress.factor)
    assert np.argmax(factors) == 5
    assert 0 < factors[0] < 0.3
    assert 0 < factors[-1] < 0.01
