"""Likra's runs, their numbers and verdicts, from made-up scores; and one run of a tiny base."""

import gzip
import json

import numpy as np
import pytest


SIZES = [32, 64, 128, 256]
QUESTIONS = 40


@pytest.fixture
def likra(module):
    return module("likra")


@pytest.fixture
def runner(module):
    return module("run_likra")


@pytest.fixture
def task(runner):
    """ARC's with fewer numbers of examples."""
    found = runner.read_runs()["arc"]
    last = {"heads": ["negative"], "save_examples": SIZES[-1:]}
    near = {"heads": ["positive", "negative"], "save_examples": SIZES}
    return found | {"negatives": {"same_question": near, "other_question": last, "unrelated": last}}


def scores_of(right: int) -> list[list[float]]:
    """Log-probabilities of two options a question, of which the first is right in so many of them."""
    return [[0.0, -1.0] if index < right else [-1.0, 0.0] for index in range(QUESTIONS)]


@pytest.fixture
def leave(module, runner, task, tmp_path):
    """
    Leave the folders of finished runs: how many questions are right under the base, under the positive head and by
    the ratio, by number of examples. The negative head's scores are what the ratio needs.
    """

    def make(base: int, sft: dict[int, int], ratio: dict[int, int], kind="same_question", seeds=(1, 2, 3)):
        for run in runner.runs_of("arc", task, kind, list(seeds)):
            folder = module("plan").folder_of(tmp_path, run)
            folder.mkdir(parents=True)
            logps = {"base": scores_of(base)}
            for size, right in ratio.items():
                positive, wanted = np.array(scores_of(sft[size])), np.array(scores_of(right))
                if kind == "same_question":
                    logps[f"positive-{size}"] = positive.tolist()
                logps[f"negative-{size}"] = (positive - 10 * wanted).tolist()
            kept = {"answers": [0] * QUESTIONS, "characters": [[1, 1]] * QUESTIONS, "logps": logps}
            (folder / "logps.json.gz").write_bytes(gzip.compress(json.dumps(kept).encode()))
            record = {"run": run, "questions": QUESTIONS, "material": "arc", "seconds": 60.0}
            (folder / "run.json").write_text(json.dumps(record))

    return make


FLAT = dict.fromkeys(SIZES, 10)
STEEP = {32: 12, 64: 14, 128: 30, 256: 32}


def claims(module) -> dict:
    return {claim["id"]: claim for claim in module("verdicts").read_claims()}


def verdicts_of(module, likra, task, results, name) -> list[tuple]:
    heads = likra.Heads("arc", task, results)
    return [(row["against"], row["verdict"]) for row in likra.judge_heads(claims(module)[name], heads)]


def test_accuracy_is_of_the_highest_score_and_ties_share(likra, task, leave, tmp_path):
    leave(10, FLAT, STEEP)
    heads = likra.Heads("arc", task, tmp_path)
    assert heads.points("ratio", 128, "acc", [1, 2]).shape == (2, QUESTIONS)
    assert [heads.points(mode, 128, "acc", [1]).sum() for mode in ("base", "positive", "ratio")] == [10, 10, 30]
    heads.kept["same_question", 1]["logps"]["base"][0] = [2.0, 2.0]
    assert heads.points("base", 0, "acc", [1])[0, 0] == 0.5


def test_the_score_per_character_is_another_choice(likra, task, leave, tmp_path):
    leave(0, FLAT, STEEP)
    heads = likra.Heads("arc", task, tmp_path)
    kept = heads.kept["same_question", 1]
    kept["logps"]["base"][0], kept["characters"][0] = [-6.0, -4.0], [12, 4]  # −0.5 and −1 a character
    assert heads.points("base", 0, "acc", [1])[0, 0] == 0 and heads.points("base", 0, "acc_norm", [1])[0, 0] == 1


def test_far_ahead_with_a_jump_over_a_flat_sft(module, likra, task, leave, tmp_path):
    leave(10, FLAT, STEEP)
    for name in ("L1", "L2", "L4"):
        assert verdicts_of(module, likra, task, tmp_path, name) == [(None, "shown")] * 2, name
    heads = likra.Heads("arc", task, tmp_path)
    found = likra.jump(heads, "acc", [1, 2, 3], 64)
    assert found["value"] == pytest.approx((16 - (2 + 2) / 2) / QUESTIONS)
    assert likra.ahead(heads, "acc", [1, 2, 3])["value"] == pytest.approx(22 / QUESTIONS)


