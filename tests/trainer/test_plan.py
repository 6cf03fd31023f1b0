"""The trainer does what a method's plan says: passes, silence, and over what the loss is a mean."""

import math

import pytest
import torch

from tests.helpers import METHODS, build, dataset
from trl_negalign import NEATTrainer
from trl_negalign.trainer.group_config import GroupConfig
from trl_negalign.trainer.plan import Plan, token_counts


class RatioTrainer(NEATTrainer):
    """Learns from every candidate by its ratio to the policy at the round's start, whatever the rewards."""

    def plan(self, batch):
        everyone = torch.ones_like(batch["rewards"], dtype=torch.bool)
        return Plan(everyone, old=everyone)

    def group_loss(self, token_logps, batch):
        ratio = token_logps - batch["old_per_token_logps"]
        self.seen.append((token_logps.detach(), batch["old_per_token_logps"], batch["completion_ids"]))
        return -(ratio.exp() * batch["completion_mask"]).sum((1, 2)), {}


class TokenMeanTrainer(NEATTrainer):
    """−log π of the second and third candidate, a mean over their tokens in the whole optimizer step."""

    def plan(self, batch):
        trained = torch.zeros_like(batch["rewards"], dtype=torch.bool)
        trained[:, 1:3] = True
        return Plan(trained, counts=token_counts(batch["completion_mask"], trained))

    def group_loss(self, token_logps, batch):
        terms = -token_logps * batch["completion_mask"] * batch["scored"][..., None]
        self.seen.append((terms.detach().sum().item(), batch["counts"].sum().item()))
        return terms.sum((1, 2)), {}


class PenaliseAllTrainer(NEATTrainer):
    """A group whose answers are all wrong teaches, one whose answers are all right does not."""

    def plan(self, batch):
        return Plan(batch["rewards"] < 0.5)

    def group_loss(self, token_logps, batch):
        return (token_logps.sum(-1) * batch["scored"]).sum(-1), {}


def make(monkeypatch, trainer_class, *args, **options):
    monkeypatch.setitem(METHODS, "neat", (trainer_class, METHODS["neat"][1]))
    trainer = build("neat", *args, **options)
    trainer.seen = []
    return trainer


@pytest.mark.parametrize("share", [False, True])
def test_old_log_probs_are_those_at_the_rounds_start(share, monkeypatch, model, tokenizer, tmp_path):
    options = {"num_iterations": 2, "gradient_accumulation_steps": 2, "max_steps": 4, "share_prompts": share}
    trainer = make(monkeypatch, RatioTrainer, model, tokenizer, tmp_path, **options)
    trainer.train()
    assert len(trainer.seen) == 8
    for start in (0, 4):
        for first, second in zip(trainer.seen[start : start + 2], trainer.seen[start + 2 : start + 4], strict=True):
            assert torch.equal(first[2], second[2])
            assert torch.equal(first[0], first[1])  # a ratio of 1 to the last bit
            assert torch.equal(first[1], second[1]) and not torch.equal(second[0], second[1])


def test_one_step_a_round_takes_no_pass_for_them(monkeypatch, model, tokenizer, tmp_path):
    passes = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(torch.is_grad_enabled()) if "fused_lm_head" in kwargs else None,
        with_kwargs=True,
    )
    options = {"gradient_accumulation_steps": 2, "max_steps": 2}
    trainer = make(monkeypatch, RatioTrainer, model, tokenizer, tmp_path, **options)
    trainer.train()
    assert len(trainer.seen) == 4 and all(passes)
    assert all(torch.equal(new, old) for new, old, _ in trainer.seen)


def test_a_resumed_round_has_its_old_log_probs(monkeypatch, make_model, tokenizer, tmp_path):
    options = {"num_iterations": 3, "max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    whole = make(monkeypatch, RatioTrainer, make_model(), tokenizer, tmp_path, **options)
    whole.train()
    resumed = make(monkeypatch, RatioTrainer, make_model(), tokenizer, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert len(resumed.seen) == 2
    for again, before in zip(resumed.seen, whole.seen[1:], strict=True):
        assert torch.equal(again[1], before[1])
        assert not torch.equal(again[0], again[1])


@pytest.mark.parametrize(("batch", "accumulation"), [(16, 1), (8, 2), (4, 4)])
def test_a_mean_over_the_tokens_of_the_whole_step(batch, accumulation, monkeypatch, model, tokenizer, tmp_path):
    # answers of different lengths: the dataset's own
    data = dataset(responses=True).map(lambda row, i: {"chosen": " a" * (1 + i % 5)}, with_indices=True)
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 1}
    options |= {"num_positive": 1, "num_negative": 1, "share_prompts": False}
    trainer = make(monkeypatch, TokenMeanTrainer, model, tokenizer, tmp_path, data, **options)
    trainer.train()
    assert len(trainer.seen) == accumulation
    total, count = (sum(values) for values in zip(*trainer.seen, strict=True))
    assert len({tokens for _, tokens in trainer.seen}) > 1 or accumulation == 1
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total / count, rel=1e-4)


def test_its_gradient_does_not_depend_on_the_batchs_layout(monkeypatch, make_model, tokenizer, tmp_path):
    data = dataset(responses=True).map(lambda row, i: {"chosen": " a" * (1 + i % 5)}, with_indices=True)
    norms = []
    for batch, accumulation in ((16, 1), (8, 2), (4, 4)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 1}
        trainer = make(monkeypatch, TokenMeanTrainer, make_model(), tokenizer, tmp_path, data, **options)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


@pytest.mark.parametrize(("reward", "silent"), [(0.0, 0.0), (1.0, 1.0)])
def test_silent_is_the_methods_own_word(reward, silent, monkeypatch, model, tokenizer, tmp_path):
    options = {"reward_funcs": lambda completions, **kwargs: [reward] * len(completions), "max_steps": 1}
    trainer = make(monkeypatch, PenaliseAllTrainer, model, tokenizer, tmp_path, **options)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["frac_groups_no_signal"] == silent
    assert (log["grad_norm"] > 0) == (silent == 0.0)
    assert math.isfinite(log["loss"])


def test_the_shared_configuration_can_be_made(monkeypatch):
    assert GroupConfig(use_cpu=True, bf16=False).num_generations == 8
    # TRL's default is bf16, which transformers refuses on a machine without a GPU
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    assert not GroupConfig().needs_reference
