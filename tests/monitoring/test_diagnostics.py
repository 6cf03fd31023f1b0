"""Each diagnostic against a direct computation by another path."""

import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from tests.helpers import CLOSING, DROPPING, build, dataset, with_template
from trl_negalign.monitoring.diagnostics import (
    DiagnosticsCallback,
    ches_score,
    diagnose,
    gradient_inner_product,
    ranking_accuracy,
    top_k_entropy_and_mass,
)


QUERY, CHOSEN, REJECTED = [5, 9, 17], [40, 41, 7, 8], [60, 61]
PAIRS = [
    (QUERY, CHOSEN, REJECTED),
    ([8, 8], [30, 31], [32, 33, 34]),
    ([90], [5, 5, 5], [200]),
    ([8, 8], [33], [30, 31]),
]


def mean_logp(model, query, response):
    """By the model's own loss."""
    labels = [-100] * len(query) + response
    return -model(input_ids=torch.tensor([query + response]), labels=torch.tensor([labels])).loss


def test_ranking_accuracy(model):
    wins = [mean_logp(model, q, c) > mean_logp(model, q, r) for q, c, r in PAIRS]
    assert 0 < sum(wins) < 4, "a test that tells nothing apart"
    assert ranking_accuracy(model, PAIRS) == sum(wins) / 4
    assert ranking_accuracy(model, [(q, r, c) for q, c, r in PAIRS]) == 1 - sum(wins) / 4
    assert ranking_accuracy(model, [(QUERY, CHOSEN, CHOSEN)]) == 0.5


@pytest.mark.parametrize("per_token", [False, True])
def test_ches(per_token, model):
    """States as the output head receives them."""
    sums = []
    for response in (CHOSEN, REJECTED):
        seen = []
        hook = model.lm_head.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        model(torch.tensor([QUERY + response]))
        hook.remove()
        states = [seen[0][0, len(QUERY) - 1 + t] for t in range(len(response))]
        sums.append(sum(states) / (len(response) if per_token else 1))
    expected = sum(a * b for a, b in zip(*(s.tolist() for s in sums), strict=True)) - sum(
        a * a for a in sums[0].tolist()
    )
    assert ches_score(model, QUERY, CHOSEN, REJECTED, per_token) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_inner_product(lora, model):
    if lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = []
    for response in (CHOSEN, REJECTED):
        model.zero_grad()
        (mean_logp(model, QUERY, response) * len(response)).backward()
        gradients.append(torch.cat([parameter.grad.flatten().clone() for parameter in trained]).double())
    model.zero_grad()
    dot, cosine = gradient_inner_product(model, QUERY, CHOSEN, REJECTED)
    assert dot == pytest.approx((gradients[0] @ gradients[1]).item(), rel=1e-4)
    assert cosine == pytest.approx(torch.cosine_similarity(*gradients, dim=0).item(), rel=1e-4)
    assert all(parameter.grad is None for parameter in trained)
    assert gradient_inner_product(model, QUERY, CHOSEN, CHOSEN)[1] == pytest.approx(1.0)


def test_gradients_need_a_trained_parameter(model):
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        gradient_inner_product(model, QUERY, CHOSEN, REJECTED)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k(k, model):
    with torch.no_grad():
        logits = model(torch.tensor([QUERY + CHOSEN])).logits[0].double()
    entropies, masses = [], []
    for t in range(len(CHOSEN)):
        weights = sorted(logits[len(QUERY) - 1 + t].exp().tolist(), reverse=True)
        inside = [weight / sum(weights[:k]) for weight in weights[:k]]
        entropies.append(-sum(p * math.log(p) for p in inside))
        masses.append(sum(weights[:k]) / sum(weights))
    entropy, mass = top_k_entropy_and_mass(model, QUERY, CHOSEN, k)
    assert entropy == pytest.approx(sum(entropies) / 4, abs=1e-4)
    assert mass == pytest.approx(sum(masses) / 4, rel=1e-4)


def test_the_callback_logs_them_when_the_trainer_evaluates(make_model, tokenizer, tmp_path):
    preferences = dataset("conversation", responses=True)
    callback = DiagnosticsCallback(preferences, tokenizer, num_pairs=3)
    options = {"eval_dataset": dataset(rows=4), "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    trainer = build("neat", make_model(), tokenizer, tmp_path, callbacks=[callback], **options)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "diagnostics/ches" in entry]
    assert [entry["step"] for entry in logged] == [1, 2]
    trainer.model.train()
    now = diagnose(trainer.model, callback.pairs)
    assert {f"diagnostics/{name}": value for name, value in now.items()} == pytest.approx(
        {name: value for name, value in logged[1].items() if name.startswith("diagnostics/")}
    )
    assert trainer.model.training


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"prompt": ["a"], "chosen": ["b"]}, "no column 'rejected'"),
        ({"prompt": ["a"], "chosen": ["b"], "rejected": [""]}, "A response to 'a' is empty"),
    ],
)
def test_bad_preferences(rows, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        DiagnosticsCallback(Dataset.from_dict(rows), tokenizer)


def test_a_response_in_open_reasoning_is_refused(tokenizer):
    with pytest.raises(ValueError, match="row 0: chosen has no </think>"):
        DiagnosticsCallback(dataset("conversation", responses=True), with_template(tokenizer, DROPPING))


def test_pairs_are_rendered_with_the_template_arguments(tokenizer):
    tokenizer, data = with_template(tokenizer, CLOSING), dataset("conversation", responses=True, rows=1)
    [(query, chosen, _)] = DiagnosticsCallback(data, tokenizer, chat_template_kwargs={"enable_thinking": False}).pairs
    assert tokenizer.decode(query).endswith("<think>\n\n</think>\n\n") and tokenizer.decode(chosen) == "a kind word 0"
    [(query, chosen, _)] = DiagnosticsCallback(data, tokenizer).pairs
    assert tokenizer.decode(query).endswith("<think>\n") and "</think>" in tokenizer.decode(chosen)
