import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.helpers import letter_reward
from trl_negalign.evaluation.held_out import HeldOut, evaluate_held_out, mean_and_error, perplexity_without_adapter


def test_samples_of_a_query_are_averaged_before_the_error():
    held_out = HeldOut(["a", "b", "a", "b"], [""] * 4, [0.0, 1.0, 1.0, 3.0], 2, 1.0)
    assert held_out.query_means.tolist() == [0.5, 2.0]


def test_mean_and_error_by_hand():
    # deviations −1, 0, 1: sample variance 1, error 1/√3
    assert mean_and_error(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx((2.0, 3**-0.5))


def test_an_untrained_adapter_changes_nothing(model, tokenizer):
    policy = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    found = evaluate_held_out(
        policy,
        tokenizer,
        ["We went", "A bitter review"],
        letter_reward,
        samples_per_query=2,
        max_new_tokens=4,
        seed=0,
        description="test",
    )
    assert found.queries == ["We went", "A bitter review"] * 2
    assert found.rewards == letter_reward(found.completions)
    assert found.perplexity > 1


QUERIES = ["We went", "How do I boil an egg?", "A bitter review by"]
COMPLETIONS = [" home early", " Put it in hot water.", " an angry writer"]


def one_at_a_time(model, tokenizer):
    total, count = 0.0, 0
    for query, completion in zip(QUERIES, COMPLETIONS, strict=True):
        query_ids, ids = tokenizer(query)["input_ids"], tokenizer(completion)["input_ids"]
        log_probs = torch.log_softmax(model(torch.tensor([query_ids + ids])).logits[0], -1)
        total -= sum(log_probs[len(query_ids) - 1 + i, token].item() for i, token in enumerate(ids))
        count += len(ids)
    return math.exp(total / count)


def test_fluency_is_the_bases_perplexity_of_what_was_written(make_model, tokenizer):
    expected = one_at_a_time(make_model(), tokenizer)
    adapted = get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)).train()
    # an empty completion has no part
    found = perplexity_without_adapter(adapted, tokenizer, [*QUERIES, "x"], [*COMPLETIONS, ""])
    assert found == pytest.approx(expected, rel=1e-5)
    assert adapted.training
    assert one_at_a_time(adapted.eval(), tokenizer) != pytest.approx(expected, rel=1e-3)
    assert math.isnan(perplexity_without_adapter(adapted, tokenizer, ["x"], [""]))


def test_samples_repeat_with_their_seed_and_stand_by_query(model, tokenizer):
    policy = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))

    def sample(seed):
        found = evaluate_held_out(
            policy,
            tokenizer,
            QUERIES,
            letter_reward,
            samples_per_query=2,
            max_new_tokens=5,
            seed=seed,
            description="test",
        )
        return found.completions

    assert sample(1) == sample(1) != sample(2)
    assert sample(1)[:3] != sample(1)[3:]  # the same queries, sampled again
