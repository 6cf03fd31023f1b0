"""Random models of real shapes, a tokenizer of bytes and queries of a given length: nothing is downloaded."""

import random

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config


# layers, hidden size, inner size, heads, key-value heads, vocabulary
SHAPES = {
    "tiny": (2, 64, 128, 4, 2, 512),
    "10M": (4, 384, 1280, 6, 2, 8192),
    "135M": (30, 576, 1536, 9, 3, 49152),
    "0.5B": (24, 896, 4864, 14, 2, 151936),
    "1.5B": (28, 1536, 8960, 12, 2, 151936),
}


def model_config(shape: str) -> Qwen2Config:
    """A Qwen2 configuration of one of `SHAPES`, for a model with random weights."""
    layers, hidden, inner, heads, kv_heads, vocabulary = SHAPES[shape]
    return Qwen2Config(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that a text's length is its number of tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<eos>", padding_side="left"
    )


def queries(rows: int, tokens: int, seed: int = 0, spread: bool = False) -> Dataset:
    """
    Random letters of `tokens` tokens under the byte tokenizer, or spread evenly from half of that to the whole, with
    two responses of their own.
    """
    letters = random.Random(seed)

    def text(length: int) -> str:
        return "".join(letters.choice("abcdefgh ") for _ in range(length - 1)) + "x"

    return Dataset.from_dict(
        {
            "prompt": [text(letters.randint(tokens // 2, tokens) if spread else tokens) for _ in range(rows)],
            "chosen": [text(tokens // 2) for _ in range(rows)],
            "rejected": [text(tokens // 2) for _ in range(rows)],
        }
    )
