"""Numbers computed by hand; no model needed."""

import math

import pytest
import torch

from trl_negalign import objectives


def uniform(mean_logps):
    """Token log-probabilities `[groups, G, 2]` whose mean is given, and a mask of ones."""
    token_logps = torch.tensor(mean_logps, dtype=torch.float64).unsqueeze(-1).repeat(1, 1, 2)
    return token_logps, torch.ones_like(token_logps)


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
    assert objectives.ranking_loss(*RANKED, loss_type, margin).item() == pytest.approx(expected, rel=1e-6)


def test_tied_rewards_form_no_pair():
    mean_logps = torch.tensor([[-1.0, -9.0, -2.0]])
    rewards = torch.tensor([[1.0, 1.0, 1.0]])
    for loss_type in objectives.RANKING_LOSS_TYPES:
        assert objectives.ranking_loss(mean_logps, rewards, loss_type, 5.0).item() == 0.0


def test_unscored_candidates_form_no_pair():
    mean_logps = torch.tensor([[-1.0, -9.0, -2.0]])
    rewards = torch.tensor([[1.0, math.nan, 2.0]])
    assert objectives.ranking_loss(mean_logps, rewards, "linear").item() == 1.0


def test_ranking_accuracy_by_hand():
    assert objectives.ranking_accuracy(*RANKED).item() == pytest.approx(1 / 3)
    assert objectives.ranking_accuracy(RANKED[0], torch.ones(1, 3)).isnan().item()


def test_penalties_by_hand():
    token_logps = torch.log(torch.tensor([[0.5, 0.8]]))
    mask = torch.ones(1, 2)
    penalty = objectives.penalty_loss
    assert penalty(token_logps, mask, "logprob").item() == pytest.approx(math.log(0.4) / 2)
    assert penalty(token_logps, mask, "unlikelihood").item() == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    ref = torch.log(torch.tensor([[0.5, 0.4]]))
    # ℓ − ℓ_ref = log 2
    assert penalty(token_logps, mask, "npo", None, ref, 0.5).item() == pytest.approx(4 * math.log1p(math.sqrt(2)))


def test_npo_is_the_papers_log_sigmoid():
    token_logps, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.7]])
    expected = -2 / 0.1 * torch.nn.functional.logsigmoid(-0.1 * (token_logps - ref).sum(-1))
    assert torch.allclose(objectives.penalty_loss(token_logps, torch.ones(1, 2), "npo", None, ref, 0.1), expected)


def test_unlikelihood_of_a_certain_token_is_finite():
    token_logps = torch.zeros(1, 2, requires_grad=True)
    penalty = objectives.penalty_loss(token_logps, torch.ones(1, 2), "unlikelihood")
    penalty.sum().backward()
    assert torch.isfinite(penalty).all() and torch.isfinite(token_logps.grad).all()


@pytest.mark.parametrize("penalty_type", ["logprob", "unlikelihood"])
def test_below_the_floor_the_penalty_passes_no_gradient(penalty_type):
    token_logps = torch.tensor([[-6.0, -4.0], [-2.0, -1.0]], requires_grad=True)
    objectives.penalty_loss(token_logps, torch.ones(2, 2), penalty_type, floor=-3.0).sum().backward()
    assert token_logps.grad[0].tolist() == [0.0, 0.0]
    assert (token_logps.grad[1] != 0).all()


def test_neat_loss_by_hand():
    token_logps, mask = uniform([[-1.0, -3.0, -2.0]])
    parts = objectives.neat_loss(token_logps, mask, torch.tensor([[1.0, 2.0, 3.0]]))
    assert parts.sft.item() == 2.0  # −p of the third
    assert parts.ranking.item() == 3.0
    assert parts.penalty.item() == -1.0  # +p of the first
    assert (parts.logp_best.item(), parts.logp_worst.item()) == (-2.0, -1.0)
    summed = objectives.neat_loss(token_logps, mask, torch.tensor([[1.0, 2.0, 3.0]]), sft_reduction="sum")
    assert summed.sft.item() == 4.0


