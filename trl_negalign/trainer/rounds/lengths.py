"""Whether a query with its guide, and a completion behind it, fit into the context that they are sampled in."""

import re
from collections.abc import Sequence

from accelerate.logging import get_logger
from datasets import Dataset
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...borders import query_ids
from ...groups import Candidate
from ...guides import apply_guide, guide_columns
from ..group_config import GroupConfig


logger = get_logger(__name__)

# the last part of a learnt table's name: wpe, embed_positions, position_embeddings, positions_embed
TABLE = re.compile(r"wpe|position")


def check_longest_query(
    dataset, tokenizer: PreTrainedTokenizerBase, args: GroupConfig, candidates: Sequence[Candidate]
) -> None:
    """
    Check that `vllm_max_model_length`, where vLLM is used with it, holds the dataset's longest query under the
    longest guide and `max_completion_length` more tokens. Longest is the query with most characters; of a stream, only
    the first is looked at.

    Raises:
        ValueError: if it does not.
    """
    if not args.use_vllm or args.vllm_max_model_length is None or args.max_completion_length is None:
        return
    plain, guided = _longest_query(dataset, tokenizer, args, candidates)
    needed = guided + args.max_completion_length
    if needed > args.vllm_max_model_length:
        raise ValueError(
            f"vllm_max_model_length={args.vllm_max_model_length} is too short, and vLLM would cut completions without "
            f"a word: the longest query takes {guided} tokens, {guided - plain} of them its guide, and "
            f"max_completion_length={args.max_completion_length} more have to fit. Set it to {needed} at least, lower "
            "max_completion_length, or drop long queries."
        )


def _longest_query(
    dataset, tokenizer: PreTrainedTokenizerBase, args: GroupConfig, candidates: Sequence[Candidate]
) -> tuple[int, int]:
    """
    Tokens of the query that is longest with one of the guides, by characters, plain and under that guide, columns
    filled in; of a stream, of its first query.
    """
    guides = {candidate.guide for candidate in candidates if candidate.column is None} or {None}
    read = {guide: ["prompt", *guide_columns(guide)] for guide in guides}
    names = list(dict.fromkeys(name for columns in read.values() for name in columns))
    stored = isinstance(dataset, Dataset) and set(names) <= set(dataset.column_names)
    rows = dataset.select_columns(names) if stored else [next(iter(dataset))]

    def tokens(row, guide):
        asked = apply_guide(row["prompt"], guide, args.guide_placement, row)
        return len(query_ids(tokenizer, asked, args.chat_template_kwargs))

    def characters(row, columns):
        return sum(len(str(row[name])) for name in columns)

    longest = {
        guide: max(rows, key=lambda row, read=columns: characters(row, read)) for guide, columns in read.items()
    }
    guided, plain = max((tokens(row, guide), tokens(row, None)) for guide, row in longest.items())
    return plain, guided


def check_positions(
    model: PreTrainedModel,
    dataset,
    tokenizer: PreTrainedTokenizerBase,
    args: GroupConfig,
    candidates: Sequence[Candidate],
) -> None:
    """
    Check that a model with a table of learnt positions has one for every token of the dataset's longest query under
    the longest guide and of `max_completion_length` more: past its end there is an index error, or worse on a GPU.
    Longest is the query with most characters; of a stream, only the first is looked at.

    Raises:
        ValueError: if it has not.
    """
    places = learnt_positions(model)
    if places is None or args.max_completion_length is None:
        return
    plain, guided = _longest_query(dataset, tokenizer, args, candidates)
    if guided + args.max_completion_length > places:
        raise ValueError(
            f"{type(model).__name__} has {places} learnt positions (max_position_embeddings): the longest query takes "
            f"{guided} of them, {guided - plain} for its guide, and max_completion_length="
            f"{args.max_completion_length} more have to fit. Lower max_completion_length, drop long queries, or take "
            "a model with a longer context."
        )


def learnt_positions(model: PreTrainedModel) -> int | None:
    """How many positions a model has learnt in a table, as GPT-2 and OPT do; `None` for others, as rotary ones."""
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and TABLE.search(name.rpartition(".")[2])
    ]
    # OPT's has two rows more; the tables of images have other sizes
    return places if any(places is not None and places <= rows <= places + 2 for rows in tables) else None


def warn_of_long_queries(queries: Sequence[Sequence[int]], args: GroupConfig, config: PretrainedConfig) -> None:
    """
    Warn, once, if a round's queries leave less than `max_completion_length` tokens of vLLM's or the model's context.

    Args:
        queries (`Sequence[Sequence[int]]`): the queries' tokens, with their guides.
        args (`GroupConfig`): the training's configuration.
        config (`PretrainedConfig`): the model's.
    """
    if args.max_completion_length is None:
        return
    # models without a limit (state space models, relative positions) do not name one
    limits = [("max_position_embeddings", getattr(config.get_text_config(), "max_position_embeddings", None))]
    consequence = "Completions that run past it make poor text, and an index error where positions are looked up."
    if args.use_vllm:
        limits.append(("vllm_max_model_length", args.vllm_max_model_length))
        consequence = "vLLM cuts its completions short."
    longest = max(map(len, queries))
    for name, limit in limits:
        if limit is not None and longest + args.max_completion_length > limit:
            # the same words each time, so that they are logged once
            logger.warning_once(
                f"A query with its guide is longer than the {limit - args.max_completion_length} tokens that "
                f"max_completion_length={args.max_completion_length} leaves of {name}={limit}. {consequence} Drop "
                "long queries, or lower max_completion_length.",
                main_process_only=False,
            )
