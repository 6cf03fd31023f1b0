"""What a task is made of: queries for training, validation and test apart, and labelled texts for its judges."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trl_negalign.data import UnfitRow, imdb
from trl_negalign.data.loading import read_splits
from trl_negalign.evaluation.queries import Queries
from trl_negalign.fingerprints import digest


@dataclass
class Material:
    """
    Args:
        train (`list[dict]`): rows with `prompt`, `completion` (the dataset's response) and `good` (whether a policy
            should imitate that response).
        validation, test ([`Queries`]): with the dataset's responses as references.
        halves (`list[tuple[list[str], list[int]]]`): texts and labels for a judge each; no source of a text is in two.
        held_out (`tuple[list[str], list[int]]`): texts of neither half, for the judges' accuracy.
    """

    train: list[dict]
    validation: Queries
    test: Queries
    halves: list[tuple[list[str], list[int]]]
    held_out: tuple[list[str], list[int]]

    @property
    def fingerprint(self) -> str:
        return digest(self.train, self.validation.fingerprint, self.test.fingerprint, self.halves)


def load_material(corpus: dict, data: str | None) -> Material:
    """
    Args:
        corpus (`dict`): the task's section of that name.
        data (`str`, *optional*): folder with the corpus' files. Left out, the hub's datasets.

    Raises:
        ValueError: if the data cannot be read, or are too few.
    """
    return READERS[corpus["reader"]](corpus, data)


def rows_of(corpus: dict, data: str | None, split: str) -> list[dict]:
    """
    A split's rows, from the local file that the corpus names or from the hub.

    Raises:
        ValueError: if they cannot be read.
    """
    if data is None:
        splits = read_splits(corpus["hub"], "data", corpus.get("hub_config"))
        return splits[split].to_list()
    path = Path(data) / corpus["files"][split]
    if not path.exists():
        raise ValueError(f"--data {data} has no {path.name}. Name a folder with it, or leave --data out for the hub.")
    return next(iter(read_splits(str(path.resolve()), "--data").values())).to_list()


def imdb_reviews(corpus: dict, data: str | None) -> Material:
    """Openings of reviews as queries, the rest as references; pieces of about a completion's length for the judges."""
    low, high = corpus["opening_words"]
    texts = {split: rows_of(corpus, data, split) for split in ("train", "test")}
    openings: dict[str, list[dict]] = {}
    seen: set[str] = set()
    for split, rows in texts.items():
        generator = random.Random(corpus["seed"])
        generator.shuffle(rows)
        openings[split] = []
        for row in rows:
            try:
                parsed = imdb.parse(row, generator.randint(low, high))
            except UnfitRow:
                continue
            words = parsed["completion"].split()[: corpus["reference_words"]]
            # a review that opens as another one could stand on both sides of the split
            opening = " ".join(parsed["prompt"].split()[:low])
            if opening not in seen:
                seen.add(opening)
                completion = " " + " ".join(words)
                openings[split].append(
                    {"prompt": parsed["prompt"], "completion": completion, "good": parsed["label"] == 1}
                )
    validation, test = corpus["validation_queries"], corpus["test_queries"]
    if len(openings["test"]) < validation + test:
        raise ValueError(
            f"the test split has {len(openings['test'])} queries, and the task asks for {validation} and {test}."
        )
    middle = len(texts["train"]) // 2
    halves = [pieces(rows, corpus) for rows in (texts["train"][:middle], texts["train"][middle:])]
    # neither a judge nor a policy learns from the test split
    return Material(
        train=openings["train"],
        validation=as_queries(openings["test"][:validation], "validation"),
        test=as_queries(openings["test"][validation : validation + test], "test"),
        halves=halves,
        held_out=pieces(texts["test"], corpus | {"pieces": 1}),
    )


def pieces(rows: list[dict], corpus: dict) -> tuple[list[str], list[int]]:
    """The first pieces of each review, and its label for each."""
    size = corpus["piece_words"]
    texts, labels = [], []
    for row in rows:
        words = imdb.LINE_BREAK.sub(" ", row["text"]).split()
        for start in range(0, max(1, len(words) - size + 1), size)[: corpus["pieces"]]:
            texts.append(" ".join(words[start : start + size]))
            labels.append(row["label"])
    return texts, labels


def made_up(corpus: dict, data: str | None) -> Material:
    """Made sentences with nothing to download, for a trial of the machinery."""
    generator = random.Random(corpus["seed"])
    words = {1: ["good", "kind", "happy"], 0: ["bad", "cold", "angry"]}

    def sentence(label: int) -> str:
        return " ".join(generator.choice([*words[label], "film", "music", "word"]) for _ in range(6))

    def texts(count: int) -> tuple[list[str], list[int]]:
        labels = [index % 2 for index in range(count)]
        return [sentence(label) for label in labels], labels

    rows = [
        {"prompt": f"film number {index}", "completion": f" {sentence(index % 2)}", "good": index % 2 == 1}
        for index in range(corpus["queries"])
    ]
    third = len(rows) // 3
    validation, test = as_queries(rows[:third], "validation"), as_queries(rows[third : 2 * third], "test")
    return Material(rows[2 * third :], validation, test, [texts(40), texts(40)], texts(20))


def as_queries(rows: list[dict], part: str) -> Queries:
    return Queries(
        rows=list(range(len(rows))),
        prompts=[row["prompt"] for row in rows],
        references=[row["completion"] for row in rows],
        columns={},
        source={"part": part},
    )


READERS: dict[str, Callable[[dict, str | None], Material]] = {"imdb": imdb_reviews, "made": made_up}
