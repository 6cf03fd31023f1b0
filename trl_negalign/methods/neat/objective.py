"""
NEAT's objective (arXiv 2410.12194): pure functions of log-probabilities and rewards. No model, no trainer. The paper
prints no formula for the parts, so what stands here is our reconstruction.

Letters: `G` candidates of a group, `T` tokens of the longest response; ℓ(y) is a response's summed log-probability,
p(y) its token mean, both in nats and given the plain query; b and w are the best and the worst of the group.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...objectives import behind_prefix, best_and_worst, has_signal, sequence_logps, shared_prefixes
from ...trainer.plan import Plan


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
        mean_logps (`torch.Tensor`): p, `[groups, G]`; or `[groups, G, G]`, p_i as it enters the pair of i and j.
        rewards (`torch.Tensor`): r, `[groups, G]`, NaN for a candidate without a score.
        loss_type (`str`): `"hinge"`, `"linear"` or `"logsigmoid"`.
        margin (`float`): nats per token.

    Returns:
        `torch.Tensor`: `[groups]`.
    """
    pairs = rewards.unsqueeze(2) < rewards.unsqueeze(1)
    mean_logps = mean_logps.unsqueeze(2) if mean_logps.dim() == 2 else mean_logps
    excess = mean_logps - mean_logps.transpose(1, 2)
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
    counted: torch.Tensor | None = None,
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
        counted (`torch.Tensor`, *optional*): `[…, T]`, the tokens that are penalised, if not all are; the token means'
            divisor stays |y|, and the floor is one for all of p(y).

    Returns:
        `torch.Tensor`: `[…]`.
    """
    mean_logps = sequence_logps(token_logps, mask, "mean")
    if penalty_type == "logprob":
        penalty = sequence_logps(token_logps, mask, "mean", counted)
    elif penalty_type == "unlikelihood":
        # a token of probability 1 would cost infinitely much
        penalty = sequence_logps(-torch.log((1 - token_logps.exp()).clamp(min=1e-5)), mask, "mean", counted)
    elif penalty_type == "npo":
        log_ratio = sequence_logps(token_logps - ref_token_logps, mask, "sum", counted)
        penalty = 2 / npo_beta * F.softplus(npo_beta * log_ratio)
    else:
        raise ValueError(f"penalty_type={penalty_type!r} is unknown. Use one of {', '.join(PENALTY_TYPES)}.")
    return penalty if floor is None else torch.where(mean_logps < floor, penalty.detach(), penalty)


class NEATParts(NamedTuple):
    """
    The candidates for which each part of the objective has a coefficient that is not 0 for every policy, and those
    that form a pair, `[groups, G]` each.
    """

    sft: torch.Tensor
    ranking: torch.Tensor
    penalty: torch.Tensor
    pairs: torch.Tensor


def neat_parts(rewards: torch.Tensor, ranking_loss_type: str = "hinge", skip_shared_prefix: bool = False) -> NEATParts:
    """
    Which candidates NEAT's parts train: the best one, every one with a better or a worse one beside it, the worst one;
    nobody in a group without two different rewards. The linear ranking counts a candidate up once for each worse one
    and down once for each better one, so that one with as many of both cancels; but not where shared prefixes are left
    out, which differ from pair to pair.

    Args:
        rewards (`torch.Tensor`): `[groups, G]`, NaN for a candidate without a score.
        ranking_loss_type (`str`): see [`ranking_loss`].
        skip_shared_prefix (`bool`): whether [`neat_loss`] is given `completion_ids`.
    """
    best, worst = one_of_each(rewards)
    signal = has_signal(rewards)[:, None]
    pairs = rewards.unsqueeze(2) < rewards.unsqueeze(1)
    above, below = pairs.sum(1), pairs.sum(2)
    paired = above + below > 0
    ranked = above != below if ranking_loss_type == "linear" and not skip_shared_prefix else paired
    return NEATParts(best & signal, ranked, worst & signal, paired)


def one_of_each(rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best and the worst candidate, `[groups, G]` each: one is true, none in a group without scores."""
    places = torch.arange(rewards.shape[1], device=rewards.device)
    scored = ~rewards.isnan().all(-1, keepdim=True)
    best, worst = (scored & (places == index[:, None]) for index in best_and_worst(rewards))
    return best, worst


