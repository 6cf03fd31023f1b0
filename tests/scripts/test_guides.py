"""`negalign guides`: a model, queries and guides in, numbers and a page out; bad input is one line."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers import dataset
from trl_negalign.cli import main
from trl_negalign.evaluation import guided


REWARDS = """
def letters(completions, **kwargs):
    return [float(len(set(text if isinstance(text, str) else text[-1]["content"]))) for text in completions]

def graded(completions, answer, **kwargs):
    return [1.0] * len(completions)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "guide_rewards.py").write_text(REWARDS)
    (tmp_path / "principle.txt").write_text("Follow the principle.\n")
    dataset("conversation").to_json(tmp_path / "talks.jsonl")
    dataset(rows=12).to_json(tmp_path / "texts.jsonl")
    dataset(rows=1).to_json(tmp_path / "one.jsonl")
    (tmp_path / "empty.jsonl").write_text("")


def guides(*options) -> int:
    return main(["guides", *map(str, options)])


QUICK = ("--reward", "guide_rewards.letters", "--max_new_tokens", 6, "--group_size", 2)
GUIDES = ("--guide", "positive=Answer kindly.", "negative=Answer rudely.", "principle=principle.txt")


def read(folder="out") -> dict:
    return json.loads(Path(folder, "guides.json").read_text())


def test_from_a_model_to_numbers_a_page_and_lines(saved_model, capsys):
    command = ("--model", saved_model, "--data", "talks.jsonl", *GUIDES, *QUICK)
    assert guides(*command, "--placement", "user", "system") == 0
    results = read("runs/guides")
    assert [(one["kind"], one["placement"]) for one in results["measured"]] == [
        (kind, place) for kind in ("positive", "negative", "principle") for place in ("user", "system")
    ]
    assert results["guides"]["principle"] == {"kind": "principle", "text": "Follow the principle.", "name": None}
    assert results["data"]["queries"] == 16 and results["settings"]["samples"] == 2
    for one in results["measured"]:
        for number in ("reward", "difference", "effect", "wins", "distance", "tokens", "repeated", "copied"):
            assert one[number]["low"] <= one[number]["value"] <= one[number]["high"], number
    table = pd.read_parquet("runs/guides/samples.parquet")
    assert len(table) == 7 * 16 * 2 and {"completion", "reward", "reward/guide_rewards.letters"} <= set(table)
    plain = table[table["kind"] == "plain"].groupby("query")["reward"].mean().mean()
    assert results["plain"]["reward"]["value"] == pytest.approx(plain)
    names = ["cache", "guides.html", "guides.json", "negalign_files.json", "samples.parquet"]
    assert sorted(path.name for path in Path("runs/guides").iterdir()) == names
    shown = capsys.readouterr().out
    assert "16 queries × 2 sample(s), reward guide_rewards.letters" in shown and "# negalign neat" in shown
    assert all(one["sentence"] in shown for one in results["measured"])


def test_a_stopped_run_goes_on_and_another_is_refused(saved_model, capsys, monkeypatch):
    command = ("--model", saved_model, "--data", "texts.jsonl", "--guide", "negative=Answer rudely.", *QUICK)
    command = (*command, "--out", "out")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guided, "response_nlls", stop)  # between the samples and their distances
        with pytest.raises(KeyboardInterrupt):
            guides(*command)
    assert not Path("out/guides.json").exists() and list(Path("out/cache").glob("*/*.parquet"))
    with monkeypatch.context() as patch:
        patch.setattr("trl_negalign.evaluation.generation.generate_batch", stop)  # nothing is sampled again
        assert guides(*command) == 0
        first = read()
        assert {one["placement"] for one in first["measured"]} == {"prefix"}
        assert guides(*command) == 0
        assert {**read(), "environment": None} == {**first, "environment": None}
    capsys.readouterr()
    other = ("--model", saved_model, "--data", "texts.jsonl", "--guide", "positive=Answer.", *QUICK, "--out", "out")
    assert guides(*other) == 2
    assert "other guides: negative, positive" in capsys.readouterr().err
    assert guides(*command, "--sampling_seed", 1) == 2
    assert "other settings: sampling" in capsys.readouterr().err
    assert read() == {**first, "environment": read()["environment"]}
    assert guides(*command, "--sampling_seed", 1, "--overwrite") == 0
    assert read()["plain"] != first["plain"]


