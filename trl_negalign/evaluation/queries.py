"""The queries of an evaluation: which rows of a dataset, their reference responses, and how a model reads them."""

import random
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from ..borders import check_reasoning, query_ids, response_ids
from ..data.loading import read_splits
from ..fingerprints import digest


REFERENCE_COLUMNS = ("completion", "chosen")


@dataclass(frozen=True)
class Queries:
    """
    Queries with what belongs to them; index i is the same query everywhere.

    Args:
        rows (`list[int]`): place of each query in the dataset's split.
        prompts (`list[str]` or `list[list[dict]]`): the plain queries, texts or conversations.
        references (`list`, *optional*): a response to each query, in the format of the queries.
        columns (`dict[str, list]`): the dataset's other columns, which reward functions may ask for.
        source (`dict`): where they come from.
        chat_template_kwargs (`dict`, *optional*): arguments for the models' chat templates, e.g.
            `{"enable_thinking": False}`.
    """

    rows: list[int]
    prompts: list
    references: list | None
    columns: dict[str, list]
    source: dict
    chat_template_kwargs: dict | None = None

    def query_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Tokens of each query as a policy with this tokenizer sees it."""
        return [query_ids(tokenizer, prompt, self.chat_template_kwargs) for prompt in self.prompts]

    def reference_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Tokens of each query's reference behind it, see [`~trl_negalign.borders.response_ids`]."""
        pairs = zip(self.prompts, self.references, strict=True)
        return [response_ids(tokenizer, *pair, self.chat_template_kwargs) for pair in pairs]

    def select(self, indices: list[int], **source) -> "Queries":
        """Some of the queries; keyword arguments are noted in `source`."""
        return replace(
            self,
            rows=[self.rows[i] for i in indices],
            prompts=[self.prompts[i] for i in indices],
            references=self.references and [self.references[i] for i in indices],
            columns={name: [values[i] for i in indices] for name, values in self.columns.items()},
            source=self.source | source,
        )

    @property
    def conversational(self) -> bool:
        return not isinstance(self.prompts[0], str)

    @property
    def fingerprint(self) -> str:
        """The same rows with the same queries and references have the same fingerprint, wherever they come from."""
        return digest(self.rows, self.prompts, self.references)


def load_queries(
    data: str,
    config: str | None = None,
    split: str | None = None,
    reference_column: str | None = None,
    num_queries: int | None = None,
    seed: int = 0,
    chat_template_kwargs: dict | None = None,
) -> Queries:
    """
    Read queries from a dataset's column `prompt`.

    Args:
        data (`str`): a dataset's folder or hub id, or a file (.parquet, .json, .jsonl, .json.gz, .jsonl.gz).
        config (`str`, *optional*): the dataset's configuration.
        split (`str`, *optional*): left out, `test`, or the only one.
        reference_column (`str`, *optional*): column of the reference responses; left out, `completion` or `chosen` if
            it is there.
        num_queries (`int`, *optional*): size of a random sample; with the same seed, a part of every larger one.
        seed (`int`): of the sample.
        chat_template_kwargs (`dict`, *optional*): see [`Queries`].

    Raises:
        ValueError: if the dataset, the split or a column is not there, or a row is not as expected.
    """
    splits = read_splits(data, "data", config, split_of_file="test")
    split = split or (next(iter(splits)) if len(splits) == 1 else "test")
    if split not in splits:
        raise ValueError(f"split {split!r} is not in {data}. It has {', '.join(splits)}.")
    dataset = splits[split]
    if "prompt" not in dataset.column_names:
        raise ValueError(
            f"data {data!r} has no column 'prompt', only {', '.join(dataset.column_names)}. Make one with `negalign "
            "data`, or take the prompts out of the responses with trl.extract_prompt."
        )
    if reference_column is None:
        reference_column = next((name for name in REFERENCE_COLUMNS if name in dataset.column_names), None)
    elif reference_column not in dataset.column_names:
        raise ValueError(
            f"reference_column {reference_column!r} is not in {data}, which has {', '.join(dataset.column_names)}."
        )
    rows = list(range(len(dataset)))
    if num_queries is not None:
        if num_queries < 1:
            raise ValueError(f"num_queries {num_queries} must be 1 or more.")
        random.Random(seed).shuffle(rows)
        rows = sorted(rows[:num_queries])
    if not rows:
        raise ValueError(f"data {data!r} has no rows in its split {split}.")
    table = dataset.select(rows).to_dict()
    prompts = table.pop("prompt")
    references = table.get(reference_column)
    for row, prompt in zip(rows, prompts, strict=True):
        _check(f"{data}, {split}, row {row}", "prompt", prompt, like=prompts[0])
    for row, reference in zip(rows, references or [], strict=False):
        _check(f"{data}, {split}, row {row}", reference_column, reference, like=prompts[0])
        if not isinstance(reference, str) and len(reference) > 1:
            raise ValueError(
                f"{data}, {split}, row {row}: {reference_column} has {len(reference)} messages and must have one, "
                "the response. Take the query out of it with trl.extract_prompt."
            )
    source = {"data": data, "config": config, "split": split, "rows_in_split": len(dataset), "seed": seed}
    source["reference_column"] = reference_column
    return Queries(rows, prompts, references, table, source, chat_template_kwargs or None)


