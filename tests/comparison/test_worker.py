import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest


@pytest.fixture
def prepared(module, task, tmp_path):
    """The smoke task's rewards, made once."""
    material = module("material").load_material(task["corpus"], None)
    module("judges").prepare(task, material, tmp_path / "cache", tmp_path / "results")
    return material


@pytest.fixture
def prepare(module, task, tmp_path):
    """Make the rewards of a changed smoke task."""

    def make(changed: dict):
        changed = task | changed
        material = module("material").load_material(changed["corpus"], None)
        module("judges").prepare(changed, material, tmp_path / "cache", tmp_path / "results")

    return make


@pytest.fixture
def perform(module, task, prepared, tmp_path):
    """Run a worker in this process; its folder."""

    def work(name: str, stage: str = "grid", place: str = "results", setting: dict | None = None, **changed):
        plan = module("plan")
        method = plan.read_method(name)
        setting = setting or ({} if name == "start" else {"learning_rate": 1e-2})
        run = plan.run_of(task | changed, method, setting, stage, 1)
        folder = plan.folder_of(tmp_path / place, run)
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True)
        job = {"run": run, "folder": str(folder), "partial": str(partial), "data": None, "cache": tmp_path / "cache"}
        (partial / "job.json").write_text(json.dumps(job, default=str))
        module("worker").main(partial / "job.json")
        return folder

    return work


def numbers_of(folder) -> list:
    return json.loads((folder / "run.json").read_text())["numbers"]


@pytest.mark.parametrize("name", ["neat", "grpo"])
def test_the_same_seed_gives_the_same_digits_from_scratch(perform, name):
    one, other = (perform(name, place=place) for place in ("once", "again"))
    assert numbers_of(one) == numbers_of(other)
    texts = [pd.read_parquet(folder / "completions.parquet") for folder in (one, other)]
    pd.testing.assert_frame_equal(*texts)
    assert numbers_of(one)[-1]["kl"]["mean"] > 1e-4  # it has learnt something


