"""Run benchmarks, report on them, and hold them against goals and against each other: ``python -m benchmarks --help``.

Libraries are imported by the commands, after the environment has said that each process has one thread.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.threads import ONE_THREAD

SMOKE_STEPS = 20


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return args.command(args)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("Stopped; `--resume` goes on from here.", file=sys.stderr)
        return 130


class UsageError(ValueError):
    """What was asked for cannot be done, and why."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks that anyone can rerun.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="suites, tasks with licence and citation of their data, and models")
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="run models on the tasks of a suite")
    run.set_defaults(command=_run)
    run.add_argument("--suite", required=True, help="name of a suite, see `list`")
    run.add_argument("--tasks", help="some tasks of the suite, separated by commas")
    run.add_argument("--models", help="models, separated by commas, instead of those of the suite")
    run.add_argument("--seeds", type=_numbers, default=[1], help="such as 1,2,3 (default: 1)")
    budget = run.add_mutually_exclusive_group()
    budget.add_argument("--budget-cpu", type=float, metavar="SECONDS", help="CPU seconds for each fit of a net")
    budget.add_argument("--budget-steps", type=int, metavar="N", help="training steps for each fit; reproducible")
    run.add_argument(
        "--most-hours",
        type=float,
        default=2.0,
        metavar="HOURS",
        help="a statistical method expected to take more CPU hours on a task is listed as not run (default: 2)",
    )
    run.add_argument("--out", required=True, help="folder, or URL of fsspec, for rows and forecasts")
    run.add_argument("--dry-run", action="store_true", help="print the cells and what they are expected to take")
    run.add_argument("--resume", action="store_true", help="go on with --out; what is finished is not computed again")
    run.add_argument("--retry-failed", action="store_true", help="with --resume: run failed cells again")
    run.add_argument("--engine", choices=["local", "ray"], default="local")
    run.add_argument("--address", help="of the Ray cluster; one is started on this machine if not given")
    run.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="processes of the local engine (default: 1); 0: this process, which a cell may then take down",
    )
    run.add_argument("--data-dir", type=Path, help="folder with the data sets; without it they are downloaded")
    run.add_argument("--grin-reference", type=Path, help="suite speed: a checkout of the code of GRIN's authors")

    export = commands.add_parser("export", help="write forecasting tasks in the form of fev, for other models")
    export.set_defaults(command=_export)
    export.add_argument("--suite", required=True, help="name of a suite, see `list`")
    export.add_argument("--tasks", help="some tasks of the suite, separated by commas")
    export.add_argument("--out", type=Path, required=True, help="folder for the series and tasks.yaml")
    export.add_argument("--data-dir", type=Path, help="folder with the data sets; without it they are downloaded")

    report = commands.add_parser("report", help="write an HTML page and a Markdown leaderboard")
    report.set_defaults(command=_report)
    report.add_argument("folder", type=Path, help="--out of a run")

    check = commands.add_parser("check", help="exit with 1 if a goal is missed")
    check.set_defaults(command=_check)
    check.add_argument("folder", type=Path, help="--out of a run")
    check.add_argument("--goals", type=Path, required=True, help="TOML file")

    compare = commands.add_parser("compare", help="exit with 1 if the second run is worse than the first")
    compare.set_defaults(command=_compare)
    compare.add_argument("before", type=Path, help="--out of a run")
    compare.add_argument("after", type=Path, help="--out of another run")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _list(args: argparse.Namespace) -> int:
    from benchmarks.datasets import DATASETS
    from benchmarks.models import MODELS
    from benchmarks.tasks import SUITES, TASKS

    print("Suites and their tasks")
    for suite, tasks in SUITES.items():
        print(f"\n  {suite}")
        for name in tasks:
            task = TASKS[name]
            steps = f", {task.horizon} steps ahead" if task.horizon else ""
            walk = ", random walk" if task.random_walk else ""
            print(f"    {name} ({task.kind}{steps}; {task.metric}; data: {task.dataset}{walk})")
    print("\nData sets")
    for name, dataset in DATASETS.items():
        origin = "ships with a dependency" if not dataset.files else "download tried"
        if not all(file.tried for file in dataset.files.values()):
            origin = "download not tried"
        print(f"\n  {name} ({origin})\n    licence: {dataset.licence}\n    cite: {dataset.citation}")
    print("\nModels")
    for family in dict.fromkeys(model.family for model in MODELS.values()):
        print(f"\n  {family}")
        for model in MODELS.values():
            if model.family == family:
                cannot = f"; cannot: {'; '.join(model.cannot)}" if model.cannot else ""
                print(f"    {model.name} ({model.kind}{cannot})")
    return 0


