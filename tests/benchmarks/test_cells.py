import dataclasses
import functools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import cells
from benchmarks.cells import Cell, cell_hash, data_digest, plan, run_cell
from benchmarks.interface import Budget
from benchmarks.models import MODELS
from benchmarks.sources import code_version, modules_of
from benchmarks.store import SCHEMA, TIMING, Store
from benchmarks.tasks import TASKS
from tests.benchmarks.fakes import BUDGET, HORIZON, noise

pytestmark = pytest.mark.usefixtures("made_up")
COLUMNS = """task, kind, dataset, horizon, season, metric, baseline, random_walk, model, family, ablation_of, seed,
status, error, score, mase, smape, mae, mse, rmse, wql, mre, crps, coverage_80, error_by_step, coverage, fit_seconds,
predict_seconds, n_parameters, n_series, n_forecasts, notes, cannot, fingerprint, code, config, budget, cell"""


def run(tmp_path, task, model, seed=1, budget=BUDGET):
    return run_cell(Cell(task, model, seed, budget), None, tmp_path)


def test_a_row_has_the_columns_that_are_promised_and_the_forecasts_are_kept(tmp_path):
    row = run(tmp_path, "fake one", "noise")
    assert SCHEMA.names == COLUMNS.replace("\n", " ").split(", ")
    table = pq.read_table(tmp_path / "cells" / f"{row['cell']}.parquet")
    assert table.schema.names == SCHEMA.names
    (written,) = table.to_pylist()
    assert written["status"] == "ok"
    assert written["score"] == written["mase"] > 0
    assert len(written["error_by_step"]) == HORIZON
    assert len(written["coverage"]) == 4
    assert written["n_parameters"] == 7
    assert json.loads(written["notes"]) == {"steps": 3}
    assert json.loads(written["budget"]) == {"seconds": None, "steps": 3}
    with np.load(tmp_path / "forecasts" / f"{row['cell']}.npz") as arrays:
        assert arrays["values"].shape == arrays["truth"].shape == (3, HORIZON, 1)
        assert arrays["quantiles"].shape == (3, HORIZON, 1, 9)
        np.testing.assert_allclose(written["mae"], np.abs(arrays["values"] - arrays["truth"]).mean(), rtol=1e-12)
        assert arrays["scales"].shape == (3, 1)


def test_an_imputation_has_no_scales_and_no_quantiles(tmp_path):
    row = run(tmp_path, "fake gaps, 20 %", "zeros")
    assert row["status"] == "ok", row["error"]
    assert np.isnan(row["wql"])
    with np.load(tmp_path / "forecasts" / f"{row['cell']}.npz") as arrays:
        assert arrays["quantiles"].size == arrays["scales"].size == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [("broken", "no convergence"), ("half empty", "finite"), ("meddles", "changed the data")],
)
def test_a_model_that_fails_gives_a_row_that_says_why(tmp_path, model, words):
    row = run(tmp_path, "fake one", model)
    assert row["status"] == "failed"
    assert words in row["error"]
    assert np.isnan(row["score"])
    assert "/" not in row["error"].partition("\n")[2]  # places, not paths of a machine
    (written,) = Store(tmp_path).rows().to_dict("records")
    assert written["error"] == row["error"]
    # and whatever it did to its data, the next model gets them as they were
    assert run(tmp_path, "fake one", "last")["status"] == "ok"


def test_a_failure_of_the_machine_is_not_the_models(tmp_path):
    (tmp_path / "cells").write_text("a file where a folder must be")
    with pytest.raises(FileExistsError):
        run(tmp_path, "fake one", "last")


def test_what_takes_too_long_is_listed_as_not_run(tmp_path):
    row = run(tmp_path, "fake one", "endless")
    assert (row["status"], row["error"]) == ("not run", "expected to take 2.5 CPU hours")


def test_the_same_cell_gives_the_same_bytes(tmp_path):
    rows = [run(tmp_path / place, "fake one", "noise") for place in "ab"]
    for row in rows:
        for column in TIMING:
            del row[column]
    assert repr(rows[0]) == repr(rows[1])
    forecasts = [next((tmp_path / place / "forecasts").iterdir()).read_bytes() for place in "ab"]
    assert forecasts[0] == forecasts[1]


def hashed(monkeypatch, model="noise", task="fake one", seed=1, budget=BUDGET, data_seed=1, **changes):
    with monkeypatch.context() as patch:
        patch.setitem(MODELS, model, dataclasses.replace(MODELS[model], **changes))
        return cell_hash(Cell(task, model, seed, budget), data_digest(TASKS[task].load(None, data_seed)))


