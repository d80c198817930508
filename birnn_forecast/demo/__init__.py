"""What ``birnn-forecast demo`` does: five models on a weekly series with gaps, a table, and a plot."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from darts import TimeSeries
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from tqdm import tqdm

from birnn_forecast.demo.data import HIDDEN_BLOCKS, HORIZON, LATE_WEEKS, Task, load_co2, make_task, n_missing
from birnn_forecast.demo.forecasters import Forecaster, HoltWinters, SeasonalNaive, StateSpace
from birnn_forecast.demo.networks import BiGRU, BlockRNN
from birnn_forecast.demo.report import Row, score, table, verdict
from birnn_forecast.plots import plot_forecast

PLOTTED_YEARS = 8


def run_demo(out: Path, epochs: int | None = None, seed: int = 0) -> list[Row]:
    """Fit, backtest and compare the models, print the table and save the plot.

    Parameters
    ----------
    out
        Folder of the plot; made if it is not there.
    epochs
        Training epochs of both networks; default: those chosen on earlier windows.
    seed
        Seed of the networks and of the simulated paths.

    Returns
    -------
    list[Row]
        The lines of the table.
    """
    started = time.perf_counter()
    series = load_co2()
    task = make_task(series)
    tqdm.write(introduction(series, task))
    models = make_models(epochs, seed)
    forecasts = backtest(models, task)
    rows = [
        Row(model.name, model.gaps, score(forecasts[model.name], task), model.fit_seconds + model.forecast_seconds)
        for model in models
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "co2.png"
    save_plot(path, task, {model.name: forecasts[model.name] for model in models if model.plotted})
    tqdm.write(f"\n{table(rows)}\n* best of its column\n")
    tqdm.write(f"{verdict(rows)}\n{models[0].name} was fitted in {models[0].fit_seconds:.0f} s.")
    tqdm.write(f"Plot: {path}    ({time.perf_counter() - started:.0f} s in all)")
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
    bar_format = "{desc:<22}{bar:30} {percentage:3.0f} %  {elapsed}"
    with quiet(), one_thread(), tqdm(total=total, leave=False, bar_format=bar_format) as bar:

        def tick() -> None:  # not `bar.update`: Darts copies its trainer's callbacks, and a bar cannot be copied
            bar.update()

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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the remarks of Lightning and torch on the machine while the progress bar is shown."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|torch\.")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: networks as small as these gain nothing from more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
