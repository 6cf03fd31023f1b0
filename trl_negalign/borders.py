"""
The border between a query and its response: the one place that makes the tokens of both, for training, evaluation and
Likra. What belongs here is how text and messages become the tokens that a policy is given and those it answers with.

**A query** has the tokens that generation sees: a text with the tokenizer's special tokens, a conversation as the chat
template renders it with its generation prompt, without special tokens of the tokenizer's own.

**A response** has the tokens that follow them. The text of a message is what the chat template renders behind the
generation prompt: the whole conversation's rendering without the query's. Where the generation prompt is no prefix of
that (templates that drop or add reasoning), the message's text follows the prompt as it is written, and behind it what
the template writes after a message.

Query and response are tokenized together and the query's tokens cut off. Where a token would reach over the border,
the response is tokenized apart, since a policy has the query's tokens as they are.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


Prompt = str | list[dict]


# a tag at the end of a prompt behind which a model writes its reasoning: <think>, [THINK], <seed:think>
REASONING = re.compile(r"([<\[])([\w:]*(?:think|thought|reason)\w*)([>\]])\s*\Z", re.IGNORECASE)
# stands for a message's text, to see what a chat template writes behind it
MARK = "\ufffc"


def text_of(value: Prompt) -> str:
    """The text of a prompt or response, of its last message where it has messages; empty where there is none."""
    content = (value if isinstance(value, str) or not value else value[-1]["content"]) or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def query_text(tokenizer: PreTrainedTokenizerBase, query: Prompt, chat_template_kwargs: dict | None = None) -> str:
    """The text behind which a policy writes its response: a text as it is, a conversation with generation prompt."""
    if isinstance(query, str):
        return query
    return tokenizer.apply_chat_template(
        query, add_generation_prompt=True, tokenize=False, **(chat_template_kwargs or {})
    )


def query_ids(
    tokenizer: PreTrainedTokenizerBase, query: Prompt, chat_template_kwargs: dict | None = None
) -> list[int]:
    """Tokens of a plain query, as generation sees them."""
    text = query_text(tokenizer, query, chat_template_kwargs)
    # a chat template writes the special tokens itself
    return tokenizer(text=text, add_special_tokens=isinstance(query, str))["input_ids"]


def response_ids(
    tokenizer: PreTrainedTokenizerBase, query: Prompt, response: Prompt, chat_template_kwargs: dict | None = None
) -> list[int]:
    """
    Tokens of a response behind its query, without an end: neither the end of sequence nor what a chat template writes
    after a message. None for an empty response.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the policy's.
        query (`str` or `list[dict]`): the plain query.
        response (`str` or `list[dict]`): text, or one assistant message.
        chat_template_kwargs (`dict`, *optional*): arguments for the chat template.
    """
    text, _ = _response_text(tokenizer, query, response, chat_template_kwargs)
    return _behind(tokenizer, query_text(tokenizer, query, chat_template_kwargs), text)


def ended_response_ids(
    tokenizer: PreTrainedTokenizerBase,
    query: Prompt,
    response: Prompt,
    end_tokens: Sequence[int],
    max_length: int | None = None,
    chat_template_kwargs: dict | None = None,
) -> list[int]:
    """
    Tokens of a dataset's response as a policy would have had to sample them: those of [`response_ids`] and the token
    that ends the turn, the first of `end_tokens` that the template writes, or else the tokenizer's end of sequence.

    Args:
        tokenizer, query, response, chat_template_kwargs: see [`response_ids`].
        end_tokens (`Sequence[int]`): tokens that end a response.
        max_length (`int`, *optional*): the response is cut after as many tokens, and then has no end.

    Raises:
        ValueError: if the response has no tokens, or does not close the reasoning that the prompt opens.
    """
    check_reasoning(tokenizer, query, response, f"The dataset's response to {query!r}", chat_template_kwargs)
    text, after = _response_text(tokenizer, query, response, chat_template_kwargs)
    ids = _behind(tokenizer, query_text(tokenizer, query, chat_template_kwargs), text and text + after)
    end = next((i for i, token in enumerate(ids) if token in end_tokens), None)
    if end == 0 or not ids:
        raise ValueError(f"The dataset's response to {query!r} is empty: {response!r}. Drop such rows.")
    ids = ids[: end + 1] if end is not None else [*ids, tokenizer.eos_token_id]
    return ids[:max_length]


def check_reasoning(
    tokenizer: PreTrainedTokenizerBase,
    query: Prompt,
    response: Prompt,
    place: str,
    chat_template_kwargs: dict | None = None,
) -> None:
    """
    Raise a `ValueError` if the query ends in a reasoning block that is still open (`<think>`) and the response does
    not close it: the answer would count as reasoning.

    A response is fine that brings its reasoning and `</think>` before the answer, or whose chat template closes the
    block itself, as Qwen3's does.

    Args:
        tokenizer, query, response, chat_template_kwargs: see [`response_ids`].
        place (`str`): where the response stands, for the message.
    """
    opening = REASONING.search(query_text(tokenizer, query, chat_template_kwargs))
    if opening is None:
        return
    bracket, name, end = opening.groups()
    text, _ = _response_text(tokenizer, query, response, chat_template_kwargs)
    if (closing := f"{bracket}/{name}{end}") not in text:
        raise ValueError(
            f"{place} has no {closing}, and the query as the model sees it ends in an open {bracket}{name}{end}: the "
            f"answer would be taken for reasoning. Write the reasoning and {closing} before the answers, or choose a "
            "chat template that leaves reasoning out (chat_template_kwargs={'enable_thinking': False} where it can)."
        )


def _response_text(
    tokenizer: PreTrainedTokenizerBase, query: Prompt, response: Prompt, chat_template_kwargs: dict | None
) -> tuple[str, str]:
    """A response's text behind [`query_text`], and what the chat template writes after it."""
    content = text_of(response)
    if isinstance(query, str) or not content:
        return content, ""
    message = {"role": "assistant", "content": response} if isinstance(response, str) else response[-1]

    def render(message: dict) -> str:
        return tokenizer.apply_chat_template([*query, message], tokenize=False, **(chat_template_kwargs or {}))

    before, whole = query_text(tokenizer, query, chat_template_kwargs), render(message)
    after = render(message | {"content": MARK}).rpartition(MARK)[2]
    if whole.startswith(before):
        return whole[len(before) :].removesuffix(after), after
    if opening := REASONING.search(before):  # a response may open the block again that the prompt has opened
        tag = opening.group().rstrip()
        content = re.sub(rf"\A\s*{re.escape(tag)}\n*", "", content)
    return content, after


def _behind(tokenizer: PreTrainedTokenizerBase, query: str, response: str) -> list[int]:
    """Tokens of a text behind another one."""

    def ids(text: str) -> list[int]:
        return tokenizer(text=text, add_special_tokens=False)["input_ids"]

    # Apart means behind a line break: some tokenizers put a space before the beginning of a text.
    for before in (query, "\n"):
        alone, both = ids(before), ids(before + response)
        if both[: len(alone)] == alone:
            return both[len(alone) :]
    return ids(response)
