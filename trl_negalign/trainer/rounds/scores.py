"""The rewards of a generation round, `[rows, functions]` over all processes: checked and put together."""

from collections.abc import Callable, Sequence

import torch


def refuse_infinite(rewards_per_func: torch.Tensor, names: Sequence[str], queries: Callable[[], list]) -> None:
    """Raise a `ValueError` on an infinite reward, naming its function and its query, of `queries()` of all rows."""
    infinite = torch.isinf(rewards_per_func).nonzero()
    if len(infinite):
        row, func = infinite[0].tolist()
        raise ValueError(
            f"The reward function {names[func]!r} returned {rewards_per_func[row, func].item()} for the query "
            f"{queries()[row]!r}. Return a finite number, or None where there is no score."
        )


def combine(rewards_per_func: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum over functions, those without a score left out: `[rows]`, NaN where none gave one."""
    rewards = (rewards_per_func * weights.to(rewards_per_func.device)).nansum(dim=1)
    return rewards.masked_fill(torch.isnan(rewards_per_func).all(dim=1), torch.nan)


def means_by_kind(rewards: torch.Tensor, kinds: Sequence[str]) -> dict[str, float]:
    """Mean reward of each kind of candidate, in the order they come; NaN where none was scored."""
    of_kind = {kind: [k == kind for k in kinds] for kind in dict.fromkeys(kinds)}
    return {kind: rewards[torch.tensor(at, device=rewards.device)].nanmean().item() for kind, at in of_kind.items()}
