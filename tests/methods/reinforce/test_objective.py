import math

import pytest
import torch

from trl_negalign.methods.reinforce.objective import (
    log_ratios,
    nft_loss,
    nft_weights,
    sign_weights,
    success_rate,
    taper_of_answer,
    unlikeliness_shares,
    weighted_reinforce_loss,
)


NAN = math.nan
# groups of two answers of one token each, by the ratio to the round's start
OLD = torch.full((1, 2, 1), math.log(0.4), dtype=torch.float64)
ONE_TOKEN = torch.ones(1, 2, 1)


def moved(*ratios):
    """Log-probabilities that are these times the old ones."""
    return (OLD + torch.tensor(ratios, dtype=torch.float64).log().view(1, -1, 1)).requires_grad_()


def test_right_and_wrong_have_weights_of_their_own():
    rewards = torch.tensor([[1.0, 0.0, 0.5, NAN], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    weights = sign_weights(rewards, positive_weight=0.25, negative_weight=2.0)
    assert weights.tolist() == [[0.25, -2.0, -2.0, 0.0], [-2.0] * 4, [0.25] * 4]
    assert not sign_weights(rewards, positive_weight=0.0)[2].any()  # NSR learns nothing where all are right


def test_a_group_as_baseline():
    rewards = torch.tensor([[3.0, 0.0, 0.0, NAN], [0.1, 0.1, 0.1, 0.1], [NAN, NAN, 2.0, NAN]])
    weights = sign_weights(rewards, positive_weight=3.0, negative_weight=1.0, baseline="group")
    assert weights.tolist() == [[6.0, -1.0, -1.0, 0.0], [0.0] * 4, [0.0] * 4]


@pytest.mark.parametrize("ratio", ["clipped", "tapered", "none"])
@pytest.mark.parametrize("positive_weight", [0.0, 0.1, 1.0])
def test_the_gradient_is_that_of_being_right(positive_weight, ratio):
    """Over all answers of an enumerated policy, (1 + λ)·∇P(right): the baseline is all that λ decides."""
    logits = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rewards = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    logps = logits.log_softmax(0)
    answers = logps.view(1, 5, 1)
    weights = sign_weights(rewards, positive_weight=positive_weight)
    losses = weighted_reinforce_loss(answers, torch.ones(1, 5, 1), weights, answers.detach(), ratio=ratio)
    [gradient] = torch.autograd.grad((losses * logps.detach().exp()).sum(), logits, retain_graph=True)
    [expected] = torch.autograd.grad(logps.exp()[[0, 2]].sum(), logits)
    torch.testing.assert_close(gradient, -(1 + positive_weight) * expected, rtol=0, atol=1e-15)


def test_psr_and_nsr_are_one_objective_in_expectation():
    logits = torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    logps = logits.log_softmax(0)
    found = []
    for factors in ({"positive_weight": 0.0}, {"positive_weight": 1.0, "negative_weight": 0.0}):
        weights = sign_weights(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), **factors).double()
        losses = weighted_reinforce_loss(logps.view(1, 4, 1), torch.ones(1, 4, 1), weights, ratio="none")
        found += torch.autograd.grad((losses * logps.detach().exp()).sum(), logits, retain_graph=True)
    torch.testing.assert_close(*found, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("ratio", "weight", "gain", "slope"),
    [
        (1.5, 0.5, 0.5 * 1.2, 0.0),  # a right answer's gain ends at 1 + ε
        (0.5, 0.5, 0.5 * 0.5, 0.5 * 0.5),
        (0.5, -1.0, -0.8, 0.0),  # a wrong one's at 1 − ε
        (1.5, -1.0, -1.5, -1.5),
        (1.0, -1.0, -1.0, -1.0),
    ],
)
def test_the_clipped_ratio(ratio, weight, gain, slope):
    logps = moved(ratio, 1.0)
    losses = weighted_reinforce_loss(logps, ONE_TOKEN, torch.tensor([[weight, 0.0]]).double(), OLD)
    losses.sum().backward()
    assert losses.tolist()[0] == pytest.approx([-gain, 0.0])
    assert logps.grad.flatten().tolist() == pytest.approx([-slope, 0.0])


def test_the_means_are_over_tokens_that_are_there():
    logps = torch.tensor([[[-1.0, -3.0], [-2.0, 50.0]]])
    mask = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    weights = torch.tensor([[1.0, -1.0]])
    assert weighted_reinforce_loss(logps, mask, weights, ratio="none").tolist() == [[2.0, -2.0]]
    assert weighted_reinforce_loss(logps, mask, weights, ratio="none", reduction="sum").tolist() == [[4.0, -2.0]]
    old = logps - 1  # behind the mask too
    assert weighted_reinforce_loss(logps, mask, weights, old, ratio="clipped").tolist()[0] == pytest.approx(
        [-1.2, math.e]
    )


def test_toprs_weights():
    """1 where the policy still likes the whole answer as much as when it sampled it, π/μ where it does not."""
    old = torch.tensor([[[-1.0, -2.0], [-1.0, -2.0], [-1.0, -2.0], [-1.0, -9.0]]])
    mask = torch.tensor([[[1, 1], [1, 1], [1, 1], [1, 0]]])
    # together: half as likely, e times as likely, half as likely (a right one), and a token behind the end
    change = torch.tensor([[[0.3, math.log(0.5) - 0.3], [2.0, -1.0], [0.0, math.log(0.5)], [math.log(0.25), 7.0]]])
    logps = (old + change).requires_grad_()
    assert taper_of_answer(log_ratios(logps, mask, old)).tolist()[0] == pytest.approx([0.5, 1.0, 0.5, 0.25])
    weights = torch.tensor([[-1.0, -1.0, 1.0, -1.0]])
    losses = weighted_reinforce_loss(logps, mask, weights, old, ratio="tapered")
    losses.sum().backward()
    expected = [[0.25, 0.25], [0.5, 0.5], [-0.5, -0.5], [0.25, 0.0]]  # −c·w/|y|
    torch.testing.assert_close(logps.grad[0], torch.tensor(expected))


def test_nfts_losses():
    """r̂ = 1/2, so ω = 1/2; a wrong answer's share is (1 − ρ/2)/(1/2) = 2 − ρ."""
    rewards = torch.tensor([[1.0, 0.0]])
    logps = moved(0.7, 0.5)
    losses = nft_loss(logps, ONE_TOKEN, rewards, OLD)
    losses.sum().backward()
    assert losses.tolist()[0] == pytest.approx([-0.5 * math.log(0.7), -0.5 * math.log(1.5)])
    assert logps.grad.flatten().tolist() == pytest.approx([-0.5, 0.5 * 0.5 / 1.5])


@pytest.mark.parametrize(("epsilon", "floor"), [(1.0, 1.0), (0.6, 0.6), (0.1, 0.5)])
def test_nfts_floor_holds_the_value_and_lets_the_gradient_through(epsilon, floor):
    logps = moved(1.0, 1.5)
    losses = nft_loss(logps, ONE_TOKEN, torch.tensor([[1.0, 0.0]]), OLD, epsilon=epsilon)
    losses.sum().backward()
    assert losses[0, 1].item() == pytest.approx(-0.5 * math.log(floor))
    assert logps.grad[0, 1].item() == pytest.approx(0.5 * 1.5 / floor)


def test_nfts_gradient_at_the_rounds_start():
    """Dr. GRPO's advantage: r − r̂ of the scored answers, nothing where all are right or all wrong."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, NAN], [1.0] * 4, [0.0] * 4, [NAN, NAN, NAN, 1.0]])
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, :3] = torch.tensor([2 / 3, -1 / 3, -1 / 3])
    logps = -torch.rand(4, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logps.requires_grad_()
    nft_loss(logps, torch.ones(4, 4, 3), rewards, logps.detach()).sum().backward()
    torch.testing.assert_close(-logps.grad, expected.unsqueeze(-1).expand(4, 4, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(nft_weights(rewards), expected.float())
    halved = nft_weights(rewards, positive_weight=3.0, negative_weight=0.5)[0].tolist()
    assert halved == pytest.approx([2.0, -1 / 6, -1 / 6, 0.0])


def test_nft_stays_finite_far_from_the_rounds_start():
    logps = (OLD + torch.tensor([[[60.0], [200.0]]])).requires_grad_()
    losses = nft_loss(logps, ONE_TOKEN, torch.tensor([[1.0, 0.0]]), OLD)
    losses.sum().backward()
    assert losses.isfinite().all() and logps.grad.isfinite().all()
    assert losses[0, 0].item() == pytest.approx(-5.0)  # the log-ratio ends at 10


def test_the_rate_is_of_the_scored_answers():
    rate = success_rate(torch.tensor([[1.0, 0.0, NAN, NAN], [NAN] * 4]), 0.5)
    assert rate[0].tolist() == [0.5] and rate[1].isnan().all()


def test_the_likeliest_right_answer_counts_least():
    # ℓ: −3, −1, −2 and one that is not ranked; ranks 2, 0, 1 of a group of 4
    old = torch.tensor([[[-1.0, -2.0], [-0.5, -0.5], [-2.0, -9.0], [0.0, 0.0]]])
    mask = torch.tensor([[[1, 1], [1, 1], [1, 0], [1, 1]]])
    ranked = torch.tensor([[True, True, True, False]])
    shares = unlikeliness_shares(old, mask, ranked, 0.4)
    assert shares[0, :3].tolist() == pytest.approx([1 - 0.4 * 2 / 4, 1 - 0.4, 1 - 0.4 * 3 / 4])
    rewards = torch.tensor([[1.0, 1.0, 0.0, NAN]])
    weights = sign_weights(rewards, positive_weight=1.0, shares=shares)
    assert weights[0].tolist() == pytest.approx([0.8, 0.6, -1.0, 0.0])
    centred = sign_weights(rewards, positive_weight=1.0, baseline="group", shares=shares)
    assert centred[0].tolist() == pytest.approx([0.8 - 1.4 / 3, 0.6 - 1.4 / 3, -1.4 / 3, 0.0])


def test_equally_likely_answers_share_a_rank():
    old, ranked = torch.full((1, 3, 2), -1.0), torch.ones(1, 3, dtype=torch.bool)
    assert unlikeliness_shares(old, torch.ones(1, 3, 2), ranked, 0.3).tolist()[0] == pytest.approx([0.7] * 3)


def test_unknown_ratio():
    with pytest.raises(ValueError, match="ratio='ppo' is unknown"):
        weighted_reinforce_loss(OLD, ONE_TOKEN, torch.ones(1, 2), OLD, ratio="ppo")
