"""What a training leaves behind and takes away: no foreign file is lost, no secret is written, no error is hidden."""

import os
import re
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers import dataset
from tests.scripts.test_training import config  # noqa: F401  (fixture)
from trl_negalign import cli
from trl_negalign.cli import main
from trl_negalign.scripts import launching


ROOT = Path(__file__).parent.parent.parent
SECRETS = ("planted-one", "planted-two", "planted-three", "planted-four")


def contents(folder=".") -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["out/thesis.tex", "out/checkpoint-1/thesis.tex", "out/completions/thesis.tex"])
def test_overwrite_never_takes_a_foreign_file(place, config, capsys):  # noqa: F811
    file = config(max_steps=1)
    assert main(["neat", "--config", file]) == 0
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text("years of work")
    before = contents("out")
    assert main(["neat", "--config", file, "--overwrite"]) == 2
    assert f"'out' holds {place.removeprefix('out/')}, which is no file of the run" in capsys.readouterr().err
    assert contents("out") == before
    Path(place).unlink()
    assert main(["neat", "--config", file, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dir": "data"}, "is the dataset 'data'"),
        ({"output_dir": "."}, "holds the dataset 'data', which the run reads"),
        ({"output_dir": "model"}, "is the model 'model'"),
        ({"output_dir": "user"}, "holds README.md, and nothing there says that negalign wrote it"),
        ({"output_dir": "/"}, "holds the model"),
    ],
)
def test_overwrite_refuses_what_is_no_run(changes, message, config, saved_model, capsys):  # noqa: F811
    Path("model").symlink_to(saved_model)
    Path("user").mkdir()
    Path("user/README.md").write_text("mine")
    before = contents()
    file = config(model_name_or_path="model", **changes)
    assert main(["neat", "--config", file, "--overwrite"]) == 2
    assert message in capsys.readouterr().err
    assert before.items() <= contents().items()


def test_a_model_in_the_run_that_is_to_be_replaced(config, capsys):  # noqa: F811
    assert main(["neat", "--config", config(max_steps=1)]) == 0
    before = contents("out")
    assert main(["neat", "--config", config(model_name_or_path="out/checkpoint-1"), "--overwrite"]) == 2
    assert "holds the model 'out/checkpoint-1', which the run reads" in capsys.readouterr().err
    assert contents("out") == before


def test_a_users_model_card_is_not_written_over(config, capsys):  # noqa: F811
    Path("out").mkdir()
    Path("out/README.md").write_text("mine")
    assert main(["neat", "--config", config()]) == 2
    assert "holds README.md, which is not negalign's and this run would write over" in capsys.readouterr().err
    assert contents("out") == {"out/README.md": b"mine"}


