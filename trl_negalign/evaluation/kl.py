"""KL divergence of a policy from a reference model, from the policy's own samples."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..fingerprints import digest
from .cache import by_length, cached_table
from .perplexity import pair_logits


@torch.no_grad()
def completion_kl(
    model: PreTrainedModel,
    pairs: list[tuple[list[int], list[int]]],
    reference: PreTrainedModel | None = None,
    batch_size: int = 16,
) -> pd.DataFrame:
    """
    KL(π‖π₀) = E_{y~π} Σ_t KL(π(·|x, y_<t) ‖ π₀(·|x, y_<t)), a sample y at a time. The mean of `kl` over completions
    that π sampled at temperature 1 from its whole distribution is an unbiased estimate in nats per completion, as is
    that of `logp - reference_logp`, which has the larger variance: the sum over the vocabulary takes the chance of the
    last token out (arXiv 2504.10637).

    Args:
        model ([`~transformers.PreTrainedModel`]): the policy π.
        pairs (`list`): tokens of each query x and of the completion y that π sampled for it, the end of sequence
            included if it was sampled.
        reference ([`~transformers.PreTrainedModel`], *optional*): π₀, with the same vocabulary. Left out, a PEFT
            policy without its adapter.
        batch_size (`int`): completions of like length that are scored at a time.

    Returns:
        `pandas.DataFrame`: a row a pair, `kl` and `logp`, `reference_logp` (summed over the completion's tokens, nats)
        and `tokens`.

    Raises:
        ValueError: if there is no reference, or one of another vocabulary.
    """
    if reference is None and not hasattr(model, "disable_adapter"):
        raise ValueError("reference is missing, and the policy has no adapter that could be left out. Pass a model.")
    if reference is not None and reference.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"reference has a vocabulary of {reference.config.vocab_size} and the policy one of "
            f"{model.config.vocab_size}. A KL divergence needs the same tokens: choose the model it was trained from."
        )
    other = model if reference is None else reference
    without_adapter = model.disable_adapter if reference is None else nullcontext
    training = model.training, other.training
    model.eval(), other.eval()
    rows: dict[int, tuple] = {}
    for batch in by_length({index: len(x) + len(y) for index, (x, y) in enumerate(pairs)}, batch_size):
        chosen = [pairs[index] for index in batch]
        policy = pair_logits(model, chosen)
        with without_adapter():
            base = pair_logits(other, chosen)
        for row, index in enumerate(batch):
            rows[index] = _of_one(policy, base, row, *pairs[index])
    model.train(training[0]), other.train(training[1])
    columns = ("kl", "logp", "reference_logp", "tokens")
    return pd.DataFrame([rows[index] for index in range(len(pairs))], columns=columns)


def _of_one(policy: Tensor, base: Tensor, row: int, query: list[int], response: list[int]) -> tuple:
    """One row at a time: a batch of float32 log-probabilities over a large vocabulary takes much memory."""
    places = slice(len(query) - 1, len(query) + len(response) - 1)
    logps, reference = (one[row, places].float().log_softmax(-1) for one in (policy, base))
    tokens = torch.tensor(response, dtype=torch.long, device=logps.device)[:, None]
    divergence = (logps.exp() * (logps - reference)).sum()
    return (
        divergence.item(),
        logps.gather(1, tokens).sum().item(),
        reference.gather(1, tokens).sum().item(),
        len(tokens),
    )


def completion_kl_cached(
    model: PreTrainedModel,
    pairs: list[tuple[list[int], list[int]]],
    reference: PreTrainedModel,
    folder: Path,
    *,
    model_ids: tuple[str, str],
    batch_size: int = 16,
    description: str = "KL",
) -> pd.DataFrame:
    """
    What [`completion_kl`] gives, each completion's numbers computed once and kept in `folder`.

    Args:
        model, pairs, reference, batch_size: see [`completion_kl`].
        folder (`Path`): where numbers are kept.
        model_ids (`tuple[str, str]`): a different one for each policy and reference that give other numbers, see
            [`model_parts`].
        description (`str`): label of the progress bar.
    """

    def compute(missing: list[int]) -> Iterator[tuple[list[int], dict[str, list]]]:
        for batch in by_length({index: sum(map(len, pairs[index])) for index in missing}, batch_size):
            table = completion_kl(model, [pairs[index] for index in batch], reference, batch_size)
            yield batch, table.to_dict("list")

    keys = [digest(*pair) for pair in pairs]
    return cached_table(folder / f"kl-{digest(*model_ids)}", keys, compute, description)


def kl_statistics(table: pd.DataFrame, queries: list) -> dict:
    """
    Means of what [`completion_kl`] gave, with standard errors over the queries: samples of one query are not
    independent, and are averaged first.

    Args:
        table (`pandas.DataFrame`): from [`completion_kl`].
        queries (`list`): which query each row belongs to.

    Returns:
        `dict`: `mean` and `standard_error` in nats per completion (NaN below two queries), `per_token` (Σ kl / Σ
        tokens) and `per_token_standard_error`, `log_ratio` and `log_ratio_standard_error` (the mean of
        log π(y|x) − log π₀(y|x), the noisier estimate of the same), `count` of completions.
    """
    means = table.assign(log_ratio=table["logp"] - table["reference_logp"]).groupby(np.asarray(queries)).mean()
    per_token = means["kl"].sum() / means["tokens"].sum() if means["tokens"].sum() else math.nan
    # a ratio of two means, by the first order of its expansion
    residuals = (means["kl"] - per_token * means["tokens"]) / means["tokens"].mean()
    errors = {name: _standard_error(values) for name, values in means.items()}
    return {
        "mean": means["kl"].mean().item(),
        "standard_error": errors["kl"],
        "per_token": float(per_token),
        "per_token_standard_error": _standard_error(residuals),
        "log_ratio": means["log_ratio"].mean().item(),
        "log_ratio_standard_error": errors["log_ratio"],
        "count": len(table),
    }


def _standard_error(values) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan
