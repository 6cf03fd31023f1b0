"""Perplexity of reference responses given their queries."""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..fingerprints import digest, tokenizer_fingerprint
from .cache import by_length, cached_table
from .queries import Queries


def perplexity(nlls: list[float], tokens: list[int]) -> float:
    """
    exp(Σ nll / Σ tokens): exp of the mean negative log-likelihood of a reference token given the query and the tokens
    before it. Every token counts the same, whatever its response's length; query tokens do not count.

    Args:
        nlls (`list[float]`): summed negative log-likelihood of each response, nats.
        tokens (`list[int]`): tokens of each response.

    Returns:
        `float`: NaN without any token.
    """
    return math.exp(math.fsum(nlls) / sum(tokens)) if sum(tokens) else math.nan


def pair_logits(model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Logits of each query with its response behind it, `[pairs, longest, vocabulary]`, in one forward pass."""
    longest = max(len(query) + len(response) for query, response in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (query, response) in enumerate(pairs):
        # padded on the right, so that positions are those of a sequence on its own in every model
        ids[row, : len(query) + len(response)] = torch.tensor(query + response)
        mask[row, : len(query) + len(response)] = 1
    return model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits


@torch.no_grad()
def response_nlls(model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
    """
    −Σ_t log π(y_t | x, y_<t) of each response, nats, in one forward pass.

    Args:
        model ([`~transformers.PreTrainedModel`]): in evaluation mode.
        pairs (`list`): tokens of each query x and of its response y.
    """
    logits = pair_logits(model, pairs)
    nlls = []
    for row, (query, response) in enumerate(pairs):
        # one row at a time: a batch of float32 log-probabilities over a large vocabulary takes much memory
        predicted = logits[row, len(query) - 1 : len(query) + len(response) - 1].float()
        target = torch.tensor(response, dtype=torch.long, device=predicted.device)
        nlls.append(F.cross_entropy(predicted, target, reduction="none").sum(dtype=torch.float32).item())
    return nlls


def reference_nlls_cached(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Queries,
    folder: Path,
    *,
    model_id: str,
    batch_size: int = 8,
    description: str = "perplexity",
) -> pd.DataFrame:
    """
    Negative log-likelihood of each query's reference, each computed once and kept in `folder`.

    Tokens are those of [`~trl_negalign.borders.response_ids`]: neither an end of sequence nor what a chat template
    writes after a message counts. References without a token have a likelihood of 1 over 0 tokens, and so no part in
    the perplexity.

    Args:
        model, tokenizer: the judged model.
        queries ([`Queries`]): with references.
        folder (`Path`): where numbers are kept.
        model_id (`str`): a different one for every model that gives other numbers, see [`model_parts`]. The tokenizer
            need not be in it.
        batch_size (`int`): sequences at a time; changes nothing.
        description (`str`): label of the progress bar.

    Returns:
        `pandas.DataFrame`: `nll` (nats) and `tokens` of each reference, in the queries' order.
    """
    pairs = list(zip(queries.query_ids(tokenizer), queries.reference_ids(tokenizer), strict=True))
    keys = [digest(row, *pair) for row, pair in zip(queries.rows, pairs, strict=True)]

    def compute(missing: list[int]) -> Iterator[tuple[list[int], dict[str, list]]]:
        for batch in by_length({index: sum(map(len, pairs[index])) for index in missing}, batch_size):
            nlls = response_nlls(model, [pairs[index] for index in batch])
            yield batch, {"nll": nlls, "tokens": [len(pairs[index][1]) for index in batch]}

    settings = digest(model_id, tokenizer_fingerprint(tokenizer))
    return cached_table(folder / f"references-{settings}", keys, compute, description)
