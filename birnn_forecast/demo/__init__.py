"""What ``birnn-forecast demo`` does: a weekly series with gaps forecast by five models, then imputed by four."""

import time
from collections.abc import Sequence
from pathlib import Path

from darts import TimeSeries
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from tqdm import tqdm

from birnn_forecast.demo.data import HIDDEN_BLOCKS, HORIZON, LATE_WEEKS, Task, load_co2, make_task, n_missing
from birnn_forecast.demo.forecasters import Forecaster, HoltWinters, SeasonalNaive, StateSpace
from birnn_forecast.demo.imputing import impute_demo
from birnn_forecast.demo.networks import BiGRU, BlockRNN
from birnn_forecast.demo.progress import progress_bar
from birnn_forecast.demo.report import Row, score, table, verdict
from birnn_forecast.plots import plot_forecast

PLOTTED_YEARS = 8


def run_demo(out: Path, epochs: int | None = None, seed: int = 0) -> None:
    """Forecast the series, then impute it; print a table and save a picture of each.

    Parameters
    ----------
    out
        Folder of the pictures; made if it is not there.
    epochs
        Training epochs of the networks; default: those chosen on other weeks than are scored.
    seed
        Seed of the networks and of the simulated paths.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    series = load_co2()
    forecast_demo(series, out, epochs, seed)
    impute_demo(series, out, epochs, seed)
    tqdm.write(f"\n{time.perf_counter() - started:.0f} s in all")


def forecast_demo(series: TimeSeries, out: Path, epochs: int | None, seed: int) -> list[Row]:
    """Fit, backtest and compare the models; return the lines of the table."""
    task = make_task(series)
    tqdm.write(introduction(series, task))
    models = make_models(epochs, seed)
    forecasts = backtest(models, task)
    rows = [
        Row(model.name, model.gaps, score(forecasts[model.name], task), model.fit_seconds + model.forecast_seconds)
        for model in models
    ]
    path = out / "co2.png"
    save_plot(path, task, {model.name: forecasts[model.name] for model in models if model.plotted})
    tqdm.write(f"\n{table(rows)}\n* best of its column\n")
    tqdm.write(f"{verdict(rows)}\n{models[0].name} was fitted in {models[0].fit_seconds:.0f} s.\nPlot: {path}")
    return rows


def make_models(epochs: int | None, seed: int) -> list[Forecaster]:
    """Return the models to compare, the package's first."""
    return [BiGRU(epochs, seed), BlockRNN(epochs, seed), StateSpace(), HoltWinters(seed), SeasonalNaive()]


def introduction(series: TimeSeries, task: Task) -> str:
    """Return what the series is, what is hidden of it, and what the task is."""
    blocks = []
    for back, length in HIDDEN_BLOCKS:
        block = task.train.time_index[len(task.train) - back :][:length]
        blocks.append(f"{length} weeks from {block[0]:%Y-%m-%d}")
    origins = [f"{history.end_time():%Y-%m-%d}" for history in task.histories]
    return (
        f"Weekly CO2 at Mauna Loa, {series.start_time():%Y-%m-%d} to {series.end_time():%Y-%m-%d}: {len(series)} "
        f"weeks, {n_missing(series)} of them missing, the last one in 1985. All gaps are kept.\n"
        f"Hidden as well: {', '.join(blocks)};\n"
        f"  and the {LATE_WEEKS} weeks before each forecast, as if reports came late.\n"
        f"Fitted on the weeks up to {task.train.end_time():%Y-%m-%d}, {n_missing(task.train)} of them missing or "
        f"hidden; {HORIZON} weeks are forecast\n"
        f"  after each of {', '.join(origins)}.\n"
        f"Models were set up on windows before {task.train.end_time():%Y}; the last two years were not looked at."
    )


def backtest(models: Sequence[Forecaster], task: Task) -> dict[str, list[TimeSeries]]:
    """Return the forecasts of each model, by name, with a progress bar on the way."""
    forecasts = {}
    total = sum(model.steps + len(task.histories) for model in models)
    with progress_bar(total) as (bar, tick):
        for model in models:
            bar.set_description_str(model.name)
            forecasts[model.name] = model.run(task.train, task.histories, tick)
    return forecasts


def save_plot(path: Path, task: Task, forecasts: dict[str, list[TimeSeries]]) -> None:
    """Save the last forecasts: of one model with the years before it, and of all those given from near by."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    last = {name: of_model[-1] for name, of_model in forecasts.items()}
    history, truth = task.histories[-1], task.truths[-1]
    first = dict([next(iter(last.items()))])
    plot_forecast(history[-52 * PLOTTED_YEARS :], first, truth, ylabel="CO$_2$ (ppm)", ax=left)
    left.set_title("Weekly CO$_2$ at Mauna Loa, a forecast through gaps", fontsize="medium")
    plot_forecast(history[-20:], last, truth, ylabel="", ax=right)
    right.set_title("The same forecast from near by", fontsize="medium")
    lines = [line for line in right.lines if str(line.get_label()).startswith(tuple(last))]
    right.legend(handles=lines, edgecolor="none", fontsize="small", loc="upper right")
    right.margins(y=0.16)
    right.xaxis.set_major_formatter(ConciseDateFormatter(right.xaxis.get_major_locator()))
    figure.savefig(path, dpi=110)
