"""A guided query and its completion must fit into the context: refused or warned about, with the numbers."""

import logging
from contextlib import suppress

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import OPTConfig, OPTForCausalLM

from tests.conftest import tiny_gpt2
from tests.helpers import build, dataset
from trl_negalign.trainer.rounds import lengths


QUERIES = Dataset.from_dict({"prompt": ["question"] * 7 + ["a long question " * 5] * 9})


def tokens(tokenizer, text):
    return len(tokenizer(text=text)["input_ids"])


def check(tokenizer, tmp_path, limit, data=QUERIES, **kwargs):
    """Built with a model that does not exist: what is refused is refused before it would be loaded."""
    options = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": limit, **kwargs}
    build("neat", "no/such-model", tokenizer, tmp_path, data, **options)


def test_a_length_that_holds_the_plain_query_only(tokenizer, tmp_path):
    longest = QUERIES[15]["prompt"]
    plain = tokens(tokenizer, longest)
    guided = max(tokens(tokenizer, guide + "\n\n" + longest) for guide in ("Answer kindly.", "Answer rudely."))
    assert guided > plain
    message = (
        f"vllm_max_model_length={plain + 6} is too short.* takes {guided} tokens, {guided - plain} of them its guide, "
        f"and max_completion_length=6 more.*Set it to {guided + 6} at least"
    )
    with pytest.raises(ValueError, match=message):
        check(tokenizer, tmp_path, plain + 6)
    with pytest.raises(ValueError, match="too short"):
        check(tokenizer, tmp_path, guided + 5)
    with pytest.raises(OSError, match="connect"):  # it fits, and the model is next
        check(tokenizer, tmp_path, guided + 6)


def test_conversations_and_streams(tokenizer, tmp_path):
    for data in (dataset("conversation"), dataset().to_iterable_dataset()):
        with pytest.raises(ValueError, match="vllm_max_model_length=12 is too short"):
            check(tokenizer, tmp_path, 12, data)


def warnings_of(caplog, trainer):
    lengths.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger=lengths.__name__), suppress(IndexError):
        trainer.train()
    return [record.message for record in caplog.records if record.name == lengths.__name__]


def test_a_round_past_the_model_s_context(caplog, make_model, tokenizer, tmp_path):
    model = make_model(max_position_embeddings=16)
    found = warnings_of(caplog, build("neat", model, tokenizer, tmp_path, QUERIES, max_steps=3))
    assert len(found) == 1
    assert "longer than the 10 tokens that max_completion_length=6 leaves of max_position_embeddings=16" in found[0]


def gpt2(tokenizer, positions):
    return tiny_gpt2(tokenizer, n_positions=positions)


def opt(tokenizer, positions):
    size = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"max_position_embeddings": positions, "word_embed_proj_dim": 16, "vocab_size": len(tokenizer)}
    return OPTForCausalLM(OPTConfig(**size, bos_token_id=1, eos_token_id=2, pad_token_id=0))


@pytest.mark.parametrize("make", [gpt2, opt])
@pytest.mark.parametrize("lora", [False, True])
def test_a_table_of_positions_that_is_too_short_is_refused(make, lora, tokenizer, tmp_path):
    longest = QUERIES[15]["prompt"]
    plain = tokens(tokenizer, longest)
    guided = max(tokens(tokenizer, guide + "\n\n" + longest) for guide in ("Answer kindly.", "Answer rudely."))
    options = {"peft_config": LoraConfig(r=2, target_modules="all-linear")} if lora else {}
    message = (
        f"has {guided + 5} learnt positions .*: the longest query takes {guided} of them, {guided - plain} for its "
        "guide, and max_completion_length=6 more.*Lower max_completion_length"
    )
    with pytest.raises(ValueError, match=message):
        build("neat", make(tokenizer, guided + 5), tokenizer, tmp_path, QUERIES, **options)
    if not lora:
        build("neat", make(tokenizer, guided + 6), tokenizer, tmp_path, QUERIES, max_steps=1).train()


def test_a_table_of_positions_is_named_before_its_index_error(caplog, tokenizer, tmp_path):
    """Where a stream's later queries are too long, which only its rounds show."""
    positions = tokens(tokenizer, "Answer kindly.\n\nquestion") + 6
    trainer = build("neat", gpt2(tokenizer, positions), tokenizer, tmp_path, QUERIES.to_iterable_dataset())
    found = warnings_of(caplog, trainer)
    assert len(found) == 1 and "an index error where positions are looked up" in found[0]


def test_no_word_where_all_fits(caplog, model, tokenizer, tmp_path):
    assert warnings_of(caplog, build("neat", model, tokenizer, tmp_path, QUERIES)) == []
