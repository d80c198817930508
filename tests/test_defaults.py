import numpy as np
import pandas as pd
import pytest

from benchmarks import defaults
from benchmarks.series import TASKS


def test_the_last_fifth_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "STEPS", 2)
    scores = []
    for ending in (0.0, 1e6):
        values = 100 + 10 * np.sin(np.arange(150) / 2)
        values[120:] += ending
        (tmp_path / "darts_small").mkdir(exist_ok=True)
        pd.DataFrame({"#Passengers": values}).to_csv(tmp_path / "darts_small" / "AirPassengers.csv")
        scores.append(defaults.run("default", "air passengers (monthly)", tmp_path, seed=0))
    assert scores[0] == scores[1] < 10


@pytest.mark.parametrize("name", TASKS)
def test_every_series_fits_its_chunks(name):
    task = TASKS[name]
    assert task.input_chunk_length >= task.output_chunk_length > 1


def test_default_means_default():
    assert defaults.SETTINGS["default"] == {}
