"""
The trainer's loss and gradients against an independent path: METHODS written out again for one sequence at a time,
without padding, batching, packing or any of the package's own functions.
"""

import math
import re

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from tests.conftest import tiny_gpt2
from tests.helpers import GUIDES, LOSS_ERROR, build, dataset, is_scoring, letter_reward
from trl_negalign import NEATConfig
from trl_negalign.trainer import group_trainer


def sequence_log_probs(model, prompt_ids, completion_ids):
    """log π(y_t | x, y_<t) for one sequence, from the model's plain logits."""
    ids = torch.tensor([prompt_ids + completion_ids])
    logits = model(input_ids=ids).logits[0]
    log_probs = torch.log_softmax(logits.double(), dim=-1)
    start = len(prompt_ids)
    return torch.stack([log_probs[start - 1 + t, token] for t, token in enumerate(completion_ids)])


def neat_reference(log_probs, rewards, options):
    """L_sft(best) + α·L_rank(all) + β·L_penalty(worst), by loops."""
    p = [lp.mean() for lp in log_probs]
    scored = [i for i, r in enumerate(rewards) if not math.isnan(r)]
    if len({rewards[i] for i in scored}) < 2:
        return sum(lp.sum() for lp in log_probs) * 0
    best = max(scored, key=lambda i: (rewards[i], -i))
    worst = min(scored, key=lambda i: (rewards[i], i))
    rank = 0
    for i in scored:
        for j in scored:
            if rewards[i] < rewards[j]:
                excess = options.get("ranking_margin", 0.0) + p[i] - p[j]
                kind = options.get("ranking_loss_type", "hinge")
                if kind == "hinge":
                    rank = rank + (excess if excess > 0 else 0)
                elif kind == "linear":
                    rank = rank + p[i] - p[j]
                else:
                    rank = rank - torch.log(1 / (1 + torch.exp(excess)))
    if options.get("penalty_type", "logprob") == "logprob":
        penalty = p[worst]
    else:
        penalty = -torch.log(1 - torch.exp(log_probs[worst])).mean()
    if options["penalty_floor"] is not None and p[worst] < options["penalty_floor"]:
        penalty = penalty.detach()
    sft = -(log_probs[best].sum() if options.get("sft_reduction") == "sum" else p[best])
    return sft + options.get("ranking_weight", 1.0) * rank + options["penalty_weight"] * penalty


def ple_reference(log_probs, rewards, options):
    """Eq. 3 or Eq. 4 for every pair of (plain, guided), mean over the pairs."""
    half = len(rewards) // 2
    total = sum(lp.sum() for lp in log_probs) * 0
    for i in range(half):
        s, s_guided = rewards[i], rewards[half + i]
        plain, guided = log_probs[i], log_probs[half + i]
        if math.isnan(s) or math.isnan(s_guided) or s == s_guided:
            continue
        if s_guided - s > options["threshold_init"]:
            total = total - (guided.mean() - plain.mean())
        else:
            w = math.exp(s) / (math.exp(s) + math.exp(s_guided))
            w_guided = math.exp(s_guided) / (math.exp(s) + math.exp(s_guided))
            if options.get("weight_range") != "unit":
                w, w_guided = 2 * w - 1, 2 * w_guided - 1
            if options.get("wsft_reduction") == "mean":
                plain, guided = plain / len(plain), guided / len(guided)
            total = total - (w * plain.sum() + w_guided * guided.sum())
    return total / half


def reinforce_reference(log_probs, rewards, options):
    """λ for right answers and −1 for wrong ones, or r − mean, or r − r̂ over Dr. GRPO's divisor; the ratio is 1."""
    scored = [r for r in rewards if not math.isnan(r)]
    rate = sum(r > 0 for r in scored) / len(scored)
    total = sum(lp.sum() for lp in log_probs) * 0
    for lp, r in zip(log_probs, rewards, strict=True):
        if math.isnan(r):
            continue
        gain = (lp - lp.detach()).exp()
        if options.get("ratio") == "nft":
            total = total - (((r > 0) - rate) * lp.sum() - (((r > 0) - rate) * lp.sum()).detach()) / 6
        elif options.get("baseline") == "group":
            lead = r - sum(scored) / len(scored)
            weight = options["positive_weight" if lead > 0 else "negative_weight"]
            total = total - weight * lead * gain.mean()
        else:
            total = total - (0.1 if r > 0 else -1.0) * gain.mean()
    return total / len(rewards)


