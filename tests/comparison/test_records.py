import json

import pytest


@pytest.fixture
def records(module):
    return module("records")


@pytest.fixture
def runs(module, task):
    """The grid of a method by learning rate."""
    plan = module("plan")
    return lambda name: {
        run["setting"].get("learning_rate"): run for run in plan.grid_runs(task, plan.read_method(name))
    }


def chosen(module, task, results, *names):
    plan = module("plan")
    return module("records").select(task, [plan.read_method(name) for name in names], results)


def test_the_highest_reward_of_a_fluent_run_is_chosen(module, task, runs, finish, tmp_path):
    finish(runs("start")[None])
    finish(runs("grpo")[1e-3], **{"reward/training": 1.5})
    finish(runs("grpo")[1e-2], **{"reward/training": 1.7})
    found = chosen(module, task, tmp_path, "grpo", "start")["grpo"]
    assert found["chosen"] == {"learning_rate": 1e-2} and found["fluent"]
    assert [trial["reward"] for trial in found["trials"]] == [1.5, 1.7]


@pytest.mark.parametrize(
    "broken",
    [{"perplexity": 17.0}, {"perplexity": 46.0}, {"distinct_2": 0.76}, {"repetition_4": 0.04}, {"perplexity": None}],
)
def test_what_is_not_fluent_is_not_chosen(module, task, runs, finish, tmp_path, broken):
    finish(runs("start")[None])
    finish(runs("grpo")[1e-3], **{"reward/training": 1.5})
    finish(runs("grpo")[1e-2], **{"reward/training": 9.0} | broken)
    found = chosen(module, task, tmp_path, "start", "grpo")["grpo"]
    assert found["chosen"] == {"learning_rate": 1e-3}
    assert len(found["trials"][1]["not_fluent"]) == 1


@pytest.mark.parametrize(
    "kept", [{"perplexity": 18.1}, {"perplexity": 44.9}, {"distinct_2": 0.766}, {"repetition_4": 0.03}]
)
def test_the_bounds_of_fluency(records, kept):
    start = {"perplexity": 30.0, "distinct_2": 0.9, "repetition_4": 0.01}
    assert records.not_fluent(start | kept, start) == []


def test_where_nothing_is_fluent_the_lowest_learning_rate_is_taken_and_noted(module, task, runs, finish, tmp_path):
    finish(runs("start")[None])
    for rate in (1e-3, 1e-2):
        finish(runs("grpo")[rate], perplexity=5.0, **{"reward/training": rate})
    found = chosen(module, task, tmp_path, "start", "grpo")["grpo"]
    assert found["chosen"] == {"learning_rate": 1e-3} and not found["fluent"]


def test_failed_and_missing_trials_are_listed(module, task, runs, finish, break_off, tmp_path):
    finish(runs("start")[None])
    break_off(runs("grpo")[1e-3], "the loss is nan at step 2")
    found = chosen(module, task, tmp_path, "start", "grpo")["grpo"]
    assert found["chosen"] is None
    assert [trial["outcome"] for trial in found["trials"]] == ["failed", "missing"]
    assert found["trials"][0]["reason"] == "the loss is nan at step 2"


def test_a_folder_of_other_settings_is_refused_and_says_which(records, task, runs, finish):
    run = runs("grpo")[1e-3]
    folder = finish(run)
    assert records.outcome(folder, run) == "done"
    other = json.loads(json.dumps(run))
    other["task_settings"]["budget"]["steps"] = 99
    with pytest.raises(records.OtherSettings, match="task_settings.budget.steps"):
        records.outcome(folder, other)
