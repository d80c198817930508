import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import speed, speed_brits
from benchmarks.__main__ import main
from benchmarks.goals import of_speed
from benchmarks.models import MODELS, SUITE_MODELS
from benchmarks.store import SCHEMA, TIMING, Store
from benchmarks.tasks import SUITES, TASKS
from birnn_forecast.nn.recurrent import CELLS

pytestmark = [
    pytest.mark.usefixtures("made_up"),
    # from fev, where only one model is of a kind
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
]
ROOT = Path(__file__).parents[2]
STEPS = ("--budget-steps", "3")


def run(out, *options):
    # the fakes are known to this process only
    return main(["run", "--suite", "fake", "--jobs", "0", "--out", str(out), *options])


def files(out):
    return {file: file.stat().st_mtime_ns for file in Path(out).glob("*/*") if file.parent.name != "__pycache__"}


def comparable(out):
    """Rows without what may differ between two runs, and forecasts."""
    rows = pd.read_parquet(Path(out) / "rows.parquet").drop(columns=list(TIMING))
    return rows, {file.name: file.read_bytes() for file in (Path(out) / "forecasts").iterdir()}


def assert_same(one, other):
    (rows, forecasts), (other_rows, other_forecasts) = comparable(one), comparable(other)
    pd.testing.assert_frame_equal(rows, other_rows, check_exact=True)
    assert forecasts == other_forecasts


def test_a_run_writes_rows_manifest_and_a_leaderboard_and_survives_a_failure(tmp_path, capsys):
    assert run(tmp_path, *STEPS, "--seeds", "1,2") == 0
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    assert list(rows.columns) == SCHEMA.names
    assert rows.groupby("status").size().to_dict() == {"failed": 2, "ok": 12}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["budget"] == {"seconds": None, "steps": 3}
    assert manifest["seeds"] == [1, 2]
    assert manifest["threads"] == 1
    assert manifest["packages"]["darts"]
    assert manifest["fingerprints"]["fake one, seed 1"] == "made up"
    assert {"git", "dirty", "processor", "date"} <= set(manifest)
    printed = capsys.readouterr()
    assert "noise" in printed.out
    assert "failed: fake one, broken, seed 1: RuntimeError: no convergence" in printed.out
    assert "left" in printed.err  # the progress bar


def test_resume_computes_only_what_is_new(tmp_path, capsys):
    run(tmp_path, *STEPS, "--models", "noise")
    before = files(tmp_path)
    with pytest.raises(SystemExit):
        run(tmp_path, *STEPS, "--models", "noise")
    assert "--resume" in capsys.readouterr().err
    run(tmp_path, *STEPS, "--models", "noise, other,broken", "--resume")
    after = files(tmp_path)
    assert before.items() < after.items()
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    assert set(rows["model"]) == {"noise", "noise, other", "broken", "last", "zeros"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [one["models"] for one in (manifest, *manifest["earlier"])] == [["noise, other", "broken"], ["noise"]]


def test_failed_cells_are_tried_again_only_if_asked(tmp_path, monkeypatch):
    options = (*STEPS, "--tasks", "fake one", "--models", "broken")
    run(tmp_path, *options)
    before = files(tmp_path)
    run(tmp_path, *options, "--resume")
    assert files(tmp_path) == before
    run(tmp_path, *options, "--resume", "--retry-failed")
    changed = [file for file, changed in files(tmp_path).items() if changed != before[file]]
    assert len(changed) == 1


def test_of_superseded_rows_the_latest_counts(tmp_path):
    options = ("--tasks", "fake one", "--models", "noise")
    for resume, steps in (((), "3"), (("--resume",), "4"), (("--resume",), "3")):
        run(tmp_path, *options, "--budget-steps", steps, *resume)
        rows = pd.read_parquet(tmp_path / "rows.parquet").set_index("model")
        assert json.loads(rows.loc["noise", "budget"])["steps"] == int(steps)
        assert list(rows.index) == ["last", "noise"]


def test_two_runs_are_equal_byte_for_byte(tmp_path):
    for place in "ab":
        run(tmp_path / place, *STEPS)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_a_dry_run_prints_the_cells_and_computes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(out, *STEPS, "--models", "noise,endless", "--seeds", "1,2", "--dry-run") == 0
    assert not out.exists()
    printed = capsys.readouterr().out
    assert printed.count("takes") == 8
    assert printed.count("not run, would take    9000.0 CPU s") == 2
    assert "10 cells, 0.01 CPU hours expected; 0 are finished." in printed
    run(out, *STEPS, "--models", "noise")
    capsys.readouterr()
    run(out, *STEPS, "--models", "noise", "--dry-run")
    assert "0 cells, 0.00 CPU hours expected; 5 are finished." in capsys.readouterr().out


def test_what_is_not_run_is_run_once_it_may_take_so_long(tmp_path):
    options = ("--tasks", "fake one", "--models", "endless", *STEPS)
    for more, status, written in (
        ((), "not run", 3),  # two rows, and the baseline's forecasts
        (("--resume",), "not run", 0),
        (("--resume", "--most-hours", "3"), "ok", 2),
    ):
        before = files(tmp_path)
        run(tmp_path, *options, *more)
        rows = pd.read_parquet(tmp_path / "rows.parquet").set_index("model")
        assert rows.loc["endless", "status"] == status
        changed = {file for file, time in files(tmp_path).items() if before.get(file) != time}
        assert len(changed) == written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--budget-cpu SECONDS or --budget-steps N"),
        ((*STEPS, "--models", "noise,nobody"), "got 'nobody'"),
        ((*STEPS, "--tasks", "fake three"), "got 'fake three'"),
        ((*STEPS, "--suite", "none"), "--suite must be one of"),
        ((*STEPS, "--address", "auto"), "--engine ray"),
        ((*STEPS, "--budget-cpu", "3"), "not allowed with"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, options, words):
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, *options)
    assert words in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def interrupted(view, budget, seed):
        raise KeyboardInterrupt

    monkeypatch.setitem(MODELS, "broken", dataclasses.replace(MODELS["broken"], run=interrupted))
    assert run(tmp_path, *STEPS) == 130
    assert "--resume" in capsys.readouterr().err
    assert len(pd.read_parquet(tmp_path / "rows.parquet")) >= 2


