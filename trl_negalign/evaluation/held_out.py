"""Reward and fluency of a policy on held-out plain queries, and what changed between two of its states."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .sampling import completion_perplexity, sample_completions


@dataclass
class HeldOut:
    """
    What a policy wrote to held-out queries.

    Args:
        queries, completions (`list[str]`): one completion a row; the whole list of queries is repeated for more
            samples of each.
        rewards (`list[float]`): reward of each completion.
        samples_per_query (`int`): how often the list of queries is repeated.
        perplexity (`float`): of the completions under the policy without its adapter, see [`completion_perplexity`].
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
    repeated = queries * samples_per_query
    completions = sample_completions(
        model, tokenizer, repeated, max_new_tokens=max_new_tokens, batch_size=64, seed=seed, description=description
    )
    perplexity = completion_perplexity(model, tokenizer, repeated, completions, without_adapter=True)
    rewards = reward(prompts=repeated, completions=completions)
    return HeldOut(repeated, completions, rewards, samples_per_query, perplexity)
