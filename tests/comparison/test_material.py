import gzip
import json

import pytest


@pytest.fixture
def corpus(module):
    small = {"validation_queries": 3, "test_queries": 4, "piece_words": 5, "pieces": 2, "reference_words": 3}
    return module("plan").read_task("sentiment")["corpus"] | small


@pytest.fixture
def data(tmp_path):
    """Reviews of 30 different words each, of both labels; two of the test split open alike."""
    for split, count in (("train", 20), ("test", 12)):
        rows = [{"text": " ".join(f"{split}{i}w{j}" for j in range(30)), "label": i % 2} for i in range(count)]
        if split == "test":
            rows[1]["text"] = rows[0]["text"]
        with gzip.open(tmp_path / f"imdb_{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(tmp_path)


def test_queries_and_judges_are_apart(module, corpus, data):
    found = module("material").load_material(corpus, data)
    train = {row["prompt"] for row in found.train}
    validation, test = set(found.validation.prompts), set(found.test.prompts)
    assert (len(train), len(validation), len(test)) == (20, 3, 4)
    assert not train & validation and not train & test and not validation & test
    first, second = ({text.split("w")[0] for text in texts} for texts, _ in found.halves)
    assert first and second and not first & second
    assert all(name.startswith("test") for name in {text.split("w")[0] for text in found.held_out[0]})


def test_openings_have_six_to_ten_words_and_references_follow_them(module, corpus, data):
    found = module("material").load_material(corpus, data)
    lengths = {len(row["prompt"].split()) for row in found.train}
    assert lengths <= set(range(6, 11)) and len(lengths) > 2
    for row in found.train:
        words, rest = row["prompt"].split(), row["completion"].split()
        assert len(rest) == 3 and row["completion"].startswith(" ")
        assert int(rest[0].split("w")[1]) == len(words)
        number = int(words[0].removeprefix("train").split("w")[0])
        assert row["good"] == (number % 2 == 1)


def test_reviews_that_open_alike_are_one_query(module, corpus, data):
    asked = corpus | {"validation_queries": 5, "test_queries": 6}
    found = module("material").load_material(asked, data)
    prompts = found.validation.prompts + found.test.prompts
    assert len(prompts) == len(set(prompts)) == 11


def test_pieces_take_their_reviews_label(module, corpus):
    rows = [{"text": "a b c d e f g h i j k l", "label": 1}, {"text": "m n<br />o", "label": 0}]
    texts, labels = module("material").pieces(rows, corpus)
    assert texts == ["a b c d e", "f g h i j", "m n o"] and labels == [1, 1, 0]


def test_the_same_data_give_the_same_material(module, corpus, data):
    load = module("material").load_material
    assert load(corpus, data).fingerprint == load(corpus, data).fingerprint
    assert load(corpus, data).fingerprint != load(corpus | {"seed": 1}, data).fingerprint


def test_too_few_queries(module, corpus, data):
    with pytest.raises(ValueError, match="has 11 queries, and the task asks for 3 and 40"):
        module("material").load_material(corpus | {"test_queries": 40}, data)


# dialogues


@pytest.fixture
def dialogues(module):
    small = {"query_words": 3, "train_queries": 4, "validation_queries": 2, "test_queries": 3, "answer_words": 3}
    return module("plan").read_task("dialogue")["corpus"] | small


def pair(message: str, better: str, worse: str, history=()) -> dict:
    prompt = [*history, {"role": "user", "content": message}]
    answers = [[{"role": "assistant", "content": text}] for text in (better, worse)]
    return dict(zip(("prompt", "chosen", "rejected"), [prompt, *answers], strict=True))


@pytest.fixture
def pairs(tmp_path):
    """Twelve pairs a split: eight of a short message, two of a long one, two after other turns; one is there twice."""
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"}]
    for split in ("train", "test"):
        rows = [pair(f"{split} short {i}", f"good {split} answer {i}", f"bad {split} answer {i}") for i in range(8)]
        rows += [pair(f"{split} of four words{i}", f"good {i}", f"bad {i}") for i in range(2)]
        rows += [pair(f"{split} late {i}", f"good {i}", f"bad {i}", turns) for i in range(2)]
        rows += [rows[0]]
        with gzip.open(tmp_path / f"hh_helpful_{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(tmp_path)


def test_dialogues_of_policies_and_judges_are_apart(module, dialogues, pairs):
    found = module("material").load_material(dialogues, pairs)
    asked = [row["prompt"][-1]["content"] for row in found.train]
    held = [prompt[-1]["content"] for prompt in found.validation.prompts + found.test.prompts]
    assert (len(asked), len(held)) == (4, 5) and len(set(asked + held)) == 9
    assert all("short" in message for message in asked + held)
    first, second = ({message for message, _ in texts} for texts, _ in found.halves)
    assert len(first) == len(second) == 4 and not first & second and not (first | second) & set(asked + held)
    assert all(message.startswith("train") for message in first | second)
    assert all(message.startswith("test") for message, _ in found.held_out[0])


def test_answers_stand_in_pairs_the_better_first_and_are_cut(module, dialogues, pairs):
    found = module("material").load_material(dialogues, pairs)
    texts, labels = found.halves[0]
    assert found.preferences and labels == [1, 0] * 4
    assert all(answer.startswith("good") for _, answer in texts[::2])
    assert all(answer.startswith("bad") for _, answer in texts[1::2])
    assert max(len(answer.split()) for _, answer in texts) <= 3
    for row in found.train:
        number = row["prompt"][0]["content"].split()[-1]
        assert (row["chosen"], row["rejected"]) == (f"good train answer {number}", f"bad train answer {number}")
        assert row["completion"] == row["chosen"] and row["good"]


def test_too_few_short_messages(module, dialogues, pairs):
    with pytest.raises(
        ValueError, match="test split has 8 first messages of at most 3 words, and the task asks for 9"
    ):
        module("material").load_material(dialogues | {"test_queries": 7}, pairs)
