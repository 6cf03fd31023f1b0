"""
What the methods' objectives share: pure functions of log-probabilities and rewards, `[groups, G]` or `[pairs, 2]`. No
model, no trainer.

Log-probabilities are in nats and conditioned on the plain query. A reward of NaN takes its candidate out of the group.
ℓ(y) is a response's summed log-probability and p(y) = ℓ(y)/|y| its token mean.
"""

import torch


REDUCTIONS = ("mean", "sum")
AVERAGES = ("groups", "signal")


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
