import json
import math

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


# judges of pairs of answers


ANSWERS = [("tell me", text) for text in ("kind and good", "cold", "a good one", "cold and bad", "good", "bad")] * 3


@pytest.mark.parametrize("family", ["words", "states"])
def test_a_judge_of_pairs_learns_which_answer_is_better(module, classifiers, family):
    policy = () if family == "words" else (lambda: module("start").start_model("tiny"),)
    extra = {"minimum": 1} if family == "words" else {"layer": 1}
    model = classifiers.FAMILIES[family].fit(*policy, ANSWERS, [1, 0] * 9, **extra, preferences=True)
    assert classifiers.accuracy(model.logits(ANSWERS), [1, 0] * 9, preferences=True) == 1.0
    assert model.bias.item() == 0.0


def test_preferences_by_hand(classifiers):
    # two pairs differ in the first feature and one in the second, each by 1: where share·σ(−w) = 2·decay·w is least
    features = torch.tensor([[3.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    weight, bias = classifiers.fit_preferences(features, decay=0.1)

    def least(share: float) -> float:
        low, high = 0.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if share / (1 + math.exp(middle)) > 0.2 * middle else (low, middle)
        return low

    assert (weight[0] / weight[1]).item() == pytest.approx(least(2 / 3) / least(1 / 3), rel=1e-3)
    assert (features @ weight).std().item() == pytest.approx(1.0) and bias.item() == 0.0


def test_the_accuracy_of_preferences_is_over_pairs(classifiers):
    # both above 0; a tie is no right answer
    assert classifiers.accuracy([2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0, -4.0], [1, 0] * 4, preferences=True) == 0.5


def test_words_before_the_answer_are_not_judged(classifiers):
    assert classifiers.WordClassifier.terms(("good film", "bad answer")) == ["bad", "answer", "bad answer"]


def test_states_are_averaged_over_the_answer_and_read_the_message(module, classifiers):
    model = classifiers.StateClassifier(lambda: module("start").start_model("tiny"), 1, 0.0, 1.0, None, None)
    alone, other, empty = model.states([("tell me", "good"), ("show me", "good"), ("tell me", "")])
    assert not torch.allclose(alone, other)  # the answer's states have seen the message
    whole = model.tokenizer("User: tell me\nAssistant: good", return_tensors="pt")
    states = model.model(**whole, use_cache=False).last_hidden_state[0]
    assert torch.allclose(alone, states[-len(" good") :].mean(0), atol=1e-5)  # the tiny model reads bytes
    assert empty.isfinite().all()
    batch = model.states([("tell me", "good"), ("show me something else", "good and long"), ("tell me", "")])
    assert torch.allclose(batch[0], alone, atol=1e-6)


def test_a_conversation_is_judged_by_its_last_message_and_the_answer(module):
    judged = module("judges").judged
    prompt = [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "tell me"}]
    assert judged(prompt, "good") == judged(prompt, [{"role": "assistant", "content": "good"}]) == ("tell me", "good")
    assert judged("an opening", " goes on") == "an opening goes on"
