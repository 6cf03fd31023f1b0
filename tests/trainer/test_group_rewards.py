"""Rewards of a group: their kinds, what they see, ties, and values that nothing can be learnt from."""

import math

import pandas as pd
import pytest
import torch

from tests.helpers import (
    COMPARING,
    GUIDES,
    METHODS,
    build,
    dataset,
    distance,
    history,
    letter_reward,
    text_of,
    weights,
)
from trl_negalign.trainer.rounds.checkpoints import STATE_NAME


ALL = pytest.mark.parametrize("method", METHODS)


@ALL
def test_reward_models_callables_weights_and_none(method, model, tokenizer, reward_model, tmp_path):
    def sometimes(completions, **kwargs):
        return [None if i % 3 == 0 else 1.0 for i in range(len(completions))]

    async def in_the_background(completions, **kwargs):
        return [float(len(text_of(completion))) for completion in completions]

    columns = []

    def with_columns(completions, note, trainer_state, log_extra, log_metric, **kwargs):
        columns.extend(note)
        log_extra("length", [len(text_of(completion)) for completion in completions])
        log_metric("mine", 3.0)
        return [0.0] * len(completions)

    trainer = build(
        method,
        model,
        tokenizer,
        tmp_path,
        dataset("conversation").add_column("note", [f"note {i}" for i in range(16)]),
        [reward_model, sometimes, in_the_background, with_columns],
        reward_processing_classes=[tokenizer, None, None, None],
        reward_weights=[1.0, 2.0, 0.1, 0.0],
        log_completions=True,
        max_steps=1,
        **COMPARING.get(method, {}),
    )
    trainer.train()
    table = pd.read_parquet(tmp_path / "out" / "completions" / "completions_00001.parquet")
    log = trainer.state.log_history[0]
    assert log["mine"] == 3.0
    assert len(columns) == 8 and all(text.startswith("note ") for text in columns)
    assert table["length"].tolist() == [len(text_of(completion)) for completion in table["completion"]]
    assert table["in_the_background"].tolist() == table["length"].tolist()
    assert table["sometimes"].isna().tolist() == [i % 3 == 0 for i in range(8)]
    name = trainer.reward_func_names[0]
    combined = table[name] + 2 * table["sometimes"].fillna(0) + 0.1 * table["in_the_background"]
    for kind, rows in table.groupby("kind"):
        assert log[f"reward/{kind}"] == pytest.approx(combined[rows.index].mean(), abs=1e-4)


@ALL
def test_rewards_see_the_plain_query(method, model, tokenizer, tmp_path):
    seen = []

    def reward(prompts, completions, **kwargs):
        seen.extend(prompts)
        return letter_reward(completions)

    data = dataset("conversation")
    trainer = build(method, model, tokenizer, tmp_path, data, reward, max_steps=1, log_completions=True)
    trainer.train()
    queries = [row["prompt"] for row in data]
    assert all(prompt in queries for prompt in seen)
    table = pd.read_parquet(tmp_path / "out" / "completions" / "completions_00001.parquet")
    guides = GUIDES[METHODS[method][1]].values()
    assert not any(guide in str(prompt) for guide in guides for prompt in table["prompt"])


@ALL
@pytest.mark.parametrize("value", [None, 0.5])
def test_groups_without_signal_teach_nothing(method, value, model, tokenizer, tmp_path):
    before = weights(model)

    def rewards(completions, **kwargs):
        return [value] * len(completions)

    trainer = build(method, model, tokenizer, tmp_path, None, rewards, **COMPARING.get(method, {}))
    trainer.train()
    assert history(trainer, "loss") == [0.0, 0.0]
    assert history(trainer, "frac_groups_no_signal") == [1.0, 1.0]
    assert distance(before, weights(model)) == 0.0
    assert trainer.state.global_step == 2


@ALL
def test_some_groups_without_signal_are_counted(method, model, tokenizer, tmp_path):
    def reward(completions, **kwargs):
        return [1.0] * 4 + letter_reward(completions[4:])

    trainer = build(method, model, tokenizer, tmp_path, None, reward, **COMPARING.get(method, {}))
    trainer.train()
    assert history(trainer, "frac_groups_no_signal") == [0.5, 0.5]
    assert all(loss != 0.0 for loss in history(trainer, "loss"))


@ALL
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_rewards(method, value, model, tokenizer, tmp_path):
    def broken(completions, **kwargs):
        return [0.0] * (len(completions) - 1) + [value]

    trainer = build(method, model, tokenizer, tmp_path, None, broken)
    with pytest.raises(ValueError, match=f"'broken' returned {value} for the query 'question number"):
        trainer.train()


@ALL
def test_wrong_number_of_rewards(method, model, tokenizer, tmp_path):
    trainer = build(method, model, tokenizer, tmp_path, None, lambda completions, **kwargs: [0.0])
    with pytest.raises(ValueError, match="returned 1 rewards, but 8 were expected"):
        trainer.train()


@ALL
def test_huge_rewards_are_finite(method, model, tokenizer, tmp_path):
    trainer = build(
        method, model, tokenizer, tmp_path, None, lambda completions, **kwargs: [3e38, -3e38] * (len(completions) // 2)
    )
    trainer.train()
    assert all(math.isfinite(loss) for loss in history(trainer, "loss"))


@ALL
def test_a_loss_that_is_not_finite_stops_the_run(method, model, tokenizer, tmp_path, monkeypatch):
    trainer = build(method, model, tokenizer, tmp_path, max_steps=3)
    group_loss = type(trainer).group_loss
    calls, kept = [], []

    def poisoned(self, token_logps, batch):
        losses, metrics = group_loss(self, token_logps, batch)
        calls.append(losses)
        if len(calls) == 2:
            kept.append(weights(self.model))
            losses = torch.cat([losses[:1] * math.nan, losses[1:]])
        return losses, metrics

    monkeypatch.setattr(type(trainer), "group_loss", poisoned)
    with pytest.raises(FloatingPointError, match=r"not finite at step 2, for the queries:\n- 'question number \d+'\n"):
        trainer.train()
    assert len(calls) == 2
    saved = type(model).from_pretrained(tmp_path / "out" / "checkpoint-1")
    assert distance(kept[0], weights(saved)) == 0.0
    # the round that failed has not counted: a resumed run samples it again
    assert torch.load(tmp_path / "out" / "checkpoint-1" / STATE_NAME)["step"] == 1
