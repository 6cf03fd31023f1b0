"""
REINFORCE with weights by sign, by equation number: W-REINFORCE, NSR and PSR (arXiv 2506.01347), TOPR (arXiv
2503.14286) and NFT (arXiv 2505.18116) as pure functions of log-probabilities and rewards. No model, no trainer.

Letters: `G` answers of a group, `T` tokens of the longest; ρ_t is the policy's probability of a token over the one at
the round's start, r̂ the share of right answers in a group. An answer is right where its reward is above the threshold.
"""

import torch

from ...objectives import has_signal, sequence_logps


BASELINES = ("none", "group")
RATIOS = ("clipped", "tapered", "nft", "none")
NORMALIZATIONS = ("all", "kept")

# of NFT's published code: the rate and the log-ratio stay where nothing overflows
RATE_LIMITS = 0.02, 0.98
LARGEST_LOG_RATIO = 10.0


def success_rate(rewards: torch.Tensor, threshold: float) -> torch.Tensor:
    """r̂ of each group, `[groups, 1]`: the share of its scored answers that are right; NaN where none has a score."""
    return (rewards > threshold).sum(-1, keepdim=True) / (~rewards.isnan()).sum(-1, keepdim=True)


def sign_weights(
    rewards: torch.Tensor,
    *,
    success_threshold: float = 0.5,
    positive_weight: float = 0.1,
    negative_weight: float = 1.0,
    baseline: str = "none",
    shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The weight c of each answer's log-probability, `[groups, G]`; 0 for one without a score.

    `baseline="none"`: λ for a right answer and −w for a wrong one, the rewards ±1 of W-REINFORCE (Eq. 9) with λ =
    `positive_weight` and w = `negative_weight`. λ = 0 is NSR (Eq. 4), w = 0 PSR (Eq. 3).

    `baseline="group"`: A = r − mean of the group's scored rewards, times `positive_weight` where it is positive and
    `negative_weight` where it is negative; 0 where all rewards tie.

    Args:
        rewards (`torch.Tensor`): `[groups, G]`, NaN for an answer without a score.
        success_threshold (`float`): an answer is right where its reward is above it.
        positive_weight, negative_weight (`float`): factors by sign.
        baseline (`str`): `"none"` or `"group"`.
        shares (`torch.Tensor`, *optional*): `[groups, G]`, what counts of a right answer's reward, see
            [`unlikeliness_shares`].
    """
    right = rewards > success_threshold
    values = rewards if baseline == "group" else 2 * right.to(rewards.dtype) - 1
    if shares is not None:
        values = torch.where(right, values * shares, values)
    if baseline == "group":
        centred = values - values.nanmean(-1, keepdim=True)
        values = torch.where(has_signal(rewards)[:, None], centred, 0.0)
    weights = torch.where(values > 0, positive_weight * values, negative_weight * values)
    return weights.masked_fill(rewards.isnan(), 0.0)


def unlikeliness_shares(
    old_token_logps: torch.Tensor, mask: torch.Tensor, ranked: torch.Tensor, unlikeliness: float
) -> torch.Tensor:
    """
    1 − β(G − rank)/G, `[groups, G]`: what counts of a right answer's reward, less the likelier the answer was (arXiv
    2506.02355). Rank 0 is the answer of the highest ℓ at the round's start; equals share a rank (ours).

    Args:
        old_token_logps, mask (`torch.Tensor`): `[groups, G, T]`.
        ranked (`torch.Tensor`): `[groups, G]`, true for the answers that are ranked.
        unlikeliness (`float`): β, 0.25 in the paper.
    """
    logps = sequence_logps(old_token_logps, mask, "sum").masked_fill(~ranked, -torch.inf)
    ranks = (logps.unsqueeze(1) > logps.unsqueeze(2)).sum(-1)
    size = logps.shape[-1]
    return 1 - unlikeliness * (size - ranks) / size


def log_ratios(token_logps: torch.Tensor, mask: torch.Tensor, old_token_logps: torch.Tensor | None) -> torch.Tensor:
    """log ρ_t, `[groups, G, T]`, 0 behind the end; without `old_token_logps`, 0 in value with log π's gradient."""
    old = token_logps.detach() if old_token_logps is None else old_token_logps
    return (token_logps - old).masked_fill(mask == 0, 0.0)


def taper_of_answer(log_ratio: torch.Tensor) -> torch.Tensor:
    """TOPR's weight sg[min(1, π(y)/μ(y))] of each whole answer, `[groups, G]`, from log ρ_t, `[groups, G, T]`."""
    return log_ratio.sum(-1).detach().clamp(max=0.0).exp()