def _run(args: argparse.Namespace) -> int:
    from benchmarks.cells import plan
    from benchmarks.interface import Budget
    from benchmarks.models import MODELS, SUITE_MODELS
    from benchmarks.store import Store
    from benchmarks.tasks import SUITES

    if args.suite == "speed":
        from benchmarks import speed

        return int(not speed.run(args.out, grin=args.grin_reference)["met"].all())
    suite, tasks = args.suite, _tasks(args, [*SUITES, "speed"])
    models = _known(args.models, MODELS, "--models") if args.models else SUITE_MODELS[suite]
    if args.budget_cpu is None and args.budget_steps is None:
        if suite != "smoke":
            raise UsageError(f"The suite {suite!r} needs --budget-cpu SECONDS or --budget-steps N.")
        args.budget_steps = SMOKE_STEPS
    if args.address and args.engine != "ray":
        raise UsageError("--address goes with --engine ray.")
    budget = Budget(seconds=args.budget_cpu, steps=args.budget_steps)
    store = Store(args.out)
    finished = store.rows()
    if len(finished) and not (args.resume or args.dry_run):
        raise UsageError(
            f"{args.out} holds {len(finished)} finished cells: go on with --resume, or take another --out."
        )
    if args.retry_failed:
        finished = finished[finished["status"] != "failed"]
    jobs = plan(tasks, models, args.seeds, budget, args.data_dir, 3600 * args.most_hours)
    postponed = set(finished.loc[finished["status"] == "not run", "cell"])
    done = set(finished["cell"]) - {job.hash for job in jobs if job.hash in postponed and not job.not_run}
    left = [job for job in jobs if job.hash not in done]
    if args.dry_run:
        _print_plan(left, len(jobs) - len(left))
        return 0
    store.write_manifest(
        suite=suite,
        tasks=tasks,
        models=models,
        seeds=args.seeds,
        budget={"seconds": budget.seconds, "steps": budget.steps},
        threads=1,
        engine=args.engine,
        jobs=args.jobs,
        fingerprints=dict(sorted((f"{job.cell.task}, seed {job.cell.seed}", job.fingerprint) for job in jobs)),
    )
    store.remove("rows.parquet")  # so that what a killed run leaves is not hidden behind the rows of an earlier one
    rows: list[dict[str, Any]] = []
    try:
        _work(left, args, rows)
    finally:
        joined = store.join([job.hash for job in jobs])
    _conclude(joined, rows)
    return 0


def _tasks(args: argparse.Namespace, suites: list[str]) -> list[str]:
    """Return the names of the tasks that were asked for."""
    from benchmarks.tasks import SUITES

    if args.suite not in SUITES:
        raise UsageError(f"--suite must be one of {', '.join(map(repr, suites))}, got {args.suite!r}.")
    return _known(args.tasks, SUITES[args.suite], "--tasks") if args.tasks else SUITES[args.suite]


def _known(text: str, choices: Any, option: str) -> list[str]:
    """Return the names in a list separated by commas; names may hold commas themselves."""
    names, rest = [], text
    while rest:
        fitting = [name for name in choices if rest == name or rest.startswith(f"{name},")]
        if not fitting:
            raise UsageError(f"{option} must be of {', '.join(map(repr, choices))}; got {rest!r}.")
        names.append(max(fitting, key=len))
        rest = rest.removeprefix(names[-1]).removeprefix(",").lstrip()
    return names


def _print_plan(jobs: list[Any], finished: int) -> None:
    for job in jobs:
        what = "not run, would take" if job.not_run else "takes"
        print(f"{job.cell.task:32} {job.cell.model:32} seed {job.cell.seed}  {what} {job.expected:9.1f} CPU s")
    print(f"{len(jobs)} cells, {sum(job.cost for job in jobs) / 3600:.2f} CPU hours expected; {finished} are finished.")


def _work(jobs: list[Any], args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Run the cells and append their rows, under a progress bar that counts the seconds they are expected to take."""
    from tqdm import tqdm

    from benchmarks.engines import run_local, run_ray

    costs = {job.hash: job.cost for job in jobs}
    form = "{percentage:3.0f} % |{bar}| {elapsed} passed, {remaining} left{postfix}"  # the postfix brings its own comma
    engine = (
        run_ray(jobs, args.data_dir, args.out, args.address)
        if args.engine == "ray"
        else run_local(jobs, args.data_dir, args.out, args.jobs)
    )
    with tqdm(total=sum(costs.values()), bar_format=form, dynamic_ncols=True) as bar:
        for row in engine:
            if row["cell"] not in costs:
                raise RuntimeError(
                    f"{row['task']}, {row['model']}: a worker had other code or other data than the plan."
                )
            rows.append(row)
            bar.set_postfix_str(f"{len(rows)} of {len(jobs)} cells, last {row['task']}, {row['model']}", refresh=False)
            bar.update(costs[row["cell"]])


def _conclude(rows: Any, computed: list[dict[str, Any]]) -> None:
    from benchmarks.leaderboard import leaderboard

    print(leaderboard(rows).to_string())
    failed = rows[rows["status"] == "failed"]
    for row in failed.itertuples():
        print(f"failed: {row.task}, {row.model}, seed {row.seed}: {row.error.splitlines()[0]}")
    seconds = sum(row["fit_seconds"] + row["predict_seconds"] for row in computed if row["status"] == "ok")
    print(
        f"{len(computed)} cells computed in {seconds:.0f} CPU seconds of models ({sum(os.times()[:4]):.0f} in "
        f"all); {len(rows)} rows, {len(failed)} failed, {(rows['status'] == 'not run').sum()} not run."
    )


def _export(args: argparse.Namespace) -> int:
    from benchmarks.export import export
    from benchmarks.tasks import SUITES

    try:
        print(export(_tasks(args, list(SUITES)), args.out, args.data_dir))
    except ValueError as error:
        raise UsageError(str(error)) from error
    return 0


def _report(args: argparse.Namespace) -> int:
    from benchmarks.report import report

    print(report(args.folder))
    return 0


def _check(args: argparse.Namespace) -> int:
    from benchmarks.check import check

    try:
        return check(args.folder, args.goals)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _compare(args: argparse.Namespace) -> int:
    from benchmarks.compare import compare

    return compare(args.before, args.after)


def start() -> NoReturn:
    """Run the command line in a process of its own, on one thread."""
    os.environ.update(ONE_THREAD)
    sys.exit(main())


if __name__ == "__main__":
    start()
