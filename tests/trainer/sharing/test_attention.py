"""Attention by blocks against a softmax over the whole square, and everything else that uses "sdpa" against itself."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.trainer.sharing.test_packing import VOCABULARY, assert_exact, make_groups, make_model, packed, with_lora
from trl_negalign.trainer.sharing import attention
from trl_negalign.trainer.sharing.attention import locate, packed_attention, register_packed_attention
from trl_negalign.trainer.sharing.packing import SharedPromptBatch, attends_by_blocks


@pytest.fixture(autouse=True)
def plain_sdpa():
    """Every test starts and ends with transformers' own function in its place."""
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    yield
    AttentionInterface.register("sdpa", sdpa_attention_forward)


def square_attention(query, key, value, query_lengths, lengths, scaling):
    """`[groups, L, heads, width of a head]`, each row of a softmax over the whole square, 0 at padding."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    results = torch.zeros_like(query)
    for group, (of_query, of_candidates) in enumerate(zip(query_lengths, lengths, strict=True)):
        blocks = [0] * of_query + [i for i, length in enumerate(of_candidates, start=1) for _ in range(length)]
        for position, block in enumerate(blocks):
            seen = [i for i in range(position + 1) if blocks[i] in (0, block)]
            scores = query[group, :, position, None] @ key[group][:, seen].mT * scaling
            results[group, :, position] = (scores.softmax(-1) @ value[group][:, seen])[:, 0]
    return results.transpose(1, 2)


RAGGED = {
    "as long as each other": ([4, 4], [[3, 3], [3, 3]]),
    "queries of other lengths": ([4, 1, 6], [[3, 3], [3, 3], [3, 3]]),
    "candidates of other lengths": ([4, 4], [[3, 1, 5], [2, 2, 2]]),
    "candidates without tokens": ([2, 3], [[0, 2, 0, 1], [0, 0, 0, 4]]),
    "a group without tokens": ([3, 2], [[1, 2], [0, 0]]),
    "queries without tokens": ([0, 0], [[1, 2], [3, 1]]),
    "one query without tokens": ([0, 5], [[1, 2], [3, 1]]),
    "no candidate with tokens": ([2, 1], [[0, 0], [0, 0]]),
    "nothing": ([0], [[0, 0]]),
}


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("query_lengths", "lengths"), RAGGED.values(), ids=RAGGED)
def test_as_the_whole_square(query_lengths, lengths, heads, key_heads):
    torch.manual_seed(0)
    used = [q + sum(of_candidates) for q, of_candidates in zip(query_lengths, lengths, strict=True)]
    row_length, groups = max(max(used), 1), len(used)
    states = [
        torch.randn(groups, count, row_length, 8, dtype=torch.float64, requires_grad=True)
        for count in (heads, key_heads, key_heads)
    ]
    places = locate(torch.tensor(query_lengths), torch.tensor(lengths), row_length, torch.float64)
    module = SimpleNamespace(num_key_value_groups=heads // key_heads, is_causal=True)
    found, weights = packed_attention(module, *states, None, places, scaling=0.3)
    assert weights is None and found.isfinite().all()
    expected = square_attention(*states, query_lengths, lengths, 0.3)
    real = (torch.arange(row_length) < torch.tensor(used)[:, None])[..., None, None]
    torch.testing.assert_close(found * real, expected)
    upstream = torch.randn_like(expected) * real
    for one, other in (
        zip(torch.autograd.grad(found, states, upstream), torch.autograd.grad(expected, states, upstream), strict=True)
        if any(used)
        else ()
    ):
        torch.testing.assert_close(one, other)


def test_dropout_is_that_of_the_layer():
    module = SimpleNamespace(num_key_value_groups=1, is_causal=True)
    places = locate(torch.tensor([2]), torch.tensor([[2, 1]]), 5, torch.float32)
    found, _ = packed_attention(module, *torch.ones(3, 1, 2, 5, 8), None, places, dropout=1.0)
    assert found.shape == (1, 5, 2, 8) and found.count_nonzero() == 0


def test_places():
    """Rows `q q 1 1 2` and `q 2 2 2 .`, each group by itself: the second has one candidate with tokens."""
    found = locate(torch.tensor([2, 1]), torch.tensor([[2, 1], [0, 3]]), 5, torch.float32)
    assert [own.tolist() for own in found.own] == [[[2, 3], [4, 4]], [[6, 7, 8]]]
    # results: two for each query, two for each candidate of the first group, three for that of the second
    assert found.width == 2 and found.origin.tolist() == [0, 1, 4, 5, 6, 2, 8, 9, 10, 0]
    assert [(bias[0, 0] == 0).long().tolist() for bias in found.bias] == [
        [[1, 1, 1, 0], [1, 1, 1, 1]],
        [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    ]


def test_places_in_multiples():
    """What fills a query up to four places belongs to candidates, and none of them may see it there."""
    found = locate(torch.tensor([2, 5]), torch.tensor([[2, 1], [0, 3]]), 8, torch.float32, multiple=4)
    assert found.width == 8 and [own.shape for own in found.own] == [(2, 4), (1, 4)]
    assert [bias.shape for bias in found.bias] == [(1, 1, 4, 4 + 4), (1, 1, 4, 8 + 4)]
    assert (found.bias[0][0, 0] == 0).long().tolist() == [
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 1, 0],
        [1, 1, 0, 0, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("queries", [(1024, 1024), (1024, 700)], ids=["equal", "unequal"])
def test_bytes_of_the_masks(queries, dtype):
    """One mask of T * (P + T) for groups of the same lengths, one more for others, none for heads or candidates."""
    lengths = torch.full((2, 8), 1024)
    found = locate(torch.tensor(queries), lengths, 1024 + 8 * 1024, dtype)
    held = {bias.data_ptr(): bias.untyped_storage().nbytes() for bias in found.bias}
    assert sum(held.values()) == sum(1024 * (query + 1024) for query in set(queries)) * dtype.itemsize
    assert sum(held.values()) <= 2 * 8 * 2**20


@pytest.fixture
def computed(monkeypatch):
    """Shapes of the queries and keys of each call of SDPA, and the masks it was given."""
    calls, plain = [], F.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **kwargs):
        calls.append(SimpleNamespace(query=query.shape, key=key.shape, mask=attn_mask, dtype=value.dtype))
        return plain(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return calls


def test_what_is_hidden_is_not_computed(computed, monkeypatch):
    monkeypatch.setattr(SharedPromptBatch, "attention_mask", None)  # the square is not even built
    model, groups = make_model("llama"), make_groups(prompts=(5, 3), completions=((3, 2, 0), (0, 1, 3)))
    packed(model, groups)
    query, first, second = computed[:3]
    assert query.query == (2, 4, 4, 8) and query.key == (2, 2, 4, 8) and query.mask is None
    # two candidates of each group have tokens, with two heads that have keys; two heads share them
    assert first.query == (2 * 2, 2, 3, 8) and first.key == (2 * 2, 2, 4 + 3, 8)
    assert second.query == (2 * 2, 2, 3, 8) and second.key == (2 * 2, 2, 2 + 3, 8)
    assert len(computed) == 3 * model.config.num_hidden_layers


def test_heads_that_share_keys_see_one_copy(monkeypatch):
    strides, plain = [], F.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **kwargs):
        if attn_mask is not None:
            strides.extend([key.stride(1), value.stride(1)])
        return plain(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    packed(make_model("llama", num_key_value_heads=1), make_groups())
    assert strides and not any(strides)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_masks_have_the_dtype_of_the_values(family, computed):
    """So that the layers share one, and none keeps a copy for the backward pass."""
    model = make_model(family)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        computed.clear()
        with context:
            packed(model, make_groups())
        masks = [call.mask for call in computed if call.mask is not None]
        # three groups in each of two layers
        assert len(masks) == 6 and [mask.data_ptr() for mask in masks[:3]] == [mask.data_ptr() for mask in masks[3:]]
        assert {mask.dtype for mask in masks} == {call.dtype for call in computed}


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_heads_that_share_keys(key_heads):
    assert_exact(make_model("llama", num_key_value_heads=key_heads), make_groups())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_run_again_in_the_backward_pass(lora, reentrant):
    """With another batch's forward pass in between, whose places must not be taken."""
    model = with_lora(make_model("qwen2")) if lora else make_model("qwen2")
    expected = packed(model, make_groups())[0]
    parameters = [value for value in model.parameters() if value.requires_grad]
    expected = torch.autograd.grad(expected.sum(), parameters)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if lora:
        model.enable_input_require_grads()
    found = packed(model, make_groups())[0]
    packed(model, make_groups(prompts=(2, 4), completions=((1, 1), (2, 1))))
    model.zero_grad()
    found.sum().backward()
    for one, other in zip(parameters, expected, strict=True):
        torch.testing.assert_close(one.grad, other)


