"""Numbers computed by hand; no model needed."""

import math

import pytest
import torch

from tests.helpers import uniform
from trl_negalign.methods.ple import objective


def test_ple_weights_are_equation_5():
    s, s_guided = 0.3, 1.1
    expected = 2 * math.exp(s) / (math.exp(s) + math.exp(s_guided)) - 1
    weights = objective.ple_weights(torch.tensor([[s, s_guided]], dtype=torch.float64))
    assert weights[0, 0].item() == pytest.approx(expected, abs=1e-12)
    assert weights[0, 1].item() == pytest.approx(-expected, abs=1e-12)


def test_ple_weights_do_not_overflow():
    weights = objective.ple_weights(torch.tensor([[1e30, -1e30], [-5e4, 5e4]]))
    assert weights.tolist() == [[1.0, -1.0], [-1.0, 1.0]]


def test_unit_weights_are_sigmoids():
    weights = objective.ple_weights(torch.tensor([[1.0, 0.0]]), "unit")
    sigmoid = 1 / (1 + math.exp(-1.0))
    assert weights[0].tolist() == pytest.approx([sigmoid, 1 - sigmoid])


def test_ple_loss_by_hand():
    # first pair: gap 2 > 1, ranked; second: gap −1 ≤ 1, imitated by ±tanh(1/2); ℓ = 2p
    token_logps, mask = uniform([[-1.0, -3.0], [-1.0, -3.0]])
    rewards = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    parts = objective.ple_loss(token_logps, mask, rewards, 1.0)
    weight = math.tanh(0.5)
    assert parts.ranking.tolist() == [2.0, 0.0]  # −(p' − p) = −(−3 + 1)
    assert parts.wsft.tolist() == pytest.approx([0.0, -(weight * -2.0 - weight * -6.0)])
    assert parts.gap.tolist() == [2.0, -1.0]
    assert parts.ranked.tolist() == [True, False]
    mean = objective.ple_loss(token_logps, mask, rewards, 1.0, wsft_reduction="mean")
    assert mean.wsft.tolist() == pytest.approx([0.0, -(weight * -1.0 - weight * -3.0)])


def test_a_gap_equal_to_the_threshold_is_imitated():
    token_logps, mask = uniform([[-1.0, -3.0]])
    assert not objective.ple_loss(token_logps, mask, torch.tensor([[0.0, 0.5]]), 0.5).ranked.item()


@pytest.mark.parametrize("rewards", [[0.5, 0.5], [math.nan, math.nan], [math.nan, 1.0]])
@pytest.mark.parametrize("weight_range", objective.WEIGHT_RANGES)
def test_a_ple_pair_without_signal_is_a_finite_zero(rewards, weight_range):
    token_logps, mask = uniform([[-1.0, -3.0]])
    token_logps.requires_grad_()
    parts = objective.ple_loss(token_logps, mask, torch.tensor([rewards]), -1.0, weight_range=weight_range)
    loss = parts.ranking + parts.wsft
    loss.sum().backward()
    assert loss.item() == 0.0
    assert (token_logps.grad == 0).all()


def test_who_of_a_ple_pair_is_trained():
    nan = float("nan")
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.1], [1.0, 0.0], [0.5, 0.5], [nan, 1.0]])
    threshold = torch.full((5,), 0.2)

    def pairs(**weights):
        return [row[0] for row in objective.ple_trained(rewards, threshold, **weights).tolist() if row[0] == row[1]]

    assert pairs() == [True, True, True, False, False]
    assert pairs(wsft_weight=0.0) == [True, False, False, False, False]  # only the gap of 1 is ranked
    assert pairs(ranking_weight=0.0) == [False, True, True, False, False]
    # σ(200) is 1 and σ(−200) is 0 in fp32: the worse response is not imitated at all
    far = torch.tensor([[200.0, 0.0]])
    assert objective.ple_trained(far, threshold[:1], weight_range="unit").tolist() == [[True, False]]


def test_an_unknown_range_is_an_error():
    with pytest.raises(ValueError, match="is unknown. Use one of"):
        objective.ple_weights(torch.zeros(1, 2), "full")
