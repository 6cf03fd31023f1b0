"""Weighted REINFORCE through the trainer: against slow paths, one sequence at a time, and against TRL itself."""

import logging
import math

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from tests.helpers import build, dataset, distance, history, is_scoring, seen_batches, text_of, weights
from tests.trainer.test_gradients import sequence_log_probs
from trl_negalign import NFTConfig, NSRConfig, TOPRConfig, WeightedReinforceConfig


SGD = {
    "optim": "sgd",
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
}
CPU = {"use_cpu": True, "bf16": False}
TWO_STEPS = {"num_iterations": 2, "max_steps": 2}


def binary(text: str) -> float:
    return float(sum(map(ord, text)) % 3 == 0)


def right_or_wrong(completions, **kwargs):
    return [binary(text_of(completion)) for completion in completions]


def slow_loss(groups, old, options):
    """The step's loss, by loops over groups of (log-probabilities of tokens, reward) and the old log-probabilities."""
    size, ratio = len(groups[0]), options.get("ratio", "clipped")
    positive, negative = options.get("positive_weight", 0.1), options.get("negative_weight", 1.0)
    total, tokens = 0.0, 0
    for group, before in zip(groups, old, strict=True):
        scored = [reward for _, reward in group if not math.isnan(reward)]
        rate = sum(scored) / len(scored)
        values = [2 * reward - 1 for _, reward in group]
        if options.get("unlikeliness"):
            order = sorted(
                (i for i in range(size) if not math.isnan(values[i])), key=lambda i: -before[i].sum().item()
            )
            for rank, i in enumerate(order):
                if values[i] > 0:
                    values[i] *= 1 - options["unlikeliness"] * (size - rank) / size
        for (logps, reward), old_logps, value in zip(group, before, values, strict=True):
            if math.isnan(reward) or (ratio == "nft" and rate in (0, 1)):
                continue
            if (positive if reward else negative) == 0:
                continue
            gain = 0.0
            for logp, old_logp in zip(logps, old_logps, strict=True):
                rho = torch.exp(logp - old_logp)
                if ratio == "nft":
                    if reward:
                        term = positive * (logp - old_logp)
                    else:
                        share = (1 - rate * rho) / (1 - rate)
                        floored = max(share.item(), options.get("epsilon", 1.0))
                        term = negative * torch.log(share + (floored - share.item()))
                    gain = gain + (1 - rate) * term
                    continue
                c = value * (positive if value > 0 else negative)
                if ratio == "clipped":
                    epsilon = options.get("epsilon", 0.2)
                    gain = gain + min(c * rho, c * min(max(rho, 1 - epsilon), 1 + epsilon))
                elif ratio == "tapered" and value < 0:
                    gain = gain + min(1.0, math.exp((logps.sum() - old_logps.sum()).item())) * c * logp
                else:
                    gain = gain + c * logp
            tokens += len(logps)
            if options.get("normalize") != "kept":
                gain = gain / (6 if ratio == "nft" else len(logps))  # 6 is max_completion_length
            total = total - gain
    return total / (tokens if options.get("normalize") == "kept" else size * len(groups))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positive_weight": 0.0, "normalize": "kept"},
        {"positive_weight": 1.0, "negative_weight": 0.0, "epsilon": 0.05},
        {"normalize": "kept", "positive_weight": 0.5},
        {"ratio": "tapered", "positive_weight": 1.0},
        {"ratio": "tapered", "normalize": "kept"},
        {"ratio": "nft", "positive_weight": 1.0},
        {"ratio": "nft", "positive_weight": 1.0, "epsilon": 0.1, "normalize": "kept"},
        {"ratio": "none"},
        {"unlikeliness": 0.5, "positive_weight": 1.0},
    ],
)
@pytest.mark.parametrize("share", [False, True])
def test_two_steps_on_a_round(options, share, make_model, tokenizer, tmp_path):
    """The second step starts from another policy than the samples': the ratio is to the round's start."""
    seen = []

    def reward(prompts, completions, completion_ids, **kwargs):
        rewards = right_or_wrong(completions)
        rewards[2] = None  # an answer without a score
        seen.extend(zip(prompts, completion_ids, rewards, strict=True))
        return rewards

    model = make_model()
    layout = TWO_STEPS | {"gradient_accumulation_steps": 2, "success_threshold": 0.5, "share_prompts": share}
    trainer = build("reinforce", model, tokenizer, tmp_path, None, reward, **SGD | layout | options)
    start = weights(model)
    trainer.train()

    slow, old = make_model().double(), None
    for _ in range(2):
        groups = [[] for _ in range(len(seen) // 4)]
        for i, (prompt, ids, value) in enumerate(seen):
            logps = sequence_log_probs(slow, tokenizer(prompt)["input_ids"], ids)
            groups[i // 4].append((logps, math.nan if value is None else value))
        old = old or [[logps.detach() for logps, _ in group] for group in groups]
        slow.zero_grad()
        slow_loss(groups, old, options).backward()
        with torch.no_grad():
            for parameter in slow.parameters():
                parameter -= SGD["learning_rate"] * parameter.grad
    expected = {name: parameter.detach().float() for name, parameter in slow.named_parameters()}
    assert {value for *_, value in seen} == {0.0, 1.0, None}
    assert distance(start, expected) > 1e-3
    assert distance(weights(model), expected) < 2e-5 * max(1.0, distance(start, expected))


def test_nft_at_the_rounds_start_is_trls_dr_grpo(make_model, tokenizer, tmp_path):
    """One step each from the same samples: TRL's own loss, advantages and optimizer against ours."""
    sampled = []

    def reward(completions, completion_ids, **kwargs):
        sampled.append(completion_ids)
        return right_or_wrong(completions)

    settings = SGD | {"max_steps": 1, "gradient_accumulation_steps": 2}
    options = {"ratio": "nft", "positive_weight": 1.0, "success_threshold": 0.5, "share_prompts": False}
    ours = make_model()
    trainer = build("reinforce", ours, tokenizer, tmp_path, None, reward, **settings | options)
    config = GRPOConfig(
        str(tmp_path / "grpo"),
        loss_type="dr_grpo",
        scale_rewards="none",
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=6,
        report_to="none",
        save_strategy="no",
        gradient_checkpointing=False,
        **settings,
        **CPU,
    )
    trls = make_model()
    grpo = GRPOTrainer(trls, reward_funcs=reward, args=config, train_dataset=dataset(), processing_class=tokenizer)
    for each in (trainer, grpo):
        torch.manual_seed(7)
        each.train()
    assert sampled[0] == sampled[1]
    assert distance(weights(ours), weights(make_model())) > 1e-3
    assert distance(weights(ours), weights(trls)) < 1e-6


# Plans


def scoring_rows(model):
    rows = []

    def keep(module, args, kwargs):
        if is_scoring(kwargs):
            rows.append((kwargs["input_ids"].shape[0], torch.is_grad_enabled()))

    model.register_forward_pre_hook(keep, with_kwargs=True)
    return rows


def test_nsr_runs_wrong_answers_alone(model, tokenizer, tmp_path):
    rows, rewards = scoring_rows(model), []

    def reward(completions, **kwargs):
        rewards.extend(right_or_wrong(completions))
        return rewards[-len(completions) :]

    options = {"positive_weight": 0.0, "success_threshold": 0.5, "max_steps": 1, "share_prompts": False}
    trainer = build("reinforce", model, tokenizer, tmp_path, None, reward, **options)
    trainer.train()
    assert 0 < sum(rewards) < 8
    assert rows == [(rewards.count(0.0), True)]
    log = trainer.state.log_history[0]
    assert log["reinforce/accuracy"] == pytest.approx(sum(rewards) / 8)
    assert log["reinforce/logp_right"] is None and log["reinforce/logp_wrong"] < 0
    assert log["reinforce/frac_negative"] == 1.0 and log["reinforce/effective_positive_share"] == 0.0


@pytest.mark.parametrize(
    ("options", "value", "silent"),
    [
        ({}, 0.0, False),  # an all-wrong group teaches
        ({"positive_weight": 0.0}, 0.0, False),
        ({"positive_weight": 0.0}, 1.0, True),
        ({"negative_weight": 0.0}, 0.0, True),
        ({"negative_weight": 0.0}, 1.0, False),
        ({"baseline": "group"}, 0.0, True),
        ({"ratio": "nft"}, 0.0, True),
        ({"ratio": "nft"}, 1.0, True),
        ({"ratio": "tapered"}, 0.0, False),
    ],
)
def test_which_groups_are_silent(options, value, silent, model, tokenizer, tmp_path):
    start = weights(model)
    options = {"success_threshold": 0.5, "max_steps": 1} | options
    trainer = build(
        "reinforce", model, tokenizer, tmp_path, None, lambda completions, **_: [value] * len(completions), **options
    )
    trainer.train()
    assert history(trainer, "frac_groups_no_signal") == [float(silent)]
    assert (distance(start, weights(model)) == 0.0) == silent


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, [False, True, True]),  # the old policy's, once a round
        ({"ratio": "nft"}, [False, True, True]),
        ({"ratio": "none"}, [True, True]),
        ({"ratio": "none", "unlikeliness": 0.25}, [False, True, True]),
        ({"num_iterations": 1, "max_steps": 1}, [True]),
    ],
)
def test_a_pass_of_the_old_policy_where_a_round_has_several_steps(options, passes, model, tokenizer, tmp_path):
    rows = scoring_rows(model)
    build("reinforce", model, tokenizer, tmp_path, **TWO_STEPS | options).train()
    assert [gradient for _, gradient in rows] == passes


