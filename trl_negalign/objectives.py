"""
What the methods' objectives share: pure functions of log-probabilities and rewards, `[groups, G]` or `[pairs, 2]`. No
model, no trainer.

Log-probabilities are in nats and conditioned on the plain query. A reward of NaN takes its candidate out of the group.
ℓ(y) is a response's summed log-probability and p(y) = ℓ(y)/|y| its token mean.
"""

import torch


REDUCTIONS = ("mean", "sum")


def sequence_logps(token_logps: torch.Tensor, mask: torch.Tensor, reduction: str) -> torch.Tensor:
    """
    ℓ(y) (`reduction="sum"`, nats) or p(y) (`"mean"`, nats per token) of each response.

    Args:
        token_logps (`torch.Tensor`): `[…, T]` log-probabilities of the response tokens.
        mask (`torch.Tensor`): `[…, T]`, 1 for the response's tokens (the end-of-sequence token included).
        reduction (`str`): `"sum"` or `"mean"`.

    Returns:
        `torch.Tensor`: `[…]`; 0 for a response without tokens.
    """
    total = token_logps.masked_fill(mask == 0, 0.0).sum(-1)
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


def where_scored(values: torch.Tensor, reads: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """
    Values to log, `[groups]`: NaN where one of the candidates that they are computed from did not go through the
    model, or where there is none.

    Args:
        values (`torch.Tensor`): `[groups]`.
        reads (`torch.Tensor`): `[groups, G]`, the candidates that each value is computed from.
        scored (`torch.Tensor`): `[groups, G]`, the candidates that went through the model.
    """
    return values.detach().masked_fill((reads & ~scored).any(-1) | ~reads.any(-1), torch.nan)


def ranking_accuracy(mean_logps: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Share of a group's pairs that the policy orders as the rewards do: `[groups]`, NaN where there is no pair."""
    pairs = rewards.unsqueeze(2) < rewards.unsqueeze(1)
    ordered = mean_logps.unsqueeze(2) < mean_logps.unsqueeze(1)
    return (pairs & ordered).sum((1, 2)) / pairs.sum((1, 2))


def kl_penalty(token_logps: torch.Tensor, ref_token_logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Token mean of GRPO's estimator of KL(π‖π_ref), exp(d) − d − 1 with d = log π_ref − log π: `[…]` from `[…, T]`.

    It is unbiased where the tokens are sampled from π(·|x). On guided and dataset responses, which are not, it is a
    non-negative pull towards the reference that vanishes at π = π_ref.
    """
    log_ratio = (ref_token_logps - token_logps).masked_fill(mask == 0, 0.0)
    return sequence_logps(torch.expm1(log_ratio) - log_ratio, mask, "mean")
