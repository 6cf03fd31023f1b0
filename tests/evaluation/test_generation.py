from collections import Counter
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import trl_negalign.evaluation.generation as generation
from tests.helpers import QUESTIONS, dataset
from trl_negalign.borders import query_ids
from trl_negalign.evaluation.generation import SampleByQuery, Sampling, generate_batch, generate_cached, query_draws
from trl_negalign.evaluation.queries import Queries


TEXTS = ["We went", "How do I boil an egg? Put it", "A", "nobody said a word about it, and the film was long", "loud"]


def make_queries(style="string") -> Queries:
    if style == "string":
        return Queries([3, 1, 4, 15, 9], TEXTS, None, {}, {})
    return Queries([3, 1, 4, 15, 9], dataset("conversation")["prompt"][:5], None, {}, {})


def gpt2(tokenizer) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)).eval()


def run(model, tokenizer, folder, sampling=None, queries=None, **options):
    sampling = sampling or Sampling(max_new_tokens=12)
    return generate_cached(
        model.eval(), tokenizer, queries or make_queries(), sampling, folder, model_id="tiny", **options
    )


@pytest.mark.parametrize("style", ["string", "conversation"])
@pytest.mark.parametrize("architecture", ["rotary", "learnt positions"])
def test_batches_change_nothing(style, architecture, model, tokenizer, tmp_path):
    model = model if architecture == "rotary" else gpt2(tokenizer)
    one, two, all_ = (
        run(model, tokenizer, tmp_path / str(size), queries=make_queries(style), batch_size=size) for size in (1, 2, 8)
    )
    assert one.equals(two) and one.equals(all_)
    assert len(set(one["completion"])) == 5


def test_a_completion_is_the_draws_of_its_query_on_the_models_distribution(model, tokenizer, tmp_path):
    """Token by token without a cache: the first whose cumulative probability reaches the draw."""
    sampling = Sampling(max_new_tokens=6, temperature=0.8, seed=5)
    found = run(model, tokenizer, tmp_path, sampling)
    for row, text, new in zip(make_queries().rows, TEXTS, found["token_ids"], strict=True):
        ids, expected = tokenizer(text)["input_ids"], []
        for draw in query_draws(5, row, 6):
            probs = (model(torch.tensor([ids + expected])).logits[0, -1] / 0.8).double().softmax(-1)
            expected.append(int((probs.cumsum(0) < draw).sum()))
            if expected[-1] == tokenizer.eos_token_id:
                break
        assert new == expected


def test_tokens_come_as_often_as_they_are_probable():
    probs = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3])
    rows = 4000
    draws = torch.stack([query_draws(0, row, 1) for row in range(rows)])
    scores = SampleByQuery(draws, query_length=2)(torch.zeros(rows, 2), probs.log().expand(rows, -1))
    counts = Counter(scores.argmax(-1).tolist())
    assert (scores == 0).sum() == rows and torch.isinf(scores).sum() == 4 * rows
    assert set(counts) == {1, 2, 4}
    for token, count in counts.items():
        p = probs[token].item()
        assert abs(count / rows - p) < 4 * (p * (1 - p) / rows) ** 0.5


@pytest.mark.parametrize(("draw", "token"), [(0.0, 1), (1 - 2**-24, 2)])
def test_a_token_of_probability_zero_is_never_taken(draw, token):
    scores = torch.tensor([[-torch.inf, 0.3, 0.1, -torch.inf]])
    taken = SampleByQuery(torch.tensor([[draw]]), query_length=1)(torch.zeros(1, 1), scores)
    assert taken.argmax(-1).item() == token


def test_each_step_has_its_own_draw():
    sample = SampleByQuery(torch.tensor([[0.1, 0.9]]), query_length=3)
    scores = torch.zeros(1, 2)
    assert [sample(torch.zeros(1, length), scores).argmax().item() for length in (3, 4)] == [0, 1]


def test_draws_belong_to_seed_and_row():
    assert torch.equal(query_draws(1, 2, 8), query_draws(1, 2, 8))
    different = [query_draws(*key, 8) for key in [(1, 2), (2, 1), (12, 0), (1, 20)]]
    assert len({tuple(draws.tolist()) for draws in different}) == 4


def stop_after(batches, monkeypatch):
    """Let generation be interrupted after some batches; the list of the rows that were generated."""
    generated, original = [], generate_batch

    def counted(model, tokenizer, ids, rows, sampling):
        if len(generated) >= batches:
            raise KeyboardInterrupt
        generated.append(rows)
        return original(model, tokenizer, ids, rows, sampling)

    monkeypatch.setattr(generation, "generate_batch", counted)
    return generated


def test_interrupted_generation_goes_on_and_samples_nothing_twice(model, tokenizer, tmp_path, monkeypatch):
    whole = run(model, tokenizer, tmp_path / "whole", batch_size=2)
    first = stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(model, tokenizer, tmp_path / "parts", batch_size=2)
    monkeypatch.undo()
    rest = stop_after(99, monkeypatch)
    resumed = run(model, tokenizer, tmp_path / "parts", batch_size=2)
    assert resumed.equals(whole)
    assert sorted(sum(first + rest, [])) == sorted(make_queries().rows) and len(first) == 1
    assert first == [[15, 1]]  # the longest first


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": Sampling(max_new_tokens=12, seed=1)},
        {"sampling": Sampling(max_new_tokens=12, temperature=0.5)},
        {"sampling": Sampling(max_new_tokens=11)},
        {"queries": Queries([3, 1, 4, 15, 9], [text + " x" for text in TEXTS], None, {}, {})},
        {"queries": Queries([30, 10, 40, 150, 90], TEXTS, None, {}, {})},
    ],
    ids=["seed", "temperature", "length", "prompts", "rows"],
)
def test_what_was_kept_is_not_used_for_another_question(change, model, tokenizer, tmp_path, monkeypatch):
    run(model, tokenizer, tmp_path)
    generated = stop_after(99, monkeypatch)
    run(model, tokenizer, tmp_path, **change)
    assert len(sum(generated, [])) == 5