def test_a_run_keeps_what_a_reader_needs(module, perform, task):
    folder = perform("ple", "seeds")
    record = json.loads((folder / "run.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"run.json", "log.json.gz", "completions.parquet"}
    assert [(one["step"], one["part"]) for one in record["numbers"]] == [
        (1, "validation"), (2, "validation"), (2, "test"),
    ]  # fmt: skip
    assert record["run"]["seed"] == 1 and record["cost"]["steps"] == 2 and record["cost"]["tokens"] > 0
    assert record["environment"]["threads"] >= 1 and record["environment"]["versions"]["trl"]
    table = pd.read_parquet(folder / "completions.parquet")
    assert set(table["part"]) == {"validation", "test"} and len(table) == 3 * 40
    test = table[table["part"] == "test"]
    assert test["reward/gold"].mean() == pytest.approx(record["numbers"][-1]["reward/gold"])
    perplexity = math.exp(-test["reference_logp"].sum() / test["tokens"].sum())
    assert perplexity == pytest.approx(record["numbers"][-1]["perplexity"])
    gap = module("curves").gap_curve(SimpleNamespace(records=[{"folder": folder}]))
    assert gap[2].shape == (1, 2)


def test_the_start_model_has_no_kl_and_the_test_queries_are_for_the_stage_seeds(perform):
    numbers = numbers_of(perform("start"))
    assert [(one["step"], one["part"], one["kl"]["mean"]) for one in numbers] == [(0, "validation", 0.0)]


@pytest.mark.parametrize("name", ["sft", "dpo", "best_of_start", "online_dpo"])
def test_methods_of_other_data_learn(perform, name):
    numbers = numbers_of(perform(name))
    assert numbers[-1]["step"] == 2 and numbers[-1]["kl"]["mean"] > 1e-5


@pytest.fixture
def dialogues(task):
    """The smoke task with made dialogues."""
    corpus = {"reader": "made", "seed": 0, "queries": 120, "dialogues": True}
    return {"corpus": corpus, "guides": "Be kind."}


def test_the_datasets_responses_join_the_groups(module, perform, prepare, dialogues, task):
    prepare(dialogues)
    folder = perform("neat_responses", "seeds", **dialogues)
    record = json.loads((folder / "run.json").read_text())
    log = module("curves").read_log(folder)
    assert all(f"reward/{kind}" in log[0] for kind in ("positive", "negative", "chosen", "rejected"))
    assert record["numbers"][-1]["kl"]["mean"] > 1e-5 and record["cost"]["steps"] == 2


@pytest.mark.parametrize("name", ["sft", "dpo", "online_dpo"])
def test_every_kind_of_method_answers_dialogues(module, perform, prepare, dialogues, name):
    prepare(dialogues)
    numbers = numbers_of(perform(name, **dialogues))
    assert numbers[-1]["step"] == 2 and numbers[-1]["kl"]["mean"] > 1e-5


def test_a_method_is_added_in_one_file(module, perform, task, monkeypatch, tmp_path):
    """The page's example, as it stands there: its runs, its training and its place in the selection."""
    plan, page = module("plan"), (module("plan").HERE / "README.md").read_text()
    example = page.split("One file, `methods/NAME.yaml`:")[1].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "start.yaml").write_text("says: The start model.")
    (tmp_path / "methods" / "mine.yaml").write_text(example)
    monkeypatch.setattr(plan, "HERE", tmp_path)
    methods, faults = plan.read_methods(task)
    assert [method["name"] for method in methods] == ["start", "mine"] and not faults
    settings = [run["setting"] for run in plan.grid_runs(task, methods[1])]
    assert settings[0] == {"learning_rate": 1e-3, "threshold_init": 0.1} and len(settings) == 4
    folder = perform("mine", setting={"learning_rate": 1e-2, "threshold_init": 0.2}, guides="Be kind.")
    assert numbers_of(folder)[-1]["step"] == 2 and "mine/grid-lr0.01-threshold_init0.2-seed1" in str(folder)


def test_a_loss_that_is_not_finite_fails_with_its_reason(module, perform, monkeypatch):
    reward = {"training": lambda prompts, completions, **rest: [float("inf")] * len(prompts)}
    monkeypatch.setattr(module("judges"), "load_judges", lambda *places: reward)
    folder = perform("neat")
    failed = json.loads((folder / "failed.json").read_text())
    assert [path.name for path in folder.iterdir()] == ["failed.json"]
    assert "Error: " in failed["reason"] and "\n" not in failed["reason"] and failed["run"]["method"] == "neat"


def test_what_trl_logs_as_not_finite_stops_the_training(module):
    measuring = module("measuring").Measuring(None, [], None)
    state = SimpleNamespace(global_step=3)
    measuring.on_log(None, state, None, logs={"loss": 1.0, "grad_norm": 0.5})
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3"):
        measuring.on_log(None, state, None, logs={"loss": float("nan")})


def test_a_budget_that_the_task_cannot_fill(perform, task):
    folder = perform("grpo", budget=task["budget"] | {"steps": 500})
    assert "the task has 40 training queries, and its budget takes 1000" in (folder / "failed.json").read_text()


# what is the same for every method


def test_every_method_meets_the_same_queries_of_a_seed(module, task, prepared):
    plan, offline = module("plan"), module("offline")
    drawn = {}
    for name in ("grpo", "ple", "dpo"):
        for seed in (1, 2):
            run = plan.run_of(task, plan.read_method(name), {"learning_rate": 1e-3}, "seeds", seed)
            drawn[name, seed] = [row["prompt"] for row in offline.queries_of(run, prepared.train)]
    assert drawn["grpo", 1] == drawn["ple", 1] == drawn["dpo", 1] != drawn["grpo", 2]
    assert len(set(drawn["grpo", 1])) == 2 * 8 // 4


def test_offline_pairs_are_the_best_and_worst_of_as_many_samples(module, task, prepared):
    plan, offline = module("plan"), module("offline")
    run = plan.run_of(task, plan.read_method("dpo"), {"learning_rate": 1e-3}, "grid", 0)
    policy, tokenizer = module("start").start_model("tiny")
    asked = []

    def reward(prompts, completions):
        asked.extend(completions)
        return [float(len(text)) for text in completions]

    pairs = offline.best_and_worst(run, prepared.train, reward, policy, tokenizer)
    assert len(asked) == 2 * 8  # as many as an online method samples
    for row, pair in enumerate(pairs):
        group = sorted(asked[4 * row : 4 * row + 4], key=len)
        assert len(pair["chosen"]) == len(group[-1]) and len(pair["rejected"]) == len(group[0])
        ends = [ids[-1] == tokenizer.eos_token_id for ids in (pair["chosen_ids"], pair["rejected_ids"])]
        lengths = [len(ids) for ids in (pair["chosen_ids"], pair["rejected_ids"])]
        # what was cut at the budget's length has no end
        assert all(end or length == 6 for end, length in zip(ends, lengths, strict=True))


def test_dpo_trains_on_the_tokens_that_were_sampled(module, task, prepared, tmp_path):
    plan = module("plan")
    run = plan.run_of(task, plan.read_method("dpo"), {"learning_rate": 1e-3}, "grid", 0)
    policy, tokenizer = module("start").start_model("tiny")
    judges = module("judges").load_judges(task, prepared, tmp_path / "cache")
    trainer = module("training").build_trainer(
        run, prepared.train, judges["training"], policy, tokenizer, str(tmp_path / "out"), []
    )
    lengths = {len(ids) for name in ("chosen_ids", "rejected_ids") for ids in trainer.train_dataset[name]}
    assert lengths and max(lengths) <= 6  # TRL's own end of sequence would make it 7
