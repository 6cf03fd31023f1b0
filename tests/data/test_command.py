"""The whole command, on sources laid out as the hub has them and on extracts of the real ones."""

import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars, enable_progress_bars, load_dataset

from trl_negalign import cli


EXTRACTS = Path(__file__).parents[3] / "shared" / "data"
needs_extracts = pytest.mark.skipif(not EXTRACTS.is_dir(), reason=f"no extracts of the public datasets in {EXTRACTS}")


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(f"datasets.config.{name}", str(cache / name))


@pytest.fixture(autouse=True)
def no_progress_bars():
    disable_progress_bars()
    yield
    enable_progress_bars()


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command; returns its exit code, output and error."""
    monkeypatch.setitem(cli.COMMANDS, "data", "")

    def run(task, *options, out=tmp_path / "out"):
        code = cli.main(["data", task, "--out", str(out), *map(str, options)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def counts_of(out):
    """The counts, after checking that no row is lost."""
    counts = json.loads((out / "counts.json").read_text())
    for source in counts["sources"]:
        for split in source["splits"].values():
            assert split["rows"] == split["kept"] + sum(split["dropped"].values())
    return counts


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(str(path))


def transcripts(question, chosen="Yes.", rejected="No."):
    return {
        "chosen": f"\n\nHuman: {question}\n\nAssistant: {chosen}",
        "rejected": f"\n\nHuman: {question}\n\nAssistant: {rejected}",
    }


@pytest.fixture
def hh_folder(tmp_path):
    folder = tmp_path / "hh-rlhf"
    for subset in ("harmless-base", "helpful-base"):
        write_lines(folder / subset / "train.jsonl.gz", [transcripts(f"{subset} {i}") for i in range(6)])
        write_lines(folder / subset / "test.jsonl.gz", [transcripts(f"{subset} test")])
    write_lines(folder / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"transcript": "x"}])
    return folder


def reviews(count, text="word {} one two three four five six seven eight"):
    return [{"text": text.format(i), "label": int(i >= count // 2)} for i in range(count)]


@pytest.fixture
def imdb_folder(tmp_path):
    folder = tmp_path / "imdb"
    short = {"text": "too short", "label": 1}
    files = {"train": reviews(20), "test": [*reviews(4), short], "unsupervised": [{"text": "no label", "label": -1}]}
    for split, rows in files.items():
        write_parquet(folder / "plain_text" / f"{split}-00000-of-00001.parquet", rows)
    lines = [f"  - split: {split}\n    path: plain_text/{split}-*\n" for split in files]
    card = f"---\nconfigs:\n- config_name: plain_text\n  data_files:\n{''.join(lines)}  default: true\n---\n"
    (folder / "README.md").write_text(card)
    return folder


@pytest.fixture
def tldr_folders(tmp_path):
    posts = [{"prompt": f"POST: {i}\n\nTL;DR:", "completion": f" Sum {i}."} for i in range(4)]
    pairs = [{"prompt": f"POST: {i}\n\nTL;DR:", "chosen": " Good.", "rejected": " Bad."} for i in range(3)]
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / "tldr" / "data" / f"{split}-00000-of-00001.parquet", posts)
    for split in ("train", "validation"):
        write_parquet(tmp_path / "tldr-preference" / "data" / f"{split}-00000-of-00001.parquet", pairs)
    return ["--source", tmp_path / "tldr", "--preference_source", tmp_path / "tldr-preference"]


@pytest.fixture
def arc_folder(tmp_path):
    folder = tmp_path / "ai2_arc"
    for subset in ("ARC-Challenge", "ARC-Easy"):
        for split in ("train", "validation", "test"):
            row = {"id": f"{subset} {split}", "question": "Which?", "answerKey": "2"}
            row["choices"] = {"text": ["this", "that"], "label": ["1", "2"]}
            write_parquet(folder / subset / f"{split}-00000-of-00001.parquet", [row])
    return folder


def test_hh(run, hh_folder, tmp_path):
    code, printed, _ = run("hh", "--source", hh_folder)
    assert code == 0 and "12 rows\n       12 kept" in printed
    for name, columns in {
        "sft": ["prompt", "completion"],
        "preference": ["prompt", "chosen", "rejected"],
        "queries": ["prompt", "chosen", "rejected"],
    }.items():
        made = load_dataset(str(tmp_path / "out"), name)
        assert made.num_rows == {"train": 12, "test": 2}
        assert made.column_names["train"] == columns
    assert made["train"][0] == {
        "prompt": [{"role": "user", "content": "harmless-base 0"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    assert load_dataset(str(tmp_path / "out")).column_names["test"] == ["prompt", "chosen", "rejected"]


def test_hh_subset(run, hh_folder, tmp_path):
    assert run("hh", "--source", hh_folder, "--subset", "helpful-base")[0] == 0
    prompts = load_dataset(str(tmp_path / "out"))["train"]["prompt"]
    assert {prompt[0]["content"][:7] for prompt in prompts} == {"helpful"} and len(prompts) == 6


def test_imdb(run, imdb_folder, tmp_path):
    code, printed, _ = run("imdb", "--source", imdb_folder)
    assert code == 0 and "1 dropped: no word left after the query" in printed
    assert "not used: unsupervised" in printed
    out = str(tmp_path / "out")
    assert load_dataset(out, "queries")["train"][0] == {
        "prompt": "word 0 one two three four five six",
        "completion": " seven eight",
        "label": 0,
    }
    assert load_dataset(out, "sft").column_names["train"] == ["prompt", "completion"]
    pairs = load_dataset(out, "preference")
    assert pairs.num_rows == {"train": 10, "test": 2}
    positive = {row["text"] for row in reviews(20) if row["label"] == 1}
    assert set(pairs["train"]["chosen"]) == positive and not set(pairs["train"]["rejected"]) & positive
    assert counts_of(tmp_path / "out")["sources"][0]["unused_splits"] == ["unsupervised"]


def test_imdb_prefix_words(run, imdb_folder, tmp_path):
    assert run("imdb", "--source", imdb_folder, "--prefix_words", 1)[0] == 0
    rows = load_dataset(str(tmp_path / "out"))["test"]
    assert set(rows["prompt"]) == {"word", "too"} and rows["completion"][-1] == " short"


def test_limit_takes_both_labels_of_sorted_reviews(run, imdb_folder, tmp_path):
    assert run("imdb", "--source", imdb_folder, "--limit", 8)[0] == 0
    assert set(load_dataset(str(tmp_path / "out"))["train"]["label"]) == {0, 1}
    counts = counts_of(tmp_path / "out")["sources"][0]["splits"]
    assert counts["train"]["dropped"] == {"over the limit": 12} and counts["train"]["kept"] == 8
    assert "over the limit" not in counts["test"]["dropped"]


def test_tldr(run, tldr_folders, tmp_path):
    code, printed, _ = run("tldr", *tldr_folders)
    assert code == 0 and "tldr-preference, split validation" in printed and "tldr: not used: validation" in printed
    out = str(tmp_path / "out")
    assert load_dataset(out, "sft")["train"][1] == {"prompt": "POST: 1\n\nTL;DR:", "completion": " Sum 1."}
    assert load_dataset(out, "queries").num_rows == {"train": 4, "test": 4}
    assert load_dataset(out, "preference").num_rows == {"train": 3, "test": 3}
    assert load_dataset(out, "preference").column_names["test"] == ["prompt", "chosen", "rejected"]


@pytest.mark.parametrize("subset", ["ARC-Challenge", "ARC-Easy"])
def test_arc(run, arc_folder, tmp_path, subset):
    options = [] if subset == "ARC-Challenge" else ["--subset", subset]
    assert run("arc", "--source", arc_folder, *options)[0] == 0
    made = load_dataset(str(tmp_path / "out"))
    row = {"id": f"{subset} train", "question": "Which?", "choices": ["this", "that"], "answer": 1}
    assert made["train"].to_list() == [row]
    assert made["test"].to_list() == [row | {"id": f"{subset} test"}]


@pytest.mark.parametrize(
    ("task", "options", "calls"),
    [
        ("hh", [], [("Anthropic/hh-rlhf", {"data_dir": None})]),
        ("hh", ["--subset", "helpful-base"], [("Anthropic/hh-rlhf", {"data_dir": "helpful-base"})]),
        ("imdb", ["--source", "me/reviews"], [("me/reviews", {"name": None})]),
        ("tldr", [], [("trl-lib/tldr", {"name": None}), ("trl-lib/tldr-preference", {"name": None})]),
        ("arc", [], [("allenai/ai2_arc", {"name": "ARC-Challenge"})]),
        ("arc", ["--subset", "ARC-Easy"], [("allenai/ai2_arc", {"name": "ARC-Easy"})]),
    ],
)
def test_the_hub_is_asked_for_the_right_part(run, monkeypatch, tmp_path, task, options, calls):
    row = transcripts("Why?") | {"text": "one " * 9, "label": 1, "prompt": "P", "completion": " c"}
    row |= {"question": "Which?", "choices": ["a", "b"]}
    asked = []

    def hub(path, name=None, data_dir=None):
        asked.append((path, {"data_dir": data_dir} if task == "hh" else {"name": name}))
        both = Dataset.from_list([row, row | {"label": 0}])
        return DatasetDict(train=both, test=both)

    monkeypatch.setattr("datasets.load_dataset", hub)
    assert run(task, *options)[0] == 0
    assert asked == calls


def test_beginnings_of_file_names(run, tmp_path):
    write_lines(tmp_path / "mine_train.jsonl.gz", [transcripts("a"), transcripts("b")])
    write_lines(tmp_path / "mine_test.jsonl", [transcripts("c")])
    assert run("hh", "--source", tmp_path / "mine", "--format", "jsonl")[0] == 0
    assert load_dataset(str(tmp_path / "out"), "sft").num_rows == {"train": 2, "test": 1}
    lines = (tmp_path / "out" / "queries" / "test.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["prompt"] == [{"role": "user", "content": "c"}]


def test_a_file_and_a_test_share(run, tmp_path):
    write_lines(tmp_path / "all.jsonl", [transcripts(str(i)) for i in range(10)])
    assert run("hh", "--source", tmp_path / "all.jsonl", "--test_share", 0.2, "--limit", 5)[0] == 0
    splits = counts_of(tmp_path / "out")["sources"][0]["splits"]
    assert splits["train"]["dropped"] == {"moved to test": 2, "over the limit": 3}
    assert (splits["train"]["kept"], splits["test"]["kept"]) == (5, 2)


def test_queries_over_the_length_are_dropped_and_counted(run, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "named")
    write_lines(tmp_path / "my_train.jsonl", [transcripts("egg"), transcripts("egg " * 90)])
    write_lines(tmp_path / "my_test.jsonl", [transcripts("egg")])
    source = ["--source", tmp_path / "my"]
    code, printed, error = run("hh", *source, "--max_query_tokens", 40, "--tokenizer", tmp_path / "named")
    assert code == 0 and "1 dropped: query over 40 tokens" in printed, error
    assert load_dataset(str(tmp_path / "out"), "sft").num_rows == {"train": 1, "test": 1}


BAD = transcripts("bad", chosen=" ")


def test_malformed_rows_end_the_command(run, tmp_path):
    rows = [transcripts("a"), BAD, transcripts("c"), *[BAD] * 22]
    write_lines(tmp_path / "my_train.jsonl", rows)
    write_lines(tmp_path / "my_test.jsonl", [{"chosen": 5, "rejected": "x"}, transcripts("d")])
    code, printed, error = run("hh", "--source", tmp_path / "my")
    assert code == 2 and not (tmp_path / "out").exists()
    assert error == "negalign data: 24 malformed rows. Repair them, or leave them out with --skip-bad.\n"
    lines = printed.splitlines()
    assert lines[0] == f"{tmp_path}/my, split train, row 2: chosen has an empty answer"
    assert lines[1].endswith("row 4: chosen has an empty answer") and len(lines) == 21
    assert lines[-1] == "… and 4 more malformed rows"


def test_malformed_rows_are_skipped_and_listed(run, tmp_path):
    write_lines(tmp_path / "my_train.jsonl", [transcripts("a"), BAD, transcripts("c")])
    write_lines(tmp_path / "my_test.jsonl", [{"chosen": 5, "rejected": "x"}, transcripts("d")])
    code, printed, _ = run("hh", "--source", tmp_path / "my", "--skip-bad")
    assert code == 0 and "row 2: chosen has an empty answer" in printed
    assert load_dataset(str(tmp_path / "out"), "queries").num_rows == {"train": 2, "test": 1}
    counts = counts_of(tmp_path / "out")
    assert counts["sources"][0]["splits"]["train"]["dropped"] == {"malformed: chosen has an empty answer": 1}
    assert [(row["row"], row["reason"]) for row in counts["malformed"]] == [
        (2, "chosen has an empty answer"),
        (1, "chosen is neither a transcript nor a list of messages"),
    ]
    assert counts["written"]["sft"] == {"train": 2, "test": 1} and counts["options"]["skip_bad"] is True


def test_nothing_is_left(run, tmp_path):
    write_lines(tmp_path / "my_train.jsonl", [BAD])
    write_lines(tmp_path / "my_test.jsonl", [transcripts("a")])
    code, _, error = run("hh", "--source", tmp_path / "my", "--skip-bad")
    assert code == 2 and "split train: no row is left for train; nothing was written" in error
    assert not (tmp_path / "out").exists()


def test_overwrite(run, hh_folder, tmp_path):
    assert run("hh", "--source", hh_folder)[0] == 0
    code, _, error = run("hh", "--source", hh_folder, "--limit", 3)
    assert code == 2 and "holds a dataset" in error
    assert run("hh", "--source", hh_folder, "--limit", 3, "--overwrite")[0] == 0
    assert load_dataset(str(tmp_path / "out"), "sft").num_rows == {"train": 3, "test": 2}


def test_files_of_something_else_are_never_overwritten(run, hh_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("my life's work")
    code, _, error = run("hh", "--source", hh_folder, "--overwrite")
    assert code == 2 and "holds files of something else" in error
    assert (tmp_path / "out" / "thesis.tex").read_text() == "my life's work"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("hh", ["--limit", "0"], "--limit 0 must be 1 or more"),
        ("imdb", ["--prefix_words", "0"], "--prefix_words 0 must be 1 or more"),
        ("hh", ["--max_query_tokens", "-1", "--tokenizer", "x"], "--max_query_tokens -1 must be 1 or more"),
        ("hh", ["--test_share", "1"], "--test_share 1.0 must lie between 0 and 1"),
        ("hh", ["--test_share", "0"], "--test_share 0.0 must lie between 0 and 1"),
        ("hh", ["--prefix_words", "8"], "--prefix_words 8 is for imdb, not for hh"),
        ("hh", ["--preference_source", "x"], "--preference_source x is for tldr, not for hh"),
        ("hh", ["--max_query_tokens", "9"], "--max_query_tokens 9 and --tokenizer None need each other"),
        ("hh", ["--tokenizer", "x"], "--max_query_tokens None and --tokenizer x need each other"),
        ("hh", ["--max_query_tokens", "9", "--tokenizer", "no/such"], "--tokenizer no/such cannot be loaded: "),
        ("hh", ["--source", "/no/such"], "--source /no/such: no such file or folder, no /no/such_train.*"),
        ("hh", [], "--source Anthropic/hh-rlhf: Couldn't reach 'Anthropic/hh-rlhf' on the Hub"),
        ("hh", ["--source", "no/such"], "Nothing of that name is here either"),
    ],
)
def test_bad_options_are_one_line(run, task, options, message, tmp_path):
    code, _, error = run(task, *options)
    assert code == 2 and error.startswith("negalign data: ") and message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_absent_pair_source_names_its_option(run, tldr_folders):
    code, _, error = run("tldr", *tldr_folders[:2])
    assert code == 2 and "--preference_source trl-lib/tldr-preference: Couldn't reach" in error


def test_an_unknown_task(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        run("mmlu")
    assert exit_.value.code == 2
    assert "invalid choice: 'mmlu'" in capsys.readouterr().err


def test_help_names_tasks_and_datasets(run, capsys):
    with pytest.raises(SystemExit):
        run("--help")
    printed = capsys.readouterr().out
    assert "hh|imdb|tldr|arc" in printed and "--skip-bad" in printed and "DIR/preference" in printed


def test_absent_columns_are_named_with_those_there_are(run, imdb_folder):
    code, _, error = run("hh", "--source", imdb_folder)
    assert code == 2 and "has no column chosen in its split train, only text, label." in error
    code, _, error = run("arc", "--source", imdb_folder)
    assert code == 2 and "has no column question" in error


def test_arc_needs_either_column_of_the_answer(run, tmp_path):
    write_lines(tmp_path / "q.jsonl", [{"question": "Which?", "choices": ["a", "b"]}])
    error = run("arc", "--source", tmp_path / "q.jsonl", "--test_share", 0.5)[2]
    assert "has no column answerKey or label in its split train, only question, choices." in error


def test_missing_splits(run, tmp_path):
    write_lines(tmp_path / "my_test.jsonl", [transcripts("a")])
    error = run("hh", "--source", tmp_path / "my")[2]
    assert f"--source {tmp_path}/my has no split train, only test" in error
    write_lines(tmp_path / "your_train.jsonl", [transcripts("a")])
    write_lines(tmp_path / "your_validation.jsonl", [transcripts("a")])
    error = run("hh", "--source", tmp_path / "your")[2]
    assert "your has no split test, only train, validation. --test_share 0.1 cuts one from train" in error


def test_a_needless_test_share(run, hh_folder, tmp_path):
    code, _, error = run("hh", "--source", hh_folder, "--test_share", 0.1)
    assert code == 2 and "--test_share 0.1: the source has a test split" in error


def test_unknown_subsets(run, hh_folder):
    code, _, error = run("hh", "--source", hh_folder, "--subset", "helpfull")
    folders = "harmless-base, helpful-base, red-team-attempts"
    assert code == 2 and f"--subset helpfull is no folder in {hh_folder}; its folders: {folders}." in error
    file = hh_folder / "helpful-base" / "train.jsonl.gz"
    assert "Only a folder or a hub id has subsets" in run("hh", "--source", file, "--subset", "x")[2]


def test_files_of_unknown_kind_and_doubled_ones(run, tmp_path):
    (tmp_path / "my.csv").touch()
    assert (
        "my.csv is of no known kind. Give a file with an ending out of .parquet"
        in run("hh", "--source", tmp_path / "my.csv")[2]
    )
    for name in ("my_train.jsonl", "my_train.jsonl.gz"):
        write_lines(tmp_path / name, [transcripts("a")])
    error = run("hh", "--source", tmp_path / "my")[2]
    assert "is ambiguous" in error and "my_train.jsonl.gz" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (['{"chosen": "a", "rejected": "b"}\n', '{"chosen": \n'], "train.jsonl, line 2: Expecting value"),
        (['{"chosen": "a", "rejected": "b"}\n', "[1, 2]\n"], "train.jsonl, line 2 is no JSON object"),
        ([], "train.jsonl is empty"),
    ],
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_broken_files_are_named_with_the_line(run, tmp_path, content, message, as_folder):
    write_lines(tmp_path / "data" / "train.jsonl", content)
    source = tmp_path / "data" if as_folder else tmp_path / "data" / "train.jsonl"
    code, _, error = run("hh", "--source", source, "--test_share", 0.5)
    assert code == 2 and error.startswith(f"negalign data: --source {source} cannot be read: ")
    assert message in error and error.count("\n") == 1


def test_a_torn_archive_and_a_parquet_that_is_none(run, tmp_path):
    write_lines(tmp_path / "torn.jsonl.gz", [transcripts(str(i)) for i in range(50)])
    whole = (tmp_path / "torn.jsonl.gz").read_bytes()
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.parquet").write_text("text")
    for name in ("torn.jsonl.gz", "no.parquet"):
        code, _, error = run("hh", "--source", tmp_path / name, "--test_share", 0.5)
        assert code == 2 and f"{name} cannot be read: " in error and error.count("\n") == 1


def test_dialogues_need_a_chat_template(run, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    code, _, error = run("hh", "--max_query_tokens", 9, "--tokenizer", tmp_path / "plain")
    assert code == 2 and "has no chat template, which dialogues need" in error


def test_reviews_need_no_chat_template(run, tokenizer, imdb_folder, tmp_path):
    tokenizer.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    options = ["--source", imdb_folder, "--tokenizer", tmp_path / "plain", "--max_query_tokens"]
    assert run("imdb", *options, 500)[0] == 0


def training(tmp_path):
    return {"output_dir": str(tmp_path / "run"), "max_steps": 1, "report_to": "none", "bf16": False, "use_cpu": True}


def test_trl_trains_a_reward_model_on_the_pairs_of_reviews(run, imdb_folder, tmp_path, reward_model, tokenizer):
    from trl import RewardConfig, RewardTrainer

    assert run("imdb", "--source", imdb_folder)[0] == 0
    pairs = load_dataset(str(tmp_path / "out"), "preference", split="train")
    trainer = RewardTrainer(
        reward_model, RewardConfig(**training(tmp_path)), train_dataset=pairs, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.state.global_step == 1 and len(trainer.train_dataset) == 10


@pytest.mark.parametrize("task", ["hh", "imdb"])
def test_trl_tunes_on_the_completions(run, task, hh_folder, imdb_folder, tmp_path, model, tokenizer):
    from trl import SFTConfig, SFTTrainer

    assert run(task, "--source", {"hh": hh_folder, "imdb": imdb_folder}[task])[0] == 0
    rows = load_dataset(str(tmp_path / "out"), "sft", split="train")
    trainer = SFTTrainer(model, SFTConfig(**training(tmp_path)), train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    labels = trainer.train_dataset[0]["labels"]
    assert trainer.state.global_step == 1 and labels[0] == -100 != labels[-1]


def test_trl_prefers_on_the_pairs_of_answers(run, hh_folder, tmp_path, make_model, tokenizer):
    from trl import DPOConfig, DPOTrainer

    assert run("hh", "--source", hh_folder)[0] == 0
    pairs = load_dataset(str(tmp_path / "out"), "preference", split="train")
    trainer = DPOTrainer(
        make_model(),
        ref_model=make_model(),
        args=DPOConfig(**training(tmp_path)),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 1


@needs_extracts
@pytest.mark.parametrize(
    ("task", "names", "written"),
    [
        ("hh", {"source": "hh_helpful"}, {"sft": (4676, 1500), "preference": (4676, 1500), "queries": (4676, 1500)}),
        ("hh", {"source": "hh_harmless"}, {"sft": (1799, 500), "preference": (1799, 500), "queries": (1799, 500)}),
        ("imdb", {"source": "imdb"}, {"sft": (5000, 2000), "preference": (2500, 1000), "queries": (5000, 2000)}),
        (
            "tldr",
            {"source": "tldr", "preference_source": "tldr_preference"},
            {"sft": (1323, 330), "queries": (1323, 330), "preference": (6000, 1500)},
        ),
        ("arc", {"source": "arc_challenge"}, {"questions": (1119, 1172)}),
        ("arc", {"source": "arc_easy"}, {"questions": (2251, 2376)}),
    ],
)
def test_the_extracts_have_no_malformed_row(run, tmp_path, task, names, written):
    options = [part for option, name in names.items() for part in (f"--{option}", EXTRACTS / name)]
    code, _, error = run(task, *options)
    assert code == 0, error
    counts = counts_of(tmp_path / "out")
    assert counts["malformed"] == []
    assert {name: (rows["train"], rows["test"]) for name, rows in counts["written"].items()} == written
    for name, (train, test) in written.items():
        assert load_dataset(str(tmp_path / "out"), name).num_rows == {"train": train, "test": test}


@needs_extracts
def test_the_original_transcripts(run, tmp_path):
    source = ["--source", EXTRACTS / "raw" / "hh_harmless_base_test.jsonl.gz", "--test_share", "0.1"]
    code, printed, error = run("hh", *source)
    assert code == 2 and "13 malformed rows" in error and "row 87: chosen has an empty answer" in printed
    assert run("hh", *source, "--skip-bad")[0] == 0
    train = counts_of(tmp_path / "out")["sources"][0]["splits"]["train"]
    assert train["rows"] == 2312
    assert train["dropped"] == {
        "malformed: chosen has an empty answer": 4,
        "malformed: chosen has two turns of the assistant in a row": 8,
        "malformed: rejected has two turns of the assistant in a row": 1,
        "moved to test": 230,
    }


def imdb_rows(texts):
    return [{"text": f"{text} one two three four five six seven eight nine ten", "label": i % 2} for i, text in texts]


def test_test_queries_that_stand_in_train_are_counted(run, tmp_path):
    write_lines(tmp_path / "imdb_train.jsonl", imdb_rows(enumerate("abcd")))
    write_lines(tmp_path / "imdb_test.jsonl", imdb_rows(enumerate("cdef")))
    code, printed, _ = run("imdb", "--source", tmp_path / "imdb")
    assert code == 0 and "2 of 4 rows to test have a query that stands in train too" in printed
    assert counts_of(tmp_path / "out")["sources"][0]["test_rows_with_query_in_train"] == 2


def test_overwrite_replaces_a_dataset_and_nothing_else(run, tmp_path):
    write_lines(tmp_path / "imdb_train.jsonl", imdb_rows(enumerate("abcd")))
    write_lines(tmp_path / "imdb_test.jsonl", imdb_rows(enumerate("efgh")))
    assert run("imdb", "--source", tmp_path / "imdb")[0] == 0
    assert run("imdb", "--source", tmp_path / "imdb", "--overwrite")[0] == 0
    (tmp_path / "out" / "sft" / "thesis.tex").write_text("years of work")
    code, _, error = run("imdb", "--source", tmp_path / "imdb", "--overwrite")
    assert code == 2 and "holds sft/thesis.tex, which is no file of the run" in error
    (tmp_path / "out" / "sft" / "thesis.tex").unlink()
    source = tmp_path / "out" / "mine"
    write_lines(source / "train.jsonl", imdb_rows(enumerate("abcd")))
    code, _, error = run("imdb", "--source", source, "--overwrite")
    assert code == 2 and "which the run reads" in error and (source / "train.jsonl").exists()
