"""Options that share their query's forward have the log-probabilities of options alone."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
)

from tests.likra.slow import option_logp
from trl_negalign.likra import option_logps as module
from trl_negalign.likra.encoding import Encoded
from trl_negalign.likra.option_logps import can_share, option_logps, separate_logps, shared_logps


WORDS = 300
SIZES = {"vocab_size": WORDS, "num_hidden_layers": 2, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1}
LLAMA = SIZES | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def build(config, seed: int = 0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(WORDS, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def items() -> list[Encoded]:
    """Queries and options of several lengths, single tokens among them."""
    return [
        Encoded(tokens(9, 1), [tokens(5, 2), tokens(7, 3), tokens(1, 4)]),
        Encoded(tokens(20, 5), [tokens(3, 6), tokens(2, 7)]),
        Encoded(tokens(5, 8), [tokens(2, 9), tokens(1, 10), tokens(1, 11), tokens(6, 12)]),
        Encoded(tokens(1, 13), [tokens(4, 14), tokens(4, 15)]),
    ]


def slow(model, encoded: list[Encoded]) -> list[list[float]]:
    return [[option_logp(model, item.query, option) for option in item.options] for item in encoded]


def in_order(batches, count: int) -> list[list[float]]:
    found = [None] * count
    for indices, values in batches:
        for index, value in zip(indices, values, strict=True):
            assert found[index] is None
            found[index] = value.tolist()
    return found


def assert_same(found, expected):
    for values, slow_values in zip(found, expected, strict=True):
        assert values == pytest.approx(slow_values, abs=1e-5, rel=1e-6)


GPT2 = GPT2Config(
    vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=0, eos_token_id=1
)


@pytest.mark.parametrize("config", [LlamaConfig(**LLAMA), GPT2], ids=["rotary", "absolute positions"])
def test_shared_queries_equal_one_option_at_a_time(config):
    model = build(config)
    assert can_share(model)
    assert_same([value.tolist() for value in shared_logps(model, items())], slow(model, items()))


@pytest.mark.parametrize(
    "config",
    [
        Lfm2Config(**LLAMA, layer_types=["conv", "full_attention"]),
        MambaConfig(**SIZES, hidden_size=32, state_size=4),
        BloomConfig(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3),
        GPTNeoConfig(
            vocab_size=WORDS,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=256,
            initializer_range=0.3,
        ),
    ],
    ids=["convolutions", "state space", "positions of its own", "a window over the row"],
)
def test_a_model_that_cannot_share_is_found_out_and_scores_each_alone(config):
    model = build(config)
    share = can_share(model)
    assert not share
    assert_same(in_order(option_logps(model, items(), 40, share), 4), slow(model, items()))


@pytest.mark.parametrize("tokens_per_batch", [1, 30, 64, 1000])
@pytest.mark.parametrize("share", [True, False])
def test_batches_change_nothing(tokens_per_batch, share):
    model = build(LlamaConfig(**LLAMA))
    assert_same(in_order(option_logps(model, items(), tokens_per_batch, share), 4), slow(model, items()))


@pytest.mark.parametrize(
    "config",
    [MistralConfig(**LLAMA, sliding_window=24), Gemma2Config(**LLAMA, head_dim=8, sliding_window=24)],
    ids=["all layers", "every other layer"],
)
def test_what_is_longer_than_a_sliding_window_is_scored_alone(config, monkeypatch):
    model = build(config)
    encoded = [*items(), Encoded(tokens(23, 16), [tokens(3, 17), tokens(2, 18)])]
    shared = []

    def spy(model, batch):
        shared.extend(batch)
        return shared_logps(model, batch)

    monkeypatch.setattr(module, "shared_logps", spy)
    assert_same(in_order(option_logps(model, encoded), 5), slow(model, encoded))
    assert sorted(shared) == sorted(encoded[:4])


def test_a_query_is_read_once_and_logits_are_made_only_where_options_are_predicted():
    model = build(LlamaConfig(**LLAMA))
    read, made = [], []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    model.lm_head.register_forward_hook(lambda _, args, output: made.append(output.shape[:-1].numel()))
    query, options = tokens(9, 1), [tokens(5, 2), tokens(7, 3), tokens(1, 4)]
    shared_logps(model, [Encoded(query, options)])
    # an option's last token is predicted and not read; the query's last stands before each of the three
    assert read == [8 + 5 + 7 + 1]
    assert made == [5 + 7 + 1]


def test_a_forward_keeps_to_the_batch_size():
    model = build(LlamaConfig(**LLAMA))
    read = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    encoded = [Encoded(tokens(10, i), [tokens(6, i + 50), tokens(6, i + 100)]) for i in range(10)]
    list(option_logps(model, encoded, 63))
    assert read == [63] * 3 + [21]
    read.clear()
    list(option_logps(model, encoded, 63, share=False))
    assert read == [60] * 5


def test_lower_precision_shares_too():
    model = build(LlamaConfig(**LLAMA)).to(torch.bfloat16)
    assert can_share(model)
    for shared, separate in zip(shared_logps(model, items()), separate_logps(model, items()), strict=True):
        assert shared.tolist() == pytest.approx(separate.tolist(), rel=0.02)


def test_a_model_that_refuses_a_mask_of_our_own_does_not_share(monkeypatch):
    def refuse(*args):
        raise ValueError("attention_mask must have two dimensions")

    monkeypatch.setattr(module, "shared_logps", refuse)
    assert not can_share(build(LlamaConfig(**LLAMA)))


def test_attention_without_masks_of_our_own_does_not_share():
    model = build(LlamaConfig(**LLAMA))
    model.config._attn_implementation = "flash_attention_2"
    assert not can_share(model)
