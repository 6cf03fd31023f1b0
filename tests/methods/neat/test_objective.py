"""Numbers computed by hand; no model needed."""

import math

import pytest
import torch

from tests.helpers import uniform
from trl_negalign.methods.neat import objective


# rewards 1 < 2 < 3 and p = −1, −3, −2: the pairs (worse, better) are (0,1), (0,2), (1,2) with p_i − p_j = 2, 1, −1
RANKED = (torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[1.0, 2.0, 3.0]]))


@pytest.mark.parametrize(
    ("loss_type", "margin", "expected"),
    [
        ("hinge", 0.0, 2 + 1 + 0),
        ("hinge", 0.5, 2.5 + 1.5 + 0),
        ("hinge", 1.5, 3.5 + 2.5 + 0.5),
        ("linear", 0.0, 2 + 1 - 1),
        ("logsigmoid", 0.0, math.log1p(math.e**2) + math.log1p(math.e) + math.log1p(math.e**-1)),
    ],
)
def test_ranking_loss_by_hand(loss_type, margin, expected):
    assert objective.ranking_loss(*RANKED, loss_type, margin).item() == pytest.approx(expected, rel=1e-6)


def test_tied_rewards_form_no_pair():
    mean_logps = torch.tensor([[-1.0, -9.0, -2.0]])
    rewards = torch.tensor([[1.0, 1.0, 1.0]])
    for loss_type in objective.RANKING_LOSS_TYPES:
        assert objective.ranking_loss(mean_logps, rewards, loss_type, 5.0).item() == 0.0


def test_unscored_candidates_form_no_pair():
    mean_logps = torch.tensor([[-1.0, -9.0, -2.0]])
    rewards = torch.tensor([[1.0, math.nan, 2.0]])
    assert objective.ranking_loss(mean_logps, rewards, "linear").item() == 1.0


def test_penalties_by_hand():
    token_logps = torch.log(torch.tensor([[0.5, 0.8]]))
    mask = torch.ones(1, 2)
    penalty = objective.penalty_loss
    assert penalty(token_logps, mask, "logprob").item() == pytest.approx(math.log(0.4) / 2)
    assert penalty(token_logps, mask, "unlikelihood").item() == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    ref = torch.log(torch.tensor([[0.5, 0.4]]))
    # ℓ − ℓ_ref = log 2
    assert penalty(token_logps, mask, "npo", None, ref, 0.5).item() == pytest.approx(4 * math.log1p(math.sqrt(2)))


def test_npo_is_the_papers_log_sigmoid():
    token_logps, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.7]])
    expected = -2 / 0.1 * torch.nn.functional.logsigmoid(-0.1 * (token_logps - ref).sum(-1))
    assert torch.allclose(objective.penalty_loss(token_logps, torch.ones(1, 2), "npo", None, ref, 0.1), expected)


def test_unlikelihood_of_a_certain_token_is_finite():
    token_logps = torch.zeros(1, 2, requires_grad=True)
    penalty = objective.penalty_loss(token_logps, torch.ones(1, 2), "unlikelihood")
    penalty.sum().backward()
    assert torch.isfinite(penalty).all() and torch.isfinite(token_logps.grad).all()


@pytest.mark.parametrize("penalty_type", ["logprob", "unlikelihood"])
def test_below_the_floor_the_penalty_passes_no_gradient(penalty_type):
    token_logps = torch.tensor([[-6.0, -4.0], [-2.0, -1.0]], requires_grad=True)
    objective.penalty_loss(token_logps, torch.ones(2, 2), penalty_type, floor=-3.0).sum().backward()
    assert token_logps.grad[0].tolist() == [0.0, 0.0]
    assert (token_logps.grad[1] != 0).all()


def test_neat_loss_by_hand():
    token_logps, mask = uniform([[-1.0, -3.0, -2.0]])
    parts = objective.neat_loss(token_logps, mask, torch.tensor([[1.0, 2.0, 3.0]]))
    assert parts.sft.item() == 2.0  # −p of the third
    assert parts.ranking.item() == 3.0
    assert parts.penalty.item() == -1.0  # +p of the first
    assert (parts.logp_best.item(), parts.logp_worst.item()) == (-2.0, -1.0)
    summed = objective.neat_loss(token_logps, mask, torch.tensor([[1.0, 2.0, 3.0]]), sft_reduction="sum")
    assert summed.sft.item() == 4.0