def test_what_is_no_jump_not_far_and_not_flat(module, likra, task, leave, tmp_path):
    rising = {32: 18, 64: 22, 128: 26, 256: 32}
    leave(10, rising, rising)
    assert verdicts_of(module, likra, task, tmp_path, "L1") == [(None, "contradicted")] * 2  # 0 is below 5 points
    assert verdicts_of(module, likra, task, tmp_path, "L2") == [(None, "not shown")] * 2
    assert verdicts_of(module, likra, task, tmp_path, "L4") == [(None, "contradicted")] * 2


def test_near_misses_are_compared_over_the_seeds_that_both_have(module, likra, task, leave, tmp_path):
    leave(10, FLAT, STEEP)
    leave(10, FLAT, {256: 20}, "other_question")
    assert verdicts_of(module, likra, task, tmp_path, "L3") == [
        ("other_question", "shown"),
        ("other_question", "shown"),
        ("unrelated", "no run of same_question, unrelated"),
        ("unrelated", "no run of same_question, unrelated"),
    ]
    leave(10, FLAT, {256: 38}, "unrelated", seeds=(1, 2))
    assert verdicts_of(module, likra, task, tmp_path, "L3")[2] == ("unrelated", "too few seeds")


def test_intervals_hold_the_questions_too(likra, task, leave, tmp_path):
    # seeds that agree on every question have an interval that is as wide as that of so many questions
    leave(20, FLAT, STEEP)
    heads = likra.Heads("arc", task, tmp_path)
    text = likra.interval(heads.points("base", 0, "acc", [1, 2, 3]))
    low, high = map(float, text.partition("[")[2].rstrip("]").split(", "))
    assert text.startswith("0.500") and 0.12 < high - low < 0.25


def test_the_page_of_runs_under_way(module, likra, task, leave, tmp_path, monkeypatch):
    monkeypatch.setattr(likra, "read_runs", lambda: {"arc": task})
    (tmp_path / "likra").mkdir()
    assert "0 of 9 runs are done, 0 failed" in likra.section(tmp_path, ".")
    leave(10, FLAT, STEEP, seeds=(1, 2))
    run = module("run_likra").runs_of("arc", task, "unrelated", [3])[0]
    folder = module("plan").folder_of(tmp_path, run)
    folder.mkdir(parents=True)
    (folder / "failed.json").write_text(json.dumps({"run": run, "reason": "the worker ended with code 9: Killed"}))
    text = likra.section(tmp_path, "results")
    assert "2 of 9 runs are done, 1 failed" in text
    assert (
        "| 0 (the base) | 0.250 [" in text and "| 128 | 0.250 [" in text and "| unrelated | 0 of 3 | – | – |" in text
    )
    assert "| L1 arc | negative examples put Likra far ahead of SFT | – | acc | +0.550" in text
    assert "**too few seeds**" in text and "no run of same_question, unrelated" in text
    assert "| unrelated | 3 | failed: the worker ended with code 9: Killed | – |" in text
    assert "| same question | 3 | not run yet | – |" in text and "| same question | 2 | done | 60 |" in text
    assert (tmp_path / "likra" / "arc.png").stat().st_size > 5000 and "(results/likra/arc.png)" in text


def test_a_folder_of_other_settings_is_a_hole(likra, task, leave, tmp_path):
    leave(10, FLAT, STEEP, seeds=(1,))
    heads = likra.Heads("arc", task | {"options": {"num_test": 5}}, tmp_path)
    assert heads.seeds() == [] and "failed: " in likra.runs_table(heads)
    assert "other settings (task_settings.options.num_test)" in likra.runs_table(heads)


def test_a_run_of_other_questions_is_a_hole(module, likra, task, leave, tmp_path):
    leave(10, FLAT, STEEP, seeds=(1,))
    leave(10, FLAT, {256: 20}, "unrelated", seeds=(1,))
    run = module("run_likra").runs_of("arc", task, "unrelated", [1])[0]
    path = module("plan").folder_of(tmp_path, run) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"material": "another file's"}))
    heads = likra.Heads("arc", task, tmp_path)
    assert heads.seeds() == [1] and heads.seeds("unrelated") == []
    assert "failed: it was made with other questions" in likra.runs_table(heads)


def test_shipped_runs_and_claims_fit_each_other(module, runner):
    tasks = runner.read_runs()
    for claim in claims(module).values():
        for name in set(claim.get("tasks", [])) & set(tasks):
            near = tasks[name]["negatives"]["same_question"]
            assert near["heads"] == ["positive", "negative"] and near["save_examples"][-1] == tasks[name]["examples"]
            assert "at" not in claim or {claim["at"], 2 * claim["at"]} <= set(near["save_examples"])
            for rival in claim.get("rivals", []):
                assert tasks[name]["negatives"][rival]["save_examples"] == [tasks[name]["examples"]]


