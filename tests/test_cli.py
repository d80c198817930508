"""The console script and its demo."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import birnn_forecast
from birnn_forecast import GRINModel, _registry, demo
from birnn_forecast.cli import main
from birnn_forecast.demo import data, forecasters, imputing, networks, progress, report
from birnn_forecast.imputation import KalmanImputer, LinearImputer, SeasonalLinearImputer

PNG = b"\x89PNG\r\n\x1a\n"
DEMO_MODELS = [forecasters.StateSpace, forecasters.HoltWinters, forecasters.SeasonalNaive]


@pytest.fixture(scope="module")
def task():
    """The demo's task on the last ten years only."""
    return data.make_task(data.load_co2()[-520:], n_origins=2)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"birnn-forecast {birnn_forecast.__version__}\n"


@pytest.mark.parametrize(
    "argv", [[], ["nothing"], ["demo", "--epochs", "0"], ["demo", "--epochs", "x"], ["demo", "--seed", "-1"]]
)
def test_wrong_arguments_are_explained(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: birnn-forecast" in capsys.readouterr().err


def test_a_bad_folder_is_one_line_before_any_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "run_demo", lambda *args, **kwargs: pytest.fail("it ran"))
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below", "/proc/nothing"):
        with pytest.raises(SystemExit) as stop:
            main(["demo", "--out", str(out)])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert f"argument --out: must be a folder to write into, got '{out}'" in error
    with pytest.raises(SystemExit):
        main(["demo", "--out", str(tmp_path / "new"), "--epochs", "0"])
    assert "must be a whole number of at least 1, got '0'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_nothing_heavy_is_imported_for_help():
    heavy = {"torch", "darts", "numba", "pandas", "matplotlib", "numpy"}
    code = "import sys, birnn_forecast.cli as cli; print(*sys.modules); cli.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, usage = done.stdout.split("\n", maxsplit=1)
    assert not heavy & {*modules.split()}
    assert usage.startswith("usage: birnn-forecast")
    command = [sys.executable, "-X", "importtime", "-m", "birnn_forecast.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not heavy & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_public_names_are_there_when_asked_for():
    assert {*birnn_forecast.__all__, "imputation", "plots"} <= {*dir(birnn_forecast)}
    for name in dir(birnn_forecast):
        assert getattr(birnn_forecast, name) is not None
    assert {*_registry.MODELS} == {name for name in birnn_forecast.__all__ if name != "__version__"}
    for name, module in _registry.MODELS.items():
        assert getattr(birnn_forecast, name).__module__ == f"birnn_forecast.models.{module}"
    with pytest.raises(AttributeError, match="module 'birnn_forecast' has no attribute 'nothing'"):
        birnn_forecast.nothing  # noqa: B018


def test_demo_prints_what_is_hidden_tables_and_where_the_pictures_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        demo, "make_models", lambda epochs, seed: [forecasters.StateSpace(), forecasters.SeasonalNaive()]
    )
    monkeypatch.setattr(demo, "load_co2", lambda: data.load_co2()[-520:])
    assert main(["demo", "--out", str(tmp_path / "new"), "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "Hidden as well: 10 weeks from 1996-02-10" in out
    assert "UnobservedComponents wins by MASE." in out
    assert "Of the 520 observed weeks" in out
    lines = out[out.index("imputer  ") :].splitlines()
    for name in (imputing.OURS, imputing.KALMAN, "seasonal-linear", "linear"):
        assert any(line.startswith(name + " ") for line in lines[1:5]), name
    assert "has the lowest MAE" in out
    assert "nobody observed" not in out  # there is no real gap in these years
    for name in ("co2.png", "co2_imputed.png"):
        assert str(tmp_path / "new" / name) in out
        assert (tmp_path / "new" / name).read_bytes()[:8] == PNG


def test_hidden_weeks_are_never_given_to_an_imputer_that_is_scored_on_them(monkeypatch):
    series = data.load_co2()[:300]
    visible = data.hide_weeks(series)
    given, inside = [], []

    def spy(cls, method):
        real = getattr(cls, method)

        def spied(self, series, *args, **kwargs):
            if not inside:  # not what an imputer hands on to another
                given.extend([series] if not isinstance(series, list) else series)
            inside.append(1)
            out = real(self, series, *args, **kwargs)
            inside.pop()
            return out

        spied.__signature__ = inspect.signature(real)
        monkeypatch.setattr(cls, method, spied)

    spy(GRINModel, "fit")
    for cls in (GRINModel, KalmanImputer, SeasonalLinearImputer, LinearImputer):
        spy(cls, "impute")
    model, rows = imputing.score_imputers(series, visible, epochs=1, seed=0)
    assert {row.name for row in rows} == {imputing.OURS, imputing.KALMAN, "seasonal-linear", "linear"}
    assert model.epochs_trained == 1
    assert len(given) >= 5
    for one in given:
        np.testing.assert_array_equal(one.values(), visible.values())


def test_a_fifth_of_the_weeks_is_hidden_in_outages_and_one_by_one():
    series = data.load_co2()
    visible = data.hide_weeks(series)
    missing, hidden = np.isnan(series.values()), np.isnan(visible.values()) & ~np.isnan(series.values())
    assert 0.18 < hidden.sum() / (~missing).sum() < 0.21
    np.testing.assert_array_equal(series.values()[~hidden], visible.values()[~hidden])
    lengths = [end - start for start, end in imputing.hidden_runs(series, visible)]
    assert lengths.count(1) > 50
    assert sum(length >= 4 for length in lengths) > 15
    np.testing.assert_array_equal(visible.values(), data.hide_weeks(series).values())


def test_the_years_in_the_picture_are_those_with_the_most_gaps():
    series = data.load_co2()
    start, end = imputing.gappy_years(series)
    assert end - start == 7 * 52
    most = data.n_missing(series[start:end])
    assert all(data.n_missing(series[i : i + 364]) <= most for i in range(0, len(series) - 364, 26))
    assert imputing.gappy_years(series[-100:]) == (0, 100)


def test_the_outage_in_the_picture_is_a_long_one():
    series = data.load_co2()
    visible = data.hide_weeks(series)
    first, last = imputing.worst_for_straight_lines(series, visible)
    assert last - first > 10


def test_series_keeps_its_gaps():
    series = data.load_co2()
    assert data.n_missing(series) == 59
    assert series.freq_str == "W-SAT"
    assert series.dtype == np.float32


def test_task_hides_the_end_of_every_history_and_nothing_of_the_truth():
    series = data.load_co2()
    task = data.make_task(series)
    assert len(task.train) == len(series) - data.TEST_WEEKS
    assert task.truths[-1].end_time() == series.end_time()
    for history, truth in zip(task.histories, task.truths, strict=True):
        assert np.isnan(history.values()[-data.LATE_WEEKS :]).all()
        assert not np.isnan(history.values()[-data.LATE_WEEKS - 1]).any()
        assert truth.start_time() == history.end_time() + history.freq
        assert not np.isnan(truth.values()).any()
    assert data.n_missing(task.train) == 59 + 10 + 13 + 8 + data.LATE_WEEKS


@pytest.mark.parametrize("model", DEMO_MODELS, ids=lambda model: model.name)
def test_statistical_models_forecast_the_horizon(model, task):
    check_forecaster(model(), task)


@pytest.mark.parametrize("model", [networks.BiGRU, networks.BlockRNN], ids=lambda model: model.name)
def test_networks_forecast_the_horizon(model, task):
    check_forecaster(model(epochs=1), task)


def check_forecaster(model, task):
    ticks = []
    with progress.quiet():
        forecasts = model.run(task.train, task.histories, lambda: ticks.append(1))
    assert len(ticks) == model.steps + len(task.histories)
    for forecast, truth in zip(forecasts, task.truths, strict=True):
        assert forecast.time_index.equals(truth.time_index)
        assert np.isfinite(forecast.values()).all()
    assert report.score(forecasts, task).mase < 2


def test_scores_of_a_perfect_and_of_a_shifted_forecast(task):
    def forecasts(shift):
        return [
            forecasters.to_series(history, truth.values() + np.zeros(9) + shift)
            for history, truth in zip(task.histories, task.truths, strict=True)
        ]

    assert report.score(forecasts(0.0), task) == pytest.approx((0, 0, 0, 100))
    shifted = report.score(forecasts(1.0), task)
    level = np.mean([truth.values().mean() for truth in task.truths])
    # the pinball losses of an overestimate by 1, twice the mean of 1 - q
    assert shifted.wql == pytest.approx(100 * 2 * 0.5 / level, rel=1e-4)
    assert shifted.coverage == 0
    assert 0.2 < shifted.mase < 1.5


def test_table_marks_the_best_and_the_verdict_names_it():
    rows = [
        report.Row("one", "kept", report.Score(0.5, 0.2, 0.10, 60.0), 12.0),
        report.Row("two", "filled", report.Score(0.4, 0.1, 0.20, 85.0), 1.0),
        report.Row("naive", "filled", report.Score(1.0, 0.5, None, None), 0.0),
    ]
    header, first, second, third = report.table(rows).splitlines()
    assert header.split()[:2] == ["model", "gaps"]
    assert first.split() == ["two", "filled", "0.400*", "0.100*", "0.2000", "85", "%*", "1.0"]
    assert second.split() == ["one", "kept", "0.500", "0.200", "0.1000*", "60", "%", "12.0"]
    assert third.split() == ["naive", "filled", "1.000", "0.500", "-", "-", "0.0"]
    assert report.verdict(rows) == "two wins by MASE."
    near = rows[1]._replace(name="near", score=rows[1].score._replace(mase=0.41))
    assert report.verdict([*rows, near]) == "two has the best MASE, with near within 5 % of it: on one series, a tie."


def test_the_imputers_table_marks_the_best_and_the_verdict_says_where_ours_stands():
    ours = imputing.Row(imputing.OURS, 0.4, 0.5, 0.3, 84.0, 88.0, 30.0)
    kalman = imputing.Row(imputing.KALMAN, 0.32, 0.4, 0.2, 85.0, 93.0, 2.0)
    linear = imputing.Row("linear", 0.8, 1.0, None, None, None, 0.0)
    _, first, second, third = imputing.table([linear, ours, kalman]).splitlines()
    assert first.split() == ["Kalman", "smoothing", "0.320*", "0.400*", "0.200*", "85", "%", "93", "%", "2.0"]
    assert second.split() == ["GRIN", "(this", "package)", "0.400", "0.500", "0.300", "84", "%*", "88", "%*", "30.0"]
    assert third.split() == ["linear", "0.800", "1.000", "-", "-", "-", "0.0"]
    assert imputing.verdict([linear, ours, kalman]) == (
        "Kalman smoothing has the lowest MAE. GRIN (this package) is 25 % above it,\n"
        "  and 50 % below the better interpolation (linear)."
    )
    ahead = ours._replace(mae=0.24)
    assert imputing.verdict([linear, ahead, kalman]) == (
        "GRIN (this package) has the lowest MAE, 25 % below Kalman smoothing."
    )
    near = ours._replace(mae=0.31)
    assert imputing.verdict([linear, near, kalman]).endswith("3 % below Kalman smoothing (on one series, a tie).")
    near = ours._replace(mae=0.33)
    assert "3 % above it (on one series, a tie),\n" in imputing.verdict([linear, near, kalman])
    behind = ours._replace(mae=1.0)
    assert "25 % above the better interpolation (linear)" in imputing.verdict([linear, behind, kalman])


@pytest.mark.slow
def test_full_demo_from_the_shell(tmp_path):
    command = [sys.executable, "-m", "birnn_forecast.cli", "demo", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    for name in ("BiGRU", "BlockRNN", "UnobservedComponents", "Holt-Winters", "Seasonal naive"):
        assert name in done.stdout
    assert "MASE" in done.stdout
    assert "Warning" not in done.stderr
    for name in (imputing.OURS, imputing.KALMAN, "seasonal-linear", "linear"):
        assert name in done.stdout
    assert (tmp_path / "co2.png").exists()
    assert (tmp_path / "co2_imputed.png").exists()