def test_a_killed_run_can_be_overwritten(config, monkeypatch):  # noqa: F811
    def killed(self, *args, **kwargs):
        raise KeyboardInterrupt

    file = config()
    with monkeypatch.context() as patch:
        patch.setattr("trl_negalign.scripts.training.save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["neat", "--config", file])
    assert Path("out/checkpoint-2").exists()
    assert main(["neat", "--config", file, "--max_steps", "1", "--overwrite"]) == 0
    assert not Path("out/checkpoint-2").exists()


def test_no_secret_is_written(config, capfd, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", "")
    one, two, three, four = SECRETS
    file = config(
        model_init_kwargs={"token": one},
        hub_token=two,
        run_name=f"https://me:{three}@tracker/run",
        logging_dir=None,
        log_completions=True,
        reward_funcs=["command_rewards.letters"],
    )
    with open(file, "a") as text:
        text.write(f"generation_kwargs: {{stop_strings: null}}\n# api_key: {four}\n")
    assert main(["neat", "--config", file]) == 0
    assert main(["report", "out"]) == 0
    written = contents("out")
    assert {"out/run_config.json", "out/report.html", "out/training_args.bin"} <= set(written)
    for name, content in written.items():
        for secret in (one, two):
            assert secret.encode() not in content, (name, secret)
        if not name.endswith("training_args.bin"):  # transformers' own record, of an address that it may need
            assert three.encode() not in content, name
    saved = torch.load("out/training_args.bin", weights_only=False)
    assert saved.hub_token is None and saved.model_init_kwargs["token"] == "<masked>"
    printed = capfd.readouterr()
    assert not any(secret in printed.out + printed.err for secret in SECRETS)


def test_a_report_of_an_older_runs_settings_has_no_secret(config):  # noqa: F811
    assert main(["neat", "--config", config(max_steps=1)]) == 0
    path = Path("out/run_config.json")
    path.write_text(path.read_text().replace('"revision": "main"', '"revision": "main", "token": "planted-one"'))
    assert "planted-one" in path.read_text()
    assert main(["report", "out"]) == 0
    assert "planted-one" not in Path("out/report.html").read_text()


def test_a_launched_run_that_fails_does_not_print_its_command(tmp_path, monkeypatch, capfd):
    (tmp_path / "failing.py").write_text("import sys\nsys.exit('it failed')\n")
    arguments = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no"]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert launching.launch("failing", arguments, ["--hub_token", "planted-one"]) != 0
    printed = capfd.readouterr()
    assert "it failed" in printed.err and "planted-one" not in printed.out + printed.err


def test_an_error_line_has_no_secret(capsys):
    def run():
        raise ValueError("--hub_token planted-one stands for nothing")

    assert cli.run_command(run, "negalign neat") == 2
    assert "planted-one" not in capsys.readouterr().err


FAILING = (
    "calls = []\ndef late(completions, **kwargs):\n    calls.append(1)\n    if len(calls) > 1:\n"
    "        raise ValueError('deep in a library')\n    return [float(len(set(text))) for text in completions]\n"
)


def test_an_error_in_the_training_keeps_its_traceback(config, capsys):  # noqa: F811
    Path("late_rewards.py").write_text(FAILING)
    assert main(["neat", "--config", config(reward_funcs="late_rewards.late")]) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error and "late_rewards.py" in error
    assert error.rstrip().endswith("ValueError: deep in a library")
    # what is wrong with the input is a line again
    assert main(["neat", "--config", config(num_generations=3), "--overwrite"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_on_another_process_is_printed(monkeypatch, capsys):
    def run():
        raise ValueError("no room on this device")

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "5")
    assert cli.run_command(run, "negalign neat") == 2
    assert capsys.readouterr().err == "negalign neat (process 5): no room on this device\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "dataset_name 'queries.jsonl' cannot be loaded: queries.jsonl is empty"),
        (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n', "queries.jsonl, line 2 is no UTF-8 text"),
        (b'{"prompt": "a"}\n{"prompt": "b"\n', "queries.jsonl, line 2: "),
        (b'{"prompt": "a"}\n{"prompt": null}\n', "queries.jsonl, train[1]['prompt'] is empty: None"),
        (b'{"question": "a"}\n', "queries.jsonl, train has no 'prompt' column, only ['question']"),
    ],
)
@pytest.mark.parametrize("place", ["queries.jsonl", "folder"])
def test_a_file_of_data_with_a_fault(place, content, message, config, capsys):  # noqa: F811
    Path("folder").mkdir()
    Path("queries.jsonl" if place != "folder" else "folder/train.jsonl").write_bytes(content)
    assert main(["neat", "--config", config(dataset_name=place)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    if place == "folder":
        message = re.sub(r"queries.jsonl(?=,? (is|line))", "folder/train.jsonl", message)
        message = message.replace("queries.jsonl", "folder")
    assert message in error


def test_the_pages_shortest_file_trains(config, saved_model, capsys):  # noqa: F811
    page = (ROOT / "docs" / "get_started.md").read_text()
    text = re.search(r"```yaml\n# run\.yaml\n(.*?)```", page, flags=re.DOTALL)[1]
    code = re.search(r"```python\n# my_rewards\.py\n(.*?)```", page, flags=re.DOTALL)[1]
    options = yaml.safe_load(text)
    assert len(options) <= 5
    Path("my_rewards.py").write_text(code)
    dataset(rows=32).to_json(options["dataset_name"])
    Path("run.yaml").write_text(text)
    small = ["--use_cpu", "True", "--bf16", "False", "--max_steps", "1", "--max_completion_length", "6"]
    small += ["--report_to", "none", "--gradient_accumulation_steps", "1"]
    assert main(["neat", "--config", "run.yaml", "--model_name_or_path", saved_model, *small]) == 0
    assert Path(options["output_dir"], "model.safetensors").exists()
