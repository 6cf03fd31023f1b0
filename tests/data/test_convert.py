import json

import pytest
from datasets import Dataset, load_dataset

from trl_negalign.data import BadRow, UnfitRow
from trl_negalign.data.convert import (
    Source,
    Split,
    check_out,
    choose_splits,
    cut_test,
    drop_long_queries,
    parse_split,
    sample_rows,
    sources,
    write,
)


def parse_number(row):
    if row["x"] == 3:
        raise BadRow("x is three")
    if row["x"] == 4:
        raise UnfitRow("x is four")
    return {"prompt": row["x"]}


SOURCE = Source("source", "some/where", ("x",), parse_number, lambda rows: {"queries": rows})


def test_official_ids():
    places = {task: [source.place for source in listed] for task, listed in sources(8, 0).items()}
    assert places == {
        "hh": ["Anthropic/hh-rlhf"],
        "imdb": ["stanfordnlp/imdb"],
        "tldr": ["trl-lib/tldr", "trl-lib/tldr-preference"],
        "arc": ["allenai/ai2_arc"],
    }


def test_every_row_is_kept_dropped_or_malformed():
    split = parse_split(Dataset.from_dict({"x": [1, 3, 4, 3, 5, 4, 3]}), SOURCE, "here")
    assert split.malformed == [(2, "x is three"), (4, "x is three"), (7, "x is three")]
    sample_rows(split, 1, seed=0)
    counts = split.counts()
    dropped = {"malformed: x is three": 3, "x is four": 2, "over the limit": 1}
    assert counts == {"from": "here", "rows": 7, "kept": 1, "dropped": dropped}


def test_a_sample_is_seeded_ordered_and_of_the_whole_split():
    def sample(limit, seed):
        split = Split("here", 100, [{"prompt": i} for i in range(100)])
        sample_rows(split, limit, seed)
        return [row["prompt"] for row in split.rows]

    assert sample(10, 1) == sorted(sample(10, 1)) == sample(10, 1) != sample(10, 2)
    assert max(sample(10, 1)) > 50
    assert sample(100, 1) == sample(1000, 1) == list(range(100))


def test_a_cut_test_split_shares_no_query_with_train():
    rows = [{"prompt": [{"role": "user", "content": str(i % 10)}], "chosen": i} for i in range(40)]
    train = Split("here", 40, rows)
    test = cut_test(train, "prompt", 0.3, seed=5)
    queries = [{row["prompt"][0]["content"] for row in split.rows} for split in (train, test)]
    assert not queries[0] & queries[1] and (len(queries[0]), len(queries[1])) == (7, 3)
    assert (len(train.rows), len(test.rows), train.dropped) == (28, 12, {"moved to test": 12})
    assert sorted(row["chosen"] for row in train.rows + test.rows) == list(range(40))
    assert cut_test(Split("here", 40, rows), "prompt", 0.3, seed=5).rows == test.rows
    assert cut_test(Split("here", 40, rows), "prompt", 0.3, seed=6).rows != test.rows


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_share_that_leaves_a_split_empty(share):
    with pytest.raises(ValueError, match=f"--test_share {share} of 2 queries leaves train or test empty"):
        cut_test(Split("here", 3, [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}]), "prompt", share, seed=0)


def test_the_held_out_split_is_the_first_that_may_be_it():
    listed = sources(8, 0)["tldr"]
    splits = dict.fromkeys(["train", "validation"])
    assert choose_splits(splits, "here", listed[1], None) == {"train": "train", "test": "validation"}
    assert choose_splits(splits | {"test": None}, "here", listed[1], None)["test"] == "test"
    with pytest.raises(ValueError, match="has no split test, only train, validation. --test_share 0.1 cuts"):
        choose_splits(splits, "here", listed[0], None)
    assert choose_splits(splits, "here", listed[0], 0.1) == {"train": "train"}


def test_without_train():
    with pytest.raises(ValueError, match="--source here has no split train, only test, dev"):
        choose_splits(dict.fromkeys(["test", "dev"]), "here", SOURCE, 0.1)


def test_query_length_of_messages_counts_template_and_generation_prompt(tokenizer):
    prompt = [{"role": "user", "content": "How do I boil an egg?"}]
    tokens = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])
    assert tokens > len(tokenizer(prompt[0]["content"])["input_ids"])
    for limit, kept in ((tokens, 1), (tokens - 1, 0)):
        split = Split("here", 1, [{"prompt": prompt}])
        drop_long_queries(split, "prompt", tokenizer, limit)
        assert len(split.rows) == kept
        assert split.counts()["dropped"] == ({} if kept else {f"query over {limit} tokens": 1})


