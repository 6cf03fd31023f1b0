"""`--check_guides N`: a training whose guides do not separate does not start."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.evaluation.guided_policy import MarkedPolicy
from tests.helpers import dataset
from trl_negalign.cli import main, run_command
from trl_negalign.evaluation.separation import compared_kinds
from trl_negalign.groups import PLAIN_CANDIDATE, Candidate
from trl_negalign.scripts import training


@pytest.fixture
def config(saved_model, tmp_path, monkeypatch):
    """Write a run's YAML file, with changes; its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    dataset("conversation").to_json(tmp_path / "data.jsonl")

    def write(**changes):
        options = {
            "model_name_or_path": saved_model,
            "dataset_name": "data.jsonl",
            "reward_funcs": "tests.evaluation.guided_policy.share_of_a",
            "output_dir": "out",
            "positive_prompt": "+ +",
            "negative_prompt": "# #",
            "check_guides": 12,
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 6,
            "max_steps": 1,
            "save_strategy": "no",
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
        }
        options = {key: value for key, value in (options | changes).items() if value is not None}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(options))
        return "run.yaml"

    return write


@pytest.fixture
def checked_policy(monkeypatch, tokenizer):
    """Have the check, and not the training, load a policy that heeds its guides or not; what it was loaded with."""

    def use(heeds: bool) -> list[dict]:
        loaded = []

        def load(name, **kwargs):
            loaded.append(kwargs)
            return MarkedPolicy(tokenizer, heeds)

        monkeypatch.setattr(
            "trl_negalign.scripts.guide_check.AutoModelForCausalLM", SimpleNamespace(from_pretrained=load)
        )
        return loaded

    return use


PLE = {"positive_prompt": None, "negative_prompt": None, "principle_prompt": "+"}


@pytest.mark.parametrize(
    ("command", "changes", "kinds"),
    [
        ("neat", {}, "positive − negative"),
        ("neat", {"num_negative": 0, "num_plain": 1}, "positive − plain"),
        ("neat", {"num_positive": 0, "num_plain": 1}, "plain − negative"),
        ("ple", PLE, "principle − plain"),
    ],
)
def test_guides_that_separate_are_trained_on(command, changes, kinds, config, checked_policy, capsys):
    loaded = checked_policy(True)
    assert main([command, "--config", config(**changes), "--dtype", "bfloat16"]) == 0
    shown = capsys.readouterr().out
    assert f"The guides separate: reward of {kinds} samples +" in shown and "on 12 queries." in shown
    assert Path("out/model.safetensors").exists()
    assert loaded[0]["dtype"] == "bfloat16" and str(loaded[0]["device_map"][""]) == "cpu"


@pytest.mark.parametrize(
    ("command", "changes", "named"),
    [
        (
            "neat",
            {"guide_placement": "system"},
            "Reward of positive − negative samples 0, positive_prompt='+ +', negative_prompt='# #', "
            "guide_placement='system'",
        ),
        ("ple", PLE, "Reward of principle − plain samples 0, principle_prompt='+', guide_placement='user'"),
    ],
)
def test_guides_that_do_not_are_refused_before_anything_is_written(
    command, changes, named, config, checked_policy, capsys
):
    checked_policy(False)
    assert main([command, "--config", config(**changes)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"negalign {command}: check_guides=12: the guides do not separate.")
    sentence, fields = named.split(" 0, ")
    assert sentence in error and fields in error
    assert "on 12 queries; the whole interval must lie above 0" in error and "negalign guides" in error
    assert "check_guides=0" in error and not Path("out").exists()


def test_guides_of_the_wrong_order_are_refused_too(config, checked_policy, capsys):
    checked_policy(True)
    assert main(["neat", "--config", config(positive_prompt="# #", negative_prompt="+ +")]) == 2
    assert "do not separate. Reward of positive − negative samples: -" in capsys.readouterr().err


def test_it_is_off_unless_asked_for_and_skipped_when_resumed(config, checked_policy):
    loaded = checked_policy(False)
    assert main(["neat", "--config", config(check_guides=None, save_strategy="steps", save_steps=1)]) == 0
    assert main(["neat", "--config", config(max_steps=2), "--resume_from_checkpoint"]) == 0
    assert loaded == []


def test_processes_that_are_launched_do_not_check_again(config, checked_policy, monkeypatch):
    loaded, launched = checked_policy(True), []
    monkeypatch.setattr("trl_negalign.scripts.training.needs_launcher", lambda arguments: True)
    monkeypatch.setattr("trl_negalign.scripts.training.launch", lambda *call: launched.append(call) or 0)
    assert main(["neat", "--config", config()]) == 0
    assert len(loaded) == 1 and launched[0][2][-2:] == ["--check_guides", "0"]
    assert main(["neat", "--config", config(), *launched[0][2][-2:]]) == 0
    assert len(loaded) == 1  # the flag wins over the file


def test_a_launched_process_refuses_it(config, capsys):
    options = ["--config", config()]
    assert run_command(lambda: training.run(["neat", *options], launched=True), "negalign neat") == 2
    assert "check_guides=12 runs before processes are launched" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("neat", {"check_guides": 9}, "check_guides=9 must be 0 (no check) or 10 or more"),
        ("neat", {"check_guides": -1}, "check_guides=-1 must be 0"),
        ("raft", {"positive_prompt": None, "negative_prompt": None}, "check_guides=12: no candidate of the group is"),
        (
            "neat",
            {"reward_funcs": "tests.scripts.test_guide_check.graded"},
            "the training set has the columns prompt.",
        ),
    ],
)
def test_what_cannot_be_checked(command, changes, message, config, capsys):
    assert main([command, "--config", config(**changes)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not Path("out").exists()


def graded(completions, answer, **kwargs):
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("guided", "kinds"),
    [
        (["positive", "negative"], ("positive", "negative")),
        (["positive"], ("positive", "plain")),
        (["negative"], ("plain", "negative")),
        (["principle"], ("principle", "plain")),
        ([], None),
    ],
)
def test_which_kinds_must_differ(guided, kinds):
    candidates = [
        PLAIN_CANDIDATE,
        *(Candidate(kind, guide="x") for kind in guided),
        Candidate("chosen", column="chosen"),
    ]
    assert compared_kinds(candidates) == kinds


def test_a_run_says_nothing_of_it_in_its_configuration(config, checked_policy):
    checked_policy(True)
    assert main(["neat", "--config", config()]) == 0
    assert "check_guides" not in json.loads(Path("out/run_config.json").read_text())["args"]
