"""Completions of many queries that do not depend on batches or interruptions, cached on disk as they come."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..fingerprints import digest, tokenizer_fingerprint
from .cache import by_length, cached_table
from .queries import Queries


@dataclass(frozen=True)
class Sampling:
    """
    How completions are sampled. Of a model's own generation settings only `eos_token_id` is used: a completion ends at
    any of those tokens, or at the tokenizer's end of sequence. No other setting has an effect, such as
    `repetition_penalty`, `suppress_tokens`, `min_new_tokens`, `stop_strings` or `temperature`.

    Args:
        max_new_tokens (`int`): longest completion in tokens.
        temperature (`float`): 0 takes the most probable token.
        top_p (`float`): share of the probability that is sampled from.
        top_k (`int`): number of most probable tokens that are sampled from; 0 for all.
        seed (`int`): with a query's place in the dataset, decides its completion.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} must be 1 or more.")
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must be 0 (most probable token) or more.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must lie in (0, 1].")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (all tokens) or more.")


class SampleByQuery(LogitsProcessor):
    """
    Makes greedy decoding sample: every score but that of the sampled token becomes −∞.

    A token is the first whose cumulative probability reaches a uniform draw. The draws belong to the query, not to the
    batch, so a query has the same completion in any batch (up to rounding of the logits).

    Args:
        draws (`torch.Tensor`): `[rows, T]`, uniform on [0, 1), one for each new token.
        query_length (`int`): tokens before the first new one, padding included.
    """

    def __init__(self, draws: torch.Tensor, query_length: int):
        self.draws = draws
        self.query_length = query_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        probs = scores.float().softmax(-1)
        # a parallel sum need not be monotonic, and must never reach the draw at a token of probability 0
        reached = probs.cumsum(-1).masked_fill(probs == 0, 0.0)
        draw = self.draws[:, input_ids.shape[1] - self.query_length].unsqueeze(1) * reached.amax(-1, keepdim=True)
        token = ((reached >= draw) & (probs > 0)).int().argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def query_draws(seed: int, row: int, count: int) -> torch.Tensor:
    """The uniform draws of a query, `[count]`, from the seed and its place in the dataset alone."""
    number = int.from_bytes(hashlib.sha256(f"{seed} {row}".encode()).digest()[:7], "big")
    return torch.rand(count, generator=torch.Generator().manual_seed(number))


def generate_cached(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Queries,
    sampling: Sampling,
    folder: Path,
    *,
    model_id: str,
    batch_size: int = 32,
    description: str = "generating",
) -> pd.DataFrame:
    """
    One completion of each query, each generated once: what `folder` holds is read and never sampled again.

    Args:
        model, tokenizer: the policy.
        queries ([`Queries`]): plain queries.
        sampling ([`Sampling`]): how.
        folder (`Path`): where completions are kept.
        model_id (`str`): a different one for every model that gives other numbers, see [`model_parts`]. Tokenizer and
            end tokens need not be in it.
        batch_size (`int`): queries generated at a time; does not change what is generated.
        description (`str`): label of the progress bar.

    Returns:
        `pandas.DataFrame`: `completion` (text without special tokens), `token_ids` (with the end of sequence, if it
        was generated) and `truncated` (whether it was not), one row a query, in their order.
    """
    settings = digest(
        model_id, tokenizer_fingerprint(tokenizer), sorted(end_tokens(model, tokenizer)), asdict(sampling)
    )
    ids = queries.query_ids(tokenizer)
    keys = [digest(row, one) for row, one in zip(queries.rows, ids, strict=True)]

    def compute(missing: list[int]) -> Iterator[tuple[list[int], dict[str, list]]]:
        for batch in by_length({index: len(ids[index]) for index in missing}, batch_size):
            rows = [queries.rows[index] for index in batch]
            new_ids, truncated = generate_batch(model, tokenizer, [ids[index] for index in batch], rows, sampling)
            texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
            yield batch, {"completion": texts, "token_ids": new_ids, "truncated": truncated}

    table = cached_table(folder / f"completions-{settings}", keys, compute, description)
    # a list that was read from a file is an array
    return table.assign(token_ids=[[int(token) for token in ids] for ids in table["token_ids"]])


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    rows: list[int],
    sampling: Sampling,
) -> tuple[list[list[int]], list[bool]]:
    """
    Completions of one batch.

    Args:
        model, tokenizer: the policy.
        ids (`list[list[int]]`): tokens of each query.
        rows (`list[int]`): place of each query in the dataset.
        sampling ([`Sampling`]): how.

    Returns:
        `tuple`: tokens of each completion, up to and with the end of sequence; whether each is without one.
    """
    ends = end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    longest = max(len(one) for one in ids)
    input_ids = torch.tensor([[pad] * (longest - len(one)) + one for one in ids], device=model.device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids], device=model.device)
    processors = LogitsProcessorList()
    if sampling.temperature > 0:
        draws = torch.stack([query_draws(sampling.seed, row, sampling.max_new_tokens) for row in rows])
        if sampling.temperature != 1:
            processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(sampling.top_p))
        processors.append(SampleByQuery(draws.to(model.device), longest))
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=ends or None,
    )
    with torch.no_grad(), no_generation_settings(model):
        output = model.generate(
            input_ids=input_ids, attention_mask=mask, generation_config=config, logits_processor=processors
        )
    new_ids, truncated = [], []
    for new in output[:, longest:].tolist():
        end = next((place for place, token in enumerate(new) if token in ends), None)
        new_ids.append(new if end is None else new[: end + 1])
        truncated.append(end is None)
    return new_ids, truncated


@contextmanager
def no_generation_settings(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """
    Take a model's own generation settings away for a while. `generate` fills whatever the settings that it gets leave
    open from the model's, and many of them can only be left open.
    """
    # PeftModel.generate hands its base's settings on to its base
    owner = model.get_base_model() if isinstance(model, PeftModel) else model
    own = owner.generation_config
    owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = own


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: the tokenizer's, and those of the model's generation settings."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, *ends]) if token is not None]
