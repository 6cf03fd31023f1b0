"""What each head is trained on: pairs of a query and an answer, right ones and wrong ones."""

import random
from collections.abc import Callable, Sequence

import torch

from .questions import Question
from .scoring import per_character


NEGATIVES = ("same_question", "other_question", "unrelated")
WRONG_OPTIONS = ("random", "hardest", "first")
Pair = tuple[str | list[dict], str]


def make_pairs(
    questions: Sequence[Question],
    negatives: str = "same_question",
    wrong_option: str = "random",
    flipped_share: float = 0.0,
    num_examples: int | None = None,
    seed: int = 0,
    base_logps: Callable[[list[Question]], list[torch.Tensor]] | None = None,
) -> tuple[list[Pair], list[Pair]]:
    """
    Pairs of query and answer for the positive and for the negative head. The pairs at one place belong to one
    question, questions come in a random order, and fewer examples are the beginning of more; texts of other questions
    are drawn from all of them.

    Args:
        questions (`Sequence[Question]`): the training questions.
        negatives (`str`): `"same_question"`, a wrong option (a near miss); `"other_question"`, an option of another
            question; `"unrelated"`, the first words of another question, which answer nothing, as many as the wrong
            option has.
        wrong_option (`str`): which wrong option: `"random"`, `"first"`, or `"hardest"`, the one with the highest
            log-probability per character under the base.
        flipped_share (`float`): chance of an example to have its labels flipped: the right answer goes to the negative
            head, the wrong one to the positive.
        num_examples (`int`, *optional*): how many questions are used.
        seed (`int`): of the order and of all draws.
        base_logps (`Callable`, *optional*): summed log-probabilities of all options under the base, for `"hardest"`.

    Returns:
        The positive and the negative head's pairs, `(query, answer)`.

    Raises:
        ValueError: if no other question's text can serve.
    """
    shuffled = list(questions)
    random.Random(seed).shuffle(shuffled)
    order = shuffled[:num_examples]
    # each draw has its own generator, so that no choice of one setting changes another's draws
    which, other, flip = (random.Random(f"{seed} {purpose}") for purpose in ("which", "other", "flip"))
    if wrong_option == "hardest":
        scores = per_character(base_logps(order), [question.options for question in order])
    positive, negative = [], []
    for i, question in enumerate(order):
        wrong = [option for number, option in enumerate(question.options) if number != question.answer]
        if wrong_option == "random":
            text = which.choice(wrong)
        elif wrong_option == "first":
            text = wrong[0]
        else:
            ranked = scores[i].clone()
            ranked[question.answer] = -torch.inf
            text = question.options[ranked.argmax()]
        if negatives == "other_question":
            text = _other(shuffled, i, other, lambda found: other.choice(found.options))
        elif negatives == "unrelated":
            words = len(text.split())
            text = _other(shuffled, i, other, lambda found, words=words: " ".join(found.text.split()[:words]))
            text = f" {text}" if question.is_prompt and question.options[question.answer].startswith(" ") else text
        pairs = [(question.query, question.options[question.answer]), (question.query, text)]
        if flip.random() < flipped_share:
            pairs.reverse()
        positive.append(pairs[0])
        negative.append(pairs[1])
    return positive, negative


def _other(questions: list[Question], own: int, draws: random.Random, take: Callable[[Question], str]) -> str:
    """A text taken from another question that is none of the own options."""
    for _ in range(100):
        found = draws.choice(questions)
        text = take(found)
        if found.query != questions[own].query and text not in questions[own].options:
            return text
    raise ValueError(
        f"question {questions[own].text!r} finds no other question to take a text from. Use more questions, or "
        "negatives='same_question'."
    )
