"""
What changes the weight of a token or of a group: `tapered`, `skip_shared_prefix` and `mean_over`. Two optimizer steps
of one round against an independent path: a sequence at a time, in double precision, in loops, by plain SGD.
"""

import math
from itertools import takewhile
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from tests.helpers import METHODS, build, dataset, letter_reward
from tests.trainer.test_gradients import ple_reference, sequence_log_probs
from trl_negalign.guides import SEPARATOR
from trl_negalign.trainer import group_trainer


def neat_reference(log_probs, completions, rewards, options):
    """NEAT's loss of one group, pair by pair; `completions` are lists of tokens."""
    scored = [i for i, reward in enumerate(rewards) if not math.isnan(reward)]
    if len({rewards[i] for i in scored}) < 2:
        return sum(lp.sum() for lp in log_probs) * 0

    def p(i, j):
        same = takewhile(lambda pair: pair[0] == pair[1], zip(completions[i], completions[j], strict=False))
        start = len(list(same)) if options.get("skip_shared_prefix") else 0
        return log_probs[i][start:].sum() / len(completions[i])

    best = max(scored, key=lambda i: (rewards[i], -i))
    worst = min(scored, key=lambda i: (rewards[i], i))
    rank = 0
    for i in scored:
        for j in scored:
            if rewards[i] < rewards[j]:
                excess, kind = p(i, j) - p(j, i), options.get("ranking_loss_type", "hinge")
                rank += {"hinge": excess.clamp(min=0), "linear": excess, "logsigmoid": (1 + excess.exp()).log()}[kind]
    return rank - log_probs[best].mean() + options["penalty_weight"] * p(worst, best)


def responses(rows=8):
    """Queries with two responses that begin alike and are not equally long."""
    return Dataset.from_dict(
        {
            "prompt": [f"question number {i}" for i in range(rows)],
            "chosen": [f" a kind word about the film {i}" for i in range(rows)],
            "rejected": [f" a kind w{i}" for i in range(rows)],
        }
    )


def some_tied(prompts, completions, **kwargs):
    """All alike for every third query."""
    rewards = letter_reward(completions)
    return [1.0 if int(p.split()[-1]) % 3 == 0 else r for p, r in zip(prompts, rewards, strict=True)]


def all_tied(prompts, completions, **kwargs):
    return [0.0] * len(prompts)


def pairs_tied(prompts, completions, **kwargs):
    """In every other group one of PLE's two pairs is tied."""
    rewards = letter_reward(completions)
    return [1.0 if row % 8 in (0, 2) else reward for row, reward in enumerate(rewards)]


def train(method, reward, options, make_model, tokenizer, tmp_path, lora=False):
    """Two steps of a round: how far the weights moved, the trainer, and what was sampled, group by group."""
    seen, steps = [], []

    def recorded(prompts, completions, completion_ids, **kwargs):
        rewards = reward(prompts=prompts, completions=completions)
        seen.extend(zip(prompts, map(tuple, completion_ids), rewards, strict=True))
        return rewards

    model = make_model()
    steps_per_generation = 2 * options.get("gradient_accumulation_steps", 1)
    layout = {"steps_per_generation": steps_per_generation, "optim": "sgd", "learning_rate": 0.2}
    layout |= {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "max_completion_length": 8}
    train_dataset = responses() if options.get("num_generations") == 6 else dataset(rows=8)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False) if lora else None
    layout |= options
    trainer = build(method, model, tokenizer, tmp_path, train_dataset, recorded, peft_config=adapter, **layout)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    group_loss = trainer.group_loss

    def record(token_logps, batch):
        for ids, mask in zip(batch["completion_ids"][:, 0], batch["completion_mask"][:, 0].bool(), strict=True):
            steps.append((trainer.state.global_step, tuple(ids[mask].tolist())))
        return group_loss(token_logps, batch)

    trainer.group_loss = record
    trainer.train()
    moved = {name: before[name] - p.detach() for name, p in trainer.model.named_parameters()}
    size = trainer.num_generations
    groups = [seen[start : start + size] for start in range(0, len(seen), size)]
    return moved, trainer, groups, {first: step for step, first in steps}


