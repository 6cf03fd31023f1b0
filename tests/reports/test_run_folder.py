"""What a run's folder tells, whole, running or damaged."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.reports.conftest import write_config, write_state, write_table
from trl_negalign.reports.run_folder import Run, flatten, name_apart, read_run


def said(run: Run, text: str) -> bool:
    return any(text in note for note in run.notes)


def test_a_finished_run(ple_run):
    run = read_run(ple_run)
    assert (run.method, run.step, run.max_steps, run.finished) == ("PLE", 6, 6, True)
    assert run.state == "step 6 of 6, finished"
    assert [log["step"] for log in run.logs if "ple/gap" in log] == [1, 2, 3, 4, 5, 6]
    assert [log["step"] for log in run.logs if "eval_reward/plain" in log] == [3, 6]
    newest = max(path.stat().st_mtime for path in [ple_run / "trainer_state.json", *ple_run.glob("completions/*")])
    assert run.written.timestamp() == pytest.approx(newest)


def test_a_run_that_has_checkpoints_only(neat_run, copy_of):
    folder = copy_of(neat_run)
    shutil.rmtree(folder / "checkpoint-4")
    run = read_run(folder)
    assert (run.method, run.finished, run.max_steps) == ("NEAT", False, 4)
    assert run.logs[-1]["step"] == 2
    assert run.step == 4 and said(run, "The curves end at step 2") and said(run, "the samples go on to step 4.")


def test_a_checkpoint_that_is_just_being_written(neat_run, copy_of):
    folder = copy_of(neat_run)
    state = folder / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text()[:300])
    run = read_run(folder)
    assert run.logs[-1]["step"] == 2
    assert said(run, "checkpoint-4/trainer_state.json cannot be read and was left out")


def test_a_resumed_run_is_read_from_its_newest_checkpoint(neat_run, copy_of):
    folder = copy_of(neat_run)
    shutil.copy(folder / "checkpoint-2" / "trainer_state.json", folder)
    assert read_run(folder).logs[-1]["step"] == 4


@pytest.mark.parametrize(
    ("last", "finished"),
    [
        ({"step": 3, "loss": 1.0}, False),
        ({"step": 9, "loss": 1.0}, True),  # the last checkpoint of a run that saves no state at its end
        ({"step": 3, "train_runtime": 1.0}, True),  # stopped early
    ],
)
def test_when_a_run_is_finished(last, finished, tmp_path):
    write_state(tmp_path, [{"step": 1, "train_runtime": 1.0}, last], max_steps=9)  # a shorter run that was resumed
    assert read_run(tmp_path).finished is finished


def test_the_tenth_step_is_newer_than_the_ninth(tmp_path):
    for step in (9, 10):
        write_state(tmp_path / f"checkpoint-{step}", [{"step": step, "loss": 1.0}])
    assert read_run(tmp_path).step == 10


def test_a_run_without_a_checkpoint_yet(tmp_path):
    write_table(tmp_path, 3, ["positive", "negative"] * 2, [1.0, 0.0, 0.5, None], prompt=["a", "a", "b", "b"])
    run = read_run(tmp_path)
    assert run.logs == [{"step": 3, "reward/positive": 0.75, "reward/negative": 0.0}]
    assert run.state == "step 3, no checkpoint yet"
    assert said(run, "There is no readable trainer_state.json yet")


def test_rewards_of_unknown_weights_are_not_summed(tmp_path):
    write_table(tmp_path, 3, ["positive", "negative"], [1.0, 0.0], other=[0.0, 2.0])
    run = read_run(tmp_path)
    assert run.logs == [] and said(run, "The rewards score, other are not summed")
    write_config(tmp_path, reward_weights=[1.0, -0.5])
    assert read_run(tmp_path).logs == [{"step": 3, "reward/positive": 1.0, "reward/negative": -1.0}]


def test_a_table_that_is_just_being_written(neat_run, copy_of):
    folder = copy_of(neat_run)
    path = folder / "completions" / "completions_00004.parquet"
    path.write_bytes(path.read_bytes()[:200])
    (folder / "completions" / "completions_00005.parquet").touch()
    run = read_run(folder)
    assert {group.step for group in run.sample.groups} == {1, 2, 3}
    assert said(run, "2 completion table(s) cannot be read and were left out: completions_00004.parquet, ")


def test_a_table_whose_end_alone_is_whole(neat_run, copy_of):
    """The footer can be read, what it points to cannot."""
    folder = copy_of(neat_run)
    path = folder / "completions" / "completions_00003.parquet"
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    path.write_bytes(data)
    run = read_run(folder)
    assert {group.step for group in run.sample.groups} == {1, 2, 4}
    assert said(run, "1 completion table(s) could not be read to their end.")


def test_no_completions(ple_run, copy_of):
    folder = copy_of(ple_run)
    shutil.rmtree(folder / "completions")
    run = read_run(folder)
    assert not run.sample.groups and said(run, "log_completions=True writes them")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "is no folder"),
        ({}, "holds no run: neither trainer_state.json"),
        ({"run_config.json": "{}", "report.html": ""}, "holds no run"),
        ({"checkpoint-2/trainer_state.json": '{"global'}, "checkpoint-2/trainer_state.json cannot be read"),
        ({"completions/completions_00001.parquet": "PAR1"}, "completions_00001.parquet"),
        ({"trainer_state.json": "[]"}, "trainer_state.json holds no JSON object"),
    ],
)
def test_a_folder_without_a_run_is_one_clear_error(files, message, tmp_path):
    folder = tmp_path / "run"
    for name, text in ({} if files is None else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if files is not None:
        folder.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="RUN_DIR") as error:
        read_run(folder)
    assert message in str(error.value)


def test_settings_and_their_absence(ple_run, copy_of):
    folder = copy_of(ple_run)
    assert said(read_run(folder), "There is no run_config.json")
    (folder / "run_config.json").write_text('{"args": {"seed"')
    cut_off = read_run(folder)
    assert said(cut_off, "run_config.json cannot be read") and not said(cut_off, "There is no run_config.json")
    write_config(folder, seed=3)
    whole = read_run(folder)
    assert whole.config == {"method": "NEAT", "args.seed": 3} and not said(whole, "run_config")


def test_nested_settings():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}


def test_training_args_are_never_unpickled(ple_run, copy_of):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {folder / 'harm'}",)

    import pickle

    folder = copy_of(ple_run)
    (folder / "training_args.bin").write_bytes(pickle.dumps(Harm()))
    read_run(folder)
    assert not (folder / "harm").exists()


def test_warnings_and_a_line_that_is_just_being_written(ple_run, copy_of):
    folder = copy_of(ple_run)
    warning = {"step": 4, "name": "displacement", "message": "falls", "advice": "lower", "more": 1}
    lines = [json.dumps(warning), '"text"', "", json.dumps({"name": "collapse"}), '{"step": 5, "na']
    (folder / "warnings.jsonl").write_text("\n".join(lines))
    run = read_run(folder)
    assert run.warnings == [
        {"step": 4, "name": "displacement", "message": "falls", "advice": "lower"},
        {"step": None, "name": "collapse", "message": None, "advice": None},
    ]
    assert said(run, "warnings.jsonl has 2 line(s) that cannot be read.")


def names(*folders: str) -> list[str]:
    runs = [Run("", Path(folder)) for folder in folders]
    name_apart(runs)
    return [run.name for run in runs]


def test_short_names_apart():
    assert names("/runs/a") == ["a"]
    assert names("/runs/a/out", "/runs/b/out") == ["a/out", "b/out"]
    assert names("/x/out", "/y/other") == ["out", "other"]
    assert names("/x/out", "/x/out") == ["//x/out", "//x/out (2)"]


@pytest.mark.parametrize(
    ("method", "name"),
    [("RAFT", "RAFT"), ("RRHF", "RRHF"), ("NEAT", "NEAT"), ("NEATTrainer", "NEAT"), ("MyTrainer", "MyTrainer")],
)
def test_a_run_is_called_by_its_settings(method, name):
    """RAFT and RRHF log NEAT's metrics, and are not NEAT."""
    run = Run("run", Path("run"), logs=[{"step": 1, "neat/loss_sft": 1.0}], config={"method": method})
    assert run.method == name


def test_without_settings_a_run_is_called_by_its_metrics():
    assert Run("run", Path("run"), logs=[{"step": 1, "ple/gap": 1.0}]).method == "PLE"
    assert Run("run", Path("run"), logs=[{"step": 1, "loss": 1.0}]).method == ""
