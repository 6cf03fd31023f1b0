"""
The architectures that TRL's own tests name, made tiny: each trains, and what it learns from are the log-probabilities
of every sequence by itself, from the model's plain logits.
"""

from copy import deepcopy

import pytest
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from trl.trainer import utils

from tests.helpers import build
from trl_negalign.trainer import group_trainer


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "sliding_window": None,
}
HEAD = {"head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
# sections of time, height and width of a head's four frequencies
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
WINDOW = {"sliding_window": 8}
MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}

# the configuration's class, what it has of its own, whether a group is packed
TEXT = {
    "qwen2": ("Qwen2Config", {}, True),
    "qwen3": ("Qwen3Config", HEAD, True),
    "qwen3-moe": ("Qwen3MoeConfig", HEAD | EXPERTS | {"num_experts": 4}, False),
    "llama": ("LlamaConfig", {}, True),
    "mistral": ("MistralConfig", WINDOW, False),
    "gemma": ("GemmaConfig", HEAD, True),
    "gemma2": ("Gemma2Config", HEAD | WINDOW, False),
    "gemma3": ("Gemma3TextConfig", HEAD | WINDOW, False),
    "cohere": ("CohereConfig", {}, False),
    "cohere2": ("Cohere2Config", WINDOW, False),
    "gpt-oss": ("GptOssConfig", HEAD | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}, False),
    "glm4-moe": (
        "Glm4MoeConfig",
        HEAD | EXPERTS | {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
        False,
    ),
    "deepseek-v3": (
        "DeepseekV3Config",
        EXPERTS
        | {"num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
        | {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
        False,
    ),
    "phi3": ("Phi3Config", {}, False),
    "phi": ("PhiConfig", {}, False),
    "gpt-neox": ("GPTNeoXConfig", {}, True),
    "gpt2": ("GPT2Config", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, True),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}, False),
    "bloom": ("BloomConfig", {}, False),
    "falcon-h1": ("FalconH1Config", MAMBA | {"mamba_d_ssm": 64}, False),
    "bamba": ("BambaConfig", MAMBA | {"attn_layer_indices": [1]}, False),
    "jamba": (
        "JambaConfig",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
        | {"num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 8, "mamba_dt_rank": 4}
        | {"use_mamba_kernels": False},
        False,
    ),
    "zamba2": ("Zamba2Config", {"num_mem_blocks": 1, "layers_block_type": ["mamba", "hybrid"]}, False),
}
# of these the text is trained, with a tokenizer for a processor
COMPOSITE = {
    "gemma3": ("Gemma3Config", HEAD | WINDOW, VISION, {"mm_tokens_per_image": 4}),
    "mistral3": ("Mistral3Config", HEAD | {"model_type": "mistral"}, VISION | HEAD | {"model_type": "pixtral"}, {}),
    "qwen2-vl": ("Qwen2VLConfig", MROPE, {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32}, {}),
    "qwen2.5-vl": ("Qwen2_5_VLConfig", MROPE, QWEN_VISION, {}),
    "llava-next": ("LlavaNextConfig", {"model_type": "llama"}, VISION | {"model_type": "clip_vision_model"}, {}),
}
# other members of families that are run anyway
OTHERS = ("bamba", "bloom", "cohere", "deepseek-v3", "falcon-h1", "llava-next", "opt", "phi3", "qwen2-vl", "zamba2")


def names(table):
    return [pytest.param(name, marks=pytest.mark.slow if name in OTHERS else ()) for name in table]


def special(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def text_model(name, tokenizer):
    config_name, options, _ = TEXT[name]
    config = getattr(transformers, config_name)(**SIZES | special(tokenizer) | options)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def composite_model(name, tokenizer):
    config_name, text, vision, options = COMPOSITE[name]
    text = SIZES | special(tokenizer) | text
    image = {"image_token_id": len(tokenizer) - 1, "image_token_index": len(tokenizer) - 1}
    config = getattr(transformers, config_name)(
        text_config=text, vision_config=vision, **special(tokenizer) | image | options
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config)


def separate_logps(model, batch):
    """`[groups, G, T]` from one plain forward pass a sequence, 0 where there is no token."""
    found = torch.zeros(batch["completion_mask"].shape)
    for group, candidates in enumerate(batch["completion_mask"]):
        prompt = batch["prompt_ids"][group][batch["prompt_mask"][group] == 1]
        for candidate, mask in enumerate(candidates):
            completion = batch["completion_ids"][group, candidate][mask == 1]
            logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0].float()
            log_probs = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
            found[group, candidate, : len(completion)] = log_probs.gather(1, completion[:, None])[:, 0]
    return found


def assert_trains(model, tokenizer, tmp_path, monkeypatch, packs):
    """One step of plain SGD moves the weights by minus the gradient of the loss of separate sequences."""
    packed, original = [], group_trainer.shared_prompt_logps
    monkeypatch.setattr(group_trainer, "shared_prompt_logps", lambda *args: packed.append(1) or original(*args))
    alone = deepcopy(model)
    trainer = build(
        "neat",
        model,
        tokenizer,
        tmp_path,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
    )
    seen, group_loss = [], trainer.group_loss

    def record(token_logps, batch):
        seen.append((token_logps.detach(), batch))
        return group_loss(token_logps, batch)

    trainer.group_loss = record
    trainer.train()
    assert bool(packed) == packs
    [(token_logps, batch)] = seen
    expected = separate_logps(alone, batch)
    run = batch["scored"][..., None] & (batch["completion_mask"] == 1)
    assert run.sum() > 20
    torch.testing.assert_close(token_logps[run], expected.detach()[run], atol=1e-4, rtol=0)
    group_loss(expected.masked_fill(~run, 0.0), batch)[0].mean().backward()
    trained = dict(model.named_parameters())
    moved = 0
    for parameter_name, parameter in alone.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        error = (parameter.detach() - trained[parameter_name].detach() - gradient).norm()
        assert error <= 1e-3 * gradient.norm() + 1e-5, (parameter_name, error, gradient.norm())
        moved += gradient.norm().item() > 0
    assert moved > 5


@pytest.mark.parametrize("name", names(TEXT))
def test_a_text_model(name, tokenizer, tmp_path, monkeypatch):
    assert_trains(
        text_model(name, tokenizer),
        tokenizer,
        tmp_path,
        monkeypatch,
        packs=TEXT[name][2] and hasattr(utils, "add_fused_lm_head"),
    )


@pytest.mark.parametrize("name", names(COMPOSITE))
def test_the_text_of_a_composite_model(name, tokenizer, tmp_path, monkeypatch):
    if name == "qwen2.5-vl" and Version(transformers.__version__) < Version("5"):
        pytest.skip("its positions are configured in another way before transformers 5")
    model = composite_model(name, tokenizer)
    assert model.config.get_text_config() is not model.config
    assert_trains(model, tokenizer, tmp_path, monkeypatch, packs=False)


@pytest.mark.parametrize("share", ["auto", False])
def test_a_composite_model_with_an_adapter_and_a_reference(share, tokenizer, tmp_path):
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=r".*language_model.*\.q_proj")
    options = {"peft_config": lora, "beta": 0.1, "gradient_checkpointing": True, "share_prompts": share}
    trainer = build("ple", composite_model("mistral3", tokenizer), tokenizer, tmp_path, max_steps=2, **options)
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["kl"] == 0 and second["kl"] > 0


def test_a_composite_model_is_not_packed_by_force(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="share_prompts=True cannot be exact here: 'gemma3' is a multimodal model"):
        build("neat", composite_model("gemma3", tokenizer), tokenizer, tmp_path, share_prompts=True)