TAPERED = {"tapered": True, "num_generations": 6, "num_plain": 1, "per_device_train_batch_size": 6}
PREFIX = {"skip_shared_prefix": True, "num_generations": 6, "num_plain": 2, "per_device_train_batch_size": 6}
SIGNAL = {"mean_over": "signal", "gradient_accumulation_steps": 2, "num_plain": 1, "per_device_train_batch_size": 8}
CASES = [
    ("neat", letter_reward, TAPERED | {"share_prompts": True}),
    ("neat", letter_reward, TAPERED | {"share_prompts": False, "gradient_accumulation_steps": 2}),
    ("neat", letter_reward, TAPERED | {"skip_shared_prefix": True, "ranking_loss_type": "linear", "guide": "system"}),
    ("neat", letter_reward, PREFIX),
    ("neat", letter_reward, PREFIX | {"ranking_loss_type": "linear"}),
    ("neat", letter_reward, PREFIX | {"ranking_loss_type": "logsigmoid", "temperature": 0.3, "learning_rate": 0.002}),
    ("neat", some_tied, SIGNAL | {"share_prompts": False}),
    ("neat", some_tied, SIGNAL | {"tapered": True, "num_plain": 2}),
    ("ple", letter_reward, {"tapered": True, "share_prompts": False, "per_device_train_batch_size": 8}),
    ("ple", letter_reward, {"tapered": True, "share_prompts": True, "per_device_train_batch_size": 8}),
    ("ple", pairs_tied, SIGNAL | {"num_plain": None, "threshold_init": 0.0}),
]


@pytest.mark.parametrize(("method", "reward", "options"), CASES)
def test_two_steps_of_a_round(method, reward, options, make_model, tokenizer, tmp_path):
    options = {"penalty_weight": 0.3} | options if method == "neat" else {"threshold_init": 0.2} | options
    options = {name: value for name, value in options.items() if name != "guide" and value is not None}
    moved, trainer, groups, step_of = train(method, reward, options, make_model, tokenizer, tmp_path)

    policy, sampler = make_model().double(), make_model().double()
    sgd = torch.optim.SGD(policy.parameters(), lr=options.get("learning_rate", 0.2))
    temperature, tapers, shared = options.get("temperature", 1.0), [], 0

    def log_probs(model, prompt, ids):

        def scaled(**inputs):
            return SimpleNamespace(logits=model(**inputs).logits / temperature)

        return sequence_log_probs(scaled, tokenizer(prompt)["input_ids"], list(ids))

    for step in (0, 1):
        total, teaching = 0, 0
        mine = [group for group in groups if step_of[group[0][1]] == step]
        assert len(mine) == len(groups) // 2
        for group in mine:
            sequences = []
            for candidate, (prompt, ids, _) in zip(trainer.candidates, group, strict=True):
                logps = log_probs(policy, prompt, ids)
                if options.get("tapered") and candidate.guide is not None:
                    guided = log_probs(sampler, candidate.guide + SEPARATOR + prompt, ids)
                    weight = (logps - guided).detach().exp().clamp(max=1)
                    tapers.append(weight)
                    # the gradient is multiplied on its way back
                    logps.register_hook(lambda gradient, weight=weight: gradient * weight)
                sequences.append(logps)
            rewards, completions = [r for *_, r in group], [ids for _, ids, _ in group]
            shared += len(completions) - len({ids[0] for ids in completions})
            if method == "neat":
                total = total + neat_reference(sequences, completions, rewards, options)
                teaching += len(set(rewards)) > 1
            else:
                total = total + ple_reference(sequences, rewards, options)
                teaching += sum(rewards[i] != rewards[i + 2] for i in (0, 1)) / 2
        assert teaching < len(mine) or options.get("mean_over") is None
        (total / (teaching if options.get("mean_over") == "signal" else len(mine))).backward()
        sgd.step()
        sgd.zero_grad()

    new = dict(policy.named_parameters())
    wanted = {name: old.detach() - new[name].detach() for name, old in make_model().named_parameters()}
    length = math.sqrt(sum(w.norm().item() ** 2 for w in wanted.values()))
    difference = math.sqrt(sum((moved[name] - w).norm().item() ** 2 for name, w in wanted.items()))
    assert length > 1e-3
    assert difference / length < 2e-5
    assert shared > 0 or not options.get("skip_shared_prefix")
    if options.get("tapered"):
        weights = torch.cat(tapers)
        assert (weights < 1).any() and (weights == 1).any()
        logged = [log["taper_weight"] for log in trainer.state.log_history if "taper_weight" in log]
        assert len(logged) == 2 and 0 < min(logged) and max(logged) < 1


def test_the_mean_weight_is_that_of_guided_candidates_in_the_pass(make_model, tokenizer, tmp_path):
    options = TAPERED | {"learning_rate": 0.0}
    _, trainer, groups, _ = train("neat", letter_reward, options, make_model, tokenizer, tmp_path)
    model, weights = make_model().double(), []
    for group in groups:
        for candidate, (prompt, ids, _) in zip(trainer.candidates, group, strict=True):
            if candidate.guide is not None:
                plain, guided = (
                    sequence_log_probs(model, tokenizer(text)["input_ids"], list(ids))
                    for text in (prompt, candidate.guide + SEPARATOR + prompt)
                )
                weights.append((plain - guided).exp().clamp(max=1))
    logged = [log["taper_weight"] for log in trainer.state.log_history if "taper_weight" in log]
    # each step's mean is over its own tokens
    assert sum(logged) / len(logged) == pytest.approx(torch.cat(weights).mean().item(), rel=0.05)