def test_query_length_of_text(tokenizer):
    tokens = len(tokenizer("The film was long")["input_ids"])
    split = Split("here", 2, [{"prompt": "The film was long"}, {"prompt": "The film was long and loud"}])
    drop_long_queries(split, "prompt", tokenizer, tokens)
    assert split.rows == [{"prompt": "The film was long"}]


def test_a_chat_template_that_refuses_a_query(tokenizer):
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('no system messages') }}"
    split = Split("here", 1, [{"prompt": [{"role": "system", "content": "x"}]}])
    with pytest.raises(ValueError, match="--tokenizer: its chat template refuses a query .no system messages"):
        drop_long_queries(split, "prompt", strict, 9)


DATASETS = {
    "queries": {"train": [{"prompt": "a"}], "test": [{"prompt": "é"}]},
    "sft": {"train": [{"x": [{"y": "z"}]}]},
}


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_what_is_written_is_read_back(tmp_path, file_format, private_cache):
    out = tmp_path / "new" / "out"
    write(out, DATASETS, file_format, {"rows": 1})
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "counts.json", "queries", "sft"]
    assert (out / "queries" / f"test.{file_format}").is_file()
    assert json.loads((out / "counts.json").read_text()) == {"rows": 1}
    assert load_dataset(str(out))["test"].to_list() == [{"prompt": "é"}]
    assert load_dataset(str(out), "sft", split="train").to_list() == [{"x": [{"y": "z"}]}]
    assert load_dataset(str(out / "queries"))["train"].to_list() == [{"prompt": "a"}]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


class Interrupted(BaseException):
    pass


def interrupt_at(monkeypatch, count):
    """Ctrl-C while file number `count` is being written, when it has content already."""
    real, calls = Dataset.to_parquet, []

    def to_parquet(self, path, **options):
        real(self, path, **options)
        calls.append(path)
        if len(calls) == count:
            raise Interrupted

    monkeypatch.setattr(Dataset, "to_parquet", to_parquet)


@pytest.mark.parametrize("count", [1, 3])
def test_an_interrupted_command_leaves_nothing(tmp_path, monkeypatch, count):
    interrupt_at(monkeypatch, count)
    with pytest.raises(Interrupted):
        write(tmp_path / "out", DATASETS, "parquet", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["writing", "renaming"])
def test_an_interrupted_overwrite_leaves_the_old_dataset(tmp_path, monkeypatch, where):
    out = tmp_path / "out"
    write(out, DATASETS, "parquet", {"run": 1})
    if where == "writing":
        interrupt_at(monkeypatch, 2)
    else:
        rename = type(out).rename

        def fail_on_new(self, target):
            if self.name.endswith(".partial"):
                raise Interrupted
            return rename(self, target)

        monkeypatch.setattr(type(out), "rename", fail_on_new)
    with pytest.raises(Interrupted):
        write(out, DATASETS, "parquet", {"run": 2})
    assert list(tmp_path.iterdir()) == [out]
    assert json.loads((out / "counts.json").read_text()) == {"run": 1}
    assert (out / "sft" / "train.parquet").is_file()


def test_leftovers_of_a_killed_command_do_not_get_in(tmp_path):
    (tmp_path / ".out.partial" / "queries").mkdir(parents=True)
    (tmp_path / ".out.partial" / "queries" / "half.parquet").touch()
    write(tmp_path / "out", DATASETS, "parquet", {})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "queries" / "half.parquet").exists()


def test_overwriting_replaces_every_file(tmp_path):
    out = tmp_path / "out"
    write(out, DATASETS, "parquet", {})
    write(out, {"queries": DATASETS["queries"]}, "jsonl", {})
    assert sorted(path.name for path in (out / "queries").iterdir()) == ["test.jsonl", "train.jsonl"]
    assert not (out / "sft").exists()


def test_where_a_dataset_may_go(tmp_path):
    check_out(tmp_path / "absent", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty", overwrite=False)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="file is a file. Choose a folder"):
        check_out(file, overwrite=True)
    with pytest.raises(ValueError, match="holds files of something else"):
        check_out(tmp_path, overwrite=True)
    write(tmp_path / "out", DATASETS, "parquet", {})
    with pytest.raises(ValueError, match="out holds a dataset. Choose another folder, or replace it with --overwrite"):
        check_out(tmp_path / "out", overwrite=False)
    check_out(tmp_path / "out", overwrite=True)


@pytest.fixture
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_folders_of_the_same_name_are_told_apart(tmp_path, monkeypatch):
    """`datasets` caches a local folder by its last name and its card."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for task, text in (("one", "first"), ("two", "second"), ("one", "third")):
        out = tmp_path / task / "data"
        out.parent.mkdir(exist_ok=True)
        rows = [{"prompt": text}]
        write(out, {"queries": {"train": rows, "test": rows}}, "parquet", {})
        assert load_dataset(str(out), "queries")["train"]["prompt"] == [text]
