"""Each warning is provoked in a real small run; a healthy one provokes none."""

import json

import pytest

from tests.helpers import QUESTIONS, build, dataset, letter_reward, text_of
from trl_negalign.monitoring.watch import WARNINGS_NAME, Thresholds, WatchCallback


FEW = {"num_generations": 4, "per_device_train_batch_size": 16, "max_steps": 12, "max_completion_length": 8}


def warnings(method, model, tokenizer, tmp_path, reward_funcs=letter_reward, thresholds=None, **options) -> set[str]:
    watch = WatchCallback(thresholds or Thresholds(window=3))
    build(method, model, tokenizer, tmp_path, reward_funcs=reward_funcs, callbacks=[watch], **FEW | options).train()
    path = tmp_path / "out" / WARNINGS_NAME
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    names = [record["name"] for record in records]
    assert len(names) == len(set(names)), "a sign is warned of once"
    assert all(record["message"] and record["advice"] and record["step"] > 0 for record in records)
    return set(names)


def test_a_healthy_run(make_model, tokenizer, tmp_path):
    """Guides that matter, rewards that differ, small steps."""

    def reward(completions, **kwargs):
        rows = range(len(completions))
        return [
            (0.5 if row % 4 < 2 else 0.0) + value for row, value in zip(rows, letter_reward(completions), strict=True)
        ]

    assert warnings("neat", make_model(), tokenizer, tmp_path, reward, learning_rate=1e-5) == set()


def test_likelihood_displacement(make_model, tokenizer, tmp_path):
    """Candidates that share their tokens, the worst pushed down: the best goes with it."""
    options = {"top_k": 2, "ranking_weight": 0.1, "sft_weight": 0.0, "penalty_weight": 1.0, "num_iterations": 12}
    found = warnings("neat", make_model(), tokenizer, tmp_path, learning_rate=0.01, **options)
    assert "likelihood_displacement" in found


@pytest.mark.parametrize(
    ("method", "options"),
    [("neat", {"penalty_weight": 2.0, "learning_rate": 0.01}), ("ple", {"learning_rate": 0.02})],
)
def test_runaway_penalty(method, options, make_model, tokenizer, tmp_path):
    """The same few completions are pushed down step after step."""
    options = {"num_iterations": 12, **options}
    assert "runaway_penalty" in warnings(method, make_model(), tokenizer, tmp_path, **options)


@pytest.mark.slow
def test_repetition(make_model, tokenizer, tmp_path):
    def repeats(completion_ids, **kwargs):
        return [float(len(ids) - len(set(ids))) for ids in completion_ids]

    options = {"max_completion_length": 16, "max_steps": 40, "learning_rate": 0.03}
    options |= {"penalty_weight": 0.0, "ranking_weight": 0.0}
    assert "repetition" in warnings("neat", make_model(), tokenizer, tmp_path, repeats, **options)


@pytest.mark.slow
def test_truncation_and_length_drift(make_model, tokenizer, tmp_path):
    """A policy that soon ends is paid for length."""

    def length(completion_ids, **kwargs):
        return [float(len(ids)) for ids in completion_ids]

    model = make_model()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(3, 100)]  # many tokens end a completion
    options = {"max_completion_length": 12, "max_steps": 40, "learning_rate": 0.05, "penalty_weight": 0.0}
    found = warnings("neat", model, tokenizer, tmp_path, length, **options)
    assert {"truncation", "length_drift"} <= found


def test_held_out_reward(make_model, tokenizer, tmp_path):
    """A reward that grows with time on the training queries only."""
    calls = []

    def reward(prompts, completions, **kwargs):
        trained = prompts[0] in QUESTIONS[:16]
        calls.extend([0] * trained)
        return [value + 0.5 * trained * len(calls) for value in letter_reward(completions)]

    held_out = dataset(rows=32).select(range(16, 32))
    options = {"eval_dataset": held_out, "eval_strategy": "steps", "eval_steps": 4, "learning_rate": 1e-5}
    assert "held_out_reward" in warnings("neat", make_model(), tokenizer, tmp_path, reward, **options)


@pytest.mark.parametrize("method", ["neat", "ple"])
def test_guides_do_not_separate(method, make_model, tokenizer, tmp_path):
    def alternating(completions, **kwargs):
        return [float(row % 2) for row in range(len(completions))]

    found = warnings(method, make_model(), tokenizer, tmp_path, alternating, learning_rate=1e-5)
    assert found == {"guides_do_not_separate"} or (method == "ple" and "guides_do_not_separate" in found)


def test_tied_groups(make_model, tokenizer, tmp_path):
    def by_query(prompts, **kwargs):
        return [float(len(text_of(prompt))) for prompt in prompts]

    found = warnings("neat", make_model(), tokenizer, tmp_path, by_query, learning_rate=1e-5)
    assert "tied_groups" in found


def test_low_entropy(make_model, tokenizer, tmp_path):
    options = {"log_entropy": True, "learning_rate": 0.03, "max_steps": 30, "num_iterations": 30}
    assert "low_entropy" in warnings("neat", make_model(), tokenizer, tmp_path, **options)


def test_a_resumed_run_is_judged_by_its_whole_history(make_model, tokenizer, tmp_path):
    def by_query(prompts, **kwargs):
        return [float(len(text_of(prompt))) for prompt in prompts]

    options = FEW | {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build("neat", make_model(), tokenizer, tmp_path, reward_funcs=by_query, **options).train()
    watch = WatchCallback(Thresholds(window=3))
    trainer = build(
        "neat",
        make_model(),
        tokenizer,
        tmp_path,
        reward_funcs=by_query,
        callbacks=[watch],
        **options | {"max_steps": 3},
    )
    trainer.train(resume_from_checkpoint=True)
    assert "tied_groups" in watch.warned
