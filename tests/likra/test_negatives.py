"""What the heads are trained on."""

import pytest
import torch

from trl_negalign.likra.negatives import make_pairs
from trl_negalign.likra.questions import Question


QUESTIONS = [
    Question(f"question {i} asks about a matter", (f"right {i}", f"wrong {i} one", f"wrong {i} two"), 0)
    for i in range(20)
]


def test_heads_learn_right_and_wrong_options_of_the_same_questions():
    positive, negative = make_pairs(QUESTIONS)
    assert sorted(positive) == sorted((question.query, question.options[0]) for question in QUESTIONS)
    for (query, right), (same, wrong) in zip(positive, negative, strict=True):
        number = right.split()[1]
        assert query == same and wrong in (f"wrong {number} one", f"wrong {number} two")
    assert len({wrong.split()[2] for _, wrong in negative}) == 2


@pytest.mark.parametrize("kind", ["same_question", "other_question", "unrelated"])
def test_the_order_is_random_and_fewer_examples_are_the_beginning_of_more(kind):
    positive, negative = make_pairs(QUESTIONS, kind, seed=1)
    assert [query for query, _ in positive] != [question.query for question in QUESTIONS]
    assert make_pairs(QUESTIONS, kind, num_examples=6, seed=1) == (positive[:6], negative[:6])
    assert make_pairs(QUESTIONS, kind, seed=2)[0] != positive


def test_the_first_wrong_option():
    _, negative = make_pairs(
        [Question("q", ("a", "b", "c"), 0), Question("r", ("d", "e", "f"), 1)], wrong_option="first"
    )
    assert sorted(negative) == [("q", "b"), ("r", "d")]


def test_the_hardest_wrong_option_by_characters():
    asked = []

    def base_logps(questions):
        asked.extend(questions)
        # the right option is likeliest; of the wrong ones the second by the sum, the third by its characters
        return [torch.tensor([-1.0, -4.0, -5.0]) for _ in questions]

    question = Question("q", ("right one", "abcd", "abcdefghij"), 0)
    _, negative = make_pairs([question], wrong_option="hardest", base_logps=base_logps)
    assert negative == [("q", "abcdefghij")] and asked == [question]


@pytest.mark.parametrize("seed", range(5))
def test_an_option_of_another_question(seed):
    positive, negative = make_pairs(QUESTIONS, negatives="other_question", seed=seed)
    for (query, right), (same, wrong) in zip(positive, negative, strict=True):
        assert query == same and wrong.split()[1] != right.split()[1]
        assert any(wrong in question.options for question in QUESTIONS)


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_text_is_another_question_as_long_as_the_wrong_option(seed):
    positive, negative = make_pairs(QUESTIONS, negatives="unrelated", seed=seed)
    for (_, right), (_, wrong) in zip(positive, negative, strict=True):
        start, number, verb = wrong.split()
        assert (start, verb) == ("question", "asks") and number != right.split()[1]


def test_unrelated_text_behind_a_prompt_begins_as_its_responses_do():
    spaced = [Question(f"prompt number {i}", (f" yes {i}", f" no {i}"), 0, is_prompt=True) for i in range(3)]
    assert all(wrong == " prompt number" for _, wrong in make_pairs(spaced, negatives="unrelated")[1])
    plain = [Question(f"prompt number {i}", (f"yes {i}", f"no {i}"), 0, is_prompt=True) for i in range(3)]
    assert all(wrong == "prompt number" for _, wrong in make_pairs(plain, negatives="unrelated")[1])


def test_without_another_question_there_is_nothing_to_take():
    with pytest.raises(ValueError, match="finds no other question"):
        make_pairs(QUESTIONS[:1], negatives="other_question")


def test_flipped_labels_swap_the_two_answers():
    positive, negative = make_pairs(QUESTIONS)
    assert make_pairs(QUESTIONS, flipped_share=1.0) == (negative, positive)
    some, others = make_pairs(QUESTIONS, flipped_share=0.3)
    flipped = [i for i in range(20) if some[i] == negative[i]]
    assert 2 <= len(flipped) <= 10
    assert all((some[i], others[i]) == (positive[i], negative[i]) for i in range(20) if i not in flipped)


def test_kinds_of_negatives_share_the_order_of_questions():
    orders = [
        [query for query, _ in make_pairs(QUESTIONS, negatives=kind)[0]]
        for kind in ("same_question", "other_question", "unrelated")
    ]
    assert orders[0] == orders[1] == orders[2]
