"""The dataset's side of a group: whether its columns can be used, and where its responses are filled in."""

from collections.abc import Sequence
from types import NoneType
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import GenerationConfig, PreTrainedTokenizerBase
from trl import is_conversational

from ...borders import REASONING, check_reasoning, query_text, text_of
from ...groups import Candidate
from ...guides import Prompt, check_guide_columns, guide_columns
from ..group_config import GroupConfig
from ..seams import GENERATED


def column_names(dataset, name: str) -> list[str]:
    """What a dataset's rows hold, by its first row where there is one; a `TypeError` if it is not a dataset."""
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise TypeError(
            f"{name} is {dataset!r} of type {type(dataset).__name__}. Pass a datasets.Dataset or IterableDataset with "
            "a 'prompt' column."
        )
    # the first row knows better than `column_names`: a mapped stream has none, a transform may change them
    return list(next(iter(dataset), dataset.column_names or []))


def check_candidates(candidates: Sequence[Candidate], args: GroupConfig, trainer: str) -> None:
    """Check what `build_candidates` of a trainer of this name made of its options; a `ValueError` if it cannot be."""
    if len(candidates) != args.num_generations:
        raise ValueError(
            f"num_generations={args.num_generations}, and {trainer}.build_candidates names {len(candidates)} "
            "candidates. Let it name as many."
        )
    if args.tapered and all(candidate.guide is None for candidate in candidates):
        raise ValueError(
            f"tapered=True weights what was sampled under a guide, and no candidate of {trainer} is: "
            f"{[candidate.kind for candidate in candidates]}. Leave it out, or give candidates a guide."
        )


def check_dataset(
    dataset,
    name: str,
    response_columns: Sequence[str] = (),
    guided_in_user_turn: bool = False,
    guides: Sequence[str] = (),
) -> None:
    """
    Check a dataset before anything expensive happens.

    Args:
        dataset (`Dataset` or `IterableDataset`): of a stream, or where a transform makes the rows, only the first row
            is checked.
        name (`str`): `"train_dataset"` or `"eval_dataset"`, for the messages.
        response_columns (`Sequence[str]`): columns that hold a response to each query.
        guided_in_user_turn (`bool`): whether each conversation needs a user message to take a guide.
        guides (`Sequence[str]`): guides, which may read columns.

    Raises:
        ValueError: on an empty dataset, a missing column, or a row that cannot be used.
    """
    columns = column_names(dataset, name)
    if not columns or (isinstance(dataset, Dataset) and len(dataset) == 0):
        raise ValueError(f"{name} is empty. Give at least as many rows as one generation batch has groups.")
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
    for guide in guides:
        check_guide_columns(guide, columns, name)
    if "image" in columns or "images" in columns:
        raise ValueError(f"{name} has images, which are not supported. Remove the column, or train with GRPOTrainer.")
    read = list(dict.fromkeys(column for guide in guides for column in guide_columns(guide)))
    used = ["prompt", *response_columns, *read]
    stored = isinstance(dataset, Dataset) and set(used) <= set(dataset.column_names)
    first = next(iter(dataset))
    values = zip(*(dataset[column] if stored else [first[column]] for column in used), strict=True)
    for row, (prompt, *others) in enumerate(values):
        _check_prompt(prompt, f"{name}[{row}]['prompt']", guided_in_user_turn)
        responses, filled = others[: len(response_columns)], others[len(response_columns) :]
        for column, response in zip(response_columns, responses, strict=True):
            _check_response(response, f"{name}[{row}][{column!r}]", isinstance(prompt, str))
        for column, value in zip(read, filled, strict=True):
            if value is None or value == "" or value == []:
                raise ValueError(
                    f"{name}[{row}][{column!r}] is empty, {value!r}, and a guide reads it. Drop such rows, e.g. with "
                    "dataset.filter, or change the guide."
                )


def check_datasets(train_dataset, eval_dataset, args: GroupConfig, candidates: Sequence[Candidate]) -> None:
    """
    Check a trainer's datasets, `eval_dataset` being `None`, a dataset or a dictionary of them: see [`check_dataset`].
    A training set whose length is known also needs as many rows as one generation batch has queries.
    """
    response_columns = [candidate.column for candidate in candidates if candidate.column is not None]
    guides = list(dict.fromkeys(candidate.guide for candidate in candidates if candidate.guide is not None))
    if args.remove_unused_columns and (read := [column for guide in guides for column in guide_columns(guide)]):
        raise ValueError(
            f"remove_unused_columns=True would remove {read}, which the guides read. Leave it out, or change the "
            "guides."
        )
    if response_columns and args.remove_unused_columns:
        raise ValueError(
            f"remove_unused_columns=True would remove {response_columns}, which the group takes its responses from. "
            "Leave it out, or set dataset_responses=[]."
        )
    check_dataset(
        train_dataset,
        "train_dataset",
        response_columns,
        guided_in_user_turn=args.guide_placement != "system" and bool(guides),
        guides=guides,
    )
    queries = args.generation_batch_size // args.num_generations
    if isinstance(train_dataset, Dataset) and len(train_dataset) < queries:
        raise ValueError(
            f"train_dataset has {len(train_dataset)} row(s), and one generation batch takes {queries} queries "
            f"(generation_batch_size={args.generation_batch_size} / num_generations={args.num_generations}). Add "
            "rows, or lower per_device_train_batch_size or gradient_accumulation_steps."
        )
    if eval_dataset is not None:
        for dataset in eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]:
            check_dataset(dataset, "eval_dataset")


