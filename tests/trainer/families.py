"""Tiny configurations of the architectures for which sharing a query is known to be exact."""

from transformers import (
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)


SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED_HEADS = {"num_key_value_heads": 2}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
FAMILIES = {
    "llama": (LlamaConfig, GROUPED_HEADS),
    "qwen2": (Qwen2Config, GROUPED_HEADS),
    "qwen3": (Qwen3Config, GROUPED_HEADS | {"head_dim": 8}),
    "mistral": (MistralConfig, GROUPED_HEADS | {"sliding_window": None}),
    "gemma": (GemmaConfig, GROUPED_HEADS | {"head_dim": 8}),
    "gpt2": (GPT2Config, NO_DROPOUT),
    "gpt_neox": (GPTNeoXConfig, {}),
}
