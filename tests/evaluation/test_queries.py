import json
from copy import deepcopy

import pytest
from datasets import Dataset, DatasetDict

from tests.helpers import CLOSING, DROPPING, dataset, with_template
from trl_negalign.evaluation.queries import Queries, drop_long, load_queries


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    splits = {"train": dataset(responses=True, rows=32), "test": dataset(responses=True, rows=16)}
    for name, split in DatasetDict(splits).items():
        (path).mkdir(exist_ok=True)
        split.to_parquet(path / f"{name}.parquet")
    return str(path)


def test_the_test_split_with_its_references(folder):
    queries = load_queries(folder)
    assert queries.rows == list(range(16)) and queries.prompts[3] == "question number 3"
    assert queries.references[3] == " a kind word 3" and queries.columns["rejected"][3] == " nobody said 3"
    assert queries.source["split"] == "test" and queries.source["reference_column"] == "chosen"


def test_queries_are_rendered_with_the_template_arguments(tokenizer, tmp_path):
    dataset("conversation", responses=True, rows=4).to_json(tmp_path / "rows.jsonl")
    tokenizer = with_template(tokenizer, CLOSING)
    plain, short = (
        load_queries(str(tmp_path / "rows.jsonl"), chat_template_kwargs=given)
        for given in (None, {"enable_thinking": False})
    )
    assert (
        plain.select([2]).chat_template_kwargs is None
        and load_queries(str(tmp_path / "rows.jsonl"), chat_template_kwargs={}).chat_template_kwargs is None
    )
    [query] = short.select([2]).query_ids(tokenizer)
    assert tokenizer.decode(query) == "[user]\nquestion number 2\n[assistant]\n<think>\n\n</think>\n\n"
    assert tokenizer.decode(plain.query_ids(tokenizer)[2]).endswith("<think>\n")
    assert [tokenizer.decode(queries.reference_ids(tokenizer)[2]) for queries in (plain, short)] == [
        "\n</think>\n\na kind word 2",
        "a kind word 2",
    ]
    # in how long they are, too
    context = max(map(len, plain.query_ids(tokenizer))) + 1
    reader = {"model": (tokenizer, context)}
    assert len(drop_long(plain, reader, max_new_tokens=1, with_references=False).rows) == 4
    with pytest.raises(ValueError, match="No query is left"):
        drop_long(short, reader, max_new_tokens=1, with_references=False)


def test_another_column_as_reference(folder):
    assert load_queries(folder, reference_column="rejected").references[0] == " nobody said 0"


def test_a_larger_sample_holds_the_smaller_one(folder):
    few, many = (load_queries(folder, split="train", num_queries=count, seed=1) for count in (4, 9))
    assert set(few.rows) < set(many.rows) and len(few.rows) == 4
    assert [few.prompts[i] for i in range(4)] == [f"question number {row}" for row in few.rows]
    assert load_queries(folder, split="train", num_queries=4, seed=2).rows != few.rows
    assert load_queries(folder, num_queries=100).rows == list(range(16))


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_files(ending, tmp_path):
    path, data = tmp_path / f"rows.{ending}", dataset("conversation")
    data.to_parquet(path) if ending == "parquet" else data.to_json(path)
    queries = load_queries(str(path), num_queries=2)
    assert queries.conversational and queries.references is None