def test_an_interrupted_run_is_overwritten_and_foreign_files_are_not(saved_model, capsys, monkeypatch):
    command = ("--model", saved_model, "--data", "texts.jsonl", "--guide", "principle=principle.txt", *QUICK)
    command = (*command, "--out", "out", "--overwrite")
    Path("out").mkdir()
    Path("out/letter.txt").write_text("mine")
    assert guides(*command) == 2
    assert "--overwrite: --out 'out' holds letter.txt" in capsys.readouterr().err
    Path("out/letter.txt").unlink()
    Path("out/guides.json").write_text('{"mine": true}')
    assert guides(*command[:-1]) == 2
    assert "holds guides.json, which is not negalign's" in capsys.readouterr().err
    Path("out/guides.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("trl_negalign.evaluation.guides.add_distances", None)
        assert guides(*command) == 1
    assert guides(*command) == 0


def test_another_model_under_the_same_name_is_refused(saved_model, make_model, capsys):
    command = ("--data", "texts.jsonl", "--guide", "positive=Answer kindly.", *QUICK, "--out", "out")
    model = Path("model")
    shutil.copytree(saved_model, model)
    assert guides("--model", "./model", *command) == 0
    make_model(seed=1).save_pretrained(model)
    assert guides("--model", "./model", *command) == 2
    assert "'model' has changed since (weights)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--guide": None}, "--guide is missing"),
        ({"--guide": ["good=Be kind."]}, "--guide 'good=Be kind.' must be KIND=@name, KIND=FILE or KIND=TEXT"),
        ({"--guide": ["positive=Be kind.", "positive=@helpful"]}, "--guide names two positive guides"),
        ({"--guide": ["positive=@harmful"]}, "--guide positive='@harmful' is not a packaged guide"),
        ({"--guide": ["positive=gone.txt"]}, "the file gone.txt cannot be read"),
        ({"--data": ["one.jsonl"]}, "one.jsonl has 1 query to ask"),
        ({"--data": ["empty.jsonl"]}, "empty.jsonl"),
        ({"--data": ["nowhere.jsonl"]}, "nowhere.jsonl"),
        ({"--num_queries": [0]}, "num_queries 0 must be 1 or more"),
        ({"--reward": None}, "reward is missing"),
        ({"--reward": ["sentiment"]}, "is no packaged one"),
        ({"--reward": ["guide_rewards.graded"]}, "missing 1 required positional argument: 'answer'"),
        ({"--reward": ["guide_rewards.graded"]}, "texts.jsonl has the columns prompt."),
        ({"--reward": ["guide_rewards.letters"] * 2}, "reward names one twice"),
        ({"--reward_weights": [1, 2]}, "reward_weights has 2 value(s) for 1 reward(s)"),
        ({"--model": ["./nowhere"]}, "folder ./nowhere does not exist"),
        ({"--max_new_tokens": [0]}, "max_new_tokens 0 must be 1 or more"),
        ({"--max_query_tokens": [1]}, "No query is left"),
        ({"--page_queries": [0]}, "--page_queries 0 must be 1 or more"),
        ({"--out": ["principle.txt"]}, "principle.txt"),
    ],
)
def test_bad_input_is_one_line_and_code_2(changes, message, saved_model, capsys):
    options = {
        "--model": [saved_model],
        "--data": ["texts.jsonl"],
        "--guide": ["positive=Answer kindly.", "principle=principle.txt"],
        "--reward": ["guide_rewards.letters"],
        "--max_new_tokens": [4],
        "--group_size": [2],
        "--out": ["out"],
    } | changes
    assert guides(*[part for name, values in options.items() if values for part in (name, *values)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.splitlines()[-1].startswith("negalign guides: ") and message in error
    assert not Path("out").exists()


@pytest.mark.parametrize("package", ["sacrebleu", "rich", "jinja2"])
def test_the_extra_is_named(package, monkeypatch, capsys, saved_model):
    monkeypatch.setitem(sys.modules, package, None)
    assert guides("--model", saved_model, "--data", "texts.jsonl", *GUIDES, *QUICK) == 2
    assert f"{package} is missing" in (error := capsys.readouterr().err) and "trl-negalign[evaluation]" in error