@pytest.mark.parametrize(
    "options",
    [{"lora": True}, {"lora": True, "beta": 0.1}, {"gradient_checkpointing": True}, {"bf16": True}, {"top_p": 0.9}],
)
@pytest.mark.parametrize("share", [False, True])
def test_the_pass_of_the_guides_is_the_policys_own(options, share, make_model, tokenizer, tmp_path, monkeypatch):
    """Under the plain query in the place of the guided one nothing is tapered, whatever the pass goes through."""
    monkeypatch.setattr(group_trainer, "apply_guide", lambda prompt, guide, placement, row: prompt)
    options = {"tapered": True, "share_prompts": share, "learning_rate": 0.0} | options
    lora = options.pop("lora", False)
    _, trainer, *_ = train("neat", letter_reward, options, make_model, tokenizer, tmp_path, lora)
    rounding = 1e-2 if options.get("bf16") else 1e-5
    logged = [log["taper_weight"] for log in trainer.state.log_history if "taper_weight" in log]
    assert logged == pytest.approx([1.0, 1.0], abs=rounding)


def test_the_kl_term_is_not_tapered(make_model, tokenizer, tmp_path):
    """With all rewards tied it is the only term."""
    moves = []
    for tapered in (False, True):
        options = {"beta": 0.5, "tapered": tapered, "seed": 3}
        moved, *_ = train("neat", all_tied, options, make_model, tokenizer, tmp_path / str(tapered), lora=True)
        moves.append(moved)
    assert max(m.abs().max() for m in moves[0].values()) > 0
    assert all(torch.equal(moves[0][name], moves[1][name]) for name in moves[0])


def test_the_kl_term_is_averaged_over_all_groups(make_model, tokenizer, tmp_path):
    """A group without signal has a distance from the reference too."""
    objective = {}
    for mean_over in ("groups", "signal"):
        options = SIGNAL | {"mean_over": mean_over, "beta": 0.5, "learning_rate": 0.0}
        _, trainer, groups, step_of = train(
            "neat", some_tied, options, make_model, tokenizer, tmp_path / mean_over, lora=True
        )
        objective[mean_over] = [log["loss"] - 0.5 * log["kl"] for log in trainer.state.log_history if "kl" in log]
    silent = [sum(step_of[g[0][1]] == step and len({r for *_, r in g}) == 1 for g in groups) for step in (0, 1)]
    assert sum(silent) == 3
    wanted = [value * 4 / (4 - n) for value, n in zip(objective["groups"], silent, strict=True)]
    assert objective["signal"] == pytest.approx(wanted, rel=1e-4)


def test_a_step_in_which_nothing_teaches(make_model, tokenizer, tmp_path):
    moved, trainer, *_ = train("neat", all_tied, SIGNAL, make_model, tokenizer, tmp_path)
    assert all((m == 0).all() for m in moved.values())
    assert [log["loss"] for log in trainer.state.log_history if "loss" in log] == [0.0, 0.0]


def test_tapering_a_group_without_guides(tmp_path):
    trainer_class, config_class = METHODS["neat"]
    args = config_class(
        str(tmp_path), tapered=True, num_plain=4, per_device_train_batch_size=4, use_cpu=True, bf16=False
    )
    with pytest.raises(ValueError, match=r"tapered=True weights what was sampled under a guide.*\['plain', .*Leave"):
        trainer_class("nowhere/model", letter_reward, args, dataset())


def test_resampled_pairs_keep_the_probabilities_they_were_sampled_with(make_model, tokenizer, tmp_path):
    """Replayed pairs are weighted by the guided policy of their own round."""
    options = {"tapered": True, "replay": 1, "num_generations": 2, "per_device_train_batch_size": 4, "max_steps": 3}
    trainer = build("ple", make_model(), tokenizer, tmp_path, dataset(rows=4), **options, learning_rate=0.1)
    kept, group_loss = {}, trainer.group_loss

    def record(token_logps, batch):
        for i, mask in enumerate(batch["completion_mask"][:, 1].bool()):
            ids, logps = (batch[name][i, 1, mask] for name in ("completion_ids", "guided_token_logps"))
            kept.setdefault(tuple(ids.tolist()), []).append(logps)
        return group_loss(token_logps, batch)

    trainer.group_loss = record
    trainer.train()
    again = [found for found in kept.values() if len(found) > 1]
    assert again and all(torch.equal(found[0], other) for found in again for other in found)
    assert all(torch.isfinite(found[0]).all() for found in kept.values())