@pytest.fixture
def padded():
    torch.manual_seed(0)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    return {"input_ids": torch.randint(3, VOCABULARY, (2, 6)), "attention_mask": mask}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_everything_else_is_as_it_was(family, padded):
    model = make_model(family).eval()
    forward, generated = model(**padded).logits, model.generate(**padded, max_new_tokens=5, do_sample=False)
    packed(model, make_groups())
    assert AttentionInterface()["sdpa"] is attention.sdpa_or_packed_attention
    assert torch.equal(model(**padded).logits, forward)
    assert torch.equal(model.generate(**padded, max_new_tokens=5, do_sample=False), generated)


def test_a_model_is_saved_and_loaded_as_it_was(padded, tmp_path):
    model = make_model("llama").eval()
    config = model.config.to_dict()
    packed(model, make_groups())
    assert model.config.to_dict() == config and model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    assert "attn" not in (tmp_path / "config.json").read_text()
    AttentionInterface.register("sdpa", sdpa_attention_forward)  # as where this package is not installed
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(**padded).logits, model(**padded).logits)


def test_another_function_is_not_displaced():
    calls = []

    def other(*args, **kwargs):
        calls.append(kwargs)
        return sdpa_attention_forward(*args, **kwargs)

    AttentionInterface.register("sdpa", other)
    assert not register_packed_attention()
    model = make_model("llama")
    assert not attends_by_blocks(model)
    assert_exact(model, make_groups())
    assert AttentionInterface()["sdpa"] is other
    assert calls and not any("packed_groups" in kwargs for kwargs in calls)


def test_registered_once():
    assert register_packed_attention() and register_packed_attention()
    assert AttentionInterface()["sdpa"] is attention.sdpa_or_packed_attention


def test_places_that_do_not_arrive_are_noticed(monkeypatch):
    """A model that keeps them to itself must not attend to everything."""
    monkeypatch.setattr(attention, "packed_attention", lambda *a, packed_groups, **k: sdpa_attention_forward(*a, **k))
    with pytest.raises(RuntimeError):
        packed(make_model("llama"), make_groups())


def test_only_sdpa():
    assert attends_by_blocks(make_model("llama"))
    assert not attends_by_blocks(make_model("llama", "eager"))
