"""Whether a method's guides separate: one sample a query under each of two candidates, and their paired difference."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..groups import PLAIN, Candidate
from .generation import Sampling
from .guide_numbers import query_means, rewards_of
from .guided import PREFIX, Condition, add_rewards, fitting_queries, sample_conditions
from .queries import Queries
from .rewards import Scorer, paired_difference


def compared_kinds(candidates: Sequence[Candidate]) -> tuple[str, str] | None:
    """
    The two kinds of a group that must differ: what is to be better, positive or principle-guided, and what is to be
    worse, negative; plain takes the place of what a group lacks. `None` if no candidate is guided.
    """
    kinds = [candidate.kind for candidate in candidates if candidate.guide is not None]
    better = next((kind for kind in kinds if kind != "negative"), PLAIN)
    worse = "negative" if "negative" in kinds else PLAIN
    return None if better == worse else (better, worse)


def conditions_of(candidates: Sequence[Candidate], placement: str, conversational: bool) -> list[Condition]:
    """How the two kinds of [`compared_kinds`] are asked."""
    texts = {candidate.kind: candidate.guide for candidate in candidates}
    place = placement if conversational else PREFIX
    return [
        Condition(PLAIN) if kind == PLAIN else Condition(kind, place, texts[kind])
        for kind in compared_kinds(candidates)
    ]


def separation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Queries,
    conditions: Sequence[Condition],
    scorers: dict[str, Scorer],
    weights: Sequence[float],
    sampling: Sampling,
    folder: Path,
    *,
    batch_size: int = 16,
) -> dict:
    """
    The reward of samples under the first condition − that of samples under the second, paired by query.

    Args:
        model, tokenizer: the policy before training.
        queries ([`Queries`]): plain queries.
        conditions (`Sequence[Condition]`): of [`conditions_of`].
        scorers (`dict[str, Scorer]`), weights (`Sequence[float]`): the training's rewards.
        sampling ([`Sampling`]): the training's.
        folder (`Path`): for completions and reward models' scores.
        batch_size (`int`): completions at a time.

    Returns:
        `dict`: `mean`, `low` and `high` (95%), `count` of queries, see [`paired_difference`].

    Raises:
        ValueError: if too few queries fit the model's context, see [`fitting_queries`].
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    reader = {"the model": (tokenizer, context)}
    queries = fitting_queries(queries, conditions, reader, sampling.max_new_tokens)
    table = sample_conditions(
        model,
        tokenizer,
        queries,
        conditions,
        sampling,
        folder,
        model_id="the policy before training",
        batch_size=batch_size,
    )
    table = add_rewards(table, queries, scorers, weights)
    better, worse = (query_means(rewards_of(table, condition)).tolist() for condition in conditions)
    return paired_difference(better, worse)
