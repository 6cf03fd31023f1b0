"""ARC: multiple-choice questions."""

from . import BadRow, text_of


SOURCE, SUBSET = "allenai/ai2_arc", "ARC-Challenge"
COLUMNS = ("question", "choices", "answerKey or label")


def parse(row: dict) -> dict:
    """
    One question.

    Args:
        row (`dict`): `question`, `choices` and the answer. Either `choices` is `{"text": […], "label": ["A", …]}` and
            `answerKey` one of its labels, or `choices` is a list of texts and `label` the answer's index.

    Returns:
        `{"question", "choices": list of texts, "answer": index}`, and `id` if the row has one.

    Raises:
        BadRow: if a text is missing or empty, the choices are fewer than two, or the answer is not one of them.
    """
    question = text_of(row, "question")
    if isinstance(row["choices"], dict):
        choices, names, answer = row["choices"].get("text"), row["choices"].get("label"), row.get("answerKey")
    else:
        choices, answer = row["choices"], row.get("label")
        names = list(range(len(choices))) if isinstance(choices, list) else None
    if not isinstance(choices, list) or not isinstance(names, list) or len(choices) != len(names):
        raise BadRow("choices are no list of texts with as many labels")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise BadRow("a choice is no text or empty")
    if len(choices) < 2:
        raise BadRow("fewer than two choices")
    if names.count(answer) != 1:
        raise BadRow("the answer is not one of the choices")
    index = names.index(answer)
    if choices.count(choices[index]) > 1:
        raise BadRow("a wrong choice is the same as the answer")
    parsed = {"question": question, "choices": choices, "answer": index}
    return {"id": row["id"], **parsed} if "id" in row else parsed


def datasets(rows: list[dict]) -> dict[str, list[dict]]:
    """The only dataset: no query for sampling is in it."""
    return {"questions": rows}
