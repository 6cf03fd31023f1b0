"""The runner with workers that do nothing but what a test tells them."""

import json
import os
import sys
import time
from argparse import Namespace

import pytest


WORKER = """
import json, os, sys, time
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
partial, method = Path(job["partial"]), job["run"]["method"]
left = sorted(path.name for path in partial.iterdir())
if method == "grpo":
    print("Killed by the system")
    os._exit(9)
time.sleep(0.3)
threads = os.environ["OMP_NUM_THREADS"]
note = {"run": job["run"], "left": left, "threads": threads, "began": time.time() - 0.3, "ended": time.time()}
(partial / "run.json").write_text(json.dumps(note))
partial.rename(job["folder"])
"""


@pytest.fixture
def pool(module, monkeypatch, tmp_path):
    pool = module("pool")
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(pool, "WORKER", worker)
    monkeypatch.setattr(pool, "PAUSE", 0.02)
    return pool


@pytest.fixture
def args(tmp_path):
    return Namespace(
        results=tmp_path, cache=tmp_path / "cache", data=None, workers=1, task="smoke", retry_failed=False
    )


@pytest.fixture
def runs(module, task):
    plan = module("plan")
    return [run for name in ("grpo", "neat", "ple") for run in plan.grid_runs(task, plan.read_method(name))[:1]]


def test_a_worker_that_dies_is_noted_with_its_last_words_and_the_others_go_on(module, pool, args, runs, capfd):
    pool.work(runs, args, "grid")
    plan, records = module("plan"), module("records")
    outcomes = [records.outcome(plan.folder_of(args.results, run), run) for run in runs]
    assert outcomes == ["failed", "done", "done"]
    folder = plan.folder_of(args.results, runs[0])
    assert records.read_json(folder / "failed.json")["reason"] == "the worker ended with code 9: Killed by the system"
    assert (folder / "output.log").read_text() == "Killed by the system\n"
    said = capfd.readouterr().err
    assert "grpo/grid-lr0.001-seed0: failed: the worker ended with code 9" in said and "[grid: 3 of 3 runs" in said
    assert not list(args.results.rglob("*.partial")) and not list(folder.parent.parent.glob("*/*.log"))


def test_what_was_left_half_done_is_thrown_away(module, pool, args, runs):
    folder = module("plan").folder_of(args.results, runs[1])
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    (partial / "completions.parquet").write_text("half of it")
    pool.work(runs[1:2], args, "grid")
    assert module("records").read_json(folder / "run.json")["left"] == ["job.json"]


def test_workers_run_side_by_side_with_one_thread_each(module, pool, args, runs):
    args.workers = 2
    pool.work(runs[1:], args, "grid")
    notes = [module("records").read_json(module("plan").folder_of(args.results, run) / "run.json") for run in runs[1:]]
    assert notes[0]["began"] < notes[1]["ended"] and notes[1]["began"] < notes[0]["ended"]
    assert {note["threads"] for note in notes} == {"1"}


def test_finished_runs_are_not_run_again_and_failed_ones_where_it_is_asked_for(module, pool, args, runs):
    pool.work(runs[:2], args, "grid")
    run = module("run")
    assert run.missing(runs, args.results, False) == runs[2:]
    assert run.missing(runs, args.results, True) == [runs[0], runs[2]]
    assert not module("plan").folder_of(args.results, runs[0]).exists()


def test_a_runner_that_is_stopped_takes_its_workers_along(module, pool, args, runs, monkeypatch):
    started = []
    begin = pool.begin
    monkeypatch.setattr(pool, "begin", lambda *both: started.append(begin(*both)) or started[-1])
    monkeypatch.setattr(pool.Line, "show", lambda *both: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pool.work(runs[1:2], args, "grid")
    assert started[0].wait(timeout=5) != 0
    assert not module("plan").folder_of(args.results, runs[1]).exists()


def test_a_worker_ends_when_its_runner_is_killed(module, tmp_path):
    # a runner that starts a worker and is gone before the worker has done anything
    folder = str(module("plan").HERE)
    script = f"""
import sys, time; sys.path.insert(0, {folder!r})
import worker; worker.die_with_parent()
print(flush=True)
time.sleep(30)
"""
    read, write = os.pipe()
    runner = os.fork()
    if runner == 0:
        os.close(read)
        if os.fork() == 0:
            os.dup2(write, 1)
            os.execv(sys.executable, [sys.executable, "-c", script])
        time.sleep(60)
    os.close(write)
    os.read(read, 1)  # the worker watches by now
    os.kill(runner, 9)
    os.waitpid(runner, 0)
    began = time.monotonic()
    assert os.read(read, 1) == b""  # it has closed its end
    assert time.monotonic() - began < 10
    os.close(read)


def test_two_runners_in_one_folder(module, tmp_path):
    run = module("run")
    held = run.hold(tmp_path / "smoke")
    with pytest.raises(module("plan").PlanError, match="another comparison runs in"):
        run.hold(tmp_path / "smoke")
    held.close()
    run.hold(tmp_path / "smoke").close()


def test_a_job_holds_all_that_a_worker_needs(module, pool, args, runs, tmp_path):
    process = pool.begin(runs[1], args)
    process.wait(timeout=10)
    assert process.job["run"] == runs[1] and process.job["cache"] == str(tmp_path / "cache" / "smoke")
    assert json.dumps(process.job)
