import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from trl_negalign.evaluation.perplexity import perplexity, reference_nlls_cached, response_nlls
from trl_negalign.evaluation.queries import Queries, as_response


PROMPTS = ["We went", "How do I boil an egg? Put it in hot", "A bitter review by", "nobody"]
REFERENCES = [" home early, and nobody said a word", " water.", " an angry writer", ""]


def make_queries(style: str) -> Queries:
    prompts = [text if style == "string" else [{"role": "user", "content": text}] for text in PROMPTS]
    references = [as_response(text, style != "string") for text in REFERENCES]
    return Queries([0, 1, 2, 3], prompts, references, {}, {})


def gpt2(tokenizer) -> GPT2LMHeadModel:
    """Learnt positions: a sequence that begins at another position has other probabilities."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes))


def one_at_a_time(model, tokenizer, style: str) -> tuple[float, int]:
    """Negative log-likelihood and tokens of all references, each sequence alone and without padding."""
    total, count = 0.0, 0
    for prompt, reference in zip(PROMPTS, REFERENCES, strict=True):
        if style == "conversation":
            prompt = f"<|start|>user\n{prompt}<|end|>\n<|start|>assistant\n"
        query = tokenizer(prompt, add_special_tokens=style == "string")["input_ids"]
        ids = tokenizer(reference)["input_ids"]
        log_probs = torch.log_softmax(model(torch.tensor([query + ids])).logits[0].double(), -1)
        for place, token in enumerate(ids):
            total -= log_probs[len(query) + place - 1, token].item()
        count += len(ids)
    return total, count


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("architecture", ["rotary", "learnt positions"])
@pytest.mark.parametrize("style", ["string", "conversation"])
def test_it_is_that_of_one_sequence_at_a_time(
    style, architecture, batch_size, padding_side, model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(tokenizer, "padding_side", padding_side)
    model = (model if architecture == "rotary" else gpt2(tokenizer)).eval()
    found = reference_nlls_cached(
        model, tokenizer, make_queries(style), tmp_path, model_id="tiny", batch_size=batch_size
    )
    total, count = one_at_a_time(model, tokenizer, style)
    assert found["tokens"].sum() == count
    assert perplexity(found["nll"].tolist(), found["tokens"].tolist()) == pytest.approx(
        math.exp(total / count), rel=1e-5
    )


def test_tokens_weigh_the_same_by_hand():
    # one response of 1 token at 4 nats, one of 3 tokens at 4 nats together: 8 nats over 4 tokens
    assert perplexity([4.0, 4.0], [1, 3]) == pytest.approx(math.exp(2))
    assert math.isnan(perplexity([], [])) and math.isnan(perplexity([0.0], [0]))


def test_query_tokens_do_not_count(make_model):
    model = make_model().eval()
    log_probs = torch.log_softmax(model(torch.tensor([[5, 6, 7, 8]])).logits[0], -1)
    by_hand = -log_probs[1, 7].item() - log_probs[2, 8].item()
    assert response_nlls(model, [([5, 6], [7, 8])]) == [pytest.approx(by_hand, rel=1e-5)]


def test_what_was_computed_is_kept(model, tokenizer, tmp_path, monkeypatch):
    options = {"model_id": "tiny", "batch_size": 2}
    first = reference_nlls_cached(model, tokenizer, make_queries("string"), tmp_path, **options)
    forward, calls = model.forward, []
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    assert reference_nlls_cached(model, tokenizer, make_queries("string"), tmp_path, **options).equals(first)
    assert not calls
    changed = make_queries("string")
    changed.references[0] = " home"
    reference_nlls_cached(model, tokenizer, changed, tmp_path, **options)
    assert len(calls) == 1
    reference_nlls_cached(model, tokenizer, changed, tmp_path, **(options | {"model_id": "other"}))
    assert len(calls) == 3


def test_half_precision_is_summed_in_full(make_model):
    """bfloat16 logits: their log-probabilities are computed in float32."""
    model = make_model().bfloat16().eval()
    ids = list(range(3, 60))
    logits = model(torch.tensor([ids])).logits[0].float()
    expected = -torch.log_softmax(logits, -1)[range(9, 56), ids[10:]].sum().item()
    assert response_nlls(model, [(ids[:10], ids[10:])]) == [pytest.approx(expected, rel=1e-5)]
