"""Scores of options, and how often the best of them is right. No model: pure functions of log-probabilities."""

import math
from collections.abc import Sequence

import torch


HEADS = ("positive", "negative")
# what is compared: the first state's log-probability less the second's
MODES = {"ratio": ("positive", "negative"), "positive": ("positive", None), "negative_vs_base": ("base", "negative")}


def needed(mode: str) -> list[str]:
    """
    Whose log-probabilities a mode needs: `"positive"`, `"negative"`, `"base"`.

    Raises:
        ValueError: if there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown. Use one of {', '.join(MODES)}.")
    return [state for state in MODES[mode] if state is not None]


def check_weight(weight: float) -> None:
    """Raise a `ValueError` if the negative head's weight is below 0 or no finite number."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight={weight!r} must be a number of 0 or more; 1 is the paper's.")


def combine(logps: dict[str, Sequence[torch.Tensor]], mode: str = "ratio", weight: float = 1.0) -> list[torch.Tensor]:
    """
    S(a|q) = ℓ₊(a) − w·ℓ₋(a) (Likra), ℓ₊(a) for `"positive"`, ℓ_base(a) − w·ℓ₋(a) for `"negative_vs_base"`.

    Args:
        logps (`dict[str, Sequence[torch.Tensor]]`): summed log-probabilities in nats, `[options]` a question, under
            `positive`, `negative` and `base`, as far as the mode needs them.
        mode (`str`): one of [`MODES`].
        weight (`float`): w, 0 or more.

    Returns:
        `list[torch.Tensor]`: `[options]` a question.

    Raises:
        ValueError: on an unknown mode or a weight below 0.
    """
    needed(mode)
    check_weight(weight)
    gain, loss = MODES[mode]
    if loss is None:
        return list(logps[gain])
    return [up - weight * down for up, down in zip(logps[gain], logps[loss], strict=True)]


def per_character(scores: Sequence[torch.Tensor], options: Sequence[Sequence[str]]) -> list[torch.Tensor]:
    """Scores divided by the characters of their options, for `acc_norm`."""
    return per_length(scores, [[len(text) for text in texts] for texts in options])


def per_length(scores: Sequence[torch.Tensor], lengths: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Scores divided by their options' lengths, in whatever these are counted."""
    return [score / torch.tensor(counts, dtype=score.dtype) for score, counts in zip(scores, lengths, strict=True)]


def accuracy(scores: Sequence[torch.Tensor], answers: Sequence[int]) -> float | None:
    """
    Share of questions whose right option scores highest.

    Options that tie at the top share the point, as if one of them were drawn. Where every option of every question
    ties, as with untrained heads, nothing was chosen and the accuracy is undefined.

    Args:
        scores (`Sequence[torch.Tensor]`): `[options]` a question.
        answers (`Sequence[int]`): index of the right option.

    Returns:
        `float` or `None`: `None` if it is undefined.

    Raises:
        ValueError: if a score is no number.
    """
    if any(score.isnan().any() for score in scores):
        raise ValueError(
            "some scores are NaN, so nothing can be chosen by them: the heads' training has diverged, or their base "
            "overflows in its precision. Train with a lower learning_rate, or load the base with dtype float32."
        )
    if all((score == score[0]).all() for score in scores):
        return None
    points = [
        (score[answer] == score.max()).item() / (score == score.max()).sum().item()
        for score, answer in zip(scores, answers, strict=True)
    ]
    return sum(points) / len(points)


def accuracies(
    logps: dict[str, Sequence[torch.Tensor]],
    options: Sequence[Sequence[str]],
    answers: Sequence[int],
    mode: str = "ratio",
    weight: float = 1.0,
    tokens: Sequence[Sequence[int]] | None = None,
) -> dict[str, float | None]:
    """
    `{"acc": …, "acc_norm": …}`: by the scores of [`combine`], and by the scores per character; see [`accuracy`]. With
    `tokens`, the number of tokens of each option, also `acc_token`, by the scores per token.
    """
    scores = combine(logps, mode, weight)
    found = {"acc": accuracy(scores, answers), "acc_norm": accuracy(per_character(scores, options), answers)}
    return found if tokens is None else found | {"acc_token": accuracy(per_length(scores, tokens), answers)}


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent trials."""
    return (share * (1 - share) / count) ** 0.5
