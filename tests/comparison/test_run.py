"""The commands, as one gives them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


COMPARISON = Path(__file__).parents[2] / "comparison"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(COMPARISON.parent), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "poems"], "tasks/poems.yaml is not there"),
        (["--task", "smoke", "--methods", "grpoo"], "methods/grpoo.yaml is not there"),
        (["--task", "sentiment", "--data", "nowhere"], "--data nowhere has no imdb_train.jsonl.gz"),
    ],
)
def test_bad_input_is_one_line(module, tmp_path, options, said):
    with pytest.raises(SystemExit) as caught:
        module("run").main([*options, "--results", str(tmp_path), "--cache", str(tmp_path)])
    assert str(caught.value).startswith("comparison: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_other_settings_is_refused_before_anything_is_run(module, task, finish, tmp_path):
    plan = module("plan")
    run = plan.grid_runs(plan.read_task("smoke"), plan.read_method("grpo"))[0]
    folder = finish(run)
    record = json.loads((folder / "run.json").read_text())
    record["run"]["task_settings"]["budget"]["steps"] = 99
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="holds a run of other settings .task_settings.budget.steps."):
        module("run").main(["--task", "smoke", "--methods", "grpo", "--results", str(tmp_path)])
    assert not (tmp_path / "smoke" / "rewards.json").exists()


def test_runs_of_other_data_are_refused(module, finish, tmp_path):
    plan = module("plan")
    folder = finish(plan.grid_runs(plan.read_task("smoke"), plan.read_method("grpo"))[0])
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"material": "of another folder"}))
    with pytest.raises(SystemExit, match="was made with other data than --data now gives"):
        module("run").main(["--task", "smoke", "--methods", "grpo", "--results", str(tmp_path)])
    assert not (tmp_path / "smoke" / "rewards.json").exists()


@pytest.mark.slow
def test_a_comparison_that_is_killed_goes_on_with_what_is_missing(tmp_path):
    places = ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    command = [sys.executable, str(COMPARISON / "run.py"), "--task", "smoke", "--methods", "grpo", "neat", *places]
    folder = tmp_path / "results" / "smoke"
    first = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    # the start model is done, and GRPO's run has begun
    while not list(folder.glob("grpo/*.partial/job.json")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/run.json")}
    assert done
    time.sleep(2)  # the worker sees that its runner is gone
    second = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    names = {str(path.parent.relative_to(folder)) for path in folder.glob("*/*/run.json")}
    grid, seeds = "grid-lr0.01-seed0", "seeds-lr0.01-seed1"
    assert names == {
        "start/grid-as-it-is-seed0", "start/seeds-as-it-is-seed1",
        f"grpo/{grid}", f"grpo/{seeds}", f"neat/{grid}", f"neat/{seeds}",
    }  # fmt: skip
    assert done == {path: path.stat().st_mtime_ns for path in done}
    assert not list(folder.rglob("*.partial")) and not list(folder.rglob("failed.json"))
    page = tmp_path / "page.md"
    report = [sys.executable, str(COMPARISON / "report.py"), "--results", str(tmp_path / "results"), "--readme", page]
    subprocess.run(report, env=ENVIRONMENT, check=True)
    assert "| neat | lr0.01 | 1 of 1 |" in page.read_text()
