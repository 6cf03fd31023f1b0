import pytest

from trl_negalign.data import BadRow, UnfitRow
from trl_negalign.data.imdb import datasets, parse


def review(text, label=1):
    return {"text": text, "label": label}


def test_the_first_words_are_the_query_and_both_parts_make_the_review():
    row = parse(review("one two three four five"), prefix_words=3)
    assert row == {"prompt": "one two three", "completion": " four five", "label": 1}


@pytest.mark.parametrize("tag", ["<br />", "<br/>", "<br>", "<br /><br />", " <br /> ", "\n\t"])
def test_line_breaks_become_one_space(tag):
    row = parse(review(f"one.{tag}Two.{tag}"), prefix_words=1)
    assert row["prompt"] + row["completion"] == "one. Two."


def test_other_tags_are_text():
    assert parse(review("a <b> c <brave> d"), 2)["completion"] == " c <brave> d"


def test_a_review_of_the_querys_length_is_dropped_not_malformed():
    with pytest.raises(UnfitRow, match="no word left after the query"):
        parse(review("one two three"), prefix_words=3)
    assert parse(review("one two three four"), prefix_words=3)["completion"] == " four"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (review(None), "text is no text"),
        (review("  "), "text is empty"),
        (review("<br /><br />"), "text is empty"),
        (review("one two", -1), "label is neither 0 nor 1"),
        (review("one two", None), "label is neither 0 nor 1"),
        (review("one two", "1"), "label is neither 0 nor 1"),
    ],
)
def test_bad_reviews_name_the_reason(row, reason):
    with pytest.raises(BadRow) as error:
        parse(row, prefix_words=1)
    assert str(error.value) == reason


def rows_of(positive, negative):
    texts = [(f"good {i}", 1) for i in range(positive)] + [(f"bad {i}", 0) for i in range(negative)]
    return [parse(review(f"{text} film", label), 2) for text, label in texts]


def test_pairs_use_every_review_once_and_depend_on_the_seed():
    pairs = datasets(rows_of(20, 20), seed=1)["preference"]
    assert {pair["chosen"] for pair in pairs} == {f"good {i} film" for i in range(20)}
    assert {pair["rejected"] for pair in pairs} == {f"bad {i} film" for i in range(20)}
    assert len(pairs) == 20 and pairs[0].keys() == {"chosen", "rejected"}
    assert pairs == datasets(rows_of(20, 20), seed=1)["preference"]
    assert pairs != datasets(rows_of(20, 20), seed=2)["preference"]
    assert [pair["chosen"].split()[1] for pair in pairs] != [pair["rejected"].split()[1] for pair in pairs]


@pytest.mark.parametrize(("positive", "negative"), [(5, 2), (2, 5)])
def test_reviews_of_the_rarer_label_are_used_again(positive, negative):
    pairs = datasets(rows_of(positive, negative), seed=1)["preference"]
    assert len(pairs) == 5
    assert len({pair["chosen"] for pair in pairs}) == positive
    assert len({pair["rejected"] for pair in pairs}) == negative


def test_sft_and_queries_hold_both_labels():
    rows = rows_of(2, 1)
    made = datasets(rows, seed=1)
    assert made["queries"] == rows
    assert made["sft"] == [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]


def test_one_label_makes_no_pairs():
    with pytest.raises(ValueError, match="3 positive and 0 negative reviews. Raise --limit"):
        datasets(rows_of(3, 0), seed=1)
