"""Public datasets in TRL's formats: a module of pure row parsers for each, and what reads, sifts and writes them."""


class BadRow(ValueError):
    """A row that breaks its dataset's format. The reason names no value of the row, so that reasons can be counted."""


class UnfitRow(Exception):
    """A sound row for which the options leave no use: dropped and counted, never an error."""


def text_of(row: dict, column: str) -> str:
    """The row's text in `column`; raises `BadRow` if it is no text or only blanks."""
    text = row[column]
    if not isinstance(text, str):
        raise BadRow(f"{column} is no text")
    if not text.strip():
        raise BadRow(f"{column} is empty")
    return text
