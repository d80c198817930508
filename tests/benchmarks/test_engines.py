import logging
import subprocess
import sys
import warnings

import pandas as pd
import pytest

from tests.benchmarks.test_run import ROOT, STEPS, assert_same, run

pytestmark = [
    pytest.mark.usefixtures("made_up"),
    pytest.mark.slow,
    # from fev, where only one model is of a kind
    pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning"),
]


def test_workers_give_what_one_process_gives_and_one_that_dies_costs_its_cell(tmp_path):
    options = (*STEPS, "--tasks", "fake one", "--seeds", "1,2")
    command = [sys.executable, "-m", "tests.benchmarks.fakes", "run", "--suite", "fake", *options]
    command += ["--models", "noise,dies,broken", "--jobs", "2", "--out", tmp_path / "two"]
    subprocess.run(command, cwd=ROOT, check=True)
    rows = pd.read_parquet(tmp_path / "two" / "rows.parquet")
    died = rows["model"] == "dies"
    assert died.sum() == 2
    assert set(rows[died]["error"]) == {"The worker process ended with exit code -9."}
    run(tmp_path / "one", *options, "--models", "noise,broken")
    expected = pd.read_parquet(tmp_path / "one" / "rows.parquet")
    found = rows[~died].reset_index(drop=True)
    timing = ["fit_seconds", "predict_seconds"]
    pd.testing.assert_frame_equal(found.drop(columns=timing), expected.drop(columns=timing), check_exact=True)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two nodes of one core each, whose workers know the made-up tasks and models."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray, about its own files and sockets
        import ray
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.add_node(num_cpus=1, wait=False)
        nodes.wait_for_nodes(timeout=180)  # thirty seconds are too few for a busy machine
        ray.init(
            nodes.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={
                "worker_process_setup_hook": "tests.benchmarks.fakes.register",
                "env_vars": {"FAKE_MARKER": str(tmp_path / "died")},
            },
        )
        yield ray
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_two_nodes_give_the_same_bytes_and_a_killed_worker_costs_nothing_but_time(tmp_path, cluster, monkeypatch):
    assert len([node for node in cluster.nodes() if node["Alive"]]) == 2
    options = (*STEPS, "--models", "noise,dies once,broken", "--seeds", "1,2")
    assert run(f"file://{tmp_path}/ray", *options, "--engine", "ray", "--address", "auto") == 0
    assert (tmp_path / "died").exists()
    monkeypatch.setenv("FAKE_MARKER", str(tmp_path / "died"))
    assert run(tmp_path / "local", *options) == 0
    assert_same(tmp_path / "ray", tmp_path / "local")
    rows = pd.read_parquet(tmp_path / "ray" / "rows.parquet")
    assert (rows[rows["model"] == "dies once"]["status"] == "ok").all()
