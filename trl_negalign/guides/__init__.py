"""Guides: texts that steer sampling, and the one way in which they are put before a query."""

from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any

import yaml

from ..borders import Prompt, text_of


GUIDE_KINDS = ("principle", "positive", "negative")
GUIDE_PLACEMENTS = ("user", "system", "both")
SEPARATOR = "\n\n"


def available_guides() -> list[str]:
    """Names of the packaged guide files, each holding a principle, a positive and a negative guide."""
    return sorted(path.name.removesuffix(".yaml") for path in files(__name__).iterdir() if path.name.endswith(".yaml"))


@cache
def _read(name: str) -> dict[str, str]:
    return yaml.safe_load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def resolve_guide(guide: str, field: str, kind: str) -> str:
    """
    The text of a guide, in which `{column}` stands for a column of the query's row, see [`fill_guide`].

    Args:
        guide (`str`): the text itself, `"@name/kind"` for a packaged guide, or `"@name"` for the packaged guide of
            the kind that the field asks for.
        field (`str`): name of the configuration field, for the error messages.
        kind (`str`): `"principle"`, `"positive"` or `"negative"`.

    Raises:
        ValueError: if the guide is empty, not among the packaged ones, or its braces are not those of columns.
    """
    if not isinstance(guide, str) or not guide.strip():
        raise ValueError(f"{field}={guide!r} is empty. Give the guide's text, or a packaged guide such as '@helpful'.")
    if not guide.startswith("@"):
        try:
            guide_columns(guide)
        except ValueError as error:
            raise ValueError(f"{field}={guide!r}: {error}") from error
        return guide.strip()
    name, _, named_kind = guide[1:].partition("/")
    kind = named_kind or kind
    if name not in available_guides() or kind not in GUIDE_KINDS:
        raise ValueError(
            f"{field}={guide!r} is not a packaged guide. Use '@name' or '@name/kind' with a name out of "
            f"{', '.join(available_guides())} and a kind out of {', '.join(GUIDE_KINDS)}, or give the text itself."
        )
    return _read(name)[kind].strip()


def _parts(guide: str) -> list[tuple[str, str | None]]:
    """Texts, each with the column that follows it, `None` behind the last."""
    try:
        parts = list(Formatter().parse(guide))
    except ValueError:
        parts = [("", "", None, None)]
    if any(name is not None and (not name.strip() or spec or conversion) for _, name, spec, conversion in parts):
        raise ValueError("braces are of columns, as in {answer}. Write {{ and }} for braces that are text.")
    return [(text, name) for text, name, _, _ in parts]


def guide_columns(guide: str | None) -> list[str]:
    """
    The dataset columns that a guide reads, in its order.

    Raises:
        ValueError: if a brace is neither a column's nor doubled.
    """
    return list(dict.fromkeys(name for _, name in _parts(guide or "") if name is not None))


def check_guide_columns(guide: str | None, columns: Collection[str], place: str) -> None:
    """Raise a `ValueError` if a guide reads a column that `place`, a dataset, does not have."""
    for name in guide_columns(guide):
        if name not in columns:
            raise ValueError(
                f"The guide {guide!r} reads the column {name!r}, which {place} does not have. It has "
                f"{', '.join(columns)}. Name one of them, add the column, or write {{{{{name}}}}} for braces that are "
                "text."
            )


def fill_guide(guide: str, row: Mapping[str, Any]) -> str:
    """
    A guide with the row's values in the place of its columns: `"The right answer is {answer}."`. `{{` and `}}` become
    braces. Of a message list, the text of the last message is taken.
    """
    return "".join(text + ("" if name is None else _text(row[name])) for text, name in _parts(guide))


def _text(value: Any) -> str:
    return text_of(value) if isinstance(value, list) else str(value)


def apply_guide(
    prompt: Prompt, guide: str | None, placement: str = "user", row: Mapping[str, Any] | None = None
) -> Prompt:
    """
    Put a guide before a query: the `[g, x]` of the papers. The prompt that is passed in is left as it is.

    Args:
        prompt (`str` or `list[dict]`): the plain query, as text or as messages.
        guide (`str`, *optional*): the guide's text; `None` returns the prompt.
        placement (`str`): for messages, `"user"` puts it before the last user message's text, `"system"` makes it the
            system message or puts it before the one there is, `"both"` does both. Plain text takes it as a prefix.
        row (`Mapping`, *optional*): the query's row of the dataset, for a guide that reads columns.

    Returns:
        A prompt of the same style.

    Raises:
        ValueError: if a conversation has no user message to put the guide before.
    """
    if guide is None:
        return prompt
    guide = fill_guide(guide, row or {})
    if isinstance(prompt, str):
        return guide + SEPARATOR + prompt
    messages = list(prompt)
    if placement in ("user", "both"):
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is None:
            raise ValueError(
                f"guide_placement={placement!r} needs a user message, and this conversation has none: {prompt!r}. "
                "Use guide_placement='system'."
            )
        messages[last] = _prepend(messages[last], guide)
    if placement in ("system", "both"):
        if messages[0]["role"] == "system":
            messages[0] = _prepend(messages[0], guide)
        else:
            messages.insert(0, {"role": "system", "content": guide})
    return messages


def _prepend(message: dict, guide: str) -> dict:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": guide + SEPARATOR + content}
    return {**message, "content": [{"type": "text", "text": guide + SEPARATOR}, *content]}
