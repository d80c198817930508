"""`check`: goals against results; `compare`: two folders against each other."""

import pytest

from benchmarks.check import check
from benchmarks.compare import compare
from tests.benchmarks.made_up import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("results") / "out", tasks=["M3 monthly", "M4 hourly", "AQI-36"])


@pytest.fixture
def goals(tmp_path):
    def write(**goal):
        goal = {"name": "a goal", "task": "M3 monthly", "model": "BiGRU"} | goal
        path = tmp_path / "goals.toml"
        with path.open("a") as file:
            file.write(
                "[[goal]]\n" + "".join(f"{key} = {value!r}\n" for key, value in goal.items() if value is not None)
            )
        return path

    return write


def test_a_goal_that_is_met(folder, goals, capsys):
    assert check(folder, goals(against="best statistical", value=1.0)) == 0
    line, total = capsys.readouterr().out.splitlines()
    assert line.startswith("ok ")
    assert "0.933 <= 1 " in line
    assert "BiGRU / Theta" in line
    low, high = (float(end) for end in line.partition("[")[2].partition("]")[0].split(", "))
    assert low < 0.933 < high < 1
    assert "inconclusive" not in line
    assert total == "1 of 1 goals met"


def test_one_missed_goal_among_several(folder, goals, capsys):
    goals(against="best statistical", value=1.0)
    path = goals(against="Theta", metric="mae", value=0.92)
    assert check(folder, path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("MISS")
    # the interval covers 0.92, the verdict goes by the ratio
    assert lines[1].endswith("(inconclusive)")
    assert lines[2] == "1 of 2 goals met"


def test_a_figure_of_its_own_between_two_bounds(folder, goals, capsys):
    assert check(folder, goals(task="AQI-36", model="GRIN", metric="coverage_80", least=0.6, value=0.7)) == 0
    assert check(folder, goals(task="AQI-36", model="GRIN", metric="coverage_80", least=0.75, value=0.85)) == 1
    assert ">= 0.75 and <= 0.85" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        ({"model": "NoSuch"}, "missing cell: 'M3 monthly', 'NoSuch'"),
        ({"task": "M4 hourly", "model": "N-HiTS"}, "cell 'M4 hourly', 'N-HiTS', seed 2 is failed: ValueError"),
        ({"metric": "mre"}, "'mre' is not defined"),
        ({"metric": "mape"}, "no metric 'mape'"),
    ],
)
def test_what_cannot_be_computed_is_missed(folder, goals, capsys, goal, says):
    assert check(folder, goals(**{"against": "Theta", "value": 1.0} | goal)) == 1
    out = capsys.readouterr().out
    assert out.startswith("MISS")
    assert says in out


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        ({}, "`value` or a `least`"),
        ({"value": 1.0, "model": None}, "must say model"),
        ({"value": 1.0, "metrics": "mae"}, "unknown keys"),
    ],
)
def test_goals_that_make_no_sense(folder, goals, goal, says):
    with pytest.raises(ValueError, match=says):
        check(folder, goals(**goal))


def test_goals_of_other_tasks_are_told_apart(folder, goals, capsys):
    path = goals(against="Theta", value=100.0)
    assert check(folder, path) == 0
    path.write_text(path.read_text() + path.read_text().replace("M3 monthly", "M3 yearly"))
    assert check(folder, path) == 0
    assert "1 of 1 goals met; 1 are of tasks that this run does not have" in capsys.readouterr().out
    path.write_text(path.read_text().replace("M3 monthly", "M3 other"))
    with pytest.raises(ValueError, match="must have a goal for a task of"):
        check(folder, path)


def test_a_file_without_goals(folder, tmp_path):
    (tmp_path / "none.toml").write_text("[other]\nvalue = 1\n")
    with pytest.raises(ValueError, match="`--goals` must be a file with"):
        check(folder, tmp_path / "none.toml")


def test_the_same_results_show_no_regression(folder, capsys):
    assert compare(folder, folder) == 0
    out = capsys.readouterr().out
    assert "REGRESSION" not in out
    assert "improvement" not in out


def test_a_regression_an_improvement_and_what_is_not_in_both(folder, tmp_path, capsys):
    other = write_folder(tmp_path / "b", {"BiGRU": 1.1, "Theta": 0.9}, tasks=["M3 monthly", "exchange rate"])
    assert compare(folder, other) == 1
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "REGRESSION" in line).startswith("M3 monthly, BiGRU  ")
    assert next(line for line in lines if "improvement" in line).startswith("M3 monthly, Theta  ")
    assert f"only in {folder}: AQI-36: GRIN, Kalman, Linear" in lines
    assert any(line.startswith(f"only in {other}: exchange rate: ") for line in lines)
    assert lines[-1].startswith("1 regressions in ")


def test_what_fails_now_is_a_regression(folder, tmp_path, capsys, monkeypatch):
    from tests.benchmarks import made_up

    monkeypatch.setattr(made_up, "FAILED", {("BiGRU", "M3 monthly", seed): "ValueError: no\n  more" for seed in (1, 2)})
    other = write_folder(tmp_path / "b", tasks=["M3 monthly"])
    assert compare(folder, other) == 1
    assert "now failed: ValueError: no  REGRESSION" in capsys.readouterr().out
