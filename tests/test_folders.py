"""What of a folder is this package's: `--overwrite` removes that, and nothing else, whatever the folder is."""

import json
import os
from pathlib import Path

import pytest

from trl_negalign import folders


RUN = (
    *("run_config.json", "README.md", "model.safetensors", "completions/completions_00001.parquet"),
    *("checkpoint-2/model-00001-of-00002.safetensors", "checkpoint-2/trainer_state.json"),
    *("checkpoint-2/global_step2/zero_pp_rank_0_mp_rank_00_model_states.pt", "checkpoint-2/optimizer_0/__0_0.distcp"),
)


def write(folder, *names) -> Path:
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}")
    return Path(folder)


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folders.files_of(folder)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A training's folder, `run`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folders.start("run", "training")
    return write("run", *RUN)


def overwrite(folder, inputs=None, kind="training"):
    folders.check_target("output_dir", folder, kind, inputs or {}, overwrite=True)
    folders.remove(folder)


def test_a_run_is_removed_whole_and_so_is_an_interrupted_one(run):
    overwrite(run)
    assert list(run.iterdir()) == []


def test_files_that_no_pattern_names_are_listed_as_they_are_saved(run):
    saved = write(run, "checkpoint-2/modeling_own.py", "a*b.json", "aXb.json")
    folders.record(run, [saved / "checkpoint-2" / "modeling_own.py", saved / "a*b.json"])
    with pytest.raises(ValueError, match="holds aXb.json"):  # a listed name is no pattern
        overwrite(run)
    (run / "aXb.json").unlink()
    overwrite(run)
    assert list(run.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "thesis.tex",
        "checkpoint-2/thesis.tex",
        "checkpoint-2-best/model.safetensors",
        "completions/mine.parquet",
        "best/model.safetensors",
        "model-best.safetensors",
        "other_run/negalign_files.json",
    ],
)
def test_a_foreign_file_stops_it_and_nothing_is_removed(run, name):
    write(run, name)
    before = names(run)
    with pytest.raises(ValueError, match=f"'run' holds {name}, which is no file of the run .*nothing was removed"):
        overwrite(run)
    assert names(run) == before
    folders.remove(run)  # even without the check
    assert names(run) == {name}


def test_links_are_foreign_and_are_not_followed(run, tmp_path):
    elsewhere = write(tmp_path / "elsewhere", "model.safetensors")
    os.symlink(elsewhere, run / "checkpoint-3")
    with pytest.raises(ValueError, match="holds checkpoint-3, which is no file of the run"):
        overwrite(run)
    folders.remove(run)
    assert names(run) == {"checkpoint-3"} and names(elsewhere) == {"model.safetensors"}


def test_a_link_to_the_run_is_the_run(run, tmp_path):
    os.symlink(run.resolve(), tmp_path / "link")
    with pytest.raises(ValueError, match="'link' is the model 'run'"):
        overwrite("link", {"model": ["run"]})
    overwrite("link")
    assert names(run) == set()


@pytest.mark.parametrize("place", [".", "/", "..", "data"])
def test_what_is_no_run_is_refused(run, place):
    write("data", "train.jsonl")
    with pytest.raises(ValueError, match="nothing there says that negalign wrote it"):
        overwrite(place)
    assert Path("data/train.jsonl").exists()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"model": ["run"]}, "output_dir 'run' is the model 'run'"),
        ({"model": ["./run/checkpoint-2"]}, "holds the model './run/checkpoint-2', which the run reads"),
        ({"reward": [None, "run/checkpoint-2"]}, "holds the reward 'run/checkpoint-2'"),
        ({"dataset": ["run/completions/completions_00001.parquet"]}, "holds the dataset 'run/completions"),
        ({"model": ["adapter"]}, "holds the model 'run/checkpoint-2'"),
        ({"reward": ["heads"]}, "holds the reward 'run/checkpoint-2'"),
    ],
)
def test_what_the_run_reads_is_never_removed(run, inputs, message):
    for place in ("adapter", "heads/positive"):
        config = write(place, "adapter_config.json") / "adapter_config.json"
        config.write_text(json.dumps({"base_model_name_or_path": "run/checkpoint-2"}))
    with pytest.raises(ValueError, match=message):
        overwrite(run, inputs)
    assert set(RUN) <= names(run)


def test_another_kind_of_folder_is_refused(run):
    folders.start("dataset", "data")
    write("dataset", "counts.json", "README.md", "sft/train.parquet")
    with pytest.raises(ValueError, match="holds README.md, and was written by `negalign data`"):
        overwrite("dataset")
    with pytest.raises(ValueError, match="holds README.md, which `negalign data` wrote"):
        folders.check_not_written_over("output_dir", "dataset", "training")


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("training", "run_config.json", {"method": "NEAT", "candidates": [], "versions": {}}),
        ("likra", "settings.json", {"base_digest": "a", "template": None, "examples": "b"}),
        ("data", "counts.json", {"task": "hh", "sources": [], "written": {}}),
        ("evaluation", "results.json", {"settings": {}, "data": {}, "models": {}, "environment": {}}),
        ("quickstart", "results.json", {"method": "neat", "before": [], "after": [], "gain": []}),
    ],
)
def test_folders_from_before_there_was_a_manifest_are_known(kind, name, content, tmp_path):
    (tmp_path / name).write_text(json.dumps(content))
    assert folders.kind_of(tmp_path) == kind
    write(tmp_path, "README.md" if kind not in ("evaluation",) else "table.md")
    overwrite(tmp_path, kind=kind)
    assert names(tmp_path) == set()


def test_a_users_file_is_not_written_over(tmp_path):
    write(tmp_path, "README.md", "notes.txt")
    with pytest.raises(ValueError, match="holds README.md, which is not negalign's and this run would write over"):
        folders.check_not_written_over("output_dir", tmp_path, "training")
    (tmp_path / "README.md").unlink()
    folders.check_not_written_over("output_dir", tmp_path, "training")


def test_a_run_that_goes_on_keeps_its_list(run):
    write(run, "own.py")
    folders.record(run, [run / "own.py"])
    folders.start(run, "training")
    assert json.loads((run / folders.MANIFEST).read_text())["files"] == ["own.py"]
