"""What a task is made of: queries for training, validation and test apart, and labelled texts for its judges."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trl_negalign.data import BadRow, UnfitRow, hh, imdb
from trl_negalign.data.convert import load_splits, sources
from trl_negalign.data.loading import read_splits
from trl_negalign.evaluation.queries import Queries
from trl_negalign.fingerprints import digest


# what a judge reads: a text, or a message and the answer to it, of which the answer is judged
Judged = str | tuple[str, str]


@dataclass
class Material:
    """
    Args:
        train (`list[dict]`): rows with `prompt`, `completion` (the dataset's response) and `good` (whether a policy
            should imitate that response); with `chosen` and `rejected` where the dataset has both.
        validation, test ([`Queries`]): with the dataset's responses as references.
        halves (`list[tuple[list[Judged], list[int]]]`): texts and labels for a judge each; no source of a text is in
            two.
        held_out (`tuple[list[Judged], list[int]]`): texts of neither half, for the judges' accuracy.
        preferences (`bool`): two texts in a row are two answers to one message, the better one first; a judge learns
            which of the two it is, and not a label of each.
    """

    train: list[dict]
    validation: Queries
    test: Queries
    halves: list[tuple[list[Judged], list[int]]]
    held_out: tuple[list[Judged], list[int]]
    preferences: bool = False

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
    if data is None and "hub_folder" in corpus:
        source = sources(0, 0)[corpus["reader"]][0]
        try:
            return load_splits(corpus["hub"], source, corpus["hub_folder"])[split].to_list()
        except OSError as error:
            raise ValueError(f"{corpus['hub']} cannot be read: {error} Or name local files with --data.") from error
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


def hh_dialogues(corpus: dict, data: str | None) -> Material:
    """
    Short first messages of a user as queries, with the dataset's two answers; all other pairs, of dialogues of any
    length, for the judges, which read a dialogue's last message. No query of a policy is among a judge's.
    """
    seen: set[str] = set()
    parts = {}
    for split in ("train", "test"):
        rows = rows_of(corpus, data, split)
        random.Random(corpus["seed"]).shuffle(rows)
        parts[split] = [row for row in map(dialogue, rows) if row is not None]
    queries: dict[str, list[dict]] = {"train": [], "test": []}
    wanted = {"train": corpus["train_queries"], "test": corpus["validation_queries"] + corpus["test_queries"]}
    others = []
    for split, rows in parts.items():
        for row in rows:
            message = row["prompt"][-1]["content"]
            if message in seen:
                continue
            seen.add(message)
            short = len(row["prompt"]) == 1 and len(message.split()) <= corpus["query_words"]
            if short and len(queries[split]) < wanted[split]:
                answers = {name: row[name][0]["content"] for name in ("chosen", "rejected")}
                queries[split].append(
                    {"prompt": row["prompt"], "completion": answers["chosen"], "good": True} | answers
                )
            elif split == "train":
                others.append(row)
        if len(queries[split]) < wanted[split]:
            raise ValueError(
                f"the {split} split has {len(queries[split])} first messages of at most {corpus['query_words']} "
                f"words, and the task asks for {wanted[split]}."
            )
    middle = len(others) // 2
    validation = corpus["validation_queries"]
    return Material(
        train=queries["train"],
        validation=as_queries(queries["test"][:validation], "validation"),
        test=as_queries(queries["test"][validation:], "test"),
        halves=[answers_of(rows, corpus) for rows in (others[:middle], others[middle:])],
        held_out=answers_of(parts["test"], corpus),
        preferences=True,
    )


def dialogue(row: dict) -> dict | None:
    """A row of HH as messages; `None` where it is no pair of answers."""
    try:
        return hh.parse(row)
    except BadRow:
        return None


def answers_of(rows: list[dict], corpus: dict) -> tuple[list[Judged], list[int]]:
    """Each message with the beginnings of its two answers, about as long as a completion, the better one first."""
    texts: list[Judged] = []
    for row in rows:
        cut = [" ".join(row[name][0]["content"].split()[: corpus["answer_words"]]) for name in ("chosen", "rejected")]
        if cut[0] != cut[1]:
            texts += [(row["prompt"][-1]["content"], answer) for answer in cut]
    return texts, [1, 0] * (len(texts) // 2)


def made_up(corpus: dict, data: str | None) -> Material:
    """Made sentences, or `dialogues`, with nothing to download, for a trial of the machinery."""
    generator = random.Random(corpus["seed"])
    words = {1: ["good", "kind", "happy"], 0: ["bad", "cold", "angry"]}

    def sentence(label: int) -> str:
        return " ".join(generator.choice([*words[label], "film", "music", "word"]) for _ in range(6))

    def texts(count: int) -> tuple[list[str], list[int]]:
        labels = [index % 2 for index in range(count)]
        labels = labels[::-1] if corpus.get("dialogues") else labels
        return [sentence(label) for label in labels], labels

    rows = [
        {"prompt": f"film number {index}", "completion": f" {sentence(index % 2)}", "good": index % 2 == 1}
        for index in range(corpus["queries"])
    ]
    if corpus.get("dialogues"):
        for row in rows:
            row["prompt"] = [{"role": "user", "content": row["prompt"]}]
            row |= {"completion": sentence(1), "good": True, "rejected": sentence(0)}
            row["chosen"] = row["completion"]
    third = len(rows) // 3
    validation, test = as_queries(rows[:third], "validation"), as_queries(rows[third : 2 * third], "test")
    halves, held_out = [texts(40), texts(40)], texts(20)
    if corpus.get("dialogues"):
        asked = [([("a film", text) for text in part], labels) for part, labels in (*halves, held_out)]
        *halves, held_out = asked
    return Material(rows[2 * third :], validation, test, halves, held_out, preferences="dialogues" in corpus)


def as_queries(rows: list[dict], part: str) -> Queries:
    return Queries(
        rows=list(range(len(rows))),
        prompts=[row["prompt"] for row in rows],
        references=[row["completion"] for row in rows],
        columns={},
        source={"part": part},
    )


READERS: dict[str, Callable[[dict, str | None], Material]] = {
    "imdb": imdb_reviews,
    "hh": hh_dialogues,
    "made": made_up,
}
