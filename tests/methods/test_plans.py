"""
Every method's plan against autograd: a candidate that it leaves out has a gradient of exactly zero, whatever the
log-probabilities, and one that it names has another for some of them. The same for what is read of the reference.
"""

import math

import pytest
import torch

from tests.helpers import GUIDES
from trl_negalign.methods.table import GROUP_METHODS, classes
from trl_negalign.trainer.plan import Plan


NAN = math.nan
# one group of each kind: all different, ties in the middle and at the ends, all tied, some unscored, all unscored but
# one, a wide gap
REWARDS = [
    [3.0, 1.0, 2.0, 0.0],
    [2.0, 1.0, 1.0, 0.0],
    [1.0, 1.0, 0.0, 0.0],
    [0.5, 0.5, 0.5, 0.5],
    [NAN, 1.0, 2.0, 1.5],
    [NAN, NAN, 1.0, NAN],
    [200.0, 0.0, 0.1, 0.2],
]
FORMS = [{"ranking_loss_type": kind} for kind in ("hinge", "linear", "logsigmoid")]
PENALTIES = [{"penalty_type": kind} for kind in ("logprob", "unlikelihood", "npo")]
WEIGHTS = [
    {},
    {"sft_weight": 0.0},
    {"ranking_weight": 0.0},
    {"penalty_weight": 0.0},
    {"ranking_weight": 0.0, "penalty_weight": 0.0},
    {"sft_weight": 0.0, "ranking_weight": 0.0},
    {"sft_weight": 0.0, "penalty_weight": 0.0},
]
OPTIONS = {
    "NEAT": [form | penalty | weights for form in FORMS for penalty in PENALTIES for weights in WEIGHTS]
    + [form | {"skip_shared_prefix": True} for form in FORMS]
    + [{"sft_reduction": "sum"}, {"ranking_margin": 0.5}, {"mean_over": "signal"}, {"tapered": True}],
    "RAFT": [{}, {"sft_reduction": "sum"}],
    "RRHF": [{}, {"ranking_loss_type": "linear"}, {"penalty_weight": 0.5}],
    "PLE": [
        reduction | span | weights
        for reduction in ({}, {"wsft_reduction": "mean"})
        for span in ({}, {"weight_range": "unit"})
        for weights in ({}, {"ranking_weight": 0.0}, {"wsft_weight": 0.0})
    ]
    + [{"mean_over": "signal"}, {"tapered": True}],
    "REINFORCE": [
        {"ratio": ratio} | weights
        for ratio in ("clipped", "tapered", "nft", "none")
        for weights in ({}, {"positive_weight": 0.0}, {"negative_weight": 0.0}, {"normalize": "kept"})
    ]
    + [
        {"baseline": "group"} | options
        for options in ({}, {"positive_weight": 0.0}, {"unlikeliness": 0.25}, {"ratio": "none"})
    ]
    + [
        {"unlikeliness": 0.25} | options
        for options in ({}, {"positive_weight": 0.0}, {"ratio": "none"}, {"normalize": "kept"})
    ]
    + [{"mean_over": "signal"}, {"success_threshold": 1.5}],
    "NSR": [{}, {"normalize": "all"}],
    "TOPR": [{}, {"negative_weight": 0.0}],
    "NFT": [{}, {"negative_weight": 0.0}, {"normalize": "kept"}],
}
CASES = [(method, options) for method in GROUP_METHODS for options in OPTIONS[method.name]]


def make_trainer(method, options):
    """A trainer without a model: what plans and objectives read of it is its configuration."""
    trainer_class, config_class = classes(method)
    trainer = object.__new__(trainer_class)
    common = {"use_cpu": True, "bf16": False, "num_generations": 4, "per_device_train_batch_size": 4}
    trainer.args = config_class("out", **common | GUIDES.get(config_class, {}) | options)
    return trainer


def make_batch():
    rewards = torch.tensor(REWARDS)
    mask = torch.ones(*rewards.shape, 5)
    mask[:, 1, 3:] = 0
    # of each group, two and two candidates begin with the same token
    ids = torch.arange(rewards.numel() * 5).view(*rewards.shape, 5)
    ids[:, 1::2, 0] = ids[:, ::2, 0]
    prompt = torch.ones(len(rewards), 3, dtype=torch.long)
    batch = {"rewards": rewards, "completion_mask": mask, "completion_ids": ids, "threshold": torch.full((7,), 0.2)}
    return batch | {"prompt_ids": prompt, "prompt_mask": prompt}


