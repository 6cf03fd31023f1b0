"""On a CUDA GPU: a step in bf16 with gradient checkpointing, as TRL trains by default, and sharing that is exact."""

import math

import pytest
import torch
from peft import LoraConfig

from tests.helpers import METHODS, build, dataset


pytestmark = pytest.mark.gpu
GPU = {"use_cpu": False}
# queries of several blocks' length beside short ones, padded on both sides
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def make_groups(device, groups=2, size=4, prompt=150, length=90):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, length + 1, (groups, size), generator=generator)
    prompt_lengths = torch.tensor([prompt, prompt // 4])
    batch = {
        "prompt_ids": torch.randint(3, 300, (groups, prompt), generator=generator),
        "prompt_mask": (torch.arange(prompt) >= prompt - prompt_lengths[:, None]).long(),
        "completion_ids": torch.randint(3, 300, (groups, size, length), generator=generator),
        "completion_mask": (torch.arange(length) < lengths[..., None]).long(),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_in_bf16_with_gradient_checkpointing(method, lora, share, make_model, tokenizer, tmp_path):
    trainer = build(
        method,
        make_model(),
        tokenizer,
        tmp_path,
        dataset("conversation", responses=method == "neat"),
        peft_config=LoraConfig(r=4) if lora else None,
        share_prompts=share,
        beta=0.1 * lora,
        bf16=True,
        gradient_checkpointing=True,
        max_completion_length=16,
        **GPU,
    )
    before = {name: p.detach().cpu().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    trained = dict(trainer.model.named_parameters())
    assert trainer.accelerator.device.type == "cuda"
    assert all(math.isfinite(log["loss"]) and log["grad_norm"] > 0 for log in trainer.state.log_history[:-1])
    assert any((trained[name].detach().cpu() - tensor).abs().max() > 0 for name, tensor in before.items())
    assert all(trained[name].isfinite().all() for name in before)


def logps(trainer, share):
    trainer.shares_prompts = share
    batch = make_groups(trainer.accelerator.device)
    with torch.no_grad():
        scored = torch.ones(2, 4, dtype=torch.bool, device=batch["prompt_ids"].device)
        return trainer._group_logps(trainer.model, batch | {"scored": scored})[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sharing_is_exact(attention, make_model, tokenizer, tmp_path):
    model = make_model(attn_implementation=attention, **SIZES)
    trainer = build("neat", model, tokenizer, tmp_path, share_prompts=True, **GPU)
    torch.testing.assert_close(logps(trainer, True), logps(trainer, False), atol=1e-4, rtol=0)


def test_sharing_in_bf16_is_as_near_to_fp32_as_separate_sequences(make_model, tokenizer, tmp_path):
    exact = logps(build("neat", make_model(**SIZES), tokenizer, tmp_path, share_prompts=True, **GPU), False)
    trainer = build("neat", make_model(**SIZES), tokenizer, tmp_path, share_prompts=True, bf16=True, **GPU)
    shared, separate = ((logps(trainer, share) - exact).abs().mean() for share in (True, False))
    assert 0 < shared < 1.5 * separate
