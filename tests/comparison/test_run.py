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


@pytest.fixture
def planned(module, monkeypatch, tmp_path):
    """Give the command, with rewards that are there and workers that do nothing; the runs that it would start."""
    asked = []
    monkeypatch.setattr(module("judges"), "prepare", lambda *places: None)
    monkeypatch.setattr(module("run"), "work", lambda runs, args, stage: asked.extend(runs))

    def give(*options):
        places = ["--results", str(tmp_path), "--cache", str(tmp_path / "cache")]
        module("run").main(["--task", "smoke", *places, *options])
        return [(run["method"], run["stage"]) for run in asked]

    return give


def test_a_folder_of_other_settings_is_left_alone_and_the_others_go_on(module, planned, finish, capfd, tmp_path):
    plan = module("plan")
    folder = finish(plan.grid_runs(plan.read_task("smoke"), plan.read_method("grpo"))[0])
    record = json.loads((folder / "run.json").read_text())
    record["run"]["task_settings"]["budget"]["steps"] = 99
    text = json.dumps(record | {"material": module("material").load_material(record_corpus(module), None).fingerprint})
    (folder / "run.json").write_text(text)
    assert planned("--methods", "grpo", "neat", "--retry_failed") == [("start", "grid"), ("neat", "grid")]
    said = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(said) == 1 and "holds a run of other settings (task_settings.budget.steps)" in said[0]
    assert (folder / "run.json").read_text() == text


def record_corpus(module) -> dict:
    return module("plan").read_task("smoke")["corpus"]


def test_a_wrong_method_file_is_left_out_and_the_others_go_on(module, planned, monkeypatch, capfd):
    plan, read = module("plan"), module("plan").read

    def broken(folder, name, *keys):
        found = read(folder, name, *keys)
        return found | {"options": {"gruop": 4}} if name == "grpo" else found

    monkeypatch.setattr(plan, "read", broken)
    assert planned("--methods", "grpo", "neat") == [("start", "grid"), ("neat", "grid")]
    said = [line for line in capfd.readouterr().err.splitlines() if line]
    assert said == ["comparison: left out: methods/grpo.yaml: trl.GRPOConfig has no option 'gruop'."]


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
