"""The examples run as they are, with a tiny model, and stay short."""

import json
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

# the stand-in for vLLM's engine
from tests.trainer.test_vllm import engine  # noqa: F401


EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def header(script: Path) -> dict:
    """The metadata in a script's head, as `uv run` reads it."""
    lines = script.read_text().splitlines()
    assert lines[0] == "# /// script"
    return tomllib.loads("\n".join(line.removeprefix("#").lstrip() for line in lines[1 : lines.index("# ///")]))


def run(name, model, tmp_path, monkeypatch, *options):
    command = [name, "--model", model, "--out", str(tmp_path / "out"), "--steps", "2", *options]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    checkpoint = next((tmp_path / "out").glob("checkpoint-2"))
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_is_short_and_says_what_it_needs(script):
    assert len(script.read_text().splitlines()) <= 60
    needs = header(script)
    assert "trl-negalign" in needs["dependencies"] and needs["requires-python"] == ">=3.11"
    assert (script.parent / needs["tool"]["uv"]["sources"]["trl-negalign"]["path"] / "pyproject.toml").is_file()


def test_the_page_names_each():
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"]({path.name})" in page for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))


@pytest.mark.parametrize("method", ["grpo", "neat", "ple"])
def test_the_swap(method, saved_model, tmp_path, monkeypatch):
    logs = run("swap_grpo.py", saved_model, tmp_path, monkeypatch, "--method", method)
    assert any(key.startswith(f"{method}/") for key in logs[0]) == (method != "grpo")


@pytest.mark.parametrize("from_file", [False, True])
def test_own_reward_and_data(from_file, saved_model, tmp_path, monkeypatch):
    rows = runpy.run_path(str(EXAMPLES / "own_reward_and_data.py"))["ROWS"]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    options = ["--data", str(tmp_path / "mine.jsonl")] if from_file else []
    run("own_reward_and_data.py", saved_model, tmp_path, monkeypatch, *options)
    assert (tmp_path / "out" / "checkpoint-2" / "adapter_model.safetensors").is_file()
    assert list((tmp_path / "out" / "completions").glob("*.parquet"))


def test_vllm(engine, saved_model, tmp_path, monkeypatch):  # noqa: F811
    logs = run("vllm_colocate.py", saved_model, tmp_path, monkeypatch)
    assert engine.calls > 0 and len(engine.seen) == 16
    assert {"reward/plain", "reward/principle"} <= set(logs[0])