def weighted_reinforce_loss(
    token_logps: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor,
    old_token_logps: torch.Tensor | None = None,
    *,
    ratio: str = "clipped",
    epsilon: float | None = 0.2,
    reduction: str = "mean",
) -> torch.Tensor:
    """
    Minus the gain of each answer, `[groups, G]`, summed or averaged over its tokens, whose gain is

        min(c·ρ_t, c·clip(ρ_t, 1 ± ε))                      "clipped" (2506.01347, App. C.1)
        c·log π_t, for c < 0 times sg[min(1, π(y)/μ(y))]    "tapered" (TOPR), μ being the policy at the round's start
        c·log π_t                                           "none"

    Where the policy is still the one at the round's start all three have the same gradient.

    Args:
        token_logps (`torch.Tensor`): `[groups, G, T]`, nats.
        mask (`torch.Tensor`): `[groups, G, T]`, 1 for tokens.
        weights (`torch.Tensor`): c, `[groups, G]`, see [`sign_weights`].
        old_token_logps (`torch.Tensor`, *optional*): `[groups, G, T]`, at the round's start, if the policy has left
            it. `"none"` reads none.
        ratio (`str`): as above.
        epsilon (`float`): ε of `"clipped"`.
        reduction (`str`): `"mean"` (1/|y|) or `"sum"`.
    """
    c = weights.unsqueeze(-1)
    if ratio == "clipped":
        rho = log_ratios(token_logps, mask, old_token_logps).exp()
        gain = torch.minimum(c * rho, c * rho.clamp(1 - epsilon, 1 + epsilon))
    elif ratio == "tapered":
        taper = taper_of_answer(log_ratios(token_logps, mask, old_token_logps)).unsqueeze(-1)
        gain = torch.where(c < 0, taper, 1.0) * c * token_logps
    elif ratio == "none":
        gain = c * token_logps
    else:
        raise ValueError(f"ratio={ratio!r} is unknown. Use one of 'clipped', 'tapered', 'none'.")
    return -sequence_logps(gain, mask, reduction)


def nft_weights(
    rewards: torch.Tensor,
    *,
    success_threshold: float = 0.5,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
) -> torch.Tensor:
    """
    The weight of each answer's log-probability in NFT's gradient at the round's start, `[groups, G]`: 1 − r̂ for a
    right answer and −r̂ for a wrong one, which is Dr. GRPO's advantage r − r̂, times the factors by sign. 0 for one
    without a score, and in groups without both kinds.
    """
    rate = success_rate(rewards, success_threshold)
    weights = torch.where(rewards > success_threshold, positive_weight * (1 - rate), -negative_weight * rate)
    return weights.masked_fill(rewards.isnan() | (rate <= 0) | (rate >= 1), 0.0)


def nft_loss(
    token_logps: torch.Tensor,
    mask: torch.Tensor,
    rewards: torch.Tensor,
    old_token_logps: torch.Tensor | None = None,
    *,
    success_threshold: float = 0.5,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
    epsilon: float = 1.0,
) -> torch.Tensor:
    """
    NFT's loss of each answer, `[groups, G]`, summed over its tokens:

        −(1 − r̂)·log ρ_t                                    of a right answer
        −(1 − r̂)·log max_v((1 − r̂ρ_t)/(1 − r̂), ε)          of a wrong one, max_v(x, ε) = sg[max(x, ε) − x] + x

    with ω = 1 − r̂; 0 in groups without both kinds. As in the published code, r̂ is kept in [0.02, 0.98] and log ρ_t
    below 10.

    Args:
        token_logps, mask (`torch.Tensor`): `[groups, G, T]`.
        rewards (`torch.Tensor`): `[groups, G]`, NaN for an answer without a score.
        old_token_logps (`torch.Tensor`, *optional*): `[groups, G, T]`, at the round's start, if the policy has left
            it.
        success_threshold (`float`): an answer is right where its reward is above it.
        positive_weight, negative_weight (`float`): factors by sign, 1 in the paper. `negative_weight=0` is RFT.
        epsilon (`float`): ε, 1 in the paper.
    """
    right = (rewards > success_threshold).unsqueeze(-1)
    rate = success_rate(rewards, success_threshold).nan_to_num().clamp(*RATE_LIMITS)
    log_ratio = log_ratios(token_logps, mask, old_token_logps).clamp(max=LARGEST_LOG_RATIO)
    share = (1 - rate[..., None] * log_ratio.exp()) / (1 - rate[..., None])
    share = share + (share.clamp(min=epsilon) - share).detach()
    gain = torch.where(right, positive_weight * log_ratio, negative_weight * share.log())
    factors = {"positive_weight": positive_weight, "negative_weight": negative_weight}
    taught = nft_weights(rewards, success_threshold=success_threshold, **factors) != 0
    return torch.where(taught, -(1 - rate) * sequence_logps(gain, mask, "sum"), 0.0)
