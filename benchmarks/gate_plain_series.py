"""Never much worse than interpolation, on plain made-up series of every length and every usual pattern of gaps.

`python -m benchmarks.gate_plain_series` fits a model to each of 40 series a pattern (random walk, AR(1) with .9, white
noise, trend and season, two seasons, steps, in equal parts; 20 to 2,000 hourly steps), imputes with the default
settings, and prints, by pattern, the mean, the 95 % quantile and the largest of the ratios of its error to that of the
better of linear and seasonal-linear interpolation, chosen with hindsight for each series. Seasonal-linear is each phase
interpolated by itself; "of all" is beside the better of those and of the phases' means plus the interpolated rest.
Verdicts are against `goals.toml`; the exit status is 1 if a goal is missed. `--jobs` runs models side by side.
"""

import argparse
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries

import birnn_forecast
from benchmarks.quiet import QUIET_TRAINER, quiet
from birnn_forecast.imputation import LinearImputer, SeasonalLinearImputer

SEASON, LONG_SEASON = 24, 168
SHORTEST, LONGEST = 20, 2000
# a case has at least so many hidden values, of as many masks as that takes
HIDDEN, MOST_MASKS = 30, 30
MODELS = ("BiGRUModel", "BRITSModel", "GRINModel")


def walk(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random walk."""
    return rng.normal(size=n).cumsum()


def autoregression(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return an AR(1) with .9, begun long before."""
    x = rng.normal(size=n + 100)
    for i in range(1, len(x)):
        x[i] += 0.9 * x[i - 1]
    return x[100:]


def noise(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return white noise."""
    return rng.normal(size=n)


def _wave(n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Return a season of two harmonics with standard deviation 1."""
    phases = 2 * np.pi * (np.arange(n) / length + rng.random())
    return (np.sin(phases) + 0.5 * np.sin(2 * phases + 2 * np.pi * rng.random())) / np.sqrt(0.625)


def trend_and_season(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a straight line, a season and noise."""
    line = rng.normal() * 2 * np.linspace(-1, 1, n)
    return line + _wave(n, SEASON, rng) + rng.choice([0.1, 0.3, 0.6]) * rng.normal(size=n)


def two_seasons(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a day, a week and noise."""
    share = rng.uniform(0.3, 1.0)
    waves = _wave(n, SEASON, rng) + share * _wave(n, LONG_SEASON, rng)
    return waves + rng.choice([0.1, 0.3, 0.6]) * rng.normal(size=n)


def steps(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return levels that hold for 10 to 100 steps each, and noise."""
    levels = np.repeat(rng.normal(size=n), rng.integers(10, 100, size=n))[:n]
    return levels + rng.choice([0.03, 0.1, 0.3]) * rng.normal(size=n)


KINDS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "random walk": walk,
    "AR(1)": autoregression,
    "white noise": noise,
    "trend and season": trend_and_season,
    "two seasons": two_seasons,
    "steps": steps,
}


def single(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return 15 % of the steps, at random."""
    return np.isin(np.arange(n), rng.choice(n, max(round(0.15 * n), 1), replace=False))


def blocks(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return blocks of 3 to 12 steps that cover a quarter."""
    missing = np.zeros(n, dtype=bool)
    while missing.mean() < 0.25:
        start = rng.integers(n)
        missing[start : start + rng.integers(3, 13)] = True
    return missing


def every_second(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return every second step."""
    return (np.arange(n) + rng.integers(2)) % 2 == 0


def one_in_24(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return all steps but one in 24."""
    return (np.arange(n) - rng.integers(min(n, 24))) % 24 != 0


def working_hours(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the hours from 18 to 8; the first step is any hour before 9."""
    hours = (np.arange(n) + rng.integers(9)) % 24
    return (hours < 9) | (hours > 17)


def outage(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return one stretch of 10 to 30 % inside."""
    length = max(int(rng.uniform(0.1, 0.3) * n), 1)
    start = rng.integers(1, n - length)
    return (np.arange(n) >= start) & (np.arange(n) < start + length)


def silent_end(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the last 5 to 20 %."""
    return np.arange(n) >= n - max(int(rng.uniform(0.05, 0.2) * n), 1)


PATTERNS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "single values": single,
    "blocks": blocks,
    "every second": every_second,
    "one in 24": one_in_24,
    "working hours": working_hours,
    "one outage": outage,
    "silent end": silent_end,
}


class Case(NamedTuple):
    """A series, and masks ``(mask, time)`` of what is hidden, each by itself."""

    kind: str
    truth: TimeSeries
    hidden: np.ndarray

    @property
    def visible(self) -> list[TimeSeries]:
        """The series without the hidden values, one for each mask."""
        values = self.truth.values()
        return [self.truth.with_values(np.where(one[:, None], np.nan, values)) for one in self.hidden]

    def error(self, filled: Sequence[TimeSeries]) -> float:
        """Return the mean absolute error on what was hidden."""
        values = np.stack([one.values()[:, 0] for one in filled])
        return float(np.abs(values - self.truth.values()[:, 0])[self.hidden].mean())


def make_cases(pattern: str, n_series: int, seed: int) -> list[Case]:
    """Return the cases of a pattern, of the kinds in turn, of lengths spread evenly on a logarithmic scale."""
    cases = []
    for i in range(n_series):
        rng = np.random.default_rng([seed, list(PATTERNS).index(pattern), i])
        n = int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST + 1))))
        kind = list(KINDS)[i % len(KINDS)]
        values = KINDS[kind](n, rng)
        masks: list[np.ndarray] = []
        while sum(mask.sum() for mask in masks) < HIDDEN and len(masks) < MOST_MASKS:
            masks.append(PATTERNS[pattern](n, rng))
        times = pd.date_range("2000-01-03", periods=n, freq="h")
        truth = TimeSeries.from_times_and_values(times, values.astype(np.float32))
        cases.append(Case(kind, truth, np.array(masks)))
    return cases


def baselines(case: Case) -> dict[str, float]:
    """Return the errors of the interpolations."""
    imputers = {
        "linear": LinearImputer(),
        "phase": SeasonalLinearImputer(SEASON),
        "profile": SeasonalLinearImputer(SEASON, method="profile"),
    }
    return {name: case.error([one.impute(series) for series in case.visible]) for name, one in imputers.items()}


def make_model(name: str, case: Case, epochs: int) -> Any:
    """Return a model with its defaults, and an input chunk of a day or, of a short series, of half of it.

    After the input chunk there is some observation to learn from.
    """
    latest = np.flatnonzero(~case.hidden.all(axis=0))[-1]
    chunk = min(SEASON, len(case.truth) // 2, max(int(latest), 1))
    cls = getattr(birnn_forecast, name)
    return cls(chunk, 1, n_epochs=epochs, random_state=0, pl_trainer_kwargs=QUIET_TRAINER)


def run(name: str, epochs: int, pattern: str, n_series: int, seed: int) -> list[dict[str, Any]]:
    """Return for each series its kind, its length, and the errors of the model and of the interpolations."""
    torch.set_num_threads(1)
    rows = []
    with quiet():
        for case in make_cases(pattern, n_series, seed):
            model = make_model(name, case, epochs).fit(case.visible)
            row = {"kind": case.kind, "steps": len(case.truth), "model": case.error(model.impute(case.visible))}
            rows.append(row | baselines(case))
    return rows


def ratios(rows: Sequence[dict[str, Any]], against: Sequence[str]) -> np.ndarray:
    """Return the model's errors over those of the best of some interpolations, 1 where both are 0."""
    tiny = 1e-12
    return np.array([(row["model"] + tiny) / (min(row[other] for other in against) + tiny) for row in rows])


def judge(found: np.ndarray) -> tuple[bool, str]:
    """Return whether the goals are met, and the figures beside them."""
    goals = tomllib.loads((Path(__file__).parent / "goals.toml").read_text(encoding="utf-8"))["plain_series"]
    figures = {"mean": found.mean(), "quantile": np.quantile(found, 0.95), "worst": found.max()}
    met = all(figure <= goals[name]["value"] for name, figure in figures.items())
    return met, "  ".join(f"{name} {figure:5.3f}" for name, figure in figures.items())


def main(arguments: list[str] | None = None) -> int:
    """Print a line per pattern and model; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 20])
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--worst", type=int, default=3, help="how many of the worst series to print")
    args = parser.parse_args(arguments)
    cells = [(name, epochs, pattern) for pattern in args.patterns for epochs in args.epochs for name in args.models]
    results = []
    with ProcessPoolExecutor(args.jobs) as pool:
        started = time.perf_counter()
        futures = [pool.submit(run, *cell, args.series, args.seed) for cell in cells]
        for (name, epochs, pattern), future in zip(cells, futures, strict=True):
            rows = future.result()
            found = ratios(rows, ("linear", "phase"))
            met, figures = judge(found)
            of_all = judge(ratios(rows, ("linear", "phase", "profile")))[1]
            print(
                f"{'ok  ' if met else 'MISS'} {pattern:14s} {name:12s} {epochs:3d} epochs  {figures}  of all: {of_all}"
            )
            for i in np.argsort(-found)[: args.worst]:
                print(f"       {found[i]:5.3f}  {rows[i]['kind']}, {rows[i]['steps']} steps")
            sys.stdout.flush()
            results.append(met)
    print(f"{sum(results)} of {len(results)} met, {time.perf_counter() - started:.0f} s")
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
