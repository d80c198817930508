"""Every example runs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from birnn_forecast import BiGRUModel
from tests.conftest import make_series, quiet_trainer

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9]*.py"))
# they start processes of their own, which takes minutes
ON_RAY = [path for path in EXAMPLES if "import ray" in path.read_text()]
HERE = [path for path in EXAMPLES if path not in ON_RAY]


def test_there_are_examples():
    assert [path.stem for path in ON_RAY] == ["03_many_machines", "04_search"]
    assert len(HERE) == 2


@pytest.mark.parametrize("path", HERE, ids=lambda path: path.stem)
def test_example_with_one_epoch(path, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path, n_epochs=1)
    plt.close("all")
    assert capsys.readouterr().out
    assert list(tmp_path.glob("*.png"))


def run(path, out) -> str:
    """Run an example as a user does, and return what it prints."""
    done = subprocess.run([sys.executable, path, out], check=True, timeout=900, capture_output=True, text=True)
    assert list(out.glob("*.png"))
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", HERE, ids=lambda path: path.stem)
def test_full_example(path, tmp_path):
    assert run(path, tmp_path)


@pytest.mark.slow
def test_many_machines_lose_one_and_go_on_from_the_newest_checkpoint(tmp_path):
    printed = run(ON_RAY[0], tmp_path)
    assert "one was killed" in printed
    (folder,) = tmp_path.glob("run_*")
    epochs = pd.read_json(folder / "curve.jsonl", lines=True)["epoch"].tolist()
    # it died at the end of epoch 3, which the other one may have written; the newest checkpoint is that of epoch 2,
    # or of epoch 1 where Ray had not yet heard of it
    restart = next((i for i in range(1, len(epochs)) if epochs[i] <= epochs[i - 1]), 3)
    assert epochs[:restart] in ([0, 1, 2], [0, 1, 2, 3])
    assert epochs[restart] in (2, 3)
    assert epochs[restart:] == [*range(epochs[restart], 6)]
    saved = torch.load(folder / "model.pt.ckpt", weights_only=False)
    # 40 series of 140 days: windows of 28 and 14 days, 32 a worker and step
    steps_an_epoch = -(-40 * (140 - 42 + 1) // 64)
    assert saved["global_step"] == 6 * steps_an_epoch
    model = BiGRUModel.load(str(folder / "model.pt"), pl_trainer_kwargs=quiet_trainer())
    assert np.isfinite(model.predict(14, make_series(60)).values()).all()


@pytest.mark.slow
def test_search_stops_trials_early_and_finds_one(tmp_path):
    printed = run(ON_RAY[1], tmp_path).splitlines()
    trials = [line for line in printed if line.startswith("val_loss")]
    losses = [float(line.split()[1]) for line in trials]
    assert len(trials) == 6
    assert losses == sorted(losses)
    assert 1 <= sum("stopped early" in line for line in trials) <= 5
    assert any(line.startswith("Best") for line in printed)
