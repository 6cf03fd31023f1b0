"""HH-RLHF: a pair of dialogues that differ in the last answer."""

import re
from itertools import pairwise

from . import BadRow


SOURCE = "Anthropic/hh-rlhf"
COLUMNS = ("chosen", "rejected")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
# a speaker's name inside a line is part of what is said
TURN = re.compile(r"\n\n(Human|Assistant):(?=\s|\Z)")


def parse(row: dict) -> dict:
    """
    One preference in TRL's conversational format.

    Args:
        row (`dict`): `chosen` and `rejected`, each a whole transcript (`"\\n\\nHuman: … \\n\\nAssistant: …"`) or a
            list of messages, which continue those in `prompt` if the row has any.

    Returns:
        `{"prompt": messages that end with the user's, "chosen": [one message], "rejected": [one message]}`.

    Raises:
        BadRow: if the two dialogues have no common history, are the same, or are no dialogue of a user and an
            assistant in turns that ends with the assistant's.
    """
    chosen, rejected = (_dialogue(row, column) for column in COLUMNS)
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("chosen and rejected have different histories")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def datasets(rows: list[dict]) -> dict[str, list[dict]]:
    """The three datasets; the completions of `sft` are the chosen answers."""
    sft = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    return {"sft": sft, "preference": rows, "queries": rows}


def _dialogue(row: dict, column: str) -> list[dict]:
    value = row[column]
    messages = _transcript(value, column) if isinstance(value, str) else _messages(row, column)
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not turns:
        raise BadRow(f"{column} has no turn")
    if turns[0]["role"] != "user":
        raise BadRow(f"{column} does not begin with the user")
    for one, other in pairwise(turns):
        if one["role"] == other["role"]:
            raise BadRow(f"{column} has two turns of the {one['role']} in a row")
    if turns[-1]["role"] != "assistant":
        raise BadRow(f"{column} does not end with the assistant")
    if not turns[-1]["content"].strip():
        raise BadRow(f"{column} has an empty answer")
    if not all(turn["content"].strip() for turn in turns):
        raise BadRow(f"{column} has an empty turn in its history")
    return messages


def _transcript(text: str, column: str) -> list[dict]:
    before, *parts = TURN.split(text)
    if before.strip():
        raise BadRow(f"{column} has text before its first turn")
    names, contents = parts[::2], parts[1::2]
    return [
        {"role": SPEAKERS[name], "content": content.strip()} for name, content in zip(names, contents, strict=True)
    ]


def _messages(row: dict, column: str) -> list[dict]:
    history, answer = row.get("prompt") or [], row[column]
    if not isinstance(history, list) or not isinstance(answer, list):
        raise BadRow(f"{column} is neither a transcript nor a list of messages")
    try:
        messages = [{"role": message["role"], "content": message["content"]} for message in history + answer]
    except (TypeError, KeyError):
        raise BadRow(f"{column} has a message without role and content") from None
    if not all(isinstance(text, str) for message in messages for text in message.values()):
        raise BadRow(f"{column} has a message whose role or content is no text")
    return messages
