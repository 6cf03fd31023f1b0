"""Every recipe is read by the command it names, and runs: one step on tiny models and tiny data, stage after stage."""

import gzip
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from trl_negalign.cli import main


ROOT = Path(__file__).parent.parent / "recipes"
TASKS = ("hh", "imdb", "tldr")
STAGES = (
    "sft reward dpo grpo raft rrhf neat neat_no_penalty ple ple_no_ranking ple_no_wsft".split()
)  # in an order that a user may follow
OURS = ("neat", "ple", "raft", "rrhf")
SMALL = {
    "max_steps": 1,
    "per_device_train_batch_size": 12,
    "gradient_accumulation_steps": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "dtype": "float32",
    "save_strategy": "no",
}


def flags(options: dict) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def command_of(stage: str) -> str:
    return stage.split("_")[0]


def write_source(task: str, folder: Path) -> list[str]:
    """A few rows as the hub has them; the options of `negalign data` that read them."""
    words = "one two three four five six seven eight nine ten".split()
    rows = {
        "hh": [
            {
                "chosen": f"\n\nHuman: question number {i}\n\nAssistant: a kind word {i}",
                "rejected": f"\n\nHuman: question number {i}\n\nAssistant: nobody said {i}",
            }
            for i in range(32)
        ],
        "imdb": [{"text": f"film {i} " + " ".join(words), "label": i % 2} for i in range(32)],
        "tldr": [{"prompt": f"POST: film {i}\nTL;DR:", "completion": f" word {i}"} for i in range(32)],
        "pairs": [{"prompt": f"POST: {i}\nTL;DR:", "chosen": f" a {i}", "rejected": f" b {i}"} for i in range(32)],
    }
    for name in (task, "pairs"):
        for split in ("train", "test"):
            with gzip.open(folder / f"{name}_{split}.jsonl.gz", "wt") as file:
                # Likra's heads refuse to be tested on queries that they are trained on
                file.writelines(json.dumps(row).replace("number", split) + "\n" for row in rows[name])
    extra = ["--preference_source", str(folder / "pairs")] if task == "tldr" else []
    return ["--source", str(folder / task), *extra]


def run(task: str, stage: str, options: dict) -> None:
    """A recipe with other options, by the command its head names, in this process."""
    arguments = ["--config", str(ROOT / task / f"{stage}.yaml"), *flags(options)]
    if command_of(stage) in OURS:
        assert main([command_of(stage), *arguments]) == 0
        return
    script = import_module(f"trl.scripts.{stage}")
    script.main(*script.make_parser().parse_args_and_config(arguments))


@pytest.mark.parametrize(
    "task", ["hh", pytest.param("imdb", marks=pytest.mark.slow), pytest.param("tldr", marks=pytest.mark.slow)]
)
def test_the_stages_of_a_task_follow_each_other(task, saved_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert main(["data", task, "--out", f"runs/{task}/data", *write_source(task, tmp_path)]) == 0
    for stage in STAGES:
        options = dict(SMALL)
        if stage == "sft":
            options["model_name_or_path"] = saved_model
            if task == "hh":
                options["chat_template_path"] = str(ROOT / "hh" / "chat_template.jinja")
        if stage not in ("sft", "reward", "dpo"):
            options["max_completion_length"] = 4
        if command_of(stage) == "grpo":
            options["num_generations"] = 4
        run(task, stage, options)
        if task == "hh" and stage in ("sft", "reward"):  # adapters, merged for the next stage
            assert main(["merge", f"runs/hh/{stage}", f"runs/hh/{stage}-merged"]) == 0
        assert list(Path(f"runs/{task}/{stage}").glob("*.safetensors"))
    if task == "hh":
        a_reward_of_heads(dict(SMALL))


def a_reward_of_heads(options: dict) -> None:
    """HH's other reward: heads from the same preferences, in the place of the reward model."""
    recipe = ["--config", str(ROOT / "hh" / "likra_reward.yaml"), "--num_test", "8"]
    assert main(["likra", *recipe, *flags(options)]) == 0
    heads, policy = "runs/hh/likra_reward", "runs/hh/neat_likra"
    options |= {"max_completion_length": 4, "reward_funcs": heads, "output_dir": policy}
    run("hh", "neat", options)
    logged = json.loads(Path(policy, "trainer_state.json").read_text())["log_history"][0]
    assert logged["rewards/likra_reward/mean"] == pytest.approx(logged["reward"])


@pytest.mark.parametrize("method", ["reinforce", "nsr", "topr", "nft"])
def test_sums(method, saved_model, tmp_path, monkeypatch):
    """Its data from its script and its reward by import path, by every method that it serves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(ROOT.parent))
    subprocess.run([sys.executable, str(ROOT / "sums" / "sums.py"), "runs/sums/data", "32"], check=True)
    options = SMALL | {"model_name_or_path": saved_model, "per_device_train_batch_size": 8, "max_steps": 2}
    options |= {"output_dir": "out", "max_completion_length": 4}
    assert main([method, "--config", str(ROOT / "sums" / "reinforce.yaml"), *flags(options)]) == 0
    log = json.loads(Path("out", "trainer_state.json").read_text())["log_history"][0]
    assert 0 <= log["reinforce/accuracy"] <= 1


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_it_says_how_to_launch_it(path):
    lines = path.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert f"--config recipes/{path.relative_to(ROOT)}" in " ".join(head) and len(lines) <= 60
    yaml.safe_load(path.read_text())


@pytest.mark.parametrize("task", TASKS)
def test_published_settings(task):
    read = {stage: yaml.safe_load((ROOT / task / f"{stage}.yaml").read_text()) for stage in STAGES}
    for stage in ("ple", "ple_no_ranking", "ple_no_wsft"):
        assert (read[stage]["threshold_init"], read[stage]["threshold_decay"]) == (0.2, 0.9)
    for stage in STAGES[2:]:
        assert (read[stage]["lora_r"], read[stage]["lora_alpha"]) == (8, 16)
        assert read[stage]["lora_target_modules"] == "all-linear"
    differs = {key for key in read["neat"] if read["neat"][key] != read["neat_no_penalty"].get(key)}
    assert differs == {"penalty_weight", "output_dir"} and read["neat_no_penalty"]["penalty_weight"] == 0
    assert read["ple_no_ranking"]["ranking_weight"] == read["ple_no_wsft"]["wsft_weight"] == 0
    # every method is shown as many samples of each query, PLE its pair
    assert len({read[stage]["num_generations"] for stage in ("neat", "raft", "rrhf", "grpo")}) == 1


@pytest.mark.parametrize("task", TASKS)
def test_the_chain_ends_with_a_report_and_an_evaluation_of_what_it_trained(task):
    chain = (ROOT / task / "README.md").read_text().split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    lines = {line.split()[1]: line.split()[2:] for line in chain.splitlines() if line.startswith("negalign ")}
    trained = [yaml.safe_load((ROOT / task / f"{name}.yaml").read_text())["output_dir"] for name in ("neat", "ple")]
    assert lines["report"] == trained
    parser = import_module("trl_negalign.scripts.evaluate").make_parser()
    args, lists = parser.parse_args_into_dataclasses(lines["evaluate"])
    start = yaml.safe_load((ROOT / task / "neat.yaml").read_text())
    assert [text.split("=")[1] for text in lists.model] == [start["model_name_or_path"], *trained]
    assert lists.reward == [start["reward_funcs"]] and args.data == start["dataset_name"]
