"""IMDb: labelled reviews. Their openings are the queries, their labels make pairs for a reward model of sentiment."""

import random
import re
from itertools import cycle, islice

from . import BadRow, UnfitRow, text_of


SOURCE = "stanfordnlp/imdb"
COLUMNS = ("text", "label")
LINE_BREAK = re.compile(r"<br\s*/?>")


def parse(row: dict, prefix_words: int) -> dict:
    """
    One review, cut after its first words. Line-break tags and runs of blanks become one space.

    Args:
        row (`dict`): `text` and `label`, 1 for a positive review and 0 for a negative one.
        prefix_words (`int`): words of the query.

    Returns:
        `{"prompt": opening, "completion": rest with its leading space, "label": 0 or 1}`.

    Raises:
        BadRow: if the text is empty or the label is another.
        UnfitRow: if no word is left for the completion.
    """
    words = LINE_BREAK.sub(" ", text_of(row, "text")).split()
    if not words:
        raise BadRow("text is empty")
    if row["label"] not in (0, 1):
        raise BadRow("label is neither 0 nor 1")
    if len(words) <= prefix_words:
        raise UnfitRow("no word left after the query")
    prompt, completion = " ".join(words[:prefix_words]), " ".join(words[prefix_words:])
    return {"prompt": prompt, "completion": f" {completion}", "label": int(row["label"])}


def datasets(rows: list[dict], seed: int, pair_words: int | None = None) -> dict[str, list[dict]]:
    """
    The three datasets. `sft` holds the reviews of both labels. `preference` pairs whole reviews, a positive chosen and
    a negative rejected, after a seeded shuffle; where one label is rarer, its reviews are used again.

    Args:
        rows (`list[dict]`): what [`parse`] gave.
        seed (`int`): of the shuffle.
        pair_words (`int`, *optional*): first words of a review that a pair keeps, for a reward model of short texts.

    Raises:
        ValueError: if the reviews have one label only.
    """
    reviews = {label: [row["prompt"] + row["completion"] for row in rows if row["label"] == label] for label in (1, 0)}
    if not all(reviews.values()):
        raise ValueError(
            f"imdb: preference pairs need both labels, but a split has {len(reviews[1])} positive and "
            f"{len(reviews[0])} negative reviews. Raise --limit or --test_share, or choose another --source."
        )
    reviews = {label: [" ".join(text.split(" ")[:pair_words]) for text in texts] for label, texts in reviews.items()}
    generator = random.Random(seed)
    for texts in reviews.values():
        generator.shuffle(texts)
    pairs = islice(zip(cycle(reviews[1]), cycle(reviews[0]), strict=False), max(map(len, reviews.values())))
    return {
        "sft": [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows],
        "preference": [{"chosen": positive, "rejected": negative} for positive, negative in pairs],
        "queries": rows,
    }