def gradients(trainer, plan, batch, draws=8):
    """Whether any draw of log-probabilities has a gradient for a candidate, and for what it reads of the reference."""
    found, of_reference = torch.zeros_like(plan.trained), torch.zeros_like(plan.trained)
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        columns = plan.columns(score_all=True)
        read = [name for name in ("reference", "old") if getattr(plan, name) is not None]
        names = {"reference": "ref_per_token_logps", "old": "old_per_token_logps"}
        logps = {
            name: (-torch.rand(batch["completion_mask"].shape, generator=generator) * 3).requires_grad_()
            for name in ("policy", *read)
        }
        others = {names[name]: logps[name] for name in read}
        losses, _ = trainer.group_loss(logps["policy"], batch | columns | others)
        losses.sum().backward()
        found |= (logps["policy"].grad != 0).any(-1)
        if "reference" in read:
            of_reference |= (logps["reference"].grad != 0).any(-1)
    return found, of_reference


@pytest.mark.parametrize(("method", "options"), CASES, ids=lambda case: getattr(case, "name", None))
def test_the_plan_names_exactly_those_with_a_gradient(method, options):
    trainer, batch = make_trainer(method, options), make_batch()
    plan = trainer.plan(batch)
    found, of_reference = gradients(trainer, plan, batch)
    assert torch.equal(plan.trained, found)
    reference = torch.zeros_like(found) if plan.reference is None else plan.reference
    assert torch.equal(reference, of_reference)
    assert trainer.args.needs_reference == (plan.reference is not None)
    # groups, or pairs of them, that are silent have no gradient anywhere, and others have one
    silent = plan.silent if plan.silent.dim() == 1 else plan.silent.all(-1)
    assert torch.equal(silent, ~found.any(-1))


@pytest.mark.parametrize(("method", "options"), CASES, ids=lambda case: getattr(case, "name", None))
def test_what_was_left_out_is_not_logged(method, options):
    """No metric reads a log-probability that is not there: other numbers in its place change nothing."""
    trainer, batch = make_trainer(method, options), make_batch()
    plan = trainer.plan(batch)
    batch |= plan.columns()
    for name, mask in {"ref_per_token_logps": plan.reference, "old_per_token_logps": plan.old}.items():
        if mask is not None:
            batch[name] = torch.full_like(batch["completion_mask"], -1.0) * mask[..., None]
    logps = -torch.rand(batch["completion_mask"].shape, generator=torch.Generator().manual_seed(0)) * 3
    _, metrics = trainer.group_loss(logps, batch)
    _, others = trainer.group_loss(torch.where(batch["scored"][..., None], logps, -7.0), batch)
    for name, values in metrics.items():
        assert torch.allclose(values, others[name], equal_nan=True, atol=1e-5), name


def test_every_method_is_here():
    assert OPTIONS.keys() == {method.name for method in GROUP_METHODS}


def test_silent_groups_are_those_without_a_trained_candidate():
    trained = torch.tensor([[True, False], [False, False]])
    assert Plan(trained).silent.tolist() == [False, True]
    assert Plan(trained, silent=torch.tensor([False, False])).silent.tolist() == [False, False]


def test_the_mean_over_those_that_teach():
    trained = torch.ones(3, 4, dtype=torch.bool)
    pairs = Plan(trained, silent=torch.tensor([[True, True], [True, False], [False, False]]))
    assert pairs.columns(over_signal=True)["counts"].tolist() == [0.0, 0.5, 1.0]
    assert "counts" not in pairs.columns()
    with pytest.raises(ValueError, match="mean_over='signal' means nothing"):
        Plan(trained, counts=torch.ones(3)).columns(over_signal=True)


def test_a_plan_as_columns():
    trained, old = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    plan = Plan(trained, old=old, counts=torch.tensor([3]))
    columns = plan.columns()
    assert columns["scored"].tolist() == [[True, True, False]]
    assert columns.keys() == {"scored", "reads_old", "counts"}
    everything = plan.columns(score_all=True, reference_all=True)
    assert everything["scored"].all() and everything["reads_reference"].all()
