"""The PLE threshold τ as a pure function of the generation round."""

import math

import torch


THRESHOLD_SCHEDULES = ("geometric", "constant", "linear", "cosine", "quantile")


def threshold(
    schedule: str, generation_round: int, init: float, decay: float, total_rounds: int, gaps: torch.Tensor
) -> float:
    """
    Threshold τ_t of a generation round, in the reward's own units.

    - `"geometric"`: τ_t = init · decay^t, i.e. τ_t = α·τ_{t−1} (PLE Eq. 7). That the first round (t = 0) uses τ₀
      itself is our reading.
    - `"constant"`: init.
    - `"linear"`: init · (1 − t/T); `"cosine"`: init · (1 + cos(πt/T))/2, with T = `total_rounds`. Both ours.
    - `"quantile"`: the q-quantile of the round's gaps, q = init · decay^t: the share of pairs that is imitated by
      weight rather than ranked. Ours; free of the reward's units.

    Args:
        schedule (`str`): one of the names above.
        generation_round (`int`): t, counted from 0.
        init (`float`): τ₀ (for `"quantile"`, the first quantile level, in [0, 1]).
        decay (`float`): α, for `"geometric"` and `"quantile"`.
        total_rounds (`int`): T, the rounds of the whole run, for `"linear"` and `"cosine"`.
        gaps (`torch.Tensor`): the round's gaps s' − s over all processes, NaN where a pair has no score; only read by
            `"quantile"`, which returns 0 if there is none.

    Raises:
        ValueError: on an unknown schedule.
    """
    progress = min(generation_round / max(total_rounds, 1), 1.0)
    if schedule == "geometric":
        return init * decay**generation_round
    if schedule == "constant":
        return init
    if schedule == "linear":
        return init * (1 - progress)
    if schedule == "cosine":
        return init * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "quantile":
        scored = gaps[~torch.isnan(gaps)]
        return torch.quantile(scored.float(), init * decay**generation_round).item() if len(scored) else 0.0
    raise ValueError(f"threshold_schedule={schedule!r} is unknown. Use one of {', '.join(THRESHOLD_SCHEDULES)}.")
