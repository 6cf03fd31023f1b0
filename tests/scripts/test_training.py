"""`negalign neat` and `negalign ple`: a YAML file and flags in, a trained model out; bad input is one line."""

import copy
import json
import tomllib
from pathlib import Path

import pytest
import transformers
import trl
import yaml
from packaging.version import Version

from tests.helpers import DROPPING, dataset, with_template
from trl_negalign.cli import main
from trl_negalign.scripts.launching import launch_files
from trl_negalign.trainer import seams


ROOT = Path(__file__).parent.parent.parent
REWARD = (
    "def letters(completions, **kwargs):\n    return [float(len(set(text))) for text in completions]\nnumber = 3\n"
)


@pytest.fixture
def config(saved_model, tmp_path, monkeypatch):
    """Write a run's YAML file, with changes; its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "command_rewards.py").write_text(REWARD)
    (tmp_path / "data").mkdir()
    dataset().to_parquet(tmp_path / "data" / "train.parquet")

    def write(**changes):
        options = {
            "model_name_or_path": saved_model,
            "dataset_name": "data",
            "reward_funcs": "command_rewards.letters",
            "output_dir": "out",
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 6,
            "max_steps": 2,
            "save_steps": 1,
            "learning_rate": "1e-2",
            "logging_steps": 1,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
        }
        options = {key: value for key, value in (options | changes).items() if value is not None}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(options))
        return "run.yaml"

    return write


def log(folder) -> list[dict]:
    return json.loads((Path(folder) / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("command", ["neat", "ple"])
def test_it_trains_resumes_and_overwrites(command, config):
    file = config()
    assert main([command, "--config", file]) == 0
    first = log("out")
    assert any(key.startswith(f"{command}/") for key in first[0])
    written = json.loads(Path("out/run_config.json").read_text())
    assert written["args"]["learning_rate"] == 0.01 and len(written["candidates"]) == 4
    assert written["rewards"] == ["letters"]
    assert main([command, "--config", file, "--max_steps", "3", "--resume_from_checkpoint"]) == 0
    assert [entry["loss"] for entry in log("out")[:2]] == [entry["loss"] for entry in first[:2]]
    assert len(log("out")) == 4
    assert main([command, "--config", file, "--resume_from_checkpoint", "out/checkpoint-1"]) == 0
    assert log("out")[1]["loss"] == pytest.approx(first[1]["loss"])
    assert main([command, "--config", file, "--overwrite", "--max_steps", "1"]) == 0
    assert len(log("out")) == 2 and not Path("out/checkpoint-2").exists()


def test_it_is_watched_unless_told_otherwise(config):
    Path("tied_rewards.py").write_text("def tied(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    options = {"reward_funcs": "tied_rewards.tied", "max_steps": 10, "save_strategy": "no"}
    assert main(["neat", "--config", config(**options)]) == 0
    assert json.loads(Path("out/warnings.jsonl").read_text())["name"] == "tied_groups"
    assert main(["neat", "--config", config(**options, watch=False), "--overwrite"]) == 0
    assert not Path("out/warnings.jsonl").exists()


@pytest.mark.parametrize("working", [False, True])
def test_a_trl_that_does_not_fit_is_one_line(working, config, monkeypatch, capsys):
    if working:  # found once it samples
        monkeypatch.setitem(seams.GENERATED, "prompt_ids", 2)
    else:
        monkeypatch.setitem(seams.OVERRIDDEN, "_generate", ("prompts", "more"))
    assert main(["neat", "--config", config(disable_tqdm=True)]) == 2
    error = capsys.readouterr().err
    assert f"negalign neat: TRL {trl.__version__} changed GRPOTrainer._generate: it " in error.splitlines()[-1]
    assert "install one of those, or a newer trl-negalign" in error and "Traceback" not in error


def test_a_launch_file_by_name(config, capfd):
    options = ["--accelerate_config", "cpu_ddp", "--main_process_port", "0"]
    assert main(["neat", "--config", config(num_train_epochs=1, max_steps=-1), *options]) == 0
    # 16 queries, two groups a process: half as many steps as on one
    assert json.loads(Path("out/trainer_state.json").read_text())["global_step"] == 4
    assert capfd.readouterr().out.count("The model is in out.") == 1


def test_a_launch_file_in_the_yaml(config):
    file = config(accelerate_config="cpu_ddp", main_process_port=0, num_train_epochs=1, max_steps=-1)
    assert main(["ple", "--config", file]) == 0
    assert json.loads(Path("out/trainer_state.json").read_text())["global_step"] == 4


def test_every_launch_file_and_every_folder_is_installed():
    assert set(launch_files()) == {path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml")}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(path.relative_to(ROOT).parent.parts) for path in ROOT.glob("trl_negalign/**/*.py")}
    assert set(listed) == folders | {"trl_negalign.accelerate_configs"}


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({}, ["--learning_rat2", "1"], "--learning_rat2 is unknown. Did you mean 'learning_rate'?"),
        ({"num_positve": 1}, [], "run.yaml has the key 'num_positve', which is unknown. Did you mean 'num_positive'?"),
        ({"num_proceses": 1}, [], "Did you mean 'num_processes'?"),
        ({"zzz": 1}, [], "run.yaml has the key 'zzz', which is unknown. `--help` lists all names."),
        ({}, ["out"], "'out' stands for nothing"),
        ({"num_generations": "four"}, [], "--num_generations/--num-generations: invalid int value: 'four'"),
        ({"num_generations": 4.5}, [], "invalid int value: '4.5'"),
        ({"num_generations": 3}, [], "num_generations"),
        ({"loss_type": "grpo"}, [], "loss_type='grpo' steers GRPO's loss"),
        ({"model_name_or_path": None}, [], "model_name_or_path is missing"),
        ({"model_name_or_path": "./no/model"}, [], "model_name_or_path './no/model' cannot be loaded"),
        ({"dataset_name": None}, [], "dataset_name is missing"),
        ({"dataset_name": "./nowhere"}, [], "dataset_name './nowhere' does not exist"),
        ({"dataset_train_split": "trian"}, [], "dataset_train_split 'trian' is not in the dataset. It has train."),
        ({"eval_strategy": "steps"}, [], "dataset_test_split 'test' is not in the dataset. It has train."),
        ({"reward_funcs": None}, [], "reward_funcs is missing"),
        ({"reward_weights": [1.0, 2.0]}, [], "reward_weights has 2 value(s) for 1 reward(s)"),
        ({"reward_funcs": "sentiment"}, [], "The reward 'sentiment' is no packaged one (vader_reward)"),
        (
            {"reward_funcs": "no_such.module"},
            [],
            "The reward 'no_such.module' cannot be imported: ModuleNotFoundError",
        ),
        ({"reward_funcs": "command_rewards.words"}, [], "command_rewards has no 'words'"),
        ({"reward_funcs": "command_rewards.number"}, [], "is a int, and must be a function"),
        ({"reward_funcs": "./no/model"}, [], "The reward model './no/model' cannot be loaded"),
        ({}, ["--accelerate_config", "zero4"], "--accelerate_config zero4 is no file. Pass one, or one of cpu_ddp"),
        ({}, ["--overwrite", "--resume_from_checkpoint"], "overwrite and resume_from_checkpoint are both set"),
        ({}, ["--resume_from_checkpoint"], "found no whole checkpoint in 'out'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(changes, flags, message, config, capsys):
    assert main(["neat", "--config", config(**changes), *flags]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    *progress, last = error.splitlines()
    assert last.startswith("negalign neat: ") and message in last
    assert all("Generating" in line or not line for line in progress)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_generations: 4\n\tmax_steps: 2", "is no YAML: line 2, column 1: a tab, where YAML wants spaces"),
        ("num_generations: [4", "is no YAML: line 1, column 20: expected ',' or ']'"),
        ("- one\n- two", "must hold `field: value` lines, and holds list"),
        ("", "holds NoneType"),
    ],
)
def test_a_file_that_is_no_mapping(text, message, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    assert main(["ple", "--config", str(tmp_path / "run.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file(capsys):
    assert main(["ple", "--config", "nowhere.yaml"]) == 2
    assert "--config nowhere.yaml cannot be read: No such file" in capsys.readouterr().err


def test_a_reward_model_with_two_labels(config, saved_model, capsys):
    assert main(["neat", "--config", config(reward_funcs=saved_model)]) == 2
    assert "has 2 labels, and a reward is one number" in capsys.readouterr().err


def test_conversations_need_a_chat_template(config, tokenizer, tmp_path, capsys):
    file = config(model_name_or_path="plain")
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    plain.save_pretrained(tmp_path / "plain")
    dataset("conversation").to_parquet("data/train.parquet")
    assert main(["neat", "--config", file]) == 2  # there is no model in that folder, so none was loaded
    assert "train_dataset has conversations, and the tokenizer 'plain' has no chat template" in capsys.readouterr().err


def test_an_answer_in_open_reasoning_is_refused(config, tokenizer, tmp_path, capsys):
    file = config(model_name_or_path="thinking")
    with_template(tokenizer, DROPPING).save_pretrained(tmp_path / "thinking")
    dataset("conversation", responses=True).to_parquet("data/train.parquet")
    assert main(["neat", "--config", file]) == 2  # there is no model in that folder, so none was loaded
    assert "train_dataset[0]['chosen'] has no </think>" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "kinds"), [("raft", {"plain"}), ("rrhf", {"plain", "chosen", "rejected"})])
def test_presets(command, kinds, config):
    file = config()
    dataset(responses=True).to_parquet("data/train.parquet")
    assert main([command, "--config", file]) == 0
    first = log("out")[0]
    assert {key.removeprefix("reward/") for key in first if key.startswith("reward/")} == kinds
    expected = first["neat/loss_sft"] + (first["neat/loss_ranking"] if command == "rrhf" else 0.0)
    assert first["loss"] == pytest.approx(expected, rel=1e-4)
    card = Path("out/README.md").read_text()
    assert f"{command.upper()}: R" in card and "Negative-Prompt-driven" not in card


def test_a_run_is_not_overwritten_by_accident(config, capsys):
    Path("out/checkpoint-1").mkdir(parents=True)
    assert main(["neat", "--config", config()]) == 2
    assert "output_dir 'out' holds another run (checkpoint-1)" in capsys.readouterr().err


def test_several_rewards_of_all_kinds(config, saved_reward_model):
    file = config(reward_funcs=["command_rewards.letters", "vader_reward"], reward_weights=[0.1, 1.0], max_steps=1)
    assert main(["neat", "--config", file, "--reward_model_name_or_path", saved_reward_model]) == 2
    file = config(reward_funcs=["command_rewards.letters", "vader_reward", saved_reward_model], max_steps=1)
    assert main(["neat", "--config", file, "--reward_weights", "0.1", "1.0", "0.5"]) == 0
    assert sum(key.startswith("rewards/") and key.endswith("/mean") for key in log("out")[0]) == 3


# how transformers heads a later topic, before its release 5 and since
LATER_TOPIC = (
    "Optimizer:" if Version(transformers.__version__) >= Version("5") else "Other options of TrainingArguments:"
)


def test_help_is_by_topic_and_without_grpos_own_options(capsys):
    with pytest.raises(SystemExit):
        main(["neat", "--help"])
    shown = capsys.readouterr().out
    places = [shown.index(part) for part in ("Group:", "--positive_prompt", "Objective:", "--sft_weight", LATER_TOPIC)]
    assert places == sorted(places)
    assert "(default: 0.1)" in shown and "--epsilon" not in shown
