"""
Runs what is missing of Likra's heads for the claims L1 to L4; stopped and given again, it goes on, within a run too.

    python comparison/run_likra.py --data DIR --workers 2
    python comparison/run_likra.py --tasks arc --seeds 1 --negatives same_question --data DIR
    python comparison/report.py

What a run works with (heads, scores) lies in --cache and can be removed once it is done; its numbers are kept in
`results/likra/`. Seeds take turns: all runs of the first, then all of the second.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml
from plan import HERE, PlanError, add_places
from pool import work
from run import carry_out, hold, missing


FILE = HERE / "likra.yaml"
WORKER = HERE / "likra_worker.py"
LIKRA = "likra"  # the folder of the results


def read_runs(path: Path = FILE) -> dict[str, dict]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def runs_of(name: str, task: dict, kind: str, seeds: list[int] | None = None) -> list[dict]:
    """A run a seed, as `plan.run_of` writes them: the stage is the kind of wrong answer."""
    kept = {key: task[key] for key in ("recipe", "files", "hub", "options")}
    run = {"task": LIKRA, "method": name, "stage": kind, "setting": {"examples": task["examples"]}}
    run |= {"task_settings": kept, "method_settings": task["negatives"][kind]}
    return [run | {"seed": seed} for seed in seeds or task["seeds"]]


def prepare_arc(task: dict, data: str | None, cache: Path) -> None:
    """Make the questions' folders with `negalign data`, unless they are there."""
    for part, name in task["files"].items():
        out = cache / "data" / part
        if out.exists():
            continue
        source = ["--source", str(Path(data).resolve() / name)] if data else ["--subset", task["hub"][part]]
        command = [sys.executable, "-m", "trl_negalign.cli", "data", "arc", *source]
        unfinished = out.with_name(f"{part}.unfinished")
        paths = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        command += ["--out", str(unfinished), "--overwrite"]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths})
        if done.returncode:
            raise PlanError(f"the questions of {part} could not be made from {' '.join(source)}; see above.")
        unfinished.rename(out)


def arguments(options: list[str] | None) -> argparse.Namespace:
    tasks = read_runs()
    kinds = sorted({kind for task in tasks.values() for kind in task["negatives"]})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(tasks), default=list(tasks))
    parser.add_argument("--negatives", nargs="+", choices=kinds, default=kinds, help="kinds of wrong answers")
    parser.add_argument("--seeds", nargs="+", type=int, help="left out, those of likra.yaml")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--retry_failed", action="store_true", help="run again what is recorded as failed")
    add_places(parser)
    args = parser.parse_args(options)
    args.task = LIKRA
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: at least one works")
    return args


def run(args: argparse.Namespace) -> None:
    chosen = {name: task for name, task in read_runs().items() if name in args.tasks}
    by_kind = [
        runs_of(name, task, kind, args.seeds)
        for name, task in chosen.items()
        for kind in task["negatives"]
        if kind in args.negatives
    ]
    longest = max(map(len, by_kind), default=0)
    in_turn = [runs[place] for place in range(longest) for runs in by_kind if place < len(runs)]
    results = args.results.resolve()
    if args.data and "hellaswag" in chosen and not (path := Path(args.data) / chosen["hellaswag"]["files"]).exists():
        raise PlanError(f"--data {args.data} has no {path.name}. Name a folder with it, or leave --data out.")
    lock = hold(results / LIKRA)
    if "arc" in chosen:
        prepare_arc(chosen["arc"], args.data, args.cache.resolve() / LIKRA)
    work(missing(in_turn, results, args.retry_failed), args, LIKRA, WORKER)
    lock.close()


def main(options: list[str] | None = None) -> None:
    carry_out(run, arguments(options))


if __name__ == "__main__":
    main()
