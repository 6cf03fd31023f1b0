"""What a round leaves behind: a loss that is not finite, the model's mode, positions, the head and the template."""

import copy

import pytest
import torch
from datasets import Dataset

from tests.conftest import CHAT_TEMPLATE, save, tiny_gpt2
from tests.helpers import METHODS, build, dataset, seen_batches
from trl_negalign.trainer.rounds.checkpoints import STATE_NAME


def poison(trainer, call):
    """Make the loss NaN in the given call of the objective, counted from 1."""
    group_loss, calls = trainer.group_loss, []

    def poisoned(token_logps, batch):
        losses, metrics = group_loss(token_logps, batch)
        calls.append(losses)
        return (losses * torch.nan if len(calls) == call else losses), metrics

    trainer.group_loss = poisoned


# of two micro-batches an optimizer step the third call is the second step's first, the fourth its second
@pytest.mark.parametrize("call", [3, 4])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_is_not_finite_is_counted_back_to_its_start(method, call, make_model, tokenizer, tmp_path):
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 3}
    options |= {"replay": 1} if method == "ple" else {}
    trainer = build(method, make_model(), tokenizer, tmp_path, **options)
    poison(trainer, call)
    with pytest.raises(FloatingPointError, match="not finite at step 2"):
        trainer.train()
    state = torch.load(tmp_path / "out" / "checkpoint-1" / STATE_NAME)
    assert (state["step"], state["inside_cycle"]) == (2, False)
    if method == "ple":  # the second round's pairs were sampled for nothing, and come again in a resumed run
        assert sum(len(block["rewards"]) for block in state["replay_store"]) == 2
        resumed = build(method, make_model(), tokenizer, tmp_path, **options)
        resumed.train(resume_from_checkpoint=True)
        assert len(resumed.replay_store) == 6


def test_sampling_leaves_an_evaluated_model_in_evaluation(model, tokenizer, tmp_path, monkeypatch):
    """As transformers' continuous batching does, which ends with `model.train()`."""
    modes = []
    trainer = build("neat", model, tokenizer, tmp_path, eval_dataset=dataset(rows=4))
    generate, calculate = type(trainer)._generate_single_turn, type(trainer)._calculate_rewards

    def left_in_training_mode(self, *args, **kwargs):
        generated = generate(self, *args, **kwargs)
        self.model.train()
        return generated

    def record(self, *args, **kwargs):
        modes.append(self.model.training)
        return calculate(self, *args, **kwargs)

    monkeypatch.setattr(type(trainer), "_generate_single_turn", left_in_training_mode)
    monkeypatch.setattr(type(trainer), "_calculate_rewards", record)
    metrics = trainer.evaluate()
    assert modes and not any(modes)
    assert "eval_reward/plain" in metrics


def test_a_separate_reference_model_numbers_positions_as_the_policy_does(tokenizer, tmp_path):
    """Learnt positions: padding shows in the log-probabilities unless a row's mask numbers them."""
    saved_gpt2 = save(tiny_gpt2(tokenizer), tokenizer, tmp_path / "gpt2")
    data = Dataset.from_dict({"prompt": ["one", "a query of many more words than the other one"] * 4})
    options = {"beta": 0.1, "share_prompts": False, "shuffle_dataset": False}
    trainer = build("neat", saved_gpt2, tokenizer, tmp_path, data, **options)
    assert trainer.ref_model is not None
    trainer.train()
    # before the first update the policy is the reference
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert trainer.state.log_history[1]["kl"] > 1e-4


def test_the_head_in_fp32_scores_in_fp32(make_model, tokenizer, tmp_path):
    """Of a bf16 model, whose own head would round every logit to 8 bits."""
    model = make_model().bfloat16()
    trainer = build("neat", model, tokenizer, tmp_path, cast_lm_head_to_fp32=True)
    trainer.shares_prompts = False  # the head without entropies, on rows that round as the ones below
    assert model.lm_head.weight.dtype == torch.float32
    ids = torch.randint(3, 100, (4, 18), generator=torch.Generator().manual_seed(0))
    batch = {"prompt_ids": ids[:1, :12].clone(), "completion_ids": ids[None, :, 12:]}
    ids[:, :12] = batch["prompt_ids"]
    batch |= {name.replace("ids", "mask"): torch.ones_like(tensor) for name, tensor in batch.items()}
    with torch.no_grad():
        found = trainer._group_logps(model, batch | {"scored": torch.ones(1, 4, dtype=torch.bool)})[0][0]
        hidden = model.model(ids).last_hidden_state[:, 11:-1].float()
        logps = (hidden @ model.lm_head.weight.float().T).log_softmax(-1)
    expected = logps.gather(-1, ids[:, 12:, None])[..., 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # 0.003 apart with a head in bf16


def test_dataset_responses_are_rendered_with_the_template_arguments(model, tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "{{ '<|end|>", "{% if message['role'] == 'assistant' %}{{ ending }}{% endif %}{{ '<|end|>"
    )
    data = dataset("conversation", responses=True)
    options = {"chat_template_kwargs": {"ending": " indeed"}, "max_completion_length": 40, "max_steps": 1}
    trainer = build("neat", model, tokenizer, tmp_path, data, **options)
    batches = seen_batches(trainer)
    trainer.train()
    seen = batches[-1]
    for query, (*_, chosen, rejected) in zip(seen["prompt_ids"], seen["completion_ids"], strict=True):
        number = tokenizer.decode(query).split("question number ")[1].split("<")[0]
        assert tokenizer.decode(chosen).startswith(f"a kind word {number} indeed<|end|>")
        assert tokenizer.decode(rejected).startswith(f"nobody said {number} indeed<|end|>")