def test_the_first_rounds_learn_from_wrong_answers_alone(make_model, tokenizer, tmp_path):
    options = {"negative_only_rounds": 2, "success_threshold": 0.5, "num_iterations": 2, "max_steps": 6}
    trainer = build("reinforce", make_model(), tokenizer, tmp_path, None, right_or_wrong, **options)
    batches = seen_batches(trainer)
    trainer.train()
    for step, batch in enumerate(batches):
        right = batch["rewards"] > 0.5
        assert right.any()
        assert torch.equal(batch["scored"], torch.ones_like(right) if step >= 4 else ~right)
    shares = history(trainer, "reinforce/effective_positive_share")
    assert shares[:4] == [0.0] * 4 and shares[4] > 0


def test_the_ratio_starts_at_one_and_leaves_it(model, tokenizer, tmp_path):
    trainer = build("reinforce", model, tokenizer, tmp_path, **SGD | TWO_STEPS)
    trainer.train()
    first, second = history(trainer, "reinforce/ratio_negative")
    assert first == 1.0 and 0 < second < 1


# Bad input


def test_rewards_that_no_threshold_separates(model, tokenizer, tmp_path):
    """Before the first optimizer step."""
    start = weights(model)
    options = {"success_threshold": 0.5, "max_steps": 1}
    trainer = build("reinforce", model, tokenizer, tmp_path, None, lambda completions, **_: [1.0, 2.0] * 4, **options)
    with pytest.raises(
        ValueError, match=r"success_threshold=0.5 separates no right answer .* between 1 and 2. Set it"
    ):
        trainer.train()
    assert distance(start, weights(model)) == 0.0