@pytest.mark.parametrize("reward", [0.0, math.nan])
@pytest.mark.parametrize("penalty_type", objectives.PENALTY_TYPES)
def test_a_neat_group_without_signal_is_a_finite_zero(reward, penalty_type):
    token_logps, mask = uniform([[-1.0, -3.0, -2.0]])
    token_logps.requires_grad_()
    parts = objectives.neat_loss(
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


def test_ple_weights_are_equation_5():
    s, s_guided = 0.3, 1.1
    expected = 2 * math.exp(s) / (math.exp(s) + math.exp(s_guided)) - 1
    weights = objectives.ple_weights(torch.tensor([[s, s_guided]], dtype=torch.float64))
    assert weights[0, 0].item() == pytest.approx(expected, abs=1e-12)
    assert weights[0, 1].item() == pytest.approx(-expected, abs=1e-12)


def test_ple_weights_do_not_overflow():
    weights = objectives.ple_weights(torch.tensor([[1e30, -1e30], [-5e4, 5e4]]))
    assert weights.tolist() == [[1.0, -1.0], [-1.0, 1.0]]


def test_unit_weights_are_sigmoids():
    weights = objectives.ple_weights(torch.tensor([[1.0, 0.0]]), "unit")
    sigmoid = 1 / (1 + math.exp(-1.0))
    assert weights[0].tolist() == pytest.approx([sigmoid, 1 - sigmoid])


def test_ple_loss_by_hand():
    # first pair: gap 2 > 1, ranked; second: gap −1 ≤ 1, imitated by ±tanh(1/2); ℓ = 2p
    token_logps, mask = uniform([[-1.0, -3.0], [-1.0, -3.0]])
    rewards = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    parts = objectives.ple_loss(token_logps, mask, rewards, 1.0)
    weight = math.tanh(0.5)
    assert parts.ranking.tolist() == [2.0, 0.0]  # −(p' − p) = −(−3 + 1)
    assert parts.wsft.tolist() == pytest.approx([0.0, -(weight * -2.0 - weight * -6.0)])
    assert parts.gap.tolist() == [2.0, -1.0]
    assert parts.ranked.tolist() == [True, False]
    mean = objectives.ple_loss(token_logps, mask, rewards, 1.0, wsft_reduction="mean")
    assert mean.wsft.tolist() == pytest.approx([0.0, -(weight * -1.0 - weight * -3.0)])


def test_a_gap_equal_to_the_threshold_is_imitated():
    token_logps, mask = uniform([[-1.0, -3.0]])
    assert not objectives.ple_loss(token_logps, mask, torch.tensor([[0.0, 0.5]]), 0.5).ranked.item()


@pytest.mark.parametrize("rewards", [[0.5, 0.5], [math.nan, math.nan], [math.nan, 1.0]])
@pytest.mark.parametrize("weight_range", objectives.WEIGHT_RANGES)
def test_a_ple_pair_without_signal_is_a_finite_zero(rewards, weight_range):
    token_logps, mask = uniform([[-1.0, -3.0]])
    token_logps.requires_grad_()
    parts = objectives.ple_loss(token_logps, mask, torch.tensor([rewards]), -1.0, weight_range=weight_range)
    loss = parts.ranking + parts.wsft
    loss.sum().backward()
    assert loss.item() == 0.0
    assert (token_logps.grad == 0).all()


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
    parts = objectives.neat_loss(**PREFIXED, ranking_loss_type=loss_type)
    assert parts.ranking.item() == pytest.approx(expected)
    assert parts.sft.item() == 10 / 4  # the imitation keeps its prefix
    assert (parts.logp_best.item(), parts.logp_worst.item()) == (-10 / 4, -4.0)


@pytest.mark.parametrize("ranking_loss_type", objectives.RANKING_LOSS_TYPES)
def test_what_is_shared_gets_no_gradient_and_the_rest_keeps_its_own(ranking_loss_type):
    def gradients(**changes):
        inputs = PREFIXED | {"token_logps": PREFIXED["token_logps"].clone().requires_grad_()} | changes
        inputs["rewards"] = torch.tensor([[3.0, math.nan, 1.0]])
        parts = objectives.neat_loss(**inputs, ranking_loss_type=ranking_loss_type, ranking_margin=9.0)
        return [torch.autograd.grad(p, inputs["token_logps"], retain_graph=True)[0][0] for p in parts[1:3]]

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
    parts = objectives.neat_loss(**PREFIXED, penalty_type=penalty_type, ref_token_logps=reference, penalty_floor=-3.0)
    assert parts.penalty.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)  # the floor reads all of p(worst) = −4


def test_a_twin_of_the_best_pushes_nothing():
    inputs = {name: value[:, :1].repeat(1, 2, *[1] * (value.dim() - 2)) for name, value in PREFIXED.items()}
    inputs["rewards"] = torch.tensor([[1.0, 0.0]])
    inputs["token_logps"].requires_grad_()
    parts = objectives.neat_loss(**inputs)
    (parts.ranking + parts.penalty).sum().backward()
    assert parts.ranking.item() == parts.penalty.item() == 0.0
    assert (inputs["token_logps"].grad == 0).all()


def test_kl_penalty_by_hand():
    logps, ref = torch.tensor([[-1.0, -2.0, 7.0]]), torch.tensor([[-1.5, -2.0, 0.0]])
    expected = (math.exp(-0.5) + 0.5 - 1) / 2
    assert objectives.kl_penalty(logps, ref, torch.tensor([[1, 1, 0]])).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda: objectives.ranking_loss(*RANKED, "square"),
        lambda: objectives.penalty_loss(torch.zeros(1, 1), torch.ones(1, 1), "log"),
        lambda: objectives.ple_weights(torch.zeros(1, 2), "full"),
    ],
)
def test_unknown_forms_are_errors(call):
    with pytest.raises(ValueError, match="is unknown. Use one of"):
        call()


def test_who_of_a_ple_pair_is_taught():
    nan = float("nan")
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.1], [1.0, 0.0], [0.5, 0.5], [nan, 1.0]])
    threshold = torch.full((5,), 0.2)

    def pairs(**weights):
        return [row[0] for row in objectives.ple_taught(rewards, threshold, **weights).tolist() if row[0] == row[1]]

    assert pairs() == [True, True, True, False, False]
    assert pairs(wsft_weight=0.0) == [True, False, False, False, False]  # only the gap of 1 is ranked
    assert pairs(ranking_weight=0.0) == [False, True, True, False, False]
    # σ(200) is 1 and σ(−200) is 0 in fp32: the worse response is not imitated at all
    far = torch.tensor([[200.0, 0.0]])
    assert objectives.ple_taught(far, threshold[:1], weight_range="unit").tolist() == [[True, False]]
