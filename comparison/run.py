"""
Runs what is missing of a comparison and keeps every run in a folder; stopped and given again, it goes on.

    python comparison/run.py --task sentiment --data DIR --workers 2
    python comparison/run.py --task sentiment --methods grpo neat --stage grid
    python comparison/report.py

The stage `grid` tries every setting of every method with one seed on validation queries; `seeds` chooses a setting of
each by what the folders say and runs it with all seeds, on test queries too. Each run is a process of one thread.
"""

import argparse
import fcntl
import os
import shutil
import sys
from pathlib import Path

from plan import (
    STAGES,
    PlanError,
    add_places,
    folder_of,
    grid_runs,
    read_methods,
    read_task,
    seed_runs,
    task_names,
)
from pool import work
from records import SELECTION, OtherSettings, outcome, refuse_other_data, select, write_json


def arguments(options: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help=f"one of {', '.join(task_names())}")
    parser.add_argument("--methods", nargs="+", help="left out, all that fit the task; the start model always runs")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--retry_failed", action="store_true", help="run again what is recorded as failed")
    add_places(parser)
    args = parser.parse_args(options)
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: at least one works")
    return args


def missing(runs: list[dict], results: Path, retry_failed: bool) -> list[dict]:
    """The runs that have no outcome yet; where a folder holds a run of other settings, it says so and leaves it."""
    left = []
    for run in runs:
        folder = folder_of(results, run)
        try:
            found = outcome(folder, run)
        except OtherSettings as error:
            print(f"comparison: {error}", file=sys.stderr, flush=True)
            continue
        if found == "failed" and retry_failed:
            shutil.rmtree(folder)
            found = "missing"
        if found == "missing":
            left.append(run)
    return left


def hold(folder: Path):
    """
    The folder of a task's results, for this process alone.

    Raises:
        PlanError: if another comparison runs there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PlanError(f"another comparison runs in {folder}. Wait for it, or choose another --results.") from error
    return lock


def run(args: argparse.Namespace) -> None:
    """
    Raises:
        PlanError, ValueError: if a file, the data or a folder is not as it must be, before anything is run.
    """
    task = read_task(args.task)
    methods, faults = read_methods(task, args.methods)
    for fault in faults:
        print(f"comparison: left out: {fault}", file=sys.stderr, flush=True)
    results = args.results.resolve()
    grid = [one for method in methods for one in grid_runs(task, method)]
    # both need torch, whose threads are counted when it is imported
    from judges import prepare
    from material import load_material

    material = load_material(task["corpus"], args.data)
    refuse_other_data(results / args.task, material.fingerprint)
    lock = hold(results / args.task)
    print(f"{args.task}: {len(methods)} methods; rewards are made where they are missing", flush=True)
    prepare(task, material, args.cache / args.task, results / args.task)
    if args.stage in ("grid", "all"):
        work(missing(grid, results, args.retry_failed), args, "grid")
    everything = select(task, read_methods(task)[0], results)
    write_json(results / args.task / SELECTION, everything)
    if args.stage in ("seeds", "all"):
        chosen = {method["name"]: everything[method["name"]]["chosen"] for method in methods}
        for name in [name for name, setting in chosen.items() if setting is None]:
            print(f"{name}: no setting was run to its end, so it has no seeds", flush=True)
        # all methods with the first seed, then all with the second: a stopped comparison is an even one
        runs = [seed_runs(task, one, chosen[one["name"]]) for one in methods if chosen[one["name"]] is not None]
        in_turn = [one for seed in zip(*runs, strict=True) for one in seed]
        work(missing(in_turn, results, args.retry_failed), args, "seeds")
    lock.close()


def carry_out(run, args: argparse.Namespace) -> None:
    """Call `run` with `args` in the workers' environment; what is wrong with the input ends as one line."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        run(args)
    except (PlanError, ValueError) as error:
        sys.exit(f"comparison: {error}")
    except KeyboardInterrupt:
        sys.exit("comparison: stopped. The same command goes on.")


def main(options: list[str] | None = None) -> None:
    carry_out(run, arguments(options))


if __name__ == "__main__":
    main()
