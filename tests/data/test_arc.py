import pytest

from trl_negalign.data import BadRow
from trl_negalign.data.arc import parse


HUB = {
    "id": "Mercury_1",
    "question": "What boils an egg?",
    "choices": {"text": ["ice", "hot water", "music"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
PARSED = {"id": "Mercury_1", "question": "What boils an egg?", "choices": ["ice", "hot water", "music"], "answer": 1}


def test_the_hubs_layout():
    assert parse(HUB) == PARSED


def test_choices_named_by_numbers():
    numbered = HUB | {"choices": HUB["choices"] | {"label": ["1", "2", "3"]}, "answerKey": "3"}
    assert parse(numbered)["answer"] == 2


def test_the_answer_is_found_by_its_label_not_by_the_alphabet():
    swapped = HUB | {"choices": HUB["choices"] | {"label": ["C", "A", "B"]}}
    assert parse(swapped)["answer"] == 2


def test_a_list_of_choices_with_an_index():
    row = {"question": "What boils an egg?", "choices": ["ice", "hot water"], "label": 1}
    assert parse(row) == {"question": row["question"], "choices": row["choices"], "answer": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": ""}, "question is empty"),
        ({"choices": None}, "choices are no list of texts with as many labels"),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}}, "choices are no list of texts with as many labels"),
        ({"choices": {"text": ["a"], "label": ["B"]}}, "fewer than two choices"),
        ({"choices": {"text": ["a", " "], "label": ["A", "B"]}}, "a choice is no text or empty"),
        ({"choices": {"text": ["a", None], "label": ["A", "B"]}}, "a choice is no text or empty"),
        ({"answerKey": "D"}, "the answer is not one of the choices"),
        ({"answerKey": ""}, "the answer is not one of the choices"),
        ({"answerKey": None}, "the answer is not one of the choices"),
        ({"choices": ["a", "b"], "label": 2}, "the answer is not one of the choices"),
        ({"choices": ["a", "b"], "label": -1}, "the answer is not one of the choices"),
        ({"choices": {"text": ["a", "a"], "label": ["A", "B"]}}, "a wrong choice is the same as the answer"),
    ],
)
def test_bad_questions_name_the_reason(change, reason):
    with pytest.raises(BadRow) as error:
        parse(HUB | change)
    assert str(error.value) == reason
