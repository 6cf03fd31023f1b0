"""A query and its options, put into the heads' template: what is done to them before [`borders`] makes tokens."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..borders import query_ids, response_ids


class Encoded(NamedTuple):
    """Token ids of a query, and of each of its options behind it."""

    query: list[int]
    options: list[list[int]]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    query: str | list[dict],
    options: Sequence[str],
    template: str | None = None,
    chat_template_kwargs: dict | None = None,
) -> Encoded:
    """
    Tokens of a query and of its options, without an end of sequence (ours: what is compared is how an answer reads,
    not where it ends).

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the heads' base.
        query (`str` or `list[dict]`): a question, or a policy's prompt.
        options (`Sequence[str]`): texts; without a template as a policy writes them, leading space included.
        template (`str`, *optional*): a text with `{question}`, behind which an option follows after a space. `None`
            takes texts as they are and conversations through the chat template.
        chat_template_kwargs (`dict`, *optional*): arguments for the chat template.

    Raises:
        ValueError: if the query is a conversation that does not fit the template.
    """
    if template is not None:
        question = query if isinstance(query, str) else _only_user_message(query)
        query = template.replace("{question}", question)  # other braces stay as they are
        options = [f" {option.strip()}" for option in options]
    answers = [response_ids(tokenizer, query, option, chat_template_kwargs) for option in options]
    return Encoded(query_ids(tokenizer, query, chat_template_kwargs), answers)


def _only_user_message(query: list[dict]) -> str:
    texts = [message["content"] for message in query if message["role"] == "user"]
    if len(texts) != 1:
        raise ValueError(
            f"a conversation with {len(texts)} user messages does not fit the heads' template, which takes one "
            "question. Train heads on preferences with conversations, or pass the question as a text."
        )
    return texts[0]


def context_length(config: PretrainedConfig, max_length: int | None = None) -> int | None:
    """Longest sequence in tokens that a model takes, `None` if its configuration names none."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)  # state-space models have none
    return min((limit for limit in (context, max_length) if limit is not None), default=None)


def check_encoded(encoded: Encoded, context: int | None, place: str) -> None:
    """Raise a `ValueError` if an option has no tokens, or one is over the context together with its query."""
    if not all(encoded.options):
        raise ValueError(f"{place}: option {encoded.options.index([])} has no tokens. Drop it.")
    longest = len(encoded.query) + max(map(len, encoded.options))
    if context is not None and longest > context:
        raise ValueError(
            f"{place} has {longest} tokens with its longest option, over the context length of {context}. Drop it, or "
            "take a base with a longer context."
        )