def _check(place: str, column: str, value, like) -> None:
    if value is None:
        raise ValueError(f"{place}: {column} is null, and must be a text or messages. Remove the row, or fill it in.")
    if isinstance(value, str) and isinstance(like, str):
        if value or column != "prompt":
            return
        raise ValueError(f"{place}: prompt is empty, and a response cannot be conditioned on nothing. Remove it.")
    if isinstance(value, str) or isinstance(like, str):
        raise ValueError(f"{place}: {column} is of another format than the first prompt. Use one: text or messages.")
    messages = value or [None]
    if not isinstance(value, list) or not all(
        isinstance(message, dict) and isinstance(message.get("content"), str) for message in messages
    ):
        raise ValueError(f"{place}: {column} is no list of messages with a role and a text as content.")


def text_of(response: str | list[dict]) -> str:
    """A response's text."""
    return response if isinstance(response, str) else response[-1]["content"]


def as_response(text: str, conversational: bool) -> str | list[dict]:
    """A text in the format that TRL's reward functions get."""
    return [{"role": "assistant", "content": text}] if conversational else text


def drop_long(
    queries: Queries,
    readers: dict[str, tuple],
    *,
    max_new_tokens: int,
    with_references: bool,
    max_query_tokens: int | None = None,
) -> Queries:
    """
    Leave out queries that are too long for any of the models, so that all are asked the same.

    Args:
        queries ([`Queries`]): all of them.
        readers (`dict[str, tuple]`): each model's tokenizer and context, in tokens or `None`.
        max_new_tokens (`int`): room for the response; 0 if none is generated.
        with_references (`bool`): whether the models read the references too.
        max_query_tokens (`int`, *optional*): longest query under any of the tokenizers.

    Raises:
        ValueError: if none is left, or a query cannot be rendered.
    """
    dropped: dict[str, int] = {}
    left = list(range(len(queries.rows)))
    for label, (tokenizer, context) in readers.items():
        if queries.conversational and tokenizer.chat_template is None:
            raise ValueError(
                f"The tokenizer of {label} has no chat template, and the queries are conversations. Use queries that "
                "are texts, or add a template to the tokenizer."
            )
        fits, asked = [], queries.select(left)
        query_lengths = map(len, asked.query_ids(tokenizer))
        lengths = map(len, asked.reference_ids(tokenizer)) if with_references else [0] * len(left)
        for i, query, reference in zip(left, query_lengths, lengths, strict=True):
            if with_references:
                pair, place = (queries.prompts[i], queries.references[i]), f"row {queries.rows[i]}: the reference"
                check_reasoning(tokenizer, *pair, place, queries.chat_template_kwargs)
            if max_query_tokens is not None and query > max_query_tokens:
                reason = f"query over {max_query_tokens} tokens"
            elif context is not None and query + max(max_new_tokens, reference) > context:
                reason = f"over the context of {label}, {context} tokens"
            else:
                fits.append(i)
                continue
            dropped[reason] = dropped.get(reason, 0) + 1
        left = fits
    if not left:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in dropped.items())
        raise ValueError(f"No query is left ({reasons}). Lower max_new_tokens or raise max_query_tokens.")
    return queries.select(left, dropped=dropped)
