"""The page "Add a method in an hour", followed word for word in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import dataset


ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has {text.count(old)} times {old!r}, which the page changes"
    path.write_text(text.replace(old, new), encoding="utf-8")


def follow(folder: Path) -> list[str]:
    """Write and change in `folder` what the page says; the new files."""
    new = []
    for block in blocks("python"):
        head, _, text = block.partition("\n")
        if inserted := re.fullmatch(r"# insert into (\S+) above: (.*)", head):
            replace(folder / inserted[1], inserted[2], f"{text}\n\n{inserted[2]}")
            continue
        new.append(head.removeprefix("# "))
        path = folder / new[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    changes = "".join(block for block in blocks("text") if block.startswith("replace in "))
    steps = re.findall(r"^replace in (\S+)\n    (.*)\n    (.*)$", changes, re.MULTILINE)
    assert len(steps) == changes.count("replace in ") == 4
    for name, old, changed in steps:
        replace(folder / name, old, changed)
    return new


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A copy of the package with the page's method in it."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("trl_negalign", "accelerate_configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    follow(folder)
    return folder


@pytest.fixture
def run(changed):
    def run(*command: str, fails: bool = False) -> str:
        environment = os.environ | {"PYTHONPATH": str(changed), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=changed, env=environment, capture_output=True, text=True, timeout=240
        )
        assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    return run


def test_the_page_names_its_files_and_its_commands():
    heads = [block.partition("\n")[0] for block in blocks("python")]
    assert sum(head.startswith("# trl_negalign/methods/gap/") for head in heads) == 4
    assert blocks("bash")[-1].splitlines()[:2] == ["python -m pytest tests/methods/gap", "negalign gap --help"]


def test_its_own_test_passes(run):
    assert "2 passed" in run("pytest", "-p", "no:cacheprovider", "tests/methods/gap")


def test_its_command_trains(run, changed, saved_model):
    assert "--gap_weight" in run("trl_negalign.cli", "gap", "--help")
    (changed / "my_rewards.py").write_text(
        "def varied(completions, **kwargs):\n    return [float(len(set(text))) for text in completions]\n"
    )
    dataset().to_json(changed / "queries.jsonl")
    small = ["--use_cpu", "True", "--bf16", "False", "--max_steps", "2", "--max_completion_length", "6"]
    refused = run("trl_negalign.cli", "gap", "--gap_weight", "-1", *small, fails=True)
    assert "gap_weight=-1.0 must be a finite number, 0 or larger." in refused
    small += ["--logging_steps", "1", "--save_strategy", "no", "--num_generations", "4", "--beta", "0.01"]
    run(
        *("trl_negalign.cli", "gap", "--model_name_or_path", saved_model, "--dataset_name", "queries.jsonl"),
        *("--reward_funcs", "my_rewards.varied", "--output_dir", "out", *small),
    )
    logged = json.loads((changed / "out" / "trainer_state.json").read_text())["log_history"][0]
    assert {"gap/loss", "reward/plain", "frac_groups_no_signal", "kl"} <= set(logged)
    assert "Gap" in run("trl_negalign.cli", "report", "out") + (changed / "out" / "report.html").read_text()
