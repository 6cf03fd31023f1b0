"""Log-probabilities of guided candidates as they were sampled, and the weights that `tapered` makes of them."""

from collections.abc import Callable, Sequence

import torch

from ...groups import Candidate, pad_and_stack
from ...objectives import taper_weights, weight_gradients


def guided_token_logps(
    batch: dict[str, torch.Tensor],
    candidates: Sequence[Candidate],
    guided_ids: dict[int, list[int]],
    chunks: int,
    score: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """
    log μ(y_t|[g,x], y_<t) of a round's candidates, `[groups, G, T]`; −inf for those without a guide.

    Args:
        batch (`dict[str, torch.Tensor]`): `completion_ids` and `completion_mask` `[groups, G, T]`.
        candidates (`Sequence[Candidate]`): the G of each group.
        guided_ids (`dict[int, list[int]]`): by row, `G * group + candidate`, the tokens of the query that it was
            sampled from.
        chunks (`int`): in how many parts the groups are scored, so that a part is as large as a micro-batch.
        score (`Callable`): takes a batch of groups with the candidates to run, `scored` `[n, k]`, and them again, and
            gives their log-probabilities `[n, k, T]`.
    """
    mask = batch["completion_mask"]
    logps = torch.full(mask.shape, -torch.inf, device=mask.device)
    guides = dict.fromkeys(candidate.guide for candidate in candidates if candidate.guide is not None)
    for groups in torch.arange(len(mask)).chunk(chunks):
        for guide in guides:
            # candidates under one guide share their query, as a group of their own
            places = [place for place, candidate in enumerate(candidates) if candidate.guide == guide]
            queries = [torch.tensor([guided_ids[len(candidates) * group + places[0]]]) for group in groups.tolist()]
            at = groups[:, None], torch.tensor(places)
            part = {
                "prompt_ids": pad_and_stack(queries, "left").to(mask.device),
                "prompt_mask": pad_and_stack([torch.ones_like(ids) for ids in queries], "left").to(mask.device),
                "completion_ids": batch["completion_ids"][at],
                "completion_mask": mask[at],
            }
            part["scored"] = part["completion_mask"].any(-1)
            logps[at] = score(part, part["scored"]).to(logps.dtype)
    return logps


def taper(token_logps: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    The log-probabilities of a micro-batch with each token's gradient weighted by its `guided_token_logps`, and what is
    logged of that: the weights of the guided candidates that went through the model, NaN elsewhere.
    """
    weights = taper_weights(token_logps, batch["guided_token_logps"])
    guided = (batch["completion_mask"] != 0) & batch["scored"][..., None] & (batch["guided_token_logps"] > -torch.inf)
    return weight_gradients(token_logps, weights), {"taper_weight": weights.masked_fill(~guided, torch.nan)}
