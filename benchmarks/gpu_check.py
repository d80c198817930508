"""Check every model on a device and time it against Darts' BlockRNNModel: ``python -m benchmarks.gpu_check --help``.

Runs on a CPU as well (then the comparison between CPU and device is one of the CPU with itself).
"""

import argparse
import logging
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import darts
import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.models import BlockRNNModel
from darts.utils.data.torch_datasets.utils import ModuleStage, PLModuleInput

import birnn_forecast
from benchmarks import speed_windows
from birnn_forecast import BiGRUModel, BiLSTMModel, BiRNNModel, BRITSModel, CNNBiLSTMModel, GRINModel, URNNModel
from birnn_forecast.data import shards
from birnn_forecast.nn import recurrence, replay
from birnn_forecast.training import trainer_kwargs

MODELS: dict[str, Any] = {
    cls.__name__: cls for cls in (BiRNNModel, BiGRUModel, BiLSTMModel, CNNBiLSTMModel, URNNModel, BRITSModel, GRINModel)
}
# those that feed their estimates back, step by step
LOOPS: dict[Any, dict[str, Any]] = {BRITSModel: {}, GRINModel: {"recurrence": "feedback"}}
PEER = "Darts BlockRNNModel GRU"
# of a series around 100 with standard deviation 7, in float32
TOLERANCE = 1e-3
INPUT, OUTPUT, HIDDEN = 96, 24, 64
FIT_STEPS = 100
QUIET_LOGGING = {"logger": False, "enable_checkpointing": False}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report and return how many checks failed."""
    args = parse(argv)
    quiet()
    device = trainer_kwargs(args.device)["accelerator"]
    checks, failures = check_table(device)
    timings = timing_table(device, args.batch_sizes, args.repeats or (5 if device == "cpu" else 50))
    fits = fit_table(device, args.batch_sizes, min(args.repeats or 3, 3))
    loops = loop_table(device, args.repeats or (5 if device == "cpu" else 50))
    report = "\n".join([*header(device), "", *checks, "", *timings, "", *loops, "", *fits]) + "\n"
    print(report, end="")
    if args.out:
        args.out.write_text(report, encoding="utf-8")
    return failures


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--out", type=Path, help="Markdown file to write the report to as well")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--repeats", type=int, help="timed steps of each model (default: 5 on a CPU, else 50)")
    return parser.parse_args(argv)


def quiet() -> None:
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)


def header(device: str) -> list[str]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return [
        f"# Models on {device}: {name}",
        "",
        f"birnn_forecast {birnn_forecast.__version__}, darts {darts.__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} CPU threads, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


# Checks


def check_table(device: str) -> tuple[list[str], int]:
    """Return a row of checks per model and how many failed."""
    checks: dict[str, Callable[[Any, str], str]] = {
        "float32 fit, predict and impute with gaps": lambda cls, device: fit_with_gaps(cls, device, "32-true"),
        "bf16-mixed fit, predict and impute with gaps": lambda cls, device: fit_with_gaps(cls, device, "bf16-mixed"),
        f"saved on {device}, loaded on cpu: largest difference of forecasts and imputations "
        f"(tolerance {TOLERANCE:g})": compare_with_cpu,
        "series kept on the device, largest difference of weights from those fitted without": compare_with_host,
        "`tbptt_length` with dropout, slope of the loss over its gradient": slope_in_segments,
        "loops replayed, largest difference of weights from those fitted without": compare_replayed,
    }
    rows = [[name, *(attempt(check, cls, device) for check in checks.values())] for name, cls in MODELS.items()]
    failures = sum(cell.startswith("FAILED") for row in rows for cell in row)
    return table(["model", *checks], rows), failures


def attempt(check: Callable[..., str], *args: Any) -> str:
    """Return what the check says, or why it failed, with the traceback on stderr."""
    try:
        return check(*args)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return f"FAILED: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".replace("|", "/")


def fit_with_gaps(cls: Any, device: str, precision: str) -> str:
    series = series_with_gaps()
    model = fitted(cls, series, device, precision)
    used = model.trainer.strategy.root_device.type
    if used != device:
        raise RuntimeError(f"trained on {used}")
    if not all(torch.isfinite(p).all() for p in model.model.parameters()):
        raise ArithmeticError("weights are not finite")
    if not np.isfinite(model.predict(12, series).values()).all():
        raise ArithmeticError("the forecast is not finite")
    if not np.isfinite(model.impute(series).values()).all():
        raise ArithmeticError("the imputed series is not finite")
    return "finite"


def compare_with_cpu(cls: Any, device: str) -> str:
    """Forecast and impute with the same weights on the device and, saved and loaded, on the CPU."""
    series = series_with_gaps()
    model = fitted(cls, series, device, "32-true")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.pt")
        model.save(path)
        on_cpu = cls.load(path, map_location="cpu", pl_trainer_kwargs=preset("cpu", "32-true"))
    # in TF32, the default of cuDNN's recurrent layers, three digits of the states agree
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        results = [model.predict(12, series).values(), model.impute(series).values()]
    expected = [on_cpu.predict(12, series).values(), on_cpu.impute(series).values()]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(results, expected, strict=True))
    if not difference <= TOLERANCE:
        raise ArithmeticError(f"forecasts or imputations differ by {difference:.2g}")
    return f"{difference:.2g}"


def compare_with_host(cls: Any, device: str) -> str:
    """Fit with batches cut where the series are kept on the device, and cut on the host."""
    weights = []
    kept, before = set[str](), set(shards.KEPT_ON)
    try:
        for kept in ({device}, set[str]()):
            shards.KEPT_ON.clear()
            shards.KEPT_ON.update(kept)
            torch.manual_seed(0)
            weights.append(detached(fitted(cls, series_with_gaps(), device, "32-true")))
    finally:
        shards.KEPT_ON.clear()
        shards.KEPT_ON.update(before)
    difference = max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True))
    if not difference <= TOLERANCE:
        raise ArithmeticError(f"weights differ by {difference:.2g}")
    return f"{difference:.2g}"


def slope_in_segments(cls: Any, device: str) -> str:
    """Compare the gradient of what no truncation cuts with a slope: both must drop the same units."""
    if "tbptt_length" not in cls.__signature__.parameters:
        return "not offered"
    series = series_with_gaps().astype(np.float64)
    options = {"tbptt_length": 7, "dropout": 0.3, "n_rnn_layers": 2}
    network = fitted(cls, series, device, "64-true", **options).model.to(device).train()
    x = torch.tensor(series.values()[:24].T[:, :, None], device=device)
    weight = network.network.step_head.output.weight

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        return network.estimate(PLModuleInput(past_target=x), torch.isfinite(x)).square().mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-6 * gradient / gradient.norm()
    values = []
    for sign in (1, -1):
        weight.data.add_(sign * step)
        values.append(float(loss().detach()))
        weight.data.sub_(sign * step)
    ratio = (values[0] - values[1]) / float(2e-6 * gradient.norm())
    if not abs(ratio - 1) < TOLERANCE:
        raise ArithmeticError(f"the slope is {ratio:.3f} of the gradient")
    return f"{ratio:.4f}"


def detached(model: Any) -> list[torch.Tensor]:
    """Return the weights of a model, on the CPU."""
    return [weight.detach() for weight in model.model.cpu().parameters()]


def compare_replayed(cls: Any, device: str) -> str:
    """Fit with the loop over time recorded on the device, and without."""
    if cls not in LOOPS:
        return "no loop"
    weights = []
    replay.Recordings.made.clear()
    for mode in ("graph", "auto"):
        with recurrence.use(mode):
            model = fitted(cls, series_with_gaps(), device, "32-true", n_epochs=5, **LOOPS[cls])
            if mode == "graph" and device in replay.RECORD and not replay.Recordings.count():
                raise RuntimeError("nothing was recorded")
            weights.append(detached(model))
    difference = max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True))
    if not difference <= TOLERANCE:
        raise ArithmeticError(f"weights differ by {difference:.2g}")
    return f"{difference:.2g}"


def series_with_gaps(length: int = 120) -> TimeSeries:
    """Return a season of 12 around 100, a tenth of it missing."""
    rng = np.random.default_rng(0)
    values = 100 + 10 * np.sin(2 * np.pi * np.arange(length) / 12) + rng.normal(size=length)
    values[rng.random(length) < 0.1] = np.nan
    times = pd.date_range("2000-01-01", periods=length, freq="MS")
    return TimeSeries.from_times_and_values(times, values.astype(np.float32))


def fitted(cls: Any, series: TimeSeries, device: str, precision: str, **options: Any) -> Any:
    # the fast learning rate moves the network's part away from its zero start
    params = {"optimizer_kwargs": {"lr": 1e-2}, "n_epochs": 1, "random_state": 0} | options
    return cls(24, 6, pl_trainer_kwargs=preset(device, precision), **params).fit(series)


def preset(device: str, precision: str) -> dict[str, Any]:
    return trainer_kwargs(device, precision, progress_bar=False)


# Timings


def timing_table(device: str, batch_sizes: Sequence[int], repeats: int) -> list[str]:
    """Return a row per batch size and model: the median step, windows per second, and the ratio to the peer."""
    modules = {PEER: module(BlockRNNModel, device, model="GRU")}
    modules |= {name: module(cls, device) for name, cls in MODELS.items()}
    rows = []
    for batch_size in batch_sizes:
        seconds = step_seconds(modules, batch_size, device, repeats)
        rows += [
            [str(batch_size), name, f"{1e3 * t:.1f}", f"{batch_size / t:.0f}", f"{t / seconds[PEER]:.2f}"]
            for name, t in seconds.items()
        ]
    note = (
        f"Forward and backward pass in float32 (on a GPU with cuDNN's default, TF32), "
        f"input {INPUT}, output {OUTPUT}, hidden {HIDDEN}; "
        f"median of {repeats} steps of each model in turn."
    )
    columns = ["batch size", "model", "ms a step", "windows a second", "time against BlockRNNModel"]
    return [note, "", *table(columns, rows)]


def loop_table(device: str, repeats: int) -> list[str]:
    """Return a row per network that feeds its estimates back: a step as it is, and with its loop replayed."""
    rows = []
    for cls, options in LOOPS.items():
        network, seconds = module(cls, device, **options), []
        replay.Recordings.made.clear()
        for mode in ("auto", "graph"):
            with recurrence.use(mode):
                seconds.append(step_seconds({"": network}, 32, device, repeats + replay.CALLS)[""])
        plain, replayed = seconds
        found = (
            [f"{1e3 * replayed:.1f}", f"{plain / replayed:.2f}"] if replay.Recordings.count() else ["not recorded", "-"]
        )
        rows.append([cls.__name__, f"{1e3 * plain:.1f}", *found])
    note = 'Loops over time of 96 steps, batch 32, as they are and with `recurrence.use("graph")` (CUDA graphs).'
    return [note, "", *table(["model", "ms a step", "replayed, ms a step", "ratio"], rows)]


def fit_table(device: str, batch_sizes: Sequence[int], repeats: int) -> list[str]:
    """Return a row per batch size: a step of a whole fit, Darts' and ours, and how busy the device is."""
    rows = []
    for batch_size in batch_sizes:
        series = speed_windows.make(INPUT + OUTPUT - 1 + batch_size * FIT_STEPS)
        options = {"input_chunk_length": INPUT, "output_chunk_length": OUTPUT, "hidden_dim": HIDDEN}
        options |= {"batch_size": batch_size, "pl_trainer_kwargs": preset(device, "32-true") | QUIET_LOGGING}
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats + 1):
            for model, own in zip(speed_windows.models(**options), seconds, strict=True):
                start = time.perf_counter()
                model.fit(series)
                synchronize(device)
                own.append(time.perf_counter() - start)
        darts, ours = (1e3 * float(np.median(own[1:])) / FIT_STEPS for own in seconds)
        busy = busy_share(lambda options=options, series=series: speed_windows.models(**options)[1].fit(series), device)
        rows.append([str(batch_size), f"{darts:.2f}", f"{ours:.2f}", f"{darts / ours:.2f}", busy])
    note = (
        f"A whole fit of `BiGRUModel(bidirectional=False, imputation_weight=0)`, one epoch of {FIT_STEPS} steps on one "
        f"series, against `BlockRNNModel` GRU; input {INPUT}, output {OUTPUT}, hidden {HIDDEN}."
    )
    columns = ["batch size", "Darts, ms a step", "ours, ms a step", "Darts / ours", "time that the device computes"]
    return [note, "", *table(columns, rows)]


def busy_share(run: Callable[[], Any], device: str) -> str:
    """Return which part of the time of `run` the device spends in kernels and copies, as its profiler has it."""
    if device != "cuda":
        return "-"
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        start = time.perf_counter()
        run()
        synchronize(device)
        wall = time.perf_counter() - start
    return f"{1e-6 * sum(event.self_device_time_total for event in found.key_averages()) / wall:.0%}"


def module(cls: Any, device: str, **params: Any) -> torch.nn.Module:
    """Return the network of a model on the device."""
    series = TimeSeries.from_values(np.sin(np.arange(INPUT + OUTPUT, dtype=np.float32)))
    kwargs = preset("cpu", "32-true")
    model = cls(INPUT, OUTPUT, hidden_dim=HIDDEN, n_epochs=1, random_state=0, pl_trainer_kwargs=kwargs, **params)
    return model.fit(series).model.to(device).train()


def step_seconds(modules: dict[str, torch.nn.Module], batch_size: int, device: str, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step of each module; the modules take turns, so that they share disturbances."""
    torch.manual_seed(0)
    past, target = torch.randn(batch_size, INPUT, 1), torch.randn(batch_size, OUTPUT, 1)
    batch = past.to(device), target.to(device)
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(repeats + 1):
        for name, one in modules.items():
            seconds[name].append(time_step(one, *batch, device))
    # the first step warms up
    return {name: float(np.median(times[1:])) for name, times in seconds.items()}


def time_step(module: torch.nn.Module, past: torch.Tensor, target: torch.Tensor, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    module.zero_grad()
    out = module(PLModuleInput(past_target=past, stage=ModuleStage.TRAIN)).prediction.squeeze(-1)
    torch.nn.functional.mse_loss(out, target).backward()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
