import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from trl_negalign.evaluation.sampling import completion_perplexity, sample_completions


QUERIES = ["We went", "How do I boil an egg?", "A bitter review by"]
COMPLETIONS = [" home early", " Put it in hot water.", " an angry writer"]


def one_at_a_time(model, tokenizer):
    total, count = 0.0, 0
    for query, completion in zip(QUERIES, COMPLETIONS, strict=True):
        query_ids, ids = tokenizer(query)["input_ids"], tokenizer(completion)["input_ids"]
        log_probs = torch.log_softmax(model(torch.tensor([query_ids + ids])).logits[0], -1)
        total -= sum(log_probs[len(query_ids) - 1 + i, token].item() for i, token in enumerate(ids))
        count += len(ids)
    return math.exp(total / count)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_perplexity_is_token_weighted_and_batching_changes_nothing(model, tokenizer, batch_size):
    found = completion_perplexity(model, tokenizer, QUERIES, COMPLETIONS, batch_size=batch_size)
    assert found == pytest.approx(one_at_a_time(model, tokenizer), rel=1e-5)


def test_perplexity_leaves_empty_completions_out(model, tokenizer):
    found = completion_perplexity(model, tokenizer, [*QUERIES, "x"], [*COMPLETIONS, ""])
    assert found == pytest.approx(one_at_a_time(model, tokenizer), rel=1e-5)
    assert math.isnan(completion_perplexity(model, tokenizer, ["x"], [""]))


def test_perplexity_without_the_adapter_is_the_bases(make_model, tokenizer):
    expected = one_at_a_time(make_model(), tokenizer)
    adapted = get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    with_adapter = completion_perplexity(adapted, tokenizer, QUERIES, COMPLETIONS)
    without = completion_perplexity(adapted, tokenizer, QUERIES, COMPLETIONS, without_adapter=True)
    assert without == pytest.approx(expected, rel=1e-5)
    assert with_adapter != pytest.approx(expected, rel=1e-3)


def test_sampling_repeats_with_its_seed(model, tokenizer):
    def sample(seed):
        return sample_completions(model, tokenizer, QUERIES * 2, max_new_tokens=5, batch_size=4, seed=seed)

    assert sample(1) == sample(1) != sample(2)
    assert len(sample(1)) == 6
    assert sample(1)[:3] != sample(1)[3:]  # the same queries, sampled again


def test_sampling_leaves_the_model_in_its_mode(model, tokenizer):
    model.train()
    sample_completions(model, tokenizer, ["We went"], max_new_tokens=1)
    assert model.training


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"suppress_tokens": list(range(3, 390))},
        {"min_new_tokens": 8},
        {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1, "min_p": 0.9, "typical_p": 0.1},
        {"num_beams": 2, "num_return_sequences": 2},
        {"stop_strings": ["e", "a", " "]},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_of_the_models_own_settings_only_the_end_tokens_are_used(settings, adapted, model, tokenizer):
    if adapted:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    own = model.generation_config
    own.eos_token_id = list(range(0, len(tokenizer), 3))
    plain = sample_completions(model, tokenizer, QUERIES * 2, max_new_tokens=8)
    assert any(len(tokenizer(text)["input_ids"]) < 7 for text in plain)
    own.update(**settings)
    assert sample_completions(model, tokenizer, QUERIES * 2, max_new_tokens=8) == plain
    assert all(getattr(model.generation_config, name) == value for name, value in settings.items())


def test_sampling_ends_at_any_of_the_models_end_tokens(model, tokenizer, monkeypatch):
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 2))
    seen, original = [], type(model).generate

    def generate(self, input_ids, **inputs):
        output = original(self, input_ids=input_ids, **inputs)
        seen.extend(output[:, input_ids.shape[1] :].tolist())
        return output

    monkeypatch.setattr(type(model), "generate", generate)
    sample_completions(model, tokenizer, QUERIES, max_new_tokens=30)
    assert len(seen) == 3
    for new in seen:
        end = next(place for place, token in enumerate(new) if token % 2 == 0)
        assert set(new[end + 1 :]) <= {tokenizer.pad_token_id}