def neat_plan(
    rewards: torch.Tensor,
    *,
    sft_weight: float = 1.0,
    ranking_weight: float = 1.0,
    penalty_weight: float = 0.1,
    ranking_loss_type: str = "hinge",
    penalty_type: str = "logprob",
    skip_shared_prefix: bool = False,
) -> Plan:
    """
    What [`neat_loss`] with the same options reads: the candidates of the parts that have a weight, and for `"npo"` the
    reference's log-probabilities of the worst.

    Args:
        rewards (`torch.Tensor`): `[groups, G]`, NaN for a candidate without a score.
    """
    parts = neat_parts(rewards, ranking_loss_type, skip_shared_prefix)
    trained = torch.zeros_like(parts.sft)
    for weight, candidates in (
        (sft_weight, parts.sft),
        (ranking_weight, parts.ranking),
        (penalty_weight, parts.penalty),
    ):
        if weight > 0:
            trained = trained | candidates
    reference = parts.penalty if penalty_type == "npo" and penalty_weight > 0 else None
    return Plan(trained, reference=reference)


class NEATLoss(NamedTuple):
    """NEAT's objective, its three parts before their weights, and what they were computed from, each `[groups]`."""

    loss: torch.Tensor
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
    sft_weight: float = 1.0,
    ranking_weight: float = 1.0,
    penalty_weight: float = 0.1,
    sft_reduction: str = "mean",
    ranking_loss_type: str = "hinge",
    ranking_margin: float = 0.0,
    penalty_type: str = "logprob",
    penalty_floor: float | None = None,
    ref_token_logps: torch.Tensor | None = None,
    npo_beta: float = 0.1,
    completion_ids: torch.Tensor | None = None,
) -> NEATLoss:
    """
    NEAT's objective (arXiv 2410.12194; the parts are our reconstruction) of each group:

        L = sft_weight · −p(b)  +  α · Σ_{i,j: r_i < r_j} max(0, margin + p_i − p_j)  +  β · p(w)

    with −ℓ(b) for `sft_reduction="sum"` and other forms of ranking and penalty by their types. Tied rewards form no
    pair; a group whose rewards are all missing or all tied yields zero in every part.

    Args:
        token_logps (`torch.Tensor`): `[groups, G, T]`.
        mask (`torch.Tensor`): `[groups, G, T]`.
        rewards (`torch.Tensor`): `[groups, G]`, NaN for a candidate without a score.
        sft_weight, ranking_weight, penalty_weight (`float`): 1, α and β of the paper. A part without a weight is
            computed to be logged, of the candidates that went through the model for another's sake.
        sft_reduction (`str`): `"mean"` for −p(best), `"sum"` for −ℓ(best).
        ranking_loss_type, ranking_margin: see [`ranking_loss`].
        penalty_type, penalty_floor, ref_token_logps, npo_beta: see [`penalty_loss`].

        completion_ids (`torch.Tensor`, *optional*): `[groups, G, T]`. Where they are given, what two candidates share
            at their beginning is left out of their pair: the ranking takes Σ_{t>c_ij} log π_t(y_i) / |y_i| for p_i,
            and the penalty on the worst counts the tokens behind what it shares with the best. Identical tokens in an
            identical context would be pushed up and down at once (GTPO, arXiv 2508.03772, which keeps the positive
            update of tokens at the same place). The divisor stays the whole |y|, so that the gradient of every other
            token is what it was.

    Returns:
        [`NEATLoss`]: tensors `[groups]`.
    """
    mean_logps = ranked_logps = sequence_logps(token_logps, mask, "mean")
    best, worst = best_and_worst(rewards)
    penalised = None
    if completion_ids is not None:
        shared = shared_prefixes(completion_ids, mask)
        beside = mask.unsqueeze(2)
        ranked_logps = sequence_logps(token_logps.unsqueeze(2), beside, "mean", behind_prefix(beside, shared))
        penalised = behind_prefix(_take(mask, worst), _take(_take(shared, worst), best))
    penalty = penalty_loss(
        _take(token_logps, worst),
        _take(mask, worst),
        penalty_type if penalty_weight > 0 else "logprob",
        penalty_floor,
        None if ref_token_logps is None else _take(ref_token_logps, worst),
        npo_beta,
        penalised,
    )
    signal = has_signal(rewards)
    sft = torch.where(signal, -_take(sequence_logps(token_logps, mask, sft_reduction), best), 0.0)
    ranking = ranking_loss(ranked_logps, rewards, ranking_loss_type, ranking_margin)
    penalty = torch.where(signal, penalty, 0.0)
    return NEATLoss(
        loss=sft_weight * sft + ranking_weight * ranking + penalty_weight * penalty,
        sft=sft,
        ranking=ranking,
        penalty=penalty,
        logp_best=_take(mean_logps, best).detach(),
        logp_worst=_take(mean_logps, worst).detach(),
    )
