import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.helpers import letter_reward
from trl_negalign.evaluation.held_out import HeldOut, evaluate_held_out, mean_and_error


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
