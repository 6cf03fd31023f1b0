"""Scores and accuracies, by numbers worked out by hand."""

import pytest
import torch

from trl_negalign.likra.scoring import accuracies, accuracy, binomial_error, combine, per_character


LOGPS = {
    "positive": [torch.tensor([-2.0, -3.0]), torch.tensor([-1.0, -4.0, -2.0])],
    "negative": [torch.tensor([-1.0, -5.0]), torch.tensor([-3.0, -3.0, -3.5])],
    "base": [torch.tensor([-2.0, -2.5]), torch.tensor([-2.0, -2.0, -3.0])],
}


@pytest.mark.parametrize(
    ("mode", "weight", "expected"),
    [
        ("ratio", 1.0, [[-1.0, 2.0], [2.0, -1.0, 1.5]]),
        ("ratio", 0.5, [[-1.5, -0.5], [0.5, -2.5, -0.25]]),
        ("positive", 0.5, [[-2.0, -3.0], [-1.0, -4.0, -2.0]]),
        ("negative_vs_base", 1.0, [[-1.0, 2.5], [1.0, 1.0, 0.5]]),
        ("negative_vs_base", 2.0, [[0.0, 7.5], [4.0, 4.0, 4.0]]),
    ],
)
def test_scores(mode, weight, expected):
    assert [score.tolist() for score in combine(LOGPS, mode, weight)] == expected


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode='ratoi' is unknown. Use one of ratio, positive, negative_vs_base"):
        combine(LOGPS, "ratoi")


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
def test_a_weight_that_rewards_wrong_answers_is_refused(weight):
    with pytest.raises(ValueError, match=f"weight={weight} must be a number of 0 or more"):
        combine(LOGPS, "ratio", weight)


def test_scores_per_character():
    scores = per_character([torch.tensor([-6.0, -6.0])], [["abc", "ab cd e"]])
    assert scores[0].tolist() == pytest.approx([-2.0, -6 / 7])


def test_accuracy_is_the_share_of_right_choices():
    scores = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, -1.0])]
    assert accuracy(scores, [1, 0, 1]) == pytest.approx(2 / 3)


def test_a_tie_at_the_top_shares_the_point():
    tied = torch.tensor([2.0, 2.0, 1.0])
    clear = torch.tensor([0.0, 1.0])
    assert accuracy([tied, clear], [0, 1]) == 0.75
    assert accuracy([tied, clear], [2, 1]) == 0.5


def test_ties_everywhere_are_undefined():
    assert accuracy([torch.zeros(4), torch.full((3,), -1.5)], [0, 1]) is None


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="some scores are NaN.* lower learning_rate"):
        accuracy([torch.tensor([0.0, 1.0]), torch.tensor([torch.nan, 1.0])], [1, 1])
    # an impossible option is the worst one
    assert accuracy([torch.tensor([-torch.inf, 1.0])], [1]) == 1.0


def test_untrained_heads_have_no_accuracy_as_a_ratio():
    base = LOGPS["base"]
    logps = {"positive": base, "negative": base, "base": base}
    options, answers = [["a", "bc"], ["a", "b", "c"]], [0, 2]
    assert accuracies(logps, options, answers, "ratio") == {"acc": None, "acc_norm": None}
    assert accuracies(logps, options, answers, "negative_vs_base") == {"acc": None, "acc_norm": None}
    # -2 and -2.5 in one and two characters; of three, the last is the least likely
    assert accuracies(logps, options, answers, "positive") == {"acc": 0.5, "acc_norm": 0.0}


def test_the_norm_divides_by_characters():
    logps = {"positive": [torch.tensor([-4.0, -5.0])]}
    options = [["ab", "abcde"]]
    assert accuracies(logps, options, [1], "positive") == {"acc": 0.0, "acc_norm": 1.0}


def test_binomial_error():
    assert binomial_error(0.5, 100) == pytest.approx(0.05)
    assert binomial_error(0.25, 1172) == pytest.approx(0.01265, abs=1e-5)


def test_accuracy_by_the_token():
    logps = {"positive": [torch.tensor([-4.0, -3.0])]}
    options, answers = [["four", "four"]], [0]
    assert accuracies(logps, options, answers, "positive") == {"acc": 0.0, "acc_norm": 0.0}
    # −1 a token against −1.5
    assert accuracies(logps, options, answers, "positive", tokens=[[4, 2]])["acc_token"] == 1.0