@pytest.fixture
def questions(module, runner, monkeypatch, tmp_path):
    """A task of made questions under the tiny base, in a file of its own."""
    rows = [
        {"question": f"which of {i}?", "choices": [f"right {i}", f"wrong {i}", "none"], "label": i % 2}
        for i in range(30)
    ]
    (tmp_path / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, tokenizer = module("start").tiny()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = tmp_path / "recipe.yaml"
    settings = {"model_name_or_path": str(tmp_path / "base"), "test_share": 0.4, "per_device_train_batch_size": 4}
    settings |= {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
    recipe.write_text(json.dumps(settings))
    near = {"heads": ["positive", "negative"], "save_examples": [8, 16]}
    made = {"recipe": str(recipe), "files": "made.jsonl", "hub": "", "seeds": [1], "examples": 16, "options": {}}
    made["negatives"] = {"same_question": near, "unrelated": {"heads": ["negative"], "save_examples": [16]}}
    for part in ("run_likra", "likra"):
        monkeypatch.setattr(module(part), "read_runs", lambda: {"made": made})
    return made


def test_a_run_keeps_scores_from_which_its_own_accuracies_come_back(
    module, runner, likra, questions, monkeypatch, tmp_path
):
    worker, plan = module("likra_worker"), module("plan")
    for kind in questions["negatives"]:
        run = runner.runs_of("made", questions, kind)[0]
        folder = plan.folder_of(tmp_path / "results", run)
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True)
        job = {"run": run, "data": str(tmp_path), "cache": str(tmp_path / "cache")}
        job |= {"folder": str(folder), "partial": str(partial)}
        (partial / "job.json").write_text(json.dumps(job))
        assert worker.main(partial / "job.json") == 0
        assert {path.name for path in folder.iterdir()} == {"run.json", "logps.json.gz"}
    heads = likra.Heads("made", questions, tmp_path / "results")
    there = json.loads((tmp_path / "cache" / "made" / "same_question-seed1" / "results.json").read_text())
    assert [row["examples"] for row in there["rows"]] == [0, 8, 16]
    for row in there["rows"][1:]:
        for mode in ("positive", "ratio"):
            for measure in ("acc", "acc_norm"):
                points = heads.points(mode, row["examples"], measure, [1])
                assert points.mean() == pytest.approx(row[mode][measure])
    assert heads.points("base", 0, "acc", [1]).mean() == pytest.approx(there["base"]["acc"])
    # the other kind's negative head, with the near misses' positive one
    assert heads.points("ratio", 16, "acc", [1], "unrelated").shape == (1, 12)


def test_a_run_that_fails_leaves_its_reason(module, runner, questions, tmp_path):
    run = runner.runs_of("made", questions, "unrelated")[0]
    folder = module("plan").folder_of(tmp_path / "results", run)
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    job = {"run": run, "data": str(tmp_path / "nowhere"), "cache": str(tmp_path / "cache")}
    (partial / "job.json").write_text(json.dumps(job | {"folder": str(folder), "partial": str(partial)}))
    assert module("likra_worker").main(partial / "job.json") == 1
    reason = json.loads((folder / "failed.json").read_text())["reason"]
    assert "made.jsonl" in reason and "\n" not in reason


def test_seeds_take_turns_and_finished_runs_are_not_run_again(module, runner, task, leave, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "read_runs", lambda: {"arc": task})
    monkeypatch.setattr(runner, "prepare_arc", lambda *places: None)
    asked = []
    monkeypatch.setattr(runner, "work", lambda runs, *rest: asked.extend(runs))
    leave(10, FLAT, STEEP, seeds=(1,))
    runner.main(["--results", str(tmp_path), "--negatives", "same_question", "unrelated"])
    assert [(run["stage"], run["seed"]) for run in asked] == [
        ("unrelated", 1), ("same_question", 2), ("unrelated", 2), ("same_question", 3), ("unrelated", 3),
    ]  # fmt: skip


def test_without_its_files_it_says_so_before_anything_is_run(runner, tmp_path):
    places = ["--results", str(tmp_path), "--cache", str(tmp_path), "--data", str(tmp_path)]
    with pytest.raises(SystemExit, match="has no hellaswag_val_a.jsonl.gz"):
        runner.main(["--tasks", "hellaswag", *places])
