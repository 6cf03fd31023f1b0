import copy

import pytest

from trl_negalign.guides import GUIDE_KINDS, apply_guide, available_guides, guide_columns, resolve_guide


def test_packaged_guides_have_all_kinds():
    tasks = {"helpful", "harmless", "honest", "sentiment", "reviews", "summaries", "reasoning", "brief"}
    assert tasks <= set(available_guides())
    for name in available_guides():
        texts = {resolve_guide(f"@{name}", "field", kind) for kind in GUIDE_KINDS}
        assert len(texts) == 3


def test_text_and_names_resolve():
    assert resolve_guide("  Be kind.\n", "positive_prompt", "positive") == "Be kind."
    assert resolve_guide("@reviews/negative", "x", "positive") == resolve_guide("@reviews", "x", "negative")


@pytest.mark.parametrize("guide", ["@nothing", "@reviews/neutral", "@", "@../secrets"])
def test_unknown_guide_names_field_and_choices(guide):
    with pytest.raises(ValueError, match="positive_prompt='@.*is not a packaged guide.*reviews"):
        resolve_guide(guide, "positive_prompt", "positive")


@pytest.mark.parametrize("guide", ["", "  \n", None])
def test_empty_guide(guide):
    with pytest.raises(ValueError, match="negative_prompt=.*is empty"):
        resolve_guide(guide, "negative_prompt", "negative")


def test_plain_text_takes_it_as_a_prefix():
    assert apply_guide("We went", "Be kind.") == "Be kind.\n\nWe went"
    assert apply_guide("We went", None) == "We went"


TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "How are you?"},
]


def test_user_placement_is_the_last_user_message_only():
    guided = apply_guide(TALK, "Be kind.", "user")
    assert guided == [*TALK[:2], {"role": "user", "content": "Be kind.\n\nHow are you?"}]


def test_system_placement_makes_or_extends_the_system_message():
    assert apply_guide(TALK, "Be kind.", "system") == [{"role": "system", "content": "Be kind."}, *TALK]
    with_system = [{"role": "system", "content": "You are terse."}, *TALK]
    assert apply_guide(with_system, "Be kind.", "system")[0]["content"] == "Be kind.\n\nYou are terse."


def test_both_places():
    guided = apply_guide(TALK, "Be kind.", "both")
    assert guided[0] == {"role": "system", "content": "Be kind."}
    assert guided[-1]["content"] == "Be kind.\n\nHow are you?"


def test_content_blocks():
    prompt = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert apply_guide(prompt, "Be kind.")[0]["content"][0] == {"type": "text", "text": "Be kind.\n\n"}


def test_the_query_itself_is_left_alone():
    before = copy.deepcopy(TALK)
    for placement in ("user", "system", "both"):
        apply_guide(TALK, "Be kind.", placement)
    assert TALK == before


def test_a_conversation_without_a_user():
    with pytest.raises(ValueError, match="needs a user message.*guide_placement='system'"):
        apply_guide([{"role": "system", "content": "x"}], "Be kind.", "user")


def test_columns_are_filled_in_and_doubled_braces_are_text():
    guide = resolve_guide("Say {answer} as {{x}}, {the score}, {answer}.", "positive_prompt", "positive")
    row = {"answer": [{"role": "assistant", "content": "{7}"}], "the score": 0.5}
    assert guide_columns(guide) == ["answer", "the score"]
    assert apply_guide("Why?", guide, row=row) == "Say {7} as {x}, 0.5, {7}.\n\nWhy?"
    assert apply_guide(TALK, guide, "system", row)[0]["content"] == "Say {7} as {x}, 0.5, {7}."


@pytest.mark.parametrize("guide", ["a {", "a }", "a {}", "a { }", "a {b!r}", "a {b:.2f}"])
def test_braces_that_are_no_column(guide):
    with pytest.raises(ValueError, match="positive_prompt='a .*: braces are of columns.*Write {{ and }}"):
        resolve_guide(guide, "positive_prompt", "positive")