def test_the_fingerprint_is_of_the_contents(folder, tmp_path):
    queries = load_queries(folder)
    copy = tmp_path / "copy.jsonl"
    dataset(responses=True, rows=16).to_json(copy)
    assert load_queries(str(copy)).fingerprint == queries.fingerprint
    assert queries.select([0, 1]).fingerprint != queries.fingerprint
    assert load_queries(folder, reference_column="rejected").fingerprint != queries.fingerprint


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "x"}], "has no column 'prompt', only question"),
        ([{"prompt": ""}], "row 0: prompt is empty"),
        ([{"prompt": "x", "chosen": None}, {"prompt": "y", "chosen": "z"}], "row 0: chosen is null"),
        ([{"prompt": [{"role": "user"}]}], "row 0: prompt is no list of messages"),
        (
            [{"prompt": [{"role": "user", "content": "x"}], "chosen": [{"role": "a", "content": "y"}] * 2}],
            "row 0: chosen has 2 messages and must have one",
        ),
    ],
)
def test_bad_rows_are_named(rows, message, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        load_queries(str(tmp_path / "rows.jsonl"))


def test_bad_names(folder, tmp_path):
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "broken.jsonl").write_text("{")
    for options, message in [
        ({"data": "./nowhere"}, "'./nowhere' does not exist"),
        ({"data": str(tmp_path / "rows.txt")}, "of no known kind"),
        ({"data": str(tmp_path / "broken.jsonl")}, "cannot be loaded"),
        ({"data": folder, "split": "tset"}, "split 'tset' is not in .* It has train, test"),
        ({"data": folder, "reference_column": "best"}, "reference_column 'best' is not in"),
        ({"data": folder, "num_queries": 0}, "num_queries 0 must be 1 or more"),
        ({"data": folder, "config": "other"}, "cannot be loaded"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_queries(**options)


def test_two_splits_and_no_test(tmp_path):
    for name in ("train", "validation"):
        dataset().to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="split 'test' is not in"):
        load_queries(str(tmp_path))
    assert load_queries(str(tmp_path), split="validation").prompts


def test_long_queries_are_left_out_for_all_models(tokenizer):
    prompts = ["a", "a b c d e f g h", "a b c"]
    queries = Queries([5, 6, 7], prompts, [" x"] * 3, {"n": [1, 2, 3]}, {})
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    readers = {"wide": (tokenizer, None), "narrow": (tokenizer, lengths[2] + 4)}
    options = {"max_new_tokens": 4, "with_references": False}
    left = drop_long(queries, readers, **options)
    assert left.rows == [5, 7] and left.columns["n"] == [1, 3]
    assert left.source["dropped"] == {f"over the context of narrow, {lengths[2] + 4} tokens": 1}
    few = drop_long(queries, {"wide": (tokenizer, None)}, max_query_tokens=lengths[0], **options)
    assert few.rows == [5] and few.source["dropped"] == {f"query over {lengths[0]} tokens": 2}
    with pytest.raises(ValueError, match="No query is left"):
        drop_long(queries, {"tiny": (tokenizer, 1)}, **options)


def test_references_must_fit_where_they_are_read(tokenizer):
    queries = Queries([0, 1], ["a", "a"], [" b", " b" * 9], {}, {})
    reader = {"model": (tokenizer, 6)}
    assert drop_long(queries, reader, max_new_tokens=0, with_references=True).rows == [0]
    assert drop_long(queries, reader, max_new_tokens=0, with_references=False).rows == [0, 1]


def test_a_conversation_needs_a_template(tokenizer):
    bare = deepcopy(tokenizer)
    bare.chat_template = None
    queries = Queries([0], [[{"role": "user", "content": "a"}]], None, {}, {})
    with pytest.raises(ValueError, match="tokenizer of base has no chat template"):
        drop_long(queries, {"base": (bare, None)}, max_new_tokens=1, with_references=False)


def test_a_dataset_with_a_completion_column(tmp_path):
    Dataset.from_dict({"prompt": ["a"], "completion": [" b"], "chosen": [" c"]}).to_json(tmp_path / "rows.json")
    assert load_queries(str(tmp_path / "rows.json")).references == [" b"]


def test_folders_of_one_name_and_card_are_told_apart(tmp_path):
    card = "---\nconfigs:\n- config_name: pairs\n  data_files:\n  - split: test\n    path: pairs/test.parquet\n---\n"
    for name in ("one", "two", "two"):
        folder = tmp_path / name / "data"
        (folder / "pairs").mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        # written a second time, with other rows
        prompts = [name] if not (folder / "pairs" / "test.parquet").exists() else [name, "more"]
        Dataset.from_dict({"prompt": prompts}).to_parquet(folder / "pairs" / "test.parquet")
        assert load_queries(str(folder), "pairs").prompts == prompts


def test_a_reference_in_open_reasoning_is_refused(tokenizer):
    prompt = [{"role": "user", "content": "a"}]
    queries = Queries([3, 7], [prompt] * 2, ["b</think>c", "c"], {}, {})
    readers = {"model": (with_template(tokenizer, DROPPING), None)}
    with pytest.raises(ValueError, match="row 7: the reference has no </think>"):
        drop_long(queries, readers, max_new_tokens=0, with_references=True)
    assert drop_long(queries, readers, max_new_tokens=4, with_references=False).rows == [3, 7]
    readers = {"model": (with_template(tokenizer, CLOSING), None)}
    assert drop_long(queries, readers, max_new_tokens=0, with_references=True).rows == [3, 7]
