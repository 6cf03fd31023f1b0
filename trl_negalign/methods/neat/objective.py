"""
NEAT's objective (arXiv 2410.12194): pure functions of log-probabilities and rewards, `[groups, G]`. No model, no
trainer. The paper prints no formula for the parts, so what stands here is our reconstruction.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...objectives import best_and_worst, has_signal, sequence_logps


RANKING_LOSS_TYPES = ("hinge", "linear", "logsigmoid")
PENALTY_TYPES = ("logprob", "unlikelihood", "npo")


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[g, index[g]]` for every group g."""
    return values[torch.arange(len(index), device=values.device), index]


def ranking_loss(
    mean_logps: torch.Tensor, rewards: torch.Tensor, loss_type: str = "hinge", margin: float = 0.0
) -> torch.Tensor:
    """
    NEAT's ranking part (our reconstruction), summed over all ordered pairs i, j of a group with r_i < r_j:
    max(0, margin + p_i − p_j) for `"hinge"` (RRHF's loss at margin 0), p_i − p_j for `"linear"`,
    −log σ(p_j − p_i − margin) for `"logsigmoid"`. Tied and unscored candidates form no pair.

    Args:
        mean_logps (`torch.Tensor`): p, `[groups, G]`.
        rewards (`torch.Tensor`): r, `[groups, G]`, NaN for a candidate without a score.
        loss_type (`str`): `"hinge"`, `"linear"` or `"logsigmoid"`.
        margin (`float`): nats per token.

    Returns:
        `torch.Tensor`: `[groups]`.
    """
    pairs = rewards.unsqueeze(2) < rewards.unsqueeze(1)
    excess = mean_logps.unsqueeze(2) - mean_logps.unsqueeze(1)
    if loss_type == "hinge":
        terms = (margin + excess).clamp(min=0)
    elif loss_type == "linear":
        terms = excess
    elif loss_type == "logsigmoid":
        terms = F.softplus(margin + excess)
    else:
        raise ValueError(f"ranking_loss_type={loss_type!r} is unknown. Use one of {', '.join(RANKING_LOSS_TYPES)}.")
    return torch.where(pairs, terms, 0.0).sum((1, 2))


def penalty_loss(
    token_logps: torch.Tensor,
    mask: torch.Tensor,
    penalty_type: str = "logprob",
    floor: float | None = None,
    ref_token_logps: torch.Tensor | None = None,
    npo_beta: float = 0.1,
) -> torch.Tensor:
    """
    NEAT's penalty on responses (our reconstruction): p(y) for `"logprob"`, the token mean of −log(1 − π_t) for
    `"unlikelihood"`, (2/β)·softplus(β(ℓ − ℓ_ref)) for `"npo"` (NPO, arXiv 2404.05868).

    Args:
        token_logps (`torch.Tensor`): `[…, T]`.
        mask (`torch.Tensor`): `[…, T]`.
        penalty_type (`str`): `"logprob"`, `"unlikelihood"` or `"npo"`.
        floor (`float`, *optional*): where p(y) lies below it (nats per token) the penalty keeps its value but passes
            no gradient. The plain log-probability is unbounded below.
        ref_token_logps (`torch.Tensor`, *optional*): `[…, T]` of the reference model, for `"npo"`.
        npo_beta (`float`): NPO's β.

    Returns:
        `torch.Tensor`: `[…]`.
    """
    mean_logps = sequence_logps(token_logps, mask, "mean")
    if penalty_type == "logprob":
        penalty = mean_logps
    elif penalty_type == "unlikelihood":
        # a token of probability 1 would cost infinitely much
        penalty = sequence_logps(-torch.log((1 - token_logps.exp()).clamp(min=1e-5)), mask, "mean")
    elif penalty_type == "npo":
        log_ratio = sequence_logps(token_logps - ref_token_logps, mask, "sum")
        penalty = 2 / npo_beta * F.softplus(npo_beta * log_ratio)
    else:
        raise ValueError(f"penalty_type={penalty_type!r} is unknown. Use one of {', '.join(PENALTY_TYPES)}.")
    return penalty if floor is None else torch.where(mean_logps < floor, penalty.detach(), penalty)


class NEATLoss(NamedTuple):
    """NEAT's three parts and what they were computed from, each `[groups]`, before their weights."""

    sft: torch.Tensor
    ranking: torch.Tensor
    penalty: torch.Tensor
    logp_best: torch.Tensor
    logp_worst: torch.Tensor


def neat_loss(
    token_logps: torch.Tensor,
    mask: torch.Tensor,
    rewards: torch.Tensor,
    *,
    sft_reduction: str = "mean",
    ranking_loss_type: str = "hinge",
    ranking_margin: float = 0.0,
    penalty_type: str = "logprob",
    penalty_floor: float | None = None,
    ref_token_logps: torch.Tensor | None = None,
    npo_beta: float = 0.1,
) -> NEATLoss:
    """
    The parts of NEAT's objective L = L_sft(best) + α·L_rank(all) + β·L_penalty(worst) (arXiv 2410.12194; the parts
    are our reconstruction). A group whose rewards are all missing or all tied yields zero in every part.

    Args:
        token_logps (`torch.Tensor`): `[groups, G, T]`.
        mask (`torch.Tensor`): `[groups, G, T]`.
        rewards (`torch.Tensor`): `[groups, G]`, NaN for a candidate without a score.
        sft_reduction (`str`): `"mean"` for −p(best), `"sum"` for −ℓ(best).
        ranking_loss_type, ranking_margin: see [`ranking_loss`].
        penalty_type, penalty_floor, ref_token_logps, npo_beta: see [`penalty_loss`].

    Returns:
        [`NEATLoss`]: tensors `[groups]`.
    """
    mean_logps = sequence_logps(token_logps, mask, "mean")
    best, worst = best_and_worst(rewards)
    penalty = penalty_loss(
        _take(token_logps, worst),
        _take(mask, worst),
        penalty_type,
        penalty_floor,
        None if ref_token_logps is None else _take(ref_token_logps, worst),
        npo_beta,
    )
    signal = has_signal(rewards)
    return NEATLoss(
        sft=torch.where(signal, -_take(sequence_logps(token_logps, mask, sft_reduction), best), 0.0),
        ranking=ranking_loss(mean_logps, rewards, ranking_loss_type, ranking_margin),
        penalty=torch.where(signal, penalty, 0.0),
        logp_best=_take(mean_logps, best).detach(),
        logp_worst=_take(mean_logps, worst).detach(),
    )