REFERENCE = {"neat": neat_reference, "ple": ple_reference, "reinforce": reinforce_reference}
CASES = [
    *[
        ("neat", {"penalty_weight": 0.5, "penalty_floor": None} | options)
        for options in (
            {},
            {"penalty_floor": -6.0},
            {"sft_reduction": "sum", "ranking_loss_type": "linear", "ranking_weight": 0.3},
            {"ranking_loss_type": "logsigmoid", "ranking_margin": 0.2, "penalty_type": "unlikelihood"},
        )
    ],
    # a threshold that splits the pairs into both branches, whatever the reward's scale
    ("ple", {"threshold_init": 0.0}),
    ("ple", {"threshold_init": 0.2}),
    ("ple", {"threshold_init": 0.2, "weight_range": "unit"}),
    ("ple", {"threshold_init": 0.2, "wsft_reduction": "mean"}),
    ("reinforce", {}),
    ("reinforce", {"baseline": "group", "positive_weight": 2.0, "negative_weight": 20.0}),
    ("reinforce", {"ratio": "nft", "positive_weight": 1.0}),
]


CASES = [
    (method, options, responses)
    for method, options in CASES
    for responses in (False, True)
    if method == "neat" or not responses  # PLE takes no responses from the dataset
]


@pytest.mark.parametrize(("method", "options", "responses"), CASES)
@pytest.mark.parametrize("style", ["string", "conversation"])
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_loss_and_gradients(method, options, responses, style, scale, make_model, tokenizer, tmp_path, monkeypatch):
    seen, packed, share = [], [], style == "conversation"  # each way of scoring a group for half of the cases
    score = group_trainer.shared_prompt_logps
    monkeypatch.setattr(group_trainer, "shared_prompt_logps", lambda *args: packed.append(1) or score(*args))

    def reward(prompts, completions, completion_ids, **kwargs):
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        rewards = [scale * math.sin(sum(map(ord, text))) for text in texts]
        rewards[2] = None  # a candidate without a score
        seen.extend(zip(prompts, completion_ids, rewards, strict=True))
        return rewards

    model = make_model()
    size = 6 if responses else 4
    # one optimizer step of plain SGD: the weights move by exactly minus the gradient
    trainer = build(
        method,
        model,
        tokenizer,
        tmp_path,
        dataset(style, responses),
        reward,
        num_generations=size,
        per_device_train_batch_size=2 * size,
        gradient_accumulation_steps=2,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        max_steps=1,
        share_prompts=share,
        **options,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    assert len(packed) == 2 * share
    moved = {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}

    reference = make_model().double()
    assert len(seen) == 4 * size
    losses = []
    for start in range(0, len(seen), size):
        log_probs, rewards = [], []
        for prompt, completion_ids, reward_value in seen[start : start + size]:
            if style == "string":
                prompt_ids = tokenizer(prompt)["input_ids"]
            else:
                prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
                prompt_ids = prompt_ids["input_ids"]
            log_probs.append(sequence_log_probs(reference, prompt_ids, completion_ids))
            rewards.append(math.nan if reward_value is None else reward_value)
        losses.append(REFERENCE[method](log_probs, rewards, options))
    loss = sum(losses) / len(losses)
    loss.backward()

    logged = [log["loss"] for log in trainer.state.log_history if "loss" in log][0]
    assert logged == pytest.approx(loss.item(), rel=1e-5, abs=LOSS_ERROR)
    difference = math.sqrt(sum((moved[n] - p.grad).norm().item() ** 2 for n, p in reference.named_parameters()))
    size_of_gradient = math.sqrt(sum(p.grad.norm().item() ** 2 for p in reference.parameters()))
    assert size_of_gradient > 1e-3
    assert difference / size_of_gradient < 1e-5


def test_both_branches_of_ple_are_hit(model, tokenizer, tmp_path):
    trainer = build("ple", model, tokenizer, tmp_path, num_generations=2, max_steps=2)
    trainer.train()
    fractions = [log["ple/ranked_fraction"] for log in trainer.state.log_history if "ple/ranked_fraction" in log]
    assert any(0 < fraction < 1 for fraction in fractions)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("style", ["string", "conversation"])
def test_the_guide_is_sampled_from_but_never_trained_on(style, share, model, tokenizer, tmp_path, monkeypatch):
    trainer = build("neat", model, tokenizer, tmp_path, dataset(style), num_plain=1, max_steps=1, share_prompts=share)
    sampled_from, trained_on = [], []
    generate = type(trainer)._generate_single_turn

    def record_generate(self, prompt_ids, *args, **kwargs):
        sampled_from.extend(tokenizer.batch_decode(prompt_ids))
        return generate(self, prompt_ids, *args, **kwargs)

    def record_scored(module, args, kwargs):
        if is_scoring(kwargs):
            trained_on.extend(tokenizer.batch_decode(kwargs["input_ids"]))

    monkeypatch.setattr(type(trainer), "_generate_single_turn", record_generate)
    model.register_forward_pre_hook(record_scored, with_kwargs=True)
    trainer.train()

    positive, negative = GUIDES[NEATConfig].values()
    trained_plain = "".join(trained_on)
    for group in (sampled_from[:4], sampled_from[4:]):
        assert positive not in group[0] and negative not in group[0]
        assert positive in group[1] and positive in group[2]
        assert negative in group[3]
        query = re.search(r"question number \d+", group[0]).group()
        assert query in trained_plain and all(query in text for text in group)
    assert len(trained_on) == (2 if share else 8)
    assert not any(positive in text or negative in text for text in trained_on)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("method", ["neat", "ple"])
def test_models_with_learnt_positions(method, share, tokenizer, tmp_path):
    """GPT-2, which PLE's paper trains: a query's log-probabilities must not depend on what it is padded beside."""
    data = Dataset.from_dict({"prompt": ["a bitter review", "How do I boil an egg? Put it in hot water for seven"]})
    seen, found = [], {}

    def reward(prompts, completions, completion_ids, **kwargs):
        seen.extend(zip(prompts, completion_ids, strict=True))
        return letter_reward(completions)

    options = {"max_steps": 1, "beta": 0.1, "peft_config": LoraConfig(), "share_prompts": share}
    trainer = build(method, tiny_gpt2(tokenizer, n_layer=2), tokenizer, tmp_path, data, reward, **options)
    group_loss = trainer.group_loss

    def record(token_logps, batch):
        found["policy"] = token_logps.detach().flatten(0, 1), batch["completion_mask"].flatten(0, 1)
        found["reference"] = batch["ref_per_token_logps"].flatten(0, 1), batch["completion_mask"].flatten(0, 1)
        return group_loss(token_logps, batch)

    trainer.group_loss = record
    trainer.train()
    untrained = tiny_gpt2(tokenizer, n_layer=2).eval()
    expected = {
        tuple(ids): sequence_log_probs(untrained, tokenizer(prompt)["input_ids"], ids).float().detach()
        for prompt, ids in seen
    }
    for log_probs, mask in found.values():
        sums = sorted((row * m).sum().item() for row, m in zip(log_probs, mask, strict=True))
        assert sums == pytest.approx(sorted(row.sum().item() for row in expected.values()), abs=1e-3)


def test_the_kl_term(make_model, tokenizer, tmp_path):
    """With all rewards tied only beta's term is left: its gradient at a policy that left the reference."""
    model = get_peft_model(make_model(), LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    seen = []

    def reward(prompts, completions, completion_ids, **kwargs):
        seen.extend(zip(prompts, completion_ids, strict=True))
        return [0.0] * len(prompts)

    # a PEFT model's reference is a copy of its adapter, so move the policy away from it before training
    trainer = build(
        "neat", model, tokenizer, tmp_path, None, reward, beta=0.5, max_steps=1, learning_rate=0.0, max_grad_norm=0.0
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter.mul_(1.5)
    trainer.train()
    model.eval()
    terms = []
    for prompt, ids in seen:
        prompt_ids = tokenizer(prompt)["input_ids"]
        model.set_adapter("default")
        policy = sequence_log_probs(model, prompt_ids, ids)
        model.set_adapter("ref")
        ratio = sequence_log_probs(model, prompt_ids, ids) - policy
        terms.append((ratio.exp() - ratio - 1).mean().item())
    log = trainer.state.log_history[0]
    assert log["kl"] == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    assert log["loss"] == pytest.approx(0.5 * log["kl"], abs=LOSS_ERROR)
    assert log["kl"] > 1e-3
