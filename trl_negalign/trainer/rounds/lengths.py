"""Whether a query with its guide, and a completion behind it, fit into the context that they are sampled in."""

from collections.abc import Sequence

from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ...borders import query_ids
from ...groups import Candidate
from ...guides import apply_guide
from ..group_config import GroupConfig


logger = get_logger(__name__)


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
    stored = isinstance(dataset, Dataset) and "prompt" in dataset.column_names
    longest = max(dataset["prompt"] if stored else [next(iter(dataset))["prompt"]], key=lambda query: len(str(query)))
    guides = {candidate.guide for candidate in candidates if candidate.column is None}
    plain, guided = (
        max(
            len(query_ids(tokenizer, apply_guide(longest, guide, args.guide_placement), args.chat_template_kwargs))
            for guide in texts
        )
        for texts in ([None], guides)
    )
    needed = guided + args.max_completion_length
    if needed > args.vllm_max_model_length:
        raise ValueError(
            f"vllm_max_model_length={args.vllm_max_model_length} is too short, and vLLM would cut completions without "
            f"a word: the longest query takes {guided} tokens, {guided - plain} of them its guide, and "
            f"max_completion_length={args.max_completion_length} more have to fit. Set it to {needed} at least, lower "
            "max_completion_length, or drop long queries."
        )


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
