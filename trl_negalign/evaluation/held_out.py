"""Reward and fluency of a policy on held-out plain queries, and what changed between two of its states."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..borders import query_ids, response_ids
from .cache import by_length
from .generation import Sampling
from .perplexity import perplexity, response_nlls
from .queries import Queries
from .samples import sample_queries


@dataclass
class HeldOut:
    """
    What a policy wrote to held-out queries.

    Args:
        queries, completions (`list[str]`): one completion a row; the whole list of queries is repeated for more
            samples of each.
        rewards (`list[float]`): reward of each completion.
        samples_per_query (`int`): how often the list of queries is repeated.
        perplexity (`float`): of the completions' text under the policy without its adapter; empty ones have no part.
    """

    queries: list[str]
    completions: list[str]
    rewards: list[float]
    samples_per_query: int
    perplexity: float

    @property
    def query_means(self) -> torch.Tensor:
        """Mean reward of each query, `[queries]`."""
        return torch.tensor(self.rewards, dtype=torch.float64).view(self.samples_per_query, -1).mean(0)


def mean_and_error(query_means: torch.Tensor) -> tuple[float, float]:
    """Mean over queries and its standard error (sample deviation over √n; queries, not samples, are independent)."""
    return query_means.mean().item(), (query_means.std() / len(query_means) ** 0.5).item()


def evaluate_held_out(
    model,
    tokenizer,
    queries: list[str],
    reward: Callable[..., list[float]],
    *,
    samples_per_query: int,
    max_new_tokens: int,
    seed: int,
    description: str,
) -> HeldOut:
    """Sample, score and judge the fluency of a PEFT policy on plain queries, at temperature 1."""
    table = sample_queries(
        model,
        tokenizer,
        Queries(list(range(len(queries))), queries, None, {}, {}),
        Sampling(max_new_tokens=max_new_tokens, seed=seed),
        samples=samples_per_query,
        description=description,
    )
    completions = table.sort_values(["sample", "query"])["completion"].tolist()
    repeated = queries * samples_per_query
    rewards = reward(prompts=repeated, completions=completions)
    fluency = perplexity_without_adapter(model, tokenizer, repeated, completions)
    return HeldOut(repeated, completions, rewards, samples_per_query, fluency)


def perplexity_without_adapter(model, tokenizer, queries: list[str], completions: list[str]) -> float:
    """Perplexity of completions, given their queries, under a PEFT model's base; NaN if all are empty."""
    pairs = [
        (query_ids(tokenizer, x), response_ids(tokenizer, x, y)) for x, y in zip(queries, completions, strict=True)
    ]
    written = [pair for pair in pairs if pair[1]]
    was_training = model.training
    model.eval()
    nlls, tokens = [], []
    with model.disable_adapter():
        for batch in by_length({index: len(query) + len(new) for index, (query, new) in enumerate(written)}, 16):
            nlls += response_nlls(model, [written[index] for index in batch])
            tokens += [len(written[index][1]) for index in batch]
    model.train(was_training)
    return perplexity(nlls, tokens)