def test_list_names_suites_data_and_models(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in [*SUITES, *TASKS, *MODELS, "licence", "cite", "cannot: learn"]:
        assert name in printed


def test_every_suite_has_tasks_models_and_baselines():
    for suite, tasks in SUITES.items():
        assert {TASKS[task].kind for task in tasks} == {MODELS[model].kind for model in SUITE_MODELS[suite]}
        for task in tasks:
            assert MODELS[TASKS[task].baseline].kind == TASKS[task].kind


def test_rows_go_to_any_place_that_fsspec_knows():
    import fsspec

    out = "memory://somewhere/run"
    try:
        run(out, *STEPS, "--models", "noise")
        assert Store(out).used()
        assert len(Store(out).rows()) == 5
        run(out, *STEPS, "--models", "noise", "--resume")
    finally:
        fsspec.filesystem("memory").rm("/somewhere", recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_killed_run_goes_on_where_it_was(tmp_path, jobs):
    command = [sys.executable, "-m", "tests.benchmarks.fakes", "run", "--suite", "fake", *STEPS]
    command += ["--seeds", "1,2,3", "--jobs", jobs, "--out"]
    out = tmp_path / "killed"
    environment = os.environ | {"FAKE_SECONDS": "1"}
    process = subprocess.Popen([*command, out], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("cells/*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "rows.parquet").exists()
    time.sleep(2)  # workers end with their parent
    before = files(out)
    finished = len(list(out.glob("cells/*.parquet")))
    assert 3 <= finished < 19
    subprocess.run([*command, out, "--resume"], cwd=ROOT, check=True)
    after = files(out)
    cells = {file: changed for file, changed in before.items() if file.suffix == ".parquet"}
    assert cells.items() <= after.items()
    assert run(tmp_path / "whole", *STEPS, "--seeds", "1,2,3") == 0
    assert_same(out, tmp_path / "whole")


def test_seeds_of_other_budgets_are_not_averaged_with(tmp_path):
    assert run(tmp_path, *STEPS, "--models", "noise", "--seeds", "1,2") == 0
    assert run(tmp_path, "--budget-steps", "300", "--models", "noise", "--seeds", "1", "--resume") == 0
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    assert set(rows.loc[rows["model"] == "noise", "seed"]) == {1}


@pytest.mark.slow
def test_real_models_give_the_same_bytes_from_one_worker_and_from_two(tmp_path):
    for jobs in ("1", "2"):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "run", "--suite", "smoke", "--budget-steps", "5"]
        subprocess.run([*command, "--jobs", jobs, "--out", str(tmp_path / jobs)], check=True, capture_output=True)
    assert_same(tmp_path / "1", tmp_path / "2")


def rows_of_speed(monkeypatch, ratios, said=()):
    monkeypatch.setattr(speed.speed_windows, "measure", lambda repeats: iter(ratios))
    monkeypatch.setattr(speed.speed_recurrence, "compare", lambda *args: [3.0, 1.0, 2.0, 1.0])
    shapes = {("GRU", 32, 24, 32): [4.0, 1.0, 4.0, 1.0], ("GRU", 64, 24, 32): [1.5, 1.0, 6.0, 1.0]}
    monkeypatch.setattr(speed.speed_recurrence, "all_shapes", lambda features, cells: shapes.items())
    monkeypatch.setattr(speed.speed_peers, "measure", lambda repeats, grin: iter(said))


def test_speed_is_held_against_its_goals(tmp_path, capsys, monkeypatch):
    cases = [("loader alone, batch 32", "Darts", 9.0, 1.0), ("loader alone, batch 256", "Darts", 29.0, 1.0)]
    brits = speed.speed_peers.Case("BRITS, training step, 36 x 36", "PyPOTS BRITS", 3.5, 1.0, 1e-7)
    rows_of_speed(monkeypatch, cases, [brits, "GRIN: not run"])
    table = speed.run(str(tmp_path)).set_index("case")
    out = capsys.readouterr().out
    assert table["ratio"]["loader alone, batch 256"] == 29
    assert [line for line in out.splitlines() if line.endswith("MISS")] == [
        line for line in out.splitlines() if line.startswith("loader alone, batch 256")
    ]
    assert "PyPOTS BRITS, off by 1e-07" in out
    assert "GRIN: not run" in out
    worst = table.loc["GRU layer, training step, worst of 2"]
    assert worst["ratio"] == 1.5
    assert worst["peer"] == "nn.GRU, hidden 64, 24 steps, batch 32"
    assert table["ratio"]["GRU layer, inference, worst of 2"] == 4
    # the layer's three, one of the loader's two, and BRITS
    assert out.splitlines()[-1] == f"5 of {len(of_speed())} goals met, {len(of_speed()) - 6} not run"


def test_a_case_that_is_fast_and_wrong_misses_its_goal(tmp_path, capsys, monkeypatch):
    wrong = speed.speed_peers.Case("BRITS, training step, 36 x 36", "PyPOTS BRITS", 9.0, 1.0, 1e-3)
    rows_of_speed(monkeypatch, [], [wrong])
    assert main(["run", "--suite", "speed", "--out", str(tmp_path)]) == 1
    assert "off by 1e-03 MISS" in capsys.readouterr().out
    rows_of_speed(monkeypatch, [], [wrong._replace(difference=1e-7)])
    assert main(["run", "--suite", "speed", "--out", str(tmp_path)]) == 0


def test_each_goal_of_speed_is_that_of_a_case(monkeypatch, tmp_path):
    names = set(of_speed())
    peers = [f"BRITS, training step, {f} x {t}" for f, t in speed_brits.SHAPES]
    peers += ["GRIN with feedback, training step"]
    layers = [
        *(f"GRU layer, training step, batch {batch}" for batch in speed.BATCHES),
        *(f"{cell} layer, {kind}, worst of 27" for cell in CELLS for kind in ("training step", "inference")),
    ]
    assert names >= {*peers, *layers}
    source = inspect.getsource(speed.speed_windows)
    for name in names - {*peers, *layers}:
        assert name.split(", batch")[0] in source, name


def test_peers_that_are_not_there_are_listed(monkeypatch):
    monkeypatch.setattr(speed.speed_peers, "find_spec", lambda name: None)
    said = list(speed.speed_peers.measure(1, None))
    assert [line.split(":")[1].split(",")[0] for line in said] == [" not run"] * 3


@pytest.mark.slow
def test_the_speed_suite_writes_its_table(tmp_path, capsys):
    speed.run(str(tmp_path), repeats=1, shapes=False)
    table = pd.read_csv(tmp_path / "speed.csv")
    assert len(table) >= 17  # more with the packages of the peers
    # no goal is left without its case
    missing = of_speed().keys() - set(table["case"])
    assert all(name.startswith(("BRITS, ", "GRIN ")) or "worst of 27" in name for name in missing)
    assert (table[["peer_ms", "ours_ms", "ratio"]] > 0).all(axis=None)
    np.testing.assert_allclose(table["ratio"], table["peer_ms"] / table["ours_ms"], rtol=1e-2)
    assert json.loads((tmp_path / "manifest.json").read_text())["suite"] == "speed"
    assert "predict 500 series" in capsys.readouterr().out