@pytest.mark.parametrize(
    ("rewards", "options"),
    [
        ([0.0] * 8, {}),  # nothing is right yet
        ([0.0, None] * 4, {}),
        ([1.0, 2.0] * 4, {"baseline": "group"}),
        ([1.0, 2.0] * 4, {"success_threshold": 1.5}),
        ([0.1, 0.2, 0.7, 0.3] * 2, {}),  # not two-valued, and separated
    ],
)
def test_rewards_that_are_fine(rewards, options, model, tokenizer, tmp_path):
    options = {"success_threshold": 0.5, "max_steps": 1} | options
    build("reinforce", model, tokenizer, tmp_path, None, lambda completions, **_: rewards, **options).train()


def test_once_separated_a_round_of_one_kind_is_fine(make_model, tokenizer, tmp_path):
    """Also in a run that goes on from a checkpoint."""
    rounds = iter([[0.0, 1.0] * 4, [0.0, 0.2] * 4])

    def reward(completions, **kwargs):
        return next(rounds)

    options = {"success_threshold": 0.5, "save_strategy": "steps", "save_steps": 1}
    build("reinforce", make_model(), tokenizer, tmp_path, None, reward, max_steps=1, **options).train()
    resumed = build("reinforce", make_model(), tokenizer, tmp_path, None, reward, max_steps=2, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive_weight": -0.1}, "positive_weight=-0.1 must be a finite number, 0 or larger"),
        ({"positive_weight": 0.0, "negative_weight": 0.0}, "positive_weight, negative_weight are all 0"),
        ({"success_threshold": math.nan}, "success_threshold=nan must be a finite number"),
        ({"baseline": "mean"}, "baseline='mean' is unknown. Use one of 'none', 'group'"),
        ({"ratio": "ppo"}, "ratio='ppo' is unknown. Use one of 'clipped', 'tapered', 'nft', 'none'"),
        ({"normalize": "tokens"}, "normalize='tokens' is unknown. Use one of 'all', 'kept'"),
        ({"epsilon": 0.2, "ratio": "tapered"}, "epsilon=0.2 means nothing with ratio='tapered'. Leave it out"),
        ({"epsilon": 1.0}, r"epsilon=1.0 must lie in \(0, 1\)"),
        ({"epsilon": 0.0, "ratio": "nft"}, r"epsilon=0.0 must lie in \(0, 1\), or up to 1 with ratio='nft'"),
        ({"unlikeliness": 1.0}, r"unlikeliness=1.0 must lie in \[0, 1\). The paper uses 0.25"),
        ({"unlikeliness": 0.25, "ratio": "nft"}, "unlikeliness=0.25 means nothing with ratio='nft'"),
        ({"baseline": "group", "ratio": "nft"}, "baseline='group' means nothing with ratio='nft'"),
        ({"negative_only_rounds": -1}, "negative_only_rounds=-1 must be a finite number, 0 or larger"),
        (
            {"negative_only_rounds": 2, "negative_weight": 0.0},
            "negative_only_rounds=2 learns from wrong answers alone",
        ),
        ({"normalize": "kept", "mean_over": "signal"}, "mean_over='signal' means nothing with normalize='kept'"),
        ({"epsilon_high": 0.3}, "epsilon_high=0.3 steers GRPO's loss and means nothing in WeightedReinforceConfig"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        WeightedReinforceConfig("out", **CPU, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": "tapered"}, "ratio='tapered' does nothing here: a generation round is one optimizer step"),
        ({"epsilon": 0.3}, "ratio='clipped' does nothing here"),
        ({"ratio": "nft"}, "ratio='nft' has Dr. GRPO's gradient here"),
        ({}, None),
        ({"ratio": "none"}, None),
        ({"ratio": "tapered", "num_iterations": 2}, None),
        ({"ratio": "tapered", "gradient_accumulation_steps": 2, "steps_per_generation": 4}, None),
    ],
)
def test_a_ratio_without_a_second_step_is_said(options, said, caplog):
    with caplog.at_level(logging.WARNING):
        WeightedReinforceConfig("out", **CPU, **options)
    assert (said or "ratio=") in caplog.text if said else "ratio=" not in caplog.text


@pytest.mark.parametrize(
    ("config_class", "published"),
    [
        (WeightedReinforceConfig, {"positive_weight": 0.1, "ratio": "clipped", "epsilon": 0.2, "normalize": "all"}),
        (NSRConfig, {"positive_weight": 0.0, "ratio": "clipped", "epsilon": 0.2, "learning_rate": 1e-6}),
        (TOPRConfig, {"positive_weight": 1.0, "ratio": "tapered", "optim": "adafactor", "learning_rate": 5e-7}),
        (NFTConfig, {"positive_weight": 1.0, "ratio": "nft", "epsilon": 1.0, "weight_decay": 0.1, "warmup_steps": 10}),
    ],
)
def test_published_settings(config_class, published):
    args = config_class("out", **CPU)
    assert {name: getattr(args, name) for name in published} == published
    assert (args.negative_weight, args.baseline, args.beta, args.max_grad_norm) == (1.0, "none", 0.0, 1.0)
    assert args.lr_scheduler_type == ("constant" if config_class is TOPRConfig else "linear")
