"""The dataset's side of a group: whether its columns can be used, and the tokens of the responses it brings."""

from collections.abc import Sequence

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from trl import is_conversational

from ..guides import Prompt


def column_names(dataset, name: str) -> list[str]:
    """A dataset's columns, none for a stream that does not know them; a `TypeError` if it is not a dataset."""
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise TypeError(
            f"{name} is {dataset!r} of type {type(dataset).__name__}. Pass a datasets.Dataset or IterableDataset with "
            "a 'prompt' column."
        )
    return dataset.column_names or []


def check_dataset(dataset, name: str, response_columns: Sequence[str]) -> None:
    """
    Check a dataset before anything expensive happens.

    Args:
        dataset (`Dataset` or `IterableDataset`): an iterable one is checked by its columns only.
        name (`str`): `"train_dataset"` or `"eval_dataset"`, for the messages.
        response_columns (`Sequence[str]`): columns that hold a response to each query.

    Raises:
        ValueError: on an empty dataset, a missing column, or a row without a query or without a response.
    """
    columns = column_names(dataset, name)
    if not columns and isinstance(dataset, IterableDataset):
        return
    if "prompt" not in columns:
        raise ValueError(
            f"{name} has no 'prompt' column, only {columns}. Rename the column that holds the query, or split "
            "preference data without one with trl.extract_prompt."
        )
    for column in response_columns:
        if column not in columns:
            raise ValueError(
                f"dataset_responses names the column {column!r}, which {name} does not have. It has {columns}."
            )
    if isinstance(dataset, IterableDataset):
        return
    if len(dataset) == 0:
        raise ValueError(f"{name} is empty. Give at least as many rows as one generation batch has groups.")
    if "image" in columns or "images" in columns:
        raise ValueError(f"{name} has images, which are not supported. Remove the column, or train with GRPOTrainer.")
    for column in ("prompt", *response_columns):
        for row, value in enumerate(dataset[column]):
            text = value if isinstance(value, str) or not value else value[-1]["content"]
            if not text or (isinstance(text, str) and not text.strip()):
                raise ValueError(
                    f"{name}[{row}][{column!r}] is empty: {value!r}. Drop such rows, e.g. with dataset.filter"
                    + (", or leave the column out of dataset_responses." if column != "prompt" else ".")
                )
            if column != "prompt" and not isinstance(value, str) and len(value) != 1:
                raise ValueError(
                    f"{name}[{row}][{column!r}] has {len(value)} messages, and a response is one assistant message. "
                    "Move the earlier messages to 'prompt', e.g. with trl.extract_prompt."
                )


def response_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    prompt_ids: list[int],
    response: Prompt,
    eos_token_ids: Sequence[int],
    max_length: int | None,
    chat_template_kwargs: dict,
) -> list[int]:
    """
    Tokens of a dataset response, as the policy would have had to sample them after the plain query.

    The response is tokenised together with the query and the query's tokens are cut off, so that spaces and templates
    at the border come out as in generation. It ends with its end-of-sequence token unless it is cut at `max_length`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the policy's tokenizer.
        prompt (`str` or `list[dict]`): the plain query.
        prompt_ids (`list[int]`): its tokens, as generation uses them.
        response (`str` or `list[dict]`): text, or one assistant message.
        eos_token_ids (`Sequence[int]`): tokens that end a response.
        max_length (`int`, *optional*): longest response in tokens.
        chat_template_kwargs (`dict`): arguments for the chat template.

    Returns:
        `list[int]`: at least one token.

    Raises:
        ValueError: if the response has no tokens.
    """
    if is_conversational({"prompt": prompt}):
        messages = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
        text = messages[0]["content"]
        full = tokenizer.apply_chat_template(
            prompt + messages, tokenize=True, return_dict=True, **chat_template_kwargs
        )["input_ids"]
    else:
        text = response
        full = tokenizer(text=prompt + response)["input_ids"]
    if full[: len(prompt_ids)] == prompt_ids:
        ids = full[len(prompt_ids) :]
    else:
        ids = tokenizer(text=text, add_special_tokens=False)["input_ids"]
    end = next((i for i, token in enumerate(ids) if token in eos_token_ids), None)
    if not text or end == 0 or not ids:
        raise ValueError(f"The dataset's response to {prompt!r} is empty: {response!r}. Drop such rows.")
    ids = ids[: end + 1] if end is not None else [*ids, tokenizer.eos_token_id]
    return ids[:max_length]
