import pytest

from trl_negalign.data import BadRow
from trl_negalign.data.tldr import datasets, parse, parse_preference, preference_datasets


POST = "POST: My dog ate my film.\n\nTL;DR:"


def test_texts_stay_as_they_are():
    assert parse({"prompt": POST, "completion": " Dog ate film.", "info": 1}) == {
        "prompt": POST,
        "completion": " Dog ate film.",
    }
    row = {"prompt": POST, "chosen": " Dog ate film.", "rejected": " Dog."}
    assert parse_preference(row) == row


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": " \n"}, "prompt is empty"),
        ({"chosen": None}, "chosen is no text"),
        ({"rejected": ""}, "rejected is empty"),
        ({"rejected": "Dog ate film. "}, "chosen and rejected are the same"),
    ],
)
def test_bad_pairs_name_the_reason(change, reason):
    row = {"prompt": POST, "chosen": " Dog ate film.", "rejected": " Dog."}
    with pytest.raises(BadRow) as error:
        parse_preference(row | change)
    assert str(error.value) == reason


def test_an_empty_summary():
    with pytest.raises(BadRow, match="^completion is empty$"):
        parse({"prompt": POST, "completion": " "})


def test_each_source_makes_its_own_datasets():
    assert datasets([1]) == {"sft": [1], "queries": [1]}
    assert preference_datasets([2]) == {"preference": [2]}
