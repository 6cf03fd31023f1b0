"""The rewards and queries with which the packaged guides were measured, by hand, and the table of what was found."""

import gzip
import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from trl_negalign.guides import available_guides


FOLDER = Path(__file__).parent.parent / "recipes" / "guides"


def load(name):
    spec = spec_from_file_location(f"guide_recipe_{name}", FOLDER / f"{name}.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rewards, queries, table = load("rewards"), load("queries"), load("table")


@pytest.mark.parametrize(
    ("reward", "prompt", "completion", "expected", "columns"),
    [
        ("on_topic", "How do I boil a brown egg, please?", "Boil the water, then the egg.", 1 / 3, {}),
        ("on_topic", "Why is it so?", "Because.", None, {}),
        ("careful", "x", "I'm sorry, I can't help with that.", 1.0, {}),
        ("careful", "x", "Whatever, you idiot.", -1.0, {}),
        ("careful", "x", "Please shut the door.", 0.0, {}),
        ("careful", "x", "The sky is blue.", 0.0, {}),
        ("doubt", "x", "It is probably the third.", 1.0, {}),
        ("doubt", "x", "It is the third, mightily so.", 0.0, {}),
        ("doubt", "x", "I am not sure.", 1.0, {}),
        ("short", "x", "one two  three", -3.0, {}),
        ("right_answer", "x", "8 and 8 is 16, minus 2. The answer is 14.", 1.0, {"answer": [14]}),
        ("right_answer", "x", "14 or 15", 0.0, {"answer": [14]}),
        ("right_answer", "x", "no number", 0.0, {"answer": [14]}),
        ("covers", "x", "The brother sold the house.", 6 / 7, {"reference": ["Brother sold their house quickly"]}),
        ("covers", "x", "The brother.", None, {"reference": ["it is so"]}),
    ],
)
@pytest.mark.parametrize("messages", [False, True])
def test_rewards_by_hand(reward, prompt, completion, expected, columns, messages):
    if messages:
        prompt, completion = [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]
    (found,) = getattr(rewards, reward)(prompts=[prompt], completions=[completion], **columns)
    assert found == (pytest.approx(expected) if expected is not None else None)


def test_sums_have_the_right_answer():
    for row in queries.sums():
        first, second, away = map(int, re.findall(r"\d+", row["prompt"][0]["content"]))
        assert row["answer"] == first + second - away >= 0


def test_openings_and_posts(tmp_path):
    assert len(queries.openings()) == 320
    with gzip.open(tmp_path / "posts.jsonl.gz", "wt") as file:
        file.write(json.dumps({"prompt": "a post", "completion": "a summary"}) + "\n")
    expected = {"prompt": [{"role": "user", "content": "a post"}], "reference": "a summary"}
    assert queries.posts(tmp_path / "posts.jsonl.gz") == [expected]


def test_the_table_is_that_of_the_measurements():
    lines = table.table(FOLDER)
    assert lines in (FOLDER / "README.md").read_text(encoding="utf-8")
    measured = {path.stem for path in FOLDER.glob("*.json")}
    assert measured and measured <= set(available_guides())
    for path in FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert '"data": "/' not in text, f"{path.name} names a folder of the machine it was made on"
