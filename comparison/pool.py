"""Workers, some at a time: each a process of one thread; one that dies leaves its reason, and the others go on."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from plan import folder_of
from worker import fail


WORKER = Path(__file__).with_name("worker.py")
PAUSE = 0.5  # seconds between two looks at the workers


def begin(run: dict, args: argparse.Namespace, worker: Path | None = None) -> subprocess.Popen:
    """Start a worker, `worker.py` unless it is another; what an earlier one left half-done is thrown away."""
    folder = folder_of(args.results.resolve(), run)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    places = {"folder": str(folder), "partial": str(partial), "cache": str(args.cache.resolve() / args.task)}
    job = {"run": run, "data": args.data and str(Path(args.data).resolve()), **places}
    (partial / "job.json").write_text(json.dumps(job), encoding="utf-8")
    log = folder.with_name(folder.name + ".log")
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = os.environ | single | {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(worker or WORKER), str(partial / "job.json")]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    process.job, process.log = job, log
    return process


def end(process: subprocess.Popen) -> None:
    """Note a worker that died without a word; the output of one that went well is of no use."""
    folder = Path(process.job["folder"])
    if not folder.exists():
        lines = process.log.read_text(errors="replace").strip().splitlines()
        fail(process.job, f"the worker ended with code {process.returncode}: {lines[-1] if lines else 'no output'}")
    if process.returncode == 0:
        process.log.unlink()
    else:
        process.log.rename(folder / "output.log")


def work(runs: list[dict], args: argparse.Namespace, stage: str, worker: Path | None = None) -> None:
    """Run them, `args.workers` at a time, and show how far they are."""
    waiting, working = list(runs), []
    line = Line(stage, len(runs), args.workers)
    try:
        while waiting or working:
            while waiting and len(working) < args.workers:
                working.append(begin(waiting.pop(0), args, worker))
            time.sleep(PAUSE)
            for process in [one for one in working if one.poll() is not None]:
                working.remove(process)
                end(process)
                line.finished(Path(process.job["folder"]))
            line.show(sum(share_of(process) for process in working))
    except BaseException:
        for process in working:
            process.kill()
        raise


def share_of(process: subprocess.Popen) -> float:
    """How much of its training a worker has done."""
    path = Path(process.job["partial"], "step")
    text = path.read_text() if path.exists() else ""
    return int(text) / process.job["run"]["task_settings"]["budget"]["steps"] if text.isdigit() else 0.0


class Line:
    """A line a finished run, and, on a terminal, one that moves with the time left."""

    def __init__(self, stage: str, total: int, workers: int):
        self.stage, self.total, self.workers = stage, total, workers
        self.done, self.began = 0, time.monotonic()

    def left(self, under_way: float) -> str:
        done = self.done + under_way
        minutes = (time.monotonic() - self.began) / 60
        guess = f"{minutes * (self.total - done) / done:.0f} min left" if done else "time left unknown"
        return f"{self.stage}: {self.done} of {self.total} runs, {minutes:.0f} min, {guess}"

    def finished(self, folder: Path) -> None:
        self.done += 1
        failed = folder / "failed.json"
        said = f"failed: {json.loads(failed.read_text())['reason']}" if failed.exists() else "done"
        clear = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{clear}{folder.parent.name}/{folder.name}: {said} [{self.left(0)}]", file=sys.stderr, flush=True)

    def show(self, under_way: float) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{self.left(under_way)}", end="", file=sys.stderr, flush=True)
