"""
PLE's objective (arXiv 2408.02599), by equation number: pure functions of log-probabilities and rewards. No model, no
trainer.

Letters: a pair is a plain response y with reward s and a principle-guided one y' with reward s'; `T` tokens of the
longest response; ℓ(y) is a response's summed log-probability, p(y) its token mean, in nats and given the plain query.
"""

from typing import NamedTuple

import torch

from ...objectives import has_signal, sequence_logps


WEIGHT_RANGES = ("signed", "unit")


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
    """PLE's objective, its parts before their weights, the gap s' − s and whether the pair was ranked, `[pairs]`."""

    loss: torch.Tensor
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
    ranking_weight: float = 1.0,
    wsft_weight: float = 1.0,
    wsft_reduction: str = "sum",
    weight_range: str = "signed",
) -> PLELoss:
    """
    PLE's objective of each pair, L = L_rank + L_wsft (Eq. 6):

        L_rank = −(p(y') − p(y))            where s' − s > τ (Eq. 3)
        L_wsft = −(w·ℓ(y) + w'·ℓ(y'))       elsewhere (Eq. 4), with the weights of [`ple_weights`] (Eq. 5)

    A pair whose rewards are tied or missing yields zero in both parts.

    Args:
        token_logps (`torch.Tensor`): `[pairs, 2, T]`, plain first.
        mask (`torch.Tensor`): `[pairs, 2, T]`.
        rewards (`torch.Tensor`): `[pairs, 2]`, NaN for a response without a score.
        threshold (`torch.Tensor` or `float`): τ, in the reward's units; a number or `[pairs]`.
        ranking_weight, wsft_weight (`float`): weights of L_rank and L_wsft, 1 in the paper; 0 is its ablation.
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
    ranking = torch.where(ranked, mean_logps[:, 0] - mean_logps[:, 1], 0.0)
    wsft = torch.where(signal & ~ranked, -imitated, 0.0)
    return PLELoss(ranking_weight * ranking + wsft_weight * wsft, ranking, wsft, gap, ranked)


def ple_trained(
    rewards: torch.Tensor,
    threshold: torch.Tensor | float,
    *,
    ranking_weight: float = 1.0,
    wsft_weight: float = 1.0,
    weight_range: str = "signed",
) -> torch.Tensor:
    """
    Which responses of a pair have a coefficient other than 0 in PLE's objective (Eq. 3, 4), `[pairs, 2]`: both of a
    pair that is ranked; of one that is imitated, those whose weight is not 0; none of a tied or an unscored pair.

    Args:
        rewards (`torch.Tensor`): `[pairs, 2]`, NaN where a score is missing.
        threshold (`torch.Tensor` or `float`): τ, a number or `[pairs]`.
        ranking_weight, wsft_weight (`float`): the parts' weights.
        weight_range (`str`): see [`ple_weights`].
    """
    signal = has_signal(rewards)
    ranked = signal & (rewards[:, 1] - rewards[:, 0] > threshold)
    weighted = torch.nan_to_num(ple_weights(rewards, weight_range)) != 0
    by_ranking = ranked[:, None] & (ranking_weight > 0)
    return by_ranking | ((signal & ~ranked)[:, None] & weighted & (wsft_weight > 0))
