"""
Objectives: pure functions of log-probabilities and rewards, `[groups, G]` or `[pairs, 2]`. No model, no trainer.

Log-probabilities are in nats and conditioned on the plain query. A reward of NaN takes its candidate out of the group.
ℓ(y) is a response's summed log-probability and p(y) = ℓ(y)/|y| its token mean. NEAT's paper prints no formula for its
parts, so what stands here for NEAT is our reconstruction; PLE's equations are the paper's, by number.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


RANKING_LOSS_TYPES = ("hinge", "linear", "logsigmoid")
PENALTY_TYPES = ("logprob", "unlikelihood", "npo")
REDUCTIONS = ("mean", "sum")
AVERAGES = ("groups", "signal")
WEIGHT_RANGES = ("signed", "unit")


def sequence_logps(
    token_logps: torch.Tensor, mask: torch.Tensor, reduction: str, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """
    ℓ(y) (`reduction="sum"`, nats) or p(y) (`"mean"`, nats per token) of each response.

    Args:
        token_logps (`torch.Tensor`): `[…, T]` log-probabilities of the response tokens.
        mask (`torch.Tensor`): `[…, T]`, 1 for the response's tokens (the end-of-sequence token included).
        reduction (`str`): `"sum"` or `"mean"`.
        counted (`torch.Tensor`, *optional*): `[…, T]`, the response's tokens that are summed, if not all are. The
            mean's divisor stays |y|.

    Returns:
        `torch.Tensor`: `[…]`; 0 for a response without tokens.
    """
    total = token_logps.masked_fill((mask if counted is None else counted) == 0, 0.0).sum(-1)
    return total if reduction == "sum" else total / mask.sum(-1).clamp(min=1)


def has_signal(rewards: torch.Tensor) -> torch.Tensor:
    """Which groups teach anything: `[groups]`, true where at least two scored candidates have different rewards."""
    scored = ~torch.isnan(rewards)
    highest = rewards.masked_fill(~scored, -torch.inf).amax(-1)
    lowest = rewards.masked_fill(~scored, torch.inf).amin(-1)
    return highest > lowest


def best_and_worst(rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices `[groups]` of the highest and of the lowest reward of each group; the first one on ties."""
    unscored = torch.isnan(rewards)
    return rewards.masked_fill(unscored, -torch.inf).argmax(-1), rewards.masked_fill(unscored, torch.inf).argmin(-1)


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[g, index[g]]` for every group g."""
    return values[torch.arange(len(index), device=values.device), index]


def taper_weights(token_logps: torch.Tensor, guided_token_logps: torch.Tensor) -> torch.Tensor:
    """
    w_t = sg[min(1, π(y_t|x, y_<t) / μ(y_t|[g,x], y_<t))], `[…, T]` as both arguments: how far the policy, given the
    plain query, would have written what it wrote under a guide.

    The truncation of TOPR (arXiv 2503.14286, "tapered"), which takes the ratio of whole responses and tapers bad ones
    only. The use on guides, token by token and for all candidates, is ours: the ratio of a response of n tokens that a
    guide called for vanishes with n.

    Args:
        token_logps (`torch.Tensor`): log π(y_t|x, y_<t) of the policy that is trained.
        guided_token_logps (`torch.Tensor`): log μ(y_t|[g,x], y_<t) of the policy that sampled, −inf for a weight of 1.
    """
    return (token_logps.detach() - guided_token_logps).clamp(max=0.0).exp()


def weight_gradients(token_logps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """w·ℓ + (1 − w)·sg[ℓ] for each token: the value of ℓ, and w times its gradient."""
    constant = token_logps.detach()
    return constant + weights * (token_logps - constant)


def shared_prefixes(completion_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    How many tokens at their beginning every two candidates of a group have in common, `[groups, G, G]`, given tokens
    and mask `[groups, G, T]`. These stand in the same context in both.
    """
    same = completion_ids.unsqueeze(2) == completion_ids.unsqueeze(1)
    both = (mask != 0).unsqueeze(2) & (mask != 0).unsqueeze(1)
    return (same & both).cumprod(-1).sum(-1)


def behind_prefix(mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The tokens of `mask`, `[…, T]`, that come behind the first `lengths`, `[…]`: true or false."""
    return (mask != 0) & (torch.arange(mask.shape[-1], device=mask.device) >= lengths.unsqueeze(-1))


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


def ranking_accuracy(mean_logps: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Share of a group's pairs that the policy orders as the rewards do: `[groups]`, NaN where there is no pair."""
    pairs = rewards.unsqueeze(2) < rewards.unsqueeze(1)
    ordered = mean_logps.unsqueeze(2) < mean_logps.unsqueeze(1)
    return (pairs & ordered).sum((1, 2)) / pairs.sum((1, 2))


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
    completion_ids: torch.Tensor | None = None,
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
        penalty_type,
        penalty_floor,
        None if ref_token_logps is None else _take(ref_token_logps, worst),
        npo_beta,
        penalised,
    )
    signal = has_signal(rewards)
    return NEATLoss(
        sft=torch.where(signal, -_take(sequence_logps(token_logps, mask, sft_reduction), best), 0.0),
        ranking=ranking_loss(ranked_logps, rewards, ranking_loss_type, ranking_margin),
        penalty=torch.where(signal, penalty, 0.0),
        logp_best=_take(mean_logps, best).detach(),
        logp_worst=_take(mean_logps, worst).detach(),
    )


def ple_weights(rewards: torch.Tensor, weight_range: str = "signed") -> torch.Tensor:
    """
    Weights of PLE's weighted imitation, `[pairs, 2]`.

    `"signed"` is PLE Eq. 5, w = 2e^s/(e^s + e^s') − 1 and w' with s and s' swapped, computed as ±tanh((s − s')/2) so
    that nothing overflows. `"unit"` is σ(s − s') and σ(s' − s), which imitates both responses (ours).

    Args:
        rewards (`torch.Tensor`): `[pairs, 2]`, the plain response's s and the guided one's s'.
        weight_range (`str`): `"signed"` or `"unit"`.
    """
    lead = rewards - rewards.flip(-1)
    if weight_range == "signed":
        return torch.tanh(lead / 2)
    if weight_range == "unit":
        return torch.sigmoid(lead)
    raise ValueError(f"weight_range={weight_range!r} is unknown. Use one of {', '.join(WEIGHT_RANGES)}.")


class PLELoss(NamedTuple):
    """PLE's two parts, the gap s' − s and whether the pair was ranked, each `[pairs]`, before the parts' weights."""

    ranking: torch.Tensor
    wsft: torch.Tensor
    gap: torch.Tensor
    ranked: torch.Tensor


def ple_loss(
    token_logps: torch.Tensor,
    mask: torch.Tensor,
    rewards: torch.Tensor,
    threshold: torch.Tensor | float,
    *,
    wsft_reduction: str = "sum",
    weight_range: str = "signed",
) -> PLELoss:
    """
    The parts of PLE's objective (arXiv 2408.02599, Eq. 3, 4 and 6) for pairs of a plain response y and a
    principle-guided one y'.

    Where the gap s' − s exceeds the threshold the pair is ranked, L_rank = −(p(y') − p(y)) (Eq. 3); elsewhere it is
    imitated by weight, L_wsft = −(w·ℓ(y) + w'·ℓ(y')) (Eq. 4) with the weights of [`ple_weights`]. A pair whose
    rewards are tied or missing yields zero in both parts.

    Args:
        token_logps (`torch.Tensor`): `[pairs, 2, T]`, plain first.
        mask (`torch.Tensor`): `[pairs, 2, T]`.
        rewards (`torch.Tensor`): `[pairs, 2]`, NaN for a response without a score.
        threshold (`torch.Tensor` or `float`): τ, in the reward's units; a number or `[pairs]`.
        wsft_reduction (`str`): `"sum"` as printed, or `"mean"` to use p instead of ℓ in Eq. 4.
        weight_range (`str`): see [`ple_weights`].

    Returns:
        [`PLELoss`]: tensors `[pairs]`.
    """
    mean_logps = sequence_logps(token_logps, mask, "mean")
    signal = has_signal(rewards)
    gap = rewards[:, 1] - rewards[:, 0]
    ranked = signal & (gap > threshold)
    weights = torch.nan_to_num(ple_weights(rewards, weight_range))
    imitated = (weights * sequence_logps(token_logps, mask, wsft_reduction)).sum(-1)
    return PLELoss(
        ranking=torch.where(ranked, mean_logps[:, 0] - mean_logps[:, 1], 0.0),
        wsft=torch.where(signal & ~ranked, -imitated, 0.0),
        gap=gap,
        ranked=ranked,
    )


def ple_taught(
    rewards: torch.Tensor,
    threshold: torch.Tensor,
    ranking_weight: float = 1.0,
    wsft_weight: float = 1.0,
    weight_range: str = "signed",
) -> torch.Tensor:
    """
    Which responses of a pair have a coefficient other than 0 in PLE's objective (Eq. 3, 4), `[pairs, 2]`: both of a
    pair that is ranked; of one that is imitated, those whose weight is not 0; none of a tied or an unscored pair.

    Args:
        rewards (`torch.Tensor`): `[pairs, 2]`, NaN where a score is missing.
        threshold (`torch.Tensor`): `[pairs]`, τ.
        ranking_weight, wsft_weight (`float`): the parts' weights.
        weight_range (`str`): see [`ple_weights`].
    """
    signal = has_signal(rewards)
    ranked = signal & (rewards[:, 1] - rewards[:, 0] > threshold)
    weighted = torch.nan_to_num(ple_weights(rewards, weight_range)) != 0
    by_ranking = ranked[:, None] & (ranking_weight > 0)
    return by_ranking | ((signal & ~ranked)[:, None] & weighted & (wsft_weight > 0))


def kl_penalty(token_logps: torch.Tensor, ref_token_logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Token mean of GRPO's estimator of KL(π‖π_ref), exp(d) − d − 1 with d = log π_ref − log π: `[…]` from `[…, T]`.

    It is unbiased where the tokens are sampled from π(·|x). On guided and dataset responses, which are not, it is a
    non-negative pull towards the reference that vanishes at π = π_ref.
    """
    log_ratio = (ref_token_logps - token_logps).masked_fill(mask == 0, 0.0)
    return sequence_logps(torch.expm1(log_ratio) - log_ratio, mask, "mean")