def test_another_model_or_template_generates_anew(model, tokenizer, tmp_path, monkeypatch):
    run(model, tokenizer, tmp_path)
    generated = stop_after(99, monkeypatch)
    generate_cached(model, tokenizer, make_queries(), Sampling(max_new_tokens=12), tmp_path, model_id="other")
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages }}")
    run(model, tokenizer, tmp_path)
    assert len(sum(generated, [])) == 10


def test_temperature_zero_and_one_candidate_are_the_most_probable_tokens(model, tokenizer, tmp_path):
    greedy = run(model, tokenizer, tmp_path, Sampling(max_new_tokens=5, temperature=0))
    single = run(model, tokenizer, tmp_path, Sampling(max_new_tokens=5, top_k=1))
    narrow = run(model, tokenizer, tmp_path, Sampling(max_new_tokens=5, top_p=1e-6))
    ids = tokenizer("We went")["input_ids"]
    for _ in range(5):
        ids = ids + [model(torch.tensor([ids])).logits[0, -1].argmax().item()]
    assert greedy["token_ids"][0] == ids[-5:]
    assert greedy.equals(single) and greedy.equals(narrow)


def test_it_ends_at_any_of_the_models_end_tokens(model, tokenizer, tmp_path):
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 2))
    found = run(model, tokenizer, tmp_path)
    assert not found["truncated"].any() and found["token_ids"].map(len).max() > 1
    for ids in found["token_ids"]:
        assert ids[-1] % 2 == 0 and all(token % 2 == 1 for token in ids[:-1])


def test_truncated_is_without_an_end(model, tokenizer, tmp_path):
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 40))
    found = run(model, tokenizer, tmp_path, Sampling(max_new_tokens=20))
    ends = [ids[-1] % 40 == 0 for ids in found["token_ids"]]
    assert found["truncated"].tolist() == [not end for end in ends] and {True, False} == set(ends)
    assert all(len(ids) == 20 for ids, end in zip(found["token_ids"], ends, strict=True) if not end)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in found["token_ids"]]
    assert found["completion"].tolist() == texts


OWN_SETTINGS = [
    {"suppress_tokens": list(range(3, 390))},
    {"begin_suppress_tokens": list(range(3, 390))},
    {"bad_words_ids": [[token] for token in range(3, 390)]},
    {"sequence_bias": {(7,): 50.0}},
    {"min_new_tokens": 12, "eos_token_id": list(range(0, 400, 2))},
    {"min_length": 60, "eos_token_id": list(range(0, 400, 2))},
    {"repetition_penalty": 50.0, "temperature": 0.1, "no_repeat_ngram_size": 1, "top_k": 1, "min_p": 0.9},
    {"forced_eos_token_id": 2},
    {"exponential_decay_length_penalty": (1, 20.0)},
    {"guidance_scale": 3.0},
    {"stop_strings": ["e", "a", " "]},
    {"max_time": 0.0},
    {"num_beams": 3, "num_return_sequences": 2},
]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("settings", OWN_SETTINGS, ids=lambda settings: "+".join(settings))
def test_of_the_models_own_settings_only_the_end_tokens_are_used(settings, adapted, model, tokenizer, tmp_path):
    if adapted:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    base = model.get_base_model() if adapted else model
    base.generation_config.eos_token_id = settings.get("eos_token_id", tokenizer.eos_token_id)
    plain = run(model, tokenizer, tmp_path / "plain")
    base.generation_config.update(**settings)
    assert run(model, tokenizer, tmp_path / "settings").equals(plain)
    assert all(getattr(base.generation_config, name) == value for name, value in settings.items())


def test_other_end_tokens_generate_anew(model, tokenizer, tmp_path):
    """A model whose end of sequence was mended, in a folder that knows it without."""
    run(model, tokenizer, tmp_path)
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 2))
    mended = run(model, tokenizer, tmp_path)
    assert not mended["truncated"].any()
    assert mended.equals(run(model, tokenizer, tmp_path / "fresh"))


def test_a_tokenizer_without_padding(model, tokenizer, tmp_path):
    bare = deepcopy(tokenizer)
    bare.pad_token = None
    with_padding = run(model, tokenizer, tmp_path / "a", batch_size=8)
    assert run(model, bare, tmp_path / "b", batch_size=8).equals(with_padding)


@pytest.mark.parametrize(
    "bad", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_bad_sampling(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


def test_queries_are_the_plain_ones(model, tokenizer, monkeypatch, tmp_path):
    seen = []

    def generated(model, tokenizer, ids, rows, sampling):
        seen.extend(ids)
        return [[5]] * len(ids), [True] * len(ids)

    monkeypatch.setattr(generation, "generate_batch", generated)
    run(model, tokenizer, tmp_path, queries=make_queries("conversation"))
    expected = [query_ids(tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS[:5]]
    assert sorted(seen) == sorted(expected)
