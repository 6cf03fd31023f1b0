"""`negalign likra`: a YAML file and flags in; heads, a table and a curve out."""

import json
from pathlib import Path

import pytest
import yaml

from trl_negalign.cli import run_command
from trl_negalign.folders import start
from trl_negalign.likra.model import LikraModel
from trl_negalign.scripts.likra import run


ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def config(saved_model, questions, tmp_path, monkeypatch):
    """Write a run's YAML file, with changes; its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    questions.to_json("questions.jsonl")

    def write(**changes):
        options = {
            "model_name_or_path": saved_model,
            "dataset_name": "questions.jsonl",
            "test_share": 0.25,
            "output_dir": "out",
            "save_examples": [8, 16],
            "learning_rate": "1e-2",
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        options = {key: value for key, value in (options | changes).items() if value is not None}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(options))
        return "run.yaml"

    return write


def likra(*options: str) -> int:
    return run_command(lambda: run(list(options)), "negalign likra")


def results() -> dict:
    return json.loads(Path("out/results.json").read_text())


def test_it_trains_and_measures_every_point(config, capsys):
    assert likra("--config", config()) == 0
    found = results()
    assert [row["examples"] for row in found["rows"]] == [0, 8, 16, 30]
    assert found["questions"] == 10 and found["guessing"] == pytest.approx(1 / 3)
    assert found["rows"][0]["ratio"] == {"acc": None, "acc_norm": None}
    assert found["rows"][0]["positive"] == found["base"]
    assert found["rows"][-1]["ratio"]["acc"] > 0.9
    assert Path("out/table.md").read_text() in capsys.readouterr().out
    assert Path("out/curve.png").stat().st_size > 1000
    assert LikraModel.from_pretrained("out").examples == 30
    assert LikraModel.from_pretrained("out/examples-8").examples == 8


def test_the_results_are_those_of_the_heads(config, questions):
    assert likra("--config", config(weight=0.7)) == 0
    from trl_negalign.likra.questions import load_questions

    test = load_questions(["questions.jsonl"], test_share=0.25, seed=42)[1]
    rows = questions.filter(lambda row: row["question"] in {question.query for question in test})
    expected = LikraModel.from_pretrained("out/examples-16").evaluate(rows, weight=0.7)
    assert {mode: results()["rows"][2][mode] for mode in expected} == expected


def test_a_second_run_reads_what_is_there(config, monkeypatch):
    assert likra("--config", config()) == 0
    first = results()

    def fail(*args, **kwargs):
        raise AssertionError("scored again")

    monkeypatch.setattr(LikraModel, "logps", fail)
    assert likra("--config", config()) == 0
    assert results() == first


def test_a_run_killed_in_its_evaluation_goes_on(config, monkeypatch):
    assert likra("--config", config(output_dir="whole")) == 0
    original, calls = LikraModel.logps, []

    def killed(self, state, encoded, tokens_per_batch):
        calls.append((state, len(encoded)))
        for number, batch in enumerate(original(self, state, encoded, 100)):
            yield batch
            if len(calls) == 3 and number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(LikraModel, "logps", killed)
    with pytest.raises(KeyboardInterrupt):
        likra("--config", config())
    assert [row["examples"] for row in results()["rows"]] == [0]
    calls.clear()
    monkeypatch.setattr(LikraModel, "logps", lambda *args: calls.append(args[1:3]) or original(*args))
    assert likra("--config", config()) == 0
    # the base and the first head are there, the second one's first two batches too
    assert len(calls) == 5 and calls[0][0] == "negative" and 0 < len(calls[0][1]) < 10
    assert results() == json.loads(Path("whole/results.json").read_text())


def test_more_test_questions_use_what_is_there(config):
    assert likra("--config", config(num_test=4)) == 0
    assert results()["questions"] == 4
    assert likra("--config", config()) == 0
    assert results()["questions"] == 10


def test_another_run_in_the_folder_is_refused_and_overwritten(config, capsys):
    assert likra("--config", config(max_steps=2)) == 0
    assert likra("--config", config(max_steps=2, lora_r=4)) == 2
    assert "holds heads with lora_r 8, and now it is 4" in capsys.readouterr().err
    # its scores would be read as this base's
    assert likra("--config", config(max_steps=2, dtype="bfloat16")) == 2
    assert "holds heads with dtype 'float32', and now it is 'bfloat16'" in capsys.readouterr().err
    # nothing is removed for a run that cannot be
    assert likra("--config", config(max_steps=2, save_examples=[9], lora_r=4), "--overwrite") == 2
    assert [row["examples"] for row in results()["rows"]] == [0, 8, 16]
    assert likra("--config", config(max_steps=2, save_examples=[8], lora_r=4), "--overwrite") == 0
    assert [row["examples"] for row in results()["rows"]] == [0, 8, 16]
    assert LikraModel.from_pretrained("out").model.peft_config["positive"].r == 4


def test_the_negative_head_alone(config):
    assert likra("--config", config(heads=["negative"], max_steps=2)) == 0
    assert set(results()["rows"][-1]) == {"examples", "negative_vs_base"}
    assert "negative vs base, acc" in Path("out/table.md").read_text()


def test_preferences(config, preferences):
    preferences.to_json("preferences.jsonl")
    file = config(dataset_name="preferences.jsonl", num_train_epochs=2)
    assert likra("--config", file, "--save_examples", "8") == 0
    assert results()["rows"][-1]["ratio"]["acc"] > 0.6
    assert LikraModel.from_pretrained("out").template is None
    assert "Likra, acc_token" in Path("out/table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_name": None}, "dataset_name is missing"),
        ({"dataset_name": "./nowhere"}, "dataset_name './nowhere' does not exist"),
        ({"test_share": None}, "dataset_test_split 'test' is not in questions.jsonl. It has train."),
        ({"save_examples": [9]}, "save_examples names 9, and no optimizer step ends there"),
        ({"weight": -1}, "weight=-1.0 must be a number of 0 or more"),
        ({"lora_r": 0}, "lora_r=0 and lora_alpha=8 must be 1 or more"),
        ({"negatives": "near"}, "negatives='near' is unknown"),
        ({"negativs": "first"}, "has the key 'negativs', which is unknown. Did you mean 'negatives'?"),
        ({"model_name_or_path": "./no/model"}, "./no/model"),
    ],
)
def test_bad_input_is_one_line_and_code_2(changes, message, config, capsys):
    assert likra("--config", config(**changes)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and message in error.splitlines()[-1]


def test_test_questions_are_checked_before_the_base_is_asked_for_hard_options(config, questions, monkeypatch, capsys):
    rows = questions.to_list()
    for row in rows:
        row["question"] += " a word" * (200 if row["question"] == "What is number 7?" else 0)
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if len(row["question"]) < 100))
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if len(row["question"]) > 100))
    Path("data").mkdir()
    for name in ("train", "test"):
        Path(f"{name}.jsonl").rename(f"data/{name}.jsonl")
    monkeypatch.setattr("trl_negalign.likra.trainer.LikraTrainer._base_logps", None)
    options = {"dataset_name": "./data", "test_share": None, "wrong_option": "hardest"}
    assert likra("--config", config(**options)) == 2
    assert "test question 0 has" in capsys.readouterr().err


def test_the_help_names_the_options_by_topic(capsys):
    with pytest.raises(SystemExit):
        run(["--help"])
    text = capsys.readouterr().out
    for part in ("Heads:", "Learning curve:", "Model and data:", "--negatives", "--test_share", "--learning_rate"):
        assert part in text


@pytest.mark.parametrize("name", ["likra", "hellaswag_likra"])
def test_recipes_are_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # nothing is unknown in it: the first thing that is missing is its data
    with pytest.raises(ValueError, match="dataset_name 'runs/.*' does not exist"):
        run(["--config", str(ROOT / "recipes" / "arc" / f"{name}.yaml")])


@pytest.mark.parametrize("place", ["training/thesis.tex", "training/positive/checkpoint-2/thesis.tex", "notes.md"])
def test_overwrite_never_takes_a_foreign_file(place, config, capsys):
    assert likra("--config", config(max_steps=2)) == 0
    thesis = Path("out", place)
    thesis.write_text("years of work")
    assert likra("--config", config(max_steps=2, lora_r=4), "--overwrite") == 2
    assert f"'out' holds {place}, which is no file of the run that was there" in capsys.readouterr().err
    assert thesis.read_text() == "years of work" and results()["rows"][-1]["examples"] == 16
    thesis.unlink()
    assert likra("--config", config(max_steps=2, lora_r=4), "--overwrite") == 0


def test_a_head_that_starts_again_takes_no_foreign_file(config, capsys):
    """A run that was stopped before its first whole checkpoint trains anew: only half-written checkpoints go."""
    file, half = config(save_examples=[8], max_steps=1), Path("out/training/positive/checkpoint-4")
    half.mkdir(parents=True)
    start("out", "likra")
    for path in (half.parent / "thesis.tex", half / "thesis.tex", half / "optimizer.pt"):
        path.write_text("work")
    assert likra("--config", file) == 2
    assert "checkpoint-4 holds files that are not negalign's (thesis.tex)" in capsys.readouterr().err
    assert not (half / "optimizer.pt").exists()
    (half / "thesis.tex").rename("thesis.tex")
    half.rmdir()
    assert likra("--config", file) == 0
    assert (half.parent / "thesis.tex").read_text() == "work"


def test_overwrite_refuses_the_base_and_the_questions(config, saved_model, capsys):
    Path("base").symlink_to(saved_model)
    assert likra("--config", config(model_name_or_path="base", output_dir="base"), "--overwrite") == 2
    assert "output_dir 'base' is the model 'base'" in capsys.readouterr().err
    assert likra("--config", config(output_dir="."), "--overwrite") == 2
    assert "holds the dataset 'questions.jsonl'" in capsys.readouterr().err
    assert Path("questions.jsonl").exists() and Path(saved_model, "model.safetensors").exists()


def test_no_secret_is_written(config, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    options = {"model_init_kwargs": {"token": "planted-one"}, "hub_token": "planted-two", "max_steps": 2}
    assert likra("--config", config(**options)) == 0
    written = {str(path): path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert any(name.endswith("training_args.bin") for name in written)
    assert not [name for name, content in written.items() if b"planted-" in content]


def test_an_error_in_the_evaluation_keeps_its_traceback(config, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ValueError("deep in a library")

    monkeypatch.setattr("trl_negalign.likra.curve.plot_curve", fail)
    assert likra("--config", config(max_steps=2)) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error and "ValueError: deep in a library" in error