@pytest.mark.parametrize("reward", [0.0, math.nan])
@pytest.mark.parametrize("penalty_type", objective.PENALTY_TYPES)
def test_a_neat_group_without_signal_is_a_finite_zero(reward, penalty_type):
    token_logps, mask = uniform([[-1.0, -3.0, -2.0]])
    token_logps.requires_grad_()
    parts = objective.neat_loss(
        token_logps,
        mask,
        torch.full((1, 3), reward),
        penalty_type=penalty_type,
        ref_token_logps=torch.zeros_like(token_logps),
    )
    loss = parts.sft + parts.ranking + parts.penalty
    loss.sum().backward()
    assert loss.item() == 0.0
    assert (token_logps.grad == 0).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: objective.ranking_loss(*RANKED, "square"),
        lambda: objective.penalty_loss(torch.zeros(1, 1), torch.ones(1, 1), "log"),
    ],
)
def test_unknown_forms_are_errors(call):
    with pytest.raises(ValueError, match="is unknown. Use one of"):
        call()


# the best, the middle, the worst; the best and the worst share two tokens, the middle one with either
PREFIXED = {
    "token_logps": torch.tensor([[[-1.0, -2.0, -3.0, -4.0], [-1.0, -8.0, 0.0, 0.0], [-1.0, -2.0, -9.0, 0.0]]]),
    "mask": torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]]),
    "rewards": torch.tensor([[3.0, 2.0, 1.0]]),
    "completion_ids": torch.tensor([[[5, 6, 7, 8], [5, 4, 0, 0], [5, 6, 9, 0]]]),
}


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        # p_i − p_j behind what each pair shares, over whole lengths: the worst and the best −9/3 + 7/4; the middle and
        # the best −8/2 + 9/4; the worst and the middle −11/3 + 8/2
        ("linear", (-3 + 7 / 4) + (-4 + 9 / 4) + (-11 / 3 + 4)),
        ("hinge", -11 / 3 + 4),
    ],
)
def test_ranking_behind_the_shared_prefix(loss_type, expected):
    parts = objective.neat_loss(**PREFIXED, ranking_loss_type=loss_type)
    assert parts.ranking.item() == pytest.approx(expected)
    assert parts.sft.item() == 10 / 4  # the imitation keeps its prefix
    assert (parts.logp_best.item(), parts.logp_worst.item()) == (-10 / 4, -4.0)


@pytest.mark.parametrize("ranking_loss_type", objective.RANKING_LOSS_TYPES)
def test_what_is_shared_gets_no_gradient_and_the_rest_keeps_its_own(ranking_loss_type):
    def gradients(**changes):
        inputs = PREFIXED | {"token_logps": PREFIXED["token_logps"].clone().requires_grad_()} | changes
        inputs["rewards"] = torch.tensor([[3.0, math.nan, 1.0]])
        parts = objective.neat_loss(**inputs, ranking_loss_type=ranking_loss_type, ranking_margin=9.0)
        return [
            torch.autograd.grad(p, inputs["token_logps"], retain_graph=True)[0][0]
            for p in (parts.ranking, parts.penalty)
        ]

    ranking, penalty = gradients()
    assert (ranking[:, :2] == 0).all() and (penalty[:, :2] == 0).all()
    assert (ranking[0, 2:] < 0).all() and ranking[2, 2] > 0
    assert penalty.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, pytest.approx(1 / 3), 0]]
    whole_ranking, whole_penalty = gradients(completion_ids=None)
    assert (whole_ranking[0, :2] < 0).all() and (whole_penalty[2, :2] > 0).all()
    if ranking_loss_type != "logsigmoid":  # whose coefficient is one of both means
        assert torch.equal(ranking[:, 2:], whole_ranking[:, 2:])
    assert torch.equal(penalty[:, 2:], whole_penalty[:, 2:])


@pytest.mark.parametrize(
    ("penalty_type", "expected"),
    [
        ("logprob", -9 / 3),
        ("unlikelihood", -math.log(1 - math.exp(-9)) / 3),
        ("npo", 2 / 0.1 * math.log1p(math.exp(0.1 * (-9 + 4)))),
    ],
)
def test_penalty_behind_the_shared_prefix(penalty_type, expected):
    reference = torch.full_like(PREFIXED["token_logps"], -4.0)
    parts = objective.neat_loss(**PREFIXED, penalty_type=penalty_type, ref_token_logps=reference, penalty_floor=-3.0)
    assert parts.penalty.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)  # the floor reads all of p(worst) = −4


def test_a_twin_of_the_best_pushes_nothing():
    inputs = {name: value[:, :1].repeat(1, 2, *[1] * (value.dim() - 2)) for name, value in PREFIXED.items()}
    inputs["rewards"] = torch.tensor([[1.0, 0.0]])
    inputs["token_logps"].requires_grad_()
    parts = objective.neat_loss(**inputs)
    (parts.ranking + parts.penalty).sum().backward()
    assert parts.ranking.item() == parts.penalty.item() == 0.0
    assert (inputs["token_logps"].grad == 0).all()
