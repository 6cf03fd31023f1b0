import json

import pytest
import torch


TEXTS = ["a good kind film", "good music, kind people", "a bad cold film", "bad music, cold people"] * 5
LABELS = [1, 1, 0, 0] * 5


@pytest.fixture
def classifiers(module):
    return module("classifiers")


def test_words_by_hand(classifiers):
    model = classifiers.WordClassifier(
        {"good": 0, "bad": 1, "good film": 2}, torch.tensor([1.0, 2.0, 3.0]), None, None
    )
    row = model.features(["Good good film, BAD!"]).to_dense()[0]
    expected = torch.tensor([2.0, 2.0, 3.0]) / 17**0.5
    assert torch.allclose(row, expected)
    assert model.features(["nothing known"]).to_dense().abs().sum() == 0


@pytest.mark.parametrize("family", ["words", "states"])
def test_a_judge_learns_and_comes_back_from_its_file(module, classifiers, tmp_path, family):
    policy = () if family == "words" else (lambda: module("start").start_model("tiny"),)
    extra = {} if family == "words" else {"layer": 1}
    model = classifiers.FAMILIES[family].fit(*policy, TEXTS, LABELS, **extra)
    assert classifiers.accuracy(model.logits(TEXTS), LABELS) == 1.0
    model.save(tmp_path / "judge.json")
    again = classifiers.FAMILIES[family].load(tmp_path / "judge.json", *policy)
    assert again.logits(TEXTS) == pytest.approx(model.logits(TEXTS), abs=1e-5)


def test_states_do_not_depend_on_the_batch(module, classifiers):
    model = classifiers.StateClassifier(lambda: module("start").start_model("tiny"), 1, 0.0, 1.0, None, None)
    texts = ["a", "a good kind film with music", ""]
    alone = torch.cat([model.states([text]) for text in texts])
    assert torch.allclose(model.states(texts), alone, atol=1e-6)


def test_rewards_are_made_once_and_noted(module, task, tmp_path):
    judges, material = module("judges"), module("material").load_material(task["corpus"], None)
    judges.prepare(task, material, tmp_path / "cache", tmp_path / "results")
    record = json.loads((tmp_path / "results" / "rewards.json").read_text())
    assert record["training"]["accuracy_held_out"] > 0.5 and record["gold"]["accuracy_held_out"] > 0.5
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(files) == 4
    judges.prepare(task, material, tmp_path / "cache", tmp_path / "results")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    # one that was stopped before it was judged is not trained again
    next((tmp_path / "cache").glob("gold-*.accuracy")).unlink()
    judges.prepare(task, material, tmp_path / "cache", tmp_path / "results")
    model = next((tmp_path / "cache").glob("gold-*.json"))
    assert files[model] == model.stat().st_mtime_ns
    assert json.loads((tmp_path / "results" / "rewards.json").read_text()) == record


def test_other_data_make_other_rewards(module, task, tmp_path):
    judges, load = module("judges"), module("material").load_material
    other = task | {"corpus": task["corpus"] | {"seed": 1}}
    one, two = (judges.identity(part, load(part["corpus"], None)) for part in (task, other))
    assert one["training"] != two["training"]
    with pytest.raises(ValueError, match="the reward 'training' is not in"):
        judges.load_judges(task, load(task["corpus"], None), tmp_path)


def test_a_reward_reads_the_opening_with_its_completion(module, task, tmp_path):
    judges, material = module("judges"), module("material").load_material(task["corpus"], None)
    judges.prepare(task, material, tmp_path, tmp_path)
    gold = judges.load_judges(task, material, tmp_path)["gold"]
    assert gold(prompts=["good", "bad"], completions=[" happy", " happy"]) != gold(
        prompts=["bad", "good"], completions=[" happy", " happy"]
    )
