"""Questions from a dataset's rows; what cannot be used is refused by its row."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from trl_negalign.likra.questions import Question, cut_test, load_questions, read_questions


SHARED = Path(__file__).parent.parent.parent.parent / "shared" / "data"


def rows(**columns) -> Dataset:
    return Dataset.from_dict(columns)


@pytest.mark.parametrize("question", ["question", "context", "ctx"])
@pytest.mark.parametrize("options", ["choices", "endings"])
@pytest.mark.parametrize(("answer", "value"), [("answer", 1), ("label", 1), ("label", "1")])
def test_columns_by_any_of_their_names(question, options, answer, value):
    dataset = rows(**{question: [" Why? "], options: [["so", " because "]], answer: [value]})
    assert read_questions(dataset) == [Question("Why?", ("so", "because"), 1)]


def test_preferences_stay_as_they_are():
    dataset = rows(prompt=["Say "], chosen=["yes "], rejected=[" no"])
    assert read_questions(dataset) == [Question("Say ", ("yes ", " no"), 0, is_prompt=True)]


def test_preferences_as_conversations():
    prompt = [{"role": "user", "content": "Why?"}]
    dataset = rows(
        prompt=[prompt],
        chosen=[[{"role": "assistant", "content": "because"}]],
        rejected=[[{"role": "assistant", "content": "so"}]],
    )
    assert read_questions(dataset) == [Question(prompt, ("because", "so"), 0, is_prompt=True)]
    assert read_questions(dataset)[0].text == "Why?"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (rows(question=["q"], choices=[["a", "b"]]), "data has no column 'answer' or 'label', only question, choices"),
        (rows(chosen=["a"], rejected=["b"]), "data has chosen and rejected, and no column 'prompt'"),
        (rows(question=[], choices=[], answer=[]), "data is empty"),
        (rows(question=["q", " "], choices=[["a", "b"]] * 2, answer=[0, 0]), r"data\[1\]: the question is ' '"),
        (rows(question=["q"], choices=["a, b"], answer=[0]), r"data\[0\]: the options are 'a, b'"),
        (rows(question=["q"], choices=[["a"]], answer=[0]), r"data\[0\] has 1 option\(s\), and a choice needs two"),
        (rows(question=["q"], choices=[["a", " "]], answer=[0]), r"data\[0\]: option 1 is empty"),
        (
            rows(question=["q"], choices=[["a", "b"]], answer=[2]),
            "the answer is 2, and must be the index of one of the",
        ),
        (rows(question=["q"], choices=[["a", "b"]], answer=[-1]), "the answer is -1"),
        (rows(question=["q"], choices=[["a", "b"]], answer=["A"]), "the answer is 'A'"),
        (rows(question=["q"], choices=[["a", "b"]], answer=["²"]), "the answer is '²'"),
        (rows(question=["q"], choices=[["a", "b"]], answer=[None]), "the answer is None"),
        (rows(question=["q"], choices=[["a", "b"]], answer=[True]), "the answer is True"),
        (rows(question=["q"], choices=[["a", "a"]], answer=[0]), "a wrong option is the same as the right one, 'a'"),
        (rows(prompt=["q"], chosen=["a"], rejected=[""]), r"data\[0\]: option 1 is empty"),
        (rows(prompt=[" "], chosen=["a"], rejected=["b"]), r"data\[0\]: the prompt is ' ', and must be a text, or"),
        (rows(prompt=[3], chosen=["a"], rejected=["b"]), r"data\[0\]: the prompt is 3"),
        (rows(prompt=[[], ["q"]], chosen=["a"] * 2, rejected=["b"] * 2), r"data\[0\]: the prompt is \[\]"),
        (
            rows(prompt=[[{"role": "user", "content": None}]], chosen=["a"], rejected=["b"]),
            r"data\[0\]: the prompt is .*None",
        ),
        (rows(prompt=["q"], chosen=[None], rejected=["b"]), r"data\[0\]: chosen is None, and must be a text, or"),
        (rows(prompt=["q"], chosen=["a"], rejected=[3]), r"data\[0\]: rejected is 3"),
        (rows(prompt=["q"], chosen=[["a"]], rejected=[["b"]]), r"data\[0\]: chosen is \['a'\]"),
        (
            rows(prompt=["q"], chosen=[[{"role": "assistant", "content": None}]], rejected=["b"]),
            r"data\[0\]: chosen is .*None",
        ),
        (
            rows(prompt=["q"], chosen=[[{"role": "user", "content": "a"}] * 2], rejected=["b"]),
            r"data\[0\]: chosen has 2 messages",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(dataset, message):
    with pytest.raises(ValueError, match=message):
        read_questions(dataset, "data")


def test_only_datasets_are_read():
    with pytest.raises(TypeError, match="data is of type list"):
        read_questions([{"question": "q"}], "data")


QUESTIONS = [Question(f"q{i // 2}", (f"a{i}", "b"), 0) for i in range(40)]


def test_a_cut_keeps_the_same_query_on_one_side():
    train, test = cut_test(QUESTIONS, 0.25, seed=0)
    assert len(test) == 10 and len(train) == 30
    assert not {question.query for question in train} & {question.query for question in test}
    assert cut_test(QUESTIONS, 0.25, seed=0) == (train, test) != cut_test(QUESTIONS, 0.25, seed=1)
    with pytest.raises(ValueError, match="test_share 1 must lie between 0 and 1"):
        cut_test(QUESTIONS, 1, seed=0)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(name: str, numbers, folder: str = "") -> str:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        lines = [{"question": f"q{i}", "choices": ["a", "b", f"c{i}"], "answer": i % 3} for i in numbers]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path.parent if folder else path)

    return write


def test_train_splits_are_joined_and_the_first_is_tested(write):
    write("test.jsonl", range(4), "one")
    one = write("train.jsonl", range(10, 16), "one")
    two = write("two.jsonl", [2, 20, 21])
    train, test = load_questions([one, two])
    assert [question.query for question in test] == ["q0", "q1", "q2", "q3"]
    # q2 is tested, so it is not trained on
    assert [question.query for question in train] == [f"q{i}" for i in (10, 11, 12, 13, 14, 15, 20, 21)]


def test_a_file_is_cut(write):
    train, test = load_questions([write("all.jsonl", range(20))], test_share=0.2, seed=3)
    assert len(test) == 4 and len(train) == 16
    sample = load_questions([write("all.jsonl", range(20))], test_share=0.2, num_test=2, seed=3)[1]
    assert len(sample) == 2 and set(sample) < set(test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_split": "tset"}, "dataset_test_split 'tset' is not in .*all.jsonl. It has train. Or cut"),
        ({"train_split": "trian"}, "dataset_train_split 'trian' is not in"),
        ({"test_share": 0.2, "num_test": 0}, "num_test 0 must be 1 or more"),
    ],
)
def test_a_split_that_is_not_there(options, message, write):
    with pytest.raises(ValueError, match=message):
        load_questions([write("all.jsonl", range(20))], **options)


def test_a_dataset_that_is_not_there(write, tmp_path):
    with pytest.raises(ValueError, match="dataset_name './nowhere' does not exist"):
        load_questions(["./nowhere"])
    with pytest.raises(ValueError, match="dataset_name is missing"):
        load_questions([])
    (tmp_path / "table.txt").write_text("q")
    with pytest.raises(ValueError, match="table.txt' cannot be loaded: it is of no known kind"):
        load_questions([str(tmp_path / "table.txt")])


@pytest.mark.skipif(not SHARED.exists(), reason="the extracts of public datasets are not here")
@pytest.mark.parametrize(
    ("name", "count", "options"),
    [("arc_challenge_train", 1119, {4, 3, 5}), ("hellaswag_val_a", 5000, {4}), ("hh_harmless_train", 1799, {2})],
)
def test_real_rows(name, count, options, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    train, test = load_questions([str(SHARED / f"{name}.jsonl.gz")], test_share=0.1)
    assert count - 20 <= len(train) + len(test) <= count
    assert {len(question.options) for question in train} <= options