def test_the_hash_follows_what_can_change_a_figure(monkeypatch):
    first = hashed(monkeypatch)
    assert hashed(monkeypatch) == first
    assert hashed(monkeypatch, cannot=("read",), expected_seconds=lambda *_: 2.0) == first
    others = [
        hashed(monkeypatch, config={"hidden_dim": 3}),
        hashed(monkeypatch, seed=2),
        hashed(monkeypatch, budget=Budget(steps=4)),
        hashed(monkeypatch, budget=Budget(seconds=3.0)),
        hashed(monkeypatch, task="fake two"),
        hashed(monkeypatch, model="noise, other"),
    ]
    monkeypatch.setattr(cells, "code_version", lambda *args, **kwargs: "other")
    others.append(hashed(monkeypatch))
    assert len({first, *others}) == 8


def test_a_model_that_is_not_trained_needs_neither_seed_nor_budget(monkeypatch):
    assert hashed(monkeypatch, "last") == hashed(monkeypatch, "last", seed=2, budget=Budget(seconds=3.0))
    # but for other data
    zeros = [hashed(monkeypatch, "zeros", "fake gaps, 20 %", data_seed=seed) for seed in (1, 2)]
    assert zeros[0] != zeros[1]


@pytest.mark.parametrize("part", ["train", "contexts", "truth", "scales"])
def test_the_digest_follows_every_value(part):
    data = TASKS["fake one"].load(None, 1)
    before = data_digest(data)
    values = getattr(data, part) if part in ("truth", "scales") else getattr(data.view, part)[1]._values
    values.ravel()[-1] += 1
    assert data_digest(data) != before


def test_the_plan_adds_baselines_puts_the_longest_first_and_has_no_cell_twice():
    jobs = plan(list(TASKS)[-3:], ["noise", "broken"], [1, 2], BUDGET, None)
    assert [job.expected for job in jobs] == sorted((job.expected for job in jobs), reverse=True)
    assert [job[:3] for job in sorted(job.cell for job in jobs)] == [
        ("fake gaps, 20 %", "zeros", 1),
        ("fake gaps, 20 %", "zeros", 2),
        ("fake one", "broken", 1),
        ("fake one", "last", 1),
        ("fake one", "noise", 1),
        ("fake one", "noise", 2),
        ("fake two", "broken", 1),
        ("fake two", "last", 1),
        ("fake two", "noise", 1),
        ("fake two", "noise", 2),
    ]


def tree(root, **files):
    for name, text in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path = path.with_name("__init__.py") if path.stem == "INIT" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


FILES = {
    "benchmarks__models__nets": "import birnn_forecast\nfrom ..tools import f\nfrom birnn_forecast.kit import saw\n",
    "benchmarks__models__other": "import numpy\n",
    "benchmarks__tools": "def f():\n    '''Help.'''\n    return 1\n",
    "birnn_forecast__INIT": "from .models import Model\n",
    "birnn_forecast__models": "class Model: pass\n",
    "birnn_forecast__kit__INIT": "from .blades import saw\nfrom .handles import grip\n",
    "birnn_forecast__kit__blades": "saw = 1\n",
    "birnn_forecast__kit__handles": "grip = 1\n",
}


@pytest.mark.parametrize(
    ("file", "text", "ours", "peers"),
    [
        ("benchmarks__models__nets", FILES["benchmarks__models__nets"] + "x = 1\n", True, True),
        ("benchmarks__tools", "def f():\n    return 2\n", True, True),
        ("birnn_forecast__kit__blades", "saw = 2\n", True, True),
        ("birnn_forecast__models", "class Model: x = 1\n", True, False),
        ("birnn_forecast__kit__handles", "grip = 2\n", False, False),
        ("benchmarks__models__other", "import scipy\n", False, False),
        ("benchmarks__tools", "def f():\n    '''Other words.'''\n    return 1  # why\n", False, False),
    ],
)
def test_the_code_version_follows_what_is_imported(tmp_path, file, text, ours, peers):
    modules = frozenset(["benchmarks.models.nets", "numpy"])
    before, after = tree(tmp_path / "a", **FILES), tree(tmp_path / "b", **FILES | {file: text})
    for without, changes in (((), ours), (("birnn_forecast",), peers)):
        assert (code_version(modules, before, without) != code_version(modules, after, without)) == changes


def test_finds_the_modules_of_what_a_function_is_made_of():
    def factory(step):
        def made(*args):
            return step(*args)

        return made

    assert modules_of(functools.partial(factory(noise), net=1)) == {__name__, "tests.benchmarks.fakes"}
