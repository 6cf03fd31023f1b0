"""Tiny models and a tokenizer made from nothing: no model hub, no network."""

import os
import re


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from functools import partial

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)


CORPUS = [
    "The film was long and the music was loud. We went home early, and nobody said a word about it.",
    "How do I boil an egg? Put it in hot water for seven minutes, then cool it under the tap.",
    "A glowing review by a happy writer. A bitter review by an angry writer. The principle of a good review.",
    "user assistant system Answer kindly. Answer rudely. Follow the principle. good bad plain question number",
    "0 1 2 3 4 5 6 7 8 9 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .,:;!?'\"()<>|",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def asks_for_a_gpu(marks: str) -> bool:
    """Whether `pytest -m marks` names the marker `gpu`, and not to leave it out."""
    return re.search(r"(?<!not )\bgpu\b", marks) is not None


def pytest_configure(config):
    # torch looks for GPUs when it is first asked for one, after this
    if not asks_for_a_gpu(config.getoption("markexpr")):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        reason = "needs a GPU: run `pytest -m gpu` on a machine with one, other tests do not see it"
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        bos_token="<|start|>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],  # transformers before 5 adds token types of its own accord
    )


@pytest.fixture(scope="session")
def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's manner: a unigram model, ▁ for spaces, one put before the text, and a token at its beginning."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def tiny_config(tokenizer, **overrides) -> LlamaConfig:
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return LlamaConfig(**(sizes | overrides))


def tiny_model(tokenizer, seed: int = 0, **overrides) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    # wide enough initial weights that its samples and log-probabilities differ from uniform
    return LlamaForCausalLM(tiny_config(tokenizer, initializer_range=0.3, **overrides))


def tiny_gpt2(tokenizer, **overrides) -> GPT2LMHeadModel:
    """A model with a table of learnt positions, and without dropout."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes | tokens | no_dropout | {"initializer_range": 0.3} | overrides))


def tiny_reward_model(tokenizer) -> LlamaForSequenceClassification:
    torch.manual_seed(1)
    return LlamaForSequenceClassification(tiny_config(tokenizer, num_labels=1, initializer_range=0.3))


@pytest.fixture
def make_model(tokenizer):
    """Build a tiny random policy; the same seed gives the same weights."""
    return partial(tiny_model, tokenizer)


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def reward_model(tokenizer):
    return tiny_reward_model(tokenizer)


def save(model, tokenizer, path) -> str:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def saved_model(tokenizer, tmp_path_factory) -> str:
    """The tiny policy on disk, as a user would name it."""
    return save(tiny_model(tokenizer), tokenizer, tmp_path_factory.mktemp("models") / "tiny-model")


@pytest.fixture(scope="session")
def saved_reward_model(tokenizer, tmp_path_factory) -> str:
    return save(tiny_reward_model(tokenizer), tokenizer, tmp_path_factory.mktemp("models") / "tiny-reward")
