"""TL;DR: posts with a summary, and, from a second source, pairs of summaries with a preference."""

from . import BadRow, text_of


SOURCE, PREFERENCE_SOURCE = "trl-lib/tldr", "trl-lib/tldr-preference"
COLUMNS, PREFERENCE_COLUMNS = ("prompt", "completion"), ("prompt", "chosen", "rejected")


def parse(row: dict) -> dict:
    """`{"prompt", "completion"}` as they are; raises `BadRow` if one is no text or empty."""
    return {column: text_of(row, column) for column in COLUMNS}


def parse_preference(row: dict) -> dict:
    """`{"prompt", "chosen", "rejected"}` as they are; raises `BadRow` if one is empty or the summaries are equal."""
    parsed = {column: text_of(row, column) for column in PREFERENCE_COLUMNS}
    if parsed["chosen"].strip() == parsed["rejected"].strip():
        raise BadRow("chosen and rejected are the same")
    return parsed


def datasets(rows: list[dict]) -> dict[str, list[dict]]:
    """What the posts with a summary make."""
    return {"sft": rows, "queries": rows}


def preference_datasets(rows: list[dict]) -> dict[str, list[dict]]:
    """What the pairs of summaries make."""
    return {"preference": rows}
