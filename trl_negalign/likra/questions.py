"""Questions with options, one of which is right: read from a dataset's rows and checked."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from ..data.loading import read_splits


QUERY_COLUMNS = ("question", "context", "ctx")
OPTION_COLUMNS = ("choices", "endings")
ANSWER_COLUMNS = ("answer", "label")


@dataclass(frozen=True)
class Question:
    """
    A question and its options.

    Args:
        query (`str` or `list[dict]`): the question, or a policy's prompt, as text or as a conversation.
        options (`tuple[str, ...]`): at least two texts.
        answer (`int`): index of the right option.
        is_prompt (`bool`): the query stands as a policy sees it, and the options as it writes them. Otherwise the
            query is put into a template, and a space comes before the option.
    """

    query: str | list[dict]
    options: tuple[str, ...]
    answer: int
    is_prompt: bool = False

    @property
    def text(self) -> str:
        """The query's text, of its last message where it is a conversation."""
        return self.query if isinstance(self.query, str) else self.query[-1]["content"]


def read_questions(dataset: Dataset, name: str = "dataset") -> list[Question]:
    """
    The questions of a dataset: columns `question` (or `context`, `ctx`), `choices` (or `endings`) and `answer` (or
    `label`), the right option's index; or preferences, with columns `prompt`, `chosen` and `rejected`.

    Args:
        dataset (`Dataset`): one question a row.
        name (`str`): for the messages.

    Raises:
        TypeError: if it is no `datasets.Dataset`.
        ValueError: if a column is missing, or a row cannot be used, naming the row.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{name} is of type {type(dataset).__name__}. Pass a datasets.Dataset.")
    if len(dataset) == 0:
        raise ValueError(f"{name} is empty.")
    columns = dataset.column_names
    if {"chosen", "rejected"} <= set(columns):
        if "prompt" not in columns:
            raise ValueError(
                f"{name} has chosen and rejected, and no column 'prompt'. Make one, e.g. with trl.extract_prompt."
            )
        return [_read_preference(row, f"{name}[{i}]") for i, row in enumerate(dataset)]
    found = []
    for names in (QUERY_COLUMNS, OPTION_COLUMNS, ANSWER_COLUMNS):
        column = next((column for column in names if column in columns), None)
        if column is None:
            raise ValueError(
                f"{name} has no column {' or '.join(map(repr, names))}, only {', '.join(columns)}. `negalign data "
                "arc` writes question, choices and answer; preferences need prompt, chosen and rejected."
            )
        found.append(column)
    return [_read_choices(*(row[column] for column in found), f"{name}[{i}]") for i, row in enumerate(dataset)]


def _read_choices(query, options, answer, place: str) -> Question:
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"{place}: the question is {query!r}, and must be a text. Drop such rows.")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(
            f"{place}: the options are {options!r}, and must be a list of texts. `negalign data arc` makes one."
        )
    if isinstance(answer, str) and answer.isdecimal():
        answer = int(answer)  # some datasets write the index as a text
    return _checked(Question(query.strip(), tuple(option.strip() for option in options), answer), place)


def _read_preference(row: dict, place: str) -> Question:
    responses = []
    for column in ("chosen", "rejected"):
        response = row[column]
        if isinstance(response, list) and len(response) != 1:
            raise ValueError(
                f"{place}: {column} has {len(response)} messages, and a response is one. Move the earlier ones to "
                "'prompt', e.g. with trl.extract_prompt."
            )
        responses.append(_text(response))
        if responses[-1] is None:
            raise ValueError(
                f"{place}: {column} is {response!r}, and must be a text, or a list with one message. Drop such rows."
            )
    text = _text(row["prompt"])
    if text is None or not text.strip():
        raise ValueError(
            f"{place}: the prompt is {row['prompt']!r}, and must be a text, or messages of which the last has a text. "
            "Drop such rows."
        )
    return _checked(Question(row["prompt"], tuple(responses), 0, is_prompt=True), place)


def _text(value) -> str | None:
    """A text, or that of the last message; `None` where there is none."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    return value if isinstance(value, str) else None


def _checked(question: Question, place: str) -> Question:
    check_options(question.options, place)
    count, answer = len(question.options), question.answer
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < count:
        raise ValueError(f"{place}: the answer is {answer!r}, and must be the index of one of the {count} options.")
    if question.options.count(question.options[answer]) > 1:
        raise ValueError(
            f"{place}: a wrong option is the same as the right one, {question.options[answer]!r}. Drop such rows."
        )
    return question


def check_options(options: Sequence[str], place: str) -> None:
    """Raise a `ValueError` where there is nothing to choose from, or an option has no text."""
    if isinstance(options, str) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"{place}: the options are {options!r}, and must be a list of texts.")
    if len(options) < 2:
        raise ValueError(f"{place} has {len(options)} option(s), and a choice needs two or more.")
    for i, option in enumerate(options):
        if not option.strip():
            raise ValueError(f"{place}: option {i} is empty.")


def cut_test(questions: list[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """
    Cut a share off to test, by a seeded draw; rows with the same query stay together.

    Args:
        questions (`list[Question]`): all questions.
        share (`float`): of the queries, between 0 and 1.
        seed (`int`): of the draw.

    Returns:
        `tuple`: questions to train on and to test on, in their order.
    """
    if not 0 < share < 1:
        raise ValueError(f"test_share {share} must lie between 0 and 1.")
    texts = sorted({question.text for question in questions})
    random.Random(seed).shuffle(texts)
    tested = set(texts[: max(1, round(share * len(texts)))])
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question in questions:
        parts[question.text in tested].append(question)
    return parts


def load_questions(
    names: list[str],
    config: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    test_share: float | None = None,
    num_test: int | None = None,
    seed: int = 0,
) -> tuple[list[Question], list[Question]]:
    """
    Questions to train on and to test on, from one or more datasets. None is in both: training questions with the text
    of a test question are left out.

    Args:
        names (`list[str]`): see [`~trl_negalign.data.loading.read_splits`]. Their train splits are joined; the first
            one is tested on.
        config (`str`, *optional*): their configuration.
        train_split, test_split (`str`): the splits.
        test_share (`float`, *optional*): share of the first train split that is cut off to test, instead of a split.
        num_test (`int`, *optional*): size of a random sample of the test questions. Each is part of every larger one.
        seed (`int`): of the cut and the sample.

    Raises:
        ValueError: if something is missing or cannot be used.
    """
    if not names:
        raise ValueError("dataset_name is missing. Name a dataset's folder, id or file, or several.")
    if num_test is not None and num_test < 1:
        raise ValueError(f"num_test {num_test} must be 1 or more.")

    def read(name: str, splits: dict[str, Dataset], field: str, split: str) -> list[Question]:
        if split not in splits:
            hint = " Or cut questions off with test_share." if field == "dataset_test_split" else ""
            raise ValueError(f"{field} {split!r} is not in {name}. It has {', '.join(splits)}.{hint}")
        return read_questions(splits[split], f"{name}, {split}")

    loaded = {name: read_splits(name, "dataset_name", config) for name in names}
    train = [read(name, splits, "dataset_train_split", train_split) for name, splits in loaded.items()]
    if test_share is None:
        test = read(names[0], loaded[names[0]], "dataset_test_split", test_split)
    else:
        train[0], test = cut_test(train[0], test_share, seed)
    tested = {question.text for question in test}
    left = [question for part in train for question in part if question.text not in tested]
    if not left:
        raise ValueError("no training question is left beside the test questions. Use other splits.")
    order = list(range(len(test)))
    random.Random(seed).shuffle(order)
    return left, [test[i] for i in sorted(order[:num_test])]
