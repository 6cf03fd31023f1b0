"""
What does a step of NEAT and of PLE cost beside one of TRL's GRPO and Online DPO? On the same random model:

    python benchmarks/speed.py --out benchmarks/speed-cpu.json
    python benchmarks/tables.py benchmarks/speed-cpu.json

Every combination of a query's length, a completion's length and a group's size is a cell. In a cell the trainers take
turns in this process, step by step, on the same queries with as many completions of exactly the same length. Results
are written after every cell; the same command, given again, goes on with the cells that are missing.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from trainers import METHODS, build_trainers


# what may change between two calls that write to the same file
FREE_OPTIONS = ("query", "completion", "group", "out", "profile")


def arguments(options: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="10M", help="tiny, 10M, 135M, 0.5B or 1.5B")
    parser.add_argument("--query", type=int, nargs="+", default=[64, 256, 512], help="tokens of a query")
    parser.add_argument("--completion", type=int, nargs="+", default=[64, 256], help="tokens of every completion")
    parser.add_argument("--group", type=int, nargs="+", default=[2, 4, 8], help="completions of a query, even")
    parser.add_argument("--queries", type=int, default=1, help="queries of an optimizer step")
    parser.add_argument("--spread_queries", action="store_true", help="queries of half of --query's tokens to all")
    parser.add_argument("--guide", type=int, default=45, help="tokens of a guide with the blank line after it")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of every trainer, after one to warm up")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="bf16 is autocast; left out, fp32 on CPUs only")
    parser.add_argument("--attention", default="sdpa", help="sdpa, eager, flex_attention ...")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--compact_head", action="store_true", help="TRL's head leaves queries out on CPUs too")
    parser.add_argument("--share_prompts", choices=("auto", "true", "false"), default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads on CPUs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="keep each method's operators beside the results")
    parser.add_argument("--out", type=Path, default=Path("speed.json"))
    args = parser.parse_args(options)
    odd = [group for group in args.group if group < 2 or group % 2]
    if odd:
        parser.error(f"--group {odd[0]}: half of a group has another guide, so give even sizes")
    if args.spread_queries and args.queries < 2:
        parser.error(f"--spread_queries with --queries {args.queries}: one query cannot be longer than another")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: at least one step is timed")
    return args


def time_cell(args: argparse.Namespace, query: int, completion: int, group: int) -> dict:
    """Seconds of each part of every timed step and bytes of an update, by method."""
    import torch
    from timing import PARTS, Stopwatch

    # memory on a CPU is known by profiling only, and a step that is profiled is not timed
    profiled = args.profile or not torch.accelerator.is_available()
    with tempfile.TemporaryDirectory() as folder:
        trainers = build_trainers(args, query, completion, group, folder)
        watches = {name: Stopwatch(trainer) for name, trainer in trainers.items()}
        names = list(watches)
        for step in range(args.repeats + 2):
            first = step % len(names)  # none is always the first
            for name in names[first:] + names[:first]:
                watches[name].step(profiled=profiled and step == args.repeats + 1)
    cell = {"query": query, "completion": completion, "group": group, "methods": {}}
    for name, watch in watches.items():
        timed = watch.times[1 : args.repeats + 1]
        cell["methods"][name] = {part: [round(step[part], 6) for step in timed] for part in PARTS}
        cell["methods"][name]["memory"] = max(peak for peak in watch.memory[1:] if peak is not None)
        if args.profile:
            folder = args.out.with_suffix(".profiles")
            folder.mkdir(parents=True, exist_ok=True)
            file = f"{query}-{completion}-{group}-{name.replace(' ', '-')}.txt"
            (folder / file).write_text(watch.table + "\n", encoding="utf-8")
    return cell


def machine() -> dict:
    """What is measured on, and with which versions."""
    import torch

    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(": ")[2] for line in described.splitlines() if line.startswith("model name")]
    found = {"cpu": models[0] if models else platform.processor(), "cores": os.cpu_count()}
    if torch.accelerator.is_available():
        found["device"] = torch.get_device_module().get_device_name()
    packages = ("torch", "transformers", "trl", "trl-negalign")
    return found | {"python": platform.python_version()} | {name: version(name) for name in packages}


def take_up(out: Path, results: dict) -> dict:
    """
    The results that are there already, or else the empty ones that are passed in.

    Raises:
        SystemExit: if the file's results are of another machine or of other options.
    """
    if not out.exists():
        return results
    earlier = json.loads(out.read_text(encoding="utf-8"))
    for part in ("machine", "options"):
        names = earlier[part].keys() | results[part].keys()
        changed = sorted(name for name in names if earlier[part].get(name) != results[part].get(name))
        if changed:
            raise SystemExit(f"{out} was measured with another {', '.join(changed)}. Choose another --out.")
    return earlier


def main(options: list[str] | None = None) -> None:
    args = arguments(options)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read before torch starts, and by every thread
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler is chatty
    import torch
    from tqdm import tqdm
    from transformers.utils import logging

    logging.set_verbosity_error()
    args.dtype = args.dtype or ("bf16" if torch.accelerator.is_available() else "fp32")
    kept = {name: value for name, value in vars(args).items() if name not in FREE_OPTIONS}
    empty = {"machine": machine(), "options": kept | {"methods": list(args.methods)}, "cells": []}
    results = take_up(args.out, empty)
    done = [(cell["query"], cell["completion"], cell["group"]) for cell in results["cells"]]
    cells = [cell for cell in itertools.product(args.query, args.completion, args.group) if cell not in done]
    for cell in tqdm(cells, desc="cells"):
        results["cells"].append(time_cell(args, *cell))
        written = args.out.with_suffix(".partial")
        written.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        written.replace(args.out)
        gc.collect()


if __name__ == "__main__":
    main()
