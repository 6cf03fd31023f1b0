"""Numbers computed by hand; no model needed."""

import math

import pytest
import torch

from trl_negalign import objectives


def test_sequence_logps_leave_padding_out():
    logps = torch.tensor([[-1.0, -2.0, float("-inf")]])
    mask = torch.tensor([[1, 1, 0]])
    assert objectives.sequence_logps(logps, mask, "sum").item() == -3.0
    assert objectives.sequence_logps(logps, mask, "mean").item() == -1.5


def test_a_response_without_tokens_is_zero_not_nan():
    assert objectives.sequence_logps(torch.tensor([[-1.0]]), torch.tensor([[0]]), "mean").item() == 0.0


def test_has_signal_wants_two_different_scores():
    nan = math.nan
    rewards = torch.tensor([[1.0, 2.0], [1.0, 1.0], [nan, nan], [nan, 3.0], [-math.pi, 0.0]])
    assert objectives.has_signal(rewards).tolist() == [True, False, False, False, True]


def test_best_and_worst_take_the_first_on_ties_and_never_an_unscored_one():
    rewards = torch.tensor([[1.0, 3.0, 3.0, 1.0], [math.nan, 5.0, 2.0, 2.0]])
    best, worst = objectives.best_and_worst(rewards)
    assert best.tolist() == [1, 1]
    assert worst.tolist() == [0, 2]


def test_ranking_accuracy_by_hand():
    # the pairs (worse, better) are (0,1), (0,2), (1,2), and the policy orders the last one only
    mean_logps, rewards = torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    assert objectives.ranking_accuracy(mean_logps, rewards).item() == pytest.approx(1 / 3)
    assert objectives.ranking_accuracy(mean_logps, torch.ones(1, 3)).isnan().item()


def test_taper_weights_by_hand():
    policy = torch.log(torch.tensor([[0.2, 0.5, 0.3, 0.4]])).requires_grad_()
    guided = torch.log(torch.tensor([[0.4, 0.25, 0.3, 0.0]]))
    weights = objectives.taper_weights(policy, guided)
    assert weights[0].tolist() == pytest.approx([0.5, 1.0, 1.0, 1.0])  # truncated at 1; −inf is "no guide"
    assert not weights.requires_grad


def test_weighted_gradients_leave_the_value():
    logps = torch.tensor([[-1.0, -2.0, -0.1]], requires_grad=True)
    weighted = objectives.weight_gradients(logps, torch.tensor([[0.25, 1.0, 0.0]]))
    assert weighted.tolist() == logps.tolist()
    (3 * weighted.sum()).backward()
    assert logps.grad.tolist() == [[0.75, 3.0, 0.0]]


def test_shared_prefixes_by_hand():
    # the fourth is the first's beginning; the third differs in its second token and agrees again in its third
    ids = torch.tensor([[[5, 6, 7, 8], [5, 6, 9, 8], [5, 1, 7, 8], [5, 6, 0, 0]]])
    mask = torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]])
    assert objectives.shared_prefixes(ids, mask).tolist() == [[[4, 2, 1, 2], [2, 4, 1, 2], [1, 1, 4, 1], [2, 2, 1, 2]]]
    behind = objectives.behind_prefix(mask[0], torch.tensor([2, 0, 4, 1]))
    assert behind.int().tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_kl_penalty_by_hand():
    logps, ref = torch.tensor([[-1.0, -2.0, 7.0]]), torch.tensor([[-1.5, -2.0, 0.0]])
    expected = (math.exp(-0.5) + 0.5 - 1) / 2
    assert objectives.kl_penalty(logps, ref, torch.tensor([[1, 1, 0]])).item() == pytest.approx(expected)
