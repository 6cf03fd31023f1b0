"""Heads as a reward function of TRL's trainers."""

import logging

import pytest
from datasets import Dataset

from tests.helpers import CLOSING, DROPPING, build, dataset, with_template
from tests.likra.slow import head_logp, text_logp
from trl_negalign.likra.model import LikraModel
from trl_negalign.likra.reward import LikraReward


@pytest.fixture
def heads(make_trainer, preferences):
    return make_trainer(train_dataset=preferences).train()


def slow_reward(heads, prompt: str, completion: str, weight: float = 1.0) -> float:
    count = len(heads.tokenizer(completion)["input_ids"])
    ratio = text_logp(heads, "positive", prompt, completion) - weight * text_logp(
        heads, "negative", prompt, completion
    )
    return ratio / count


PROMPTS = ["question number 3", "We went home", "question number 3", "question number 3"]
COMPLETIONS = [" a kind word", " early, and nobody said a word", " an angry word", " x"]


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_reward_is_the_ratio_per_token(weight, heads):
    expected = [slow_reward(heads, *pair, weight) for pair in zip(PROMPTS, COMPLETIONS, strict=True)]
    rewards = LikraReward(heads, weight=weight)(prompts=PROMPTS, completions=COMPLETIONS, other=[1, 2, 3, 4])
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert all(type(reward) is float for reward in rewards)


def test_completions_of_one_prompt_share_it(heads, monkeypatch):
    seen = []
    original = LikraModel.logps

    def spy(self, state, encoded, tokens_per_batch):
        seen.append([len(item.options) for item in encoded])
        return original(self, state, encoded, tokens_per_batch)

    monkeypatch.setattr(LikraModel, "logps", spy)
    LikraReward(heads)(prompts=PROMPTS, completions=COMPLETIONS)
    assert seen == [[3, 1], [3, 1]]


def test_conversations_go_through_the_chat_template(heads):
    prompt = [{"role": "user", "content": "How?"}]
    completion = [{"role": "assistant", "content": "a kind word"}]
    (reward,) = LikraReward(heads, mode="positive")(prompts=[prompt], completions=[completion])
    query_ids = heads.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    option_ids = heads.tokenizer("a kind word")["input_ids"]
    expected = head_logp(heads, "positive", query_ids, option_ids) / len(option_ids)
    assert reward == pytest.approx(expected, abs=1e-5)


def test_an_empty_completion_has_no_reward_whatever_the_template_writes(heads):
    heads.tokenizer = with_template(heads.tokenizer, CLOSING)
    prompt, empty = [{"role": "user", "content": "How?"}], [{"role": "assistant", "content": ""}]
    assert LikraReward(heads)(prompts=[prompt], completions=[empty]) == [0.0]


def test_a_completion_that_was_cut_in_its_reasoning_is_scored(heads):
    heads.tokenizer = with_template(heads.tokenizer, DROPPING)
    prompt, cut = [{"role": "user", "content": "How?"}], [{"role": "assistant", "content": "a kind word"}]
    assert LikraReward(heads)(prompts=[prompt], completions=[cut])[0] not in (None, 0.0)


def test_a_question_is_read_as_the_heads_were_trained(make_trainer):
    heads = make_trainer().train()
    query, option = "Question: What is number 3?\nAnswer:", " boil an egg"
    expected = slow_reward(heads, query, option)
    conversation = [{"role": "user", "content": "What is number 3?"}]
    rewards = LikraReward(heads)(prompts=["What is number 3?", conversation], completions=["boil an egg", option])
    assert rewards == pytest.approx([expected, expected], abs=1e-5)


def test_a_weight_below_0_is_refused(heads):
    with pytest.raises(ValueError, match="weight=-1 must be a number of 0 or more"):
        LikraReward(heads, weight=-1)


def test_an_empty_completion_gets_nothing(heads):
    assert LikraReward(heads)(prompts=["How", "How"], completions=["", " so"])[0] == 0.0
    assert LikraReward(heads)(prompts=["How"], completions=[""]) == [0.0]


def test_what_is_too_long_gets_no_reward(heads, caplog):
    with caplog.at_level(logging.WARNING):
        rewards = LikraReward(heads)(prompts=["How", "How"], completions=[" word" * 600, " so"])
    assert rewards[0] is None and rewards[1] == pytest.approx(slow_reward(heads, "How", " so"), abs=1e-5)
    assert "1 completions are over the heads' context length" in caplog.text


def test_heads_by_their_folder(heads, make_model, tmp_path):
    heads.save_pretrained(tmp_path / "saved")
    reward = LikraReward(str(tmp_path / "saved"), base=make_model())
    assert reward.__name__ == "likra_reward"
    assert reward(PROMPTS, COMPLETIONS) == pytest.approx(LikraReward(heads)(PROMPTS, COMPLETIONS), abs=1e-6)


def test_a_single_head_scores_as_it_can(make_trainer, preferences):
    alone = make_trainer(train_dataset=preferences, heads=["negative"]).train()
    (reward,) = LikraReward(alone)(prompts=["question number 3"], completions=[" an angry word"])
    pair = "question number 3", " an angry word"
    expected = text_logp(alone, "base", *pair) - text_logp(alone, "negative", *pair)
    assert reward == pytest.approx(expected / len(alone.tokenizer(pair[1])["input_ids"]), abs=1e-5)
    with pytest.raises(ValueError, match="mode='ratio' needs a positive head"):
        LikraReward(alone, mode="ratio")


@pytest.mark.parametrize("style", ["string", "conversation"])
@pytest.mark.parametrize("method", ["neat", "ple"])
def test_a_policy_trains_on_it(method, style, heads, model, tokenizer, tmp_path):
    reward, calls = LikraReward(heads), []

    class Recorded(LikraReward):
        def __call__(self, prompts, completions, **kwargs):
            rewards = super().__call__(prompts, completions, **kwargs)
            calls.append((prompts, completions, rewards))
            return rewards

    trainer = build(method, model, tokenizer, tmp_path, dataset(style), reward_funcs=Recorded(heads))
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "rewards/likra_reward/mean" in entry)
    prompts, completions, rewards = calls[0]
    assert log["rewards/likra_reward/mean"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-5)
    assert reward(prompts, completions) == pytest.approx(rewards, abs=1e-6)
    assert len(set(rewards)) > 1


def test_held_out_preferences_are_ordered(heads):
    rows = [
        {"prompt": f"question number {i}", "chosen": f" a kind word {i}", "rejected": f" an angry word {i}"}
        for i in range(24, 32)
    ]
    reward = LikraReward(heads)
    chosen, rejected = (
        reward([row["prompt"] for row in rows], [row[column] for row in rows]) for column in ("chosen", "rejected")
    )
    assert all(up > down for up, down in zip(chosen, rejected, strict=True))
    assert heads.evaluate(Dataset.from_list(rows))["ratio"]["acc"] == 1.0