def check_chat_template(
    dataset, tokenizer: PreTrainedTokenizerBase, args: GroupConfig, candidates: Sequence[Candidate]
) -> None:
    """
    Check whether the tokenizer's chat template fits a training set.

    Raises:
        ValueError: if the first query is a conversation and there is no template for it, or a response does not close
            the reasoning that its prompt opens, see [`~trl_negalign.borders.check_reasoning`]: the first row's, and
            where that prompt opens reasoning, any row's of a stored dataset.
    """
    first = next(iter(dataset))
    if is_conversational({"prompt": first["prompt"]}) and tokenizer.chat_template is None:
        raise ValueError(
            f"train_dataset has conversations, and the tokenizer {tokenizer.name_or_path!r} has no chat template. Use "
            "a chat model, give the tokenizer a template, or write the queries as plain text."
        )
    columns = [candidate.column for candidate in candidates if candidate.column in first]
    opens = bool(REASONING.search(query_text(tokenizer, first["prompt"], args.chat_template_kwargs)))
    rows = dataset if opens and isinstance(dataset, Dataset) else [first]
    for i, row in enumerate(rows if columns else []):
        for column in columns:
            place = f"train_dataset[{i}][{column!r}]"
            check_reasoning(tokenizer, row["prompt"], row[column], place, args.chat_template_kwargs)


def _check_prompt(prompt: Prompt, place: str, guided_in_user_turn: bool) -> None:
    if not isinstance(prompt, (str, list, NoneType)):
        raise ValueError(f"{place} is {prompt!r}, and must be a text or messages. Convert such rows.")
    if not text_of(prompt).strip():
        raise ValueError(f"{place} is empty: {prompt!r}. Drop such rows, e.g. with dataset.filter.")
    if guided_in_user_turn and not isinstance(prompt, str) and all(message["role"] != "user" for message in prompt):
        raise ValueError(
            f"{place} has no user message to put the guide before: {prompt!r}. Drop such rows, or use "
            "guide_placement='system'."
        )


def _check_response(response: Prompt, place: str, prompt_is_text: bool) -> None:
    if not text_of(response).strip():
        raise ValueError(
            f"{place} is empty: {response!r}. Drop such rows, e.g. with dataset.filter, or leave the column out of "
            "dataset_responses."
        )
    if not isinstance(response, str) and len(response) != 1:
        raise ValueError(
            f"{place} has {len(response)} messages, and a response is one assistant message. Move the earlier ones to "
            "'prompt', e.g. with trl.extract_prompt."
        )
    if prompt_is_text and not isinstance(response, str):
        raise ValueError(f"{place} is a message list and its prompt is text: {response!r}. Use one style for both.")


def fill_in(sampled: Sequence, fills: dict[int, Any]) -> list:
    """The sampled rows in their order, with `fills[row]` in the rows that were not sampled."""
    rest = iter(sampled)
    return [fills[row] if row in fills else next(rest) for row in range(len(sampled) + len(fills))]


def put_in(
    generated: Sequence,
    prompt_ids: list[list[int]],
    responses: dict[int, list[int]],
    tokenizer: PreTrainedTokenizerBase,
    as_text: bool,
) -> tuple:
    """
    What TRL's `_generate` returned of the sampled rows, as if it had sampled all rows from their plain queries.

    Args:
        generated (`Sequence`): its tuple, checked by [`~trl_negalign.trainer.seams.check_generated`].
        prompt_ids (`list[list[int]]`): the plain queries' tokens, of all rows.
        responses (`dict[int, list[int]]`): the dataset responses' tokens by row.
        tokenizer (`PreTrainedTokenizerBase`): the policy's tokenizer.
        as_text (`bool`): whether completions are text; otherwise they are messages.
    """
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in responses.values()]
    if not as_text:
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    fills = {
        "completion_ids": responses,
        "completions": dict(zip(responses, texts, strict=True)),
    }
    result = list(generated)
    for name, rows in fills.items():
        result[GENERATED[name]] = fill_in(result[GENERATED[name]], rows)
    # the sampler's, which a dataset response does not have: group training reads none
    result[GENERATED["logprobs"]] = None
    result[GENERATED["prompt_ids"]] = prompt_ids
    return tuple(result)


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig) -> list[int]:
    """Every token that ends a completion: the tokenizer's, and those that the model declares."""
    declared = generation_config.eos_token_id
    return [tokenizer.eos_token_id, *([declared] if isinstance(declared, int) else declared or [])]
