"""Tokens of queries and of the responses behind them."""

from copy import deepcopy
from pathlib import Path

import pytest
import trl
from tokenizers.processors import TemplateProcessing

from tests.helpers import CLOSING, DROPPING, build, with_template
from trl_negalign.borders import (
    MARK,
    check_reasoning,
    ended_response_ids,
    query_ids,
    query_text,
    response_ids,
    text_of,
)


CHAT = [{"role": "user", "content": "How do I boil an egg?"}]


def ids_of(tokenizer, prompt, response, max_length=None, eos=None):
    return ended_response_ids(tokenizer, prompt, response, eos or [tokenizer.eos_token_id], max_length)


def both_ids(tokenizer, query, response, **kwargs):
    return query_ids(tokenizer, query, **kwargs), response_ids(tokenizer, query, response, **kwargs)


def test_text_ends_with_its_end_of_sequence(tokenizer):
    ids = ids_of(tokenizer, "We went", " home early.")
    assert tokenizer.decode(ids) == " home early.<|end|>"


def test_a_message_ends_where_its_turn_ends(tokenizer):
    ids = ids_of(tokenizer, CHAT, [{"role": "assistant", "content": "Seven minutes."}])
    assert tokenizer.decode(ids) == "Seven minutes.<|end|>"  # without the template's newline after it


def test_text_as_the_response_to_a_conversation(tokenizer):
    assert ids_of(tokenizer, CHAT, "Hot.") == ids_of(tokenizer, CHAT, [{"role": "assistant", "content": "Hot."}])


def test_tokens_at_the_border_come_out_as_in_generation(tokenizer):
    """Where the response begins inside a token of the whole text, it is tokenised by itself."""
    text = "a glowing review"
    cut = next(
        i
        for i in range(1, len(text))
        if tokenizer(text)["input_ids"][: len(tokenizer(text[:i])["input_ids"])] != tokenizer(text[:i])["input_ids"]
    )
    assert tokenizer.decode(ids_of(tokenizer, text[:cut], text[cut:])) == text[cut:] + "<|end|>"


def test_long_responses_are_cut_and_then_have_no_end(tokenizer):
    ids = ids_of(tokenizer, "We went", " home early, and nobody said a word.", max_length=4)
    assert len(ids) == 4
    assert tokenizer.eos_token_id not in ids


def test_any_end_token_of_the_model_ends_it(tokenizer):
    stop = tokenizer(".")["input_ids"]
    ids = ids_of(tokenizer, "We went", " home. And then out.", eos=[tokenizer.eos_token_id, *stop])
    assert tokenizer.decode(ids) == " home."


@pytest.mark.parametrize("response", ["", "<|end|>"])
def test_an_empty_response_is_an_error(tokenizer, response):
    with pytest.raises(ValueError, match="The dataset's response to 'We went' is empty"):
        ids_of(tokenizer, "We went", response)


def test_a_conversation_is_read_as_generation_reads_it(tokenizer):
    prompt = [{"role": "user", "content": "We went home"}]
    assert query_text(tokenizer, prompt) == "<|start|>user\nWe went home<|end|>\n<|start|>assistant\n"
    expected = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert query_ids(tokenizer, prompt) == expected


def test_special_tokens_come_once(tokenizer):
    """A tokenizer that begins every text with a token: kept before texts, not doubled where a template writes it."""
    starting = deepcopy(tokenizer)
    begin = starting.bos_token_id
    start = TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", begin)])
    starting.backend_tokenizer.post_processor = start
    assert query_ids(starting, "We went") == [begin, *tokenizer("We went")["input_ids"]]
    conversation = [{"role": "user", "content": "We went"}]
    assert query_ids(starting, conversation) == query_ids(tokenizer, conversation)
    for border in ("The music", "The mus"):
        query, response = both_ids(starting, border, "ic was loud")
        assert query[0] == begin and begin not in query[1:] + response


def test_a_token_over_the_border_belongs_to_no_one(tokenizer):
    whole = tokenizer("The music was loud")["input_ids"]
    query, response = both_ids(tokenizer, "The mus", "ic was loud")
    # the word is one token, and the query alone has others
    assert query + response != whole
    assert query == tokenizer("The mus")["input_ids"]
    assert tokenizer.decode(response) == "ic was loud"
    assert sum(both_ids(tokenizer, "The music", " was loud"), []) == whole


TRIMMING = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
REASONED = "Eggs are boiled.\n</think>\n\nSeven minutes."


def test_a_response_comes_out_as_the_template_writes_it(tokenizer):
    """A template that strips a message and writes the token at the beginning of a text, which comes once."""
    trimming = with_template(tokenizer, TRIMMING)
    start = TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", tokenizer.bos_token_id)])
    trimming.backend_tokenizer.post_processor = start
    query, response = both_ids(trimming, CHAT, "  Seven minutes. ")
    assert query.count(trimming.bos_token_id) == 1 and query[0] == trimming.bos_token_id
    assert tokenizer.decode(response) == "Seven minutes."
    assert ids_of(trimming, CHAT, "  Seven minutes. ") == [*response, tokenizer.eos_token_id]


def test_an_end_that_no_token_stands_for_is_cut_off_too(tokenizer):
    """What follows a message is the template's, whether or not the tokenizer knows it as an end."""
    signed = with_template(tokenizer, tokenizer.chat_template.replace("<|end|>", " (over)"))
    assert tokenizer.decode(response_ids(signed, CHAT, "Seven minutes.")) == "Seven minutes."
    assert tokenizer.decode(ids_of(signed, CHAT, "Seven minutes.")) == "Seven minutes. (over)\n<|end|>"


@pytest.mark.parametrize("single", ["<|start|> $A", "$A <|end|>", "<|start|> $A <|end|>"])
def test_tokens_around_every_text_are_no_part_of_a_response(tokenizer, single):
    changed = deepcopy(tokenizer)
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|start|>", "<|end|>")]
    changed.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    for query, response in [("We went", " home early."), ("The mus", "ic was loud")]:
        assert query_ids(changed, query) == changed(query)["input_ids"]
        assert response_ids(changed, query, response) == response_ids(tokenizer, query, response)
        assert ids_of(changed, query, response) == ids_of(tokenizer, query, response)


def test_apart_no_space_is_put_before_a_response(unigram_tokenizer):
    """SentencePiece's manner puts a space before the beginning of a text, and a response does not begin one."""
    for query, response in [("We went ", "home early"), ("The mus", "ic was loud"), ("We went", " home early")]:
        both = sum(both_ids(unigram_tokenizer, query, response), [])
        assert unigram_tokenizer.decode(both, skip_special_tokens=True) == query + response


def test_queries_are_those_that_trl_generates_from(model, tokenizer, tmp_path):
    thinking = with_template(tokenizer, CLOSING)
    kwargs = {"enable_thinking": False}
    trainer = build("neat", model, thinking, tmp_path, chat_template_kwargs=kwargs)
    for query in (CHAT, "We went"):
        assert trainer._tokenize_prompts([query])[0] == [query_ids(thinking, query, kwargs)]
    assert query_ids(thinking, CHAT, kwargs) != query_ids(thinking, CHAT)


def test_arguments_of_the_template_reach_both_sides(tokenizer):
    thinking = with_template(tokenizer, CLOSING)
    assert tokenizer.decode(response_ids(thinking, CHAT, "Hot.")) == "\n</think>\n\nHot."
    kwargs = {"enable_thinking": False}
    query, response = both_ids(thinking, CHAT, "Hot.", chat_template_kwargs=kwargs)
    assert tokenizer.decode(response) == "Hot." and tokenizer.decode(query).endswith("</think>\n\n")
    end = [tokenizer.eos_token_id]
    assert ended_response_ids(thinking, CHAT, "Hot.", end, chat_template_kwargs=kwargs) == response + end


def test_where_the_prompt_is_no_prefix_the_text_follows_it_as_it_is(tokenizer):
    dropping = with_template(tokenizer, DROPPING)
    for written in (REASONED, f"<think>\n{REASONED}"):  # the prompt has opened the block
        assert tokenizer.decode(response_ids(dropping, CHAT, written)) == REASONED
        assert tokenizer.decode(ids_of(dropping, CHAT, written)) == REASONED + "<|end|>"


def test_an_answer_is_not_put_into_open_reasoning(tokenizer):
    dropping, closing = with_template(tokenizer, DROPPING), with_template(tokenizer, CLOSING)
    with pytest.raises(ValueError, match=r"row 3 has no </think>, and the query .* ends in an open <think>"):
        check_reasoning(dropping, CHAT, "Hot.", "row 3")
    with pytest.raises(ValueError, match="has no </think>"):
        ids_of(dropping, CHAT, "Hot.")
    with pytest.raises(ValueError, match=r"has no \[/THINK\]"):
        check_reasoning(tokenizer, "How?[THINK]", "Hot.", "row 3")
    for fine in (
        (closing, CHAT, "Hot."),
        (dropping, CHAT, REASONED),
        (tokenizer, "I think:", " so"),
        (tokenizer, CHAT, "x"),
    ):
        check_reasoning(*fine, "row 3")


def test_no_response_has_no_tokens(tokenizer):
    for template in (TRIMMING, CLOSING, DROPPING):
        assert response_ids(with_template(tokenizer, template), CHAT, "") == []
    assert response_ids(tokenizer, "We went", "") == []


def test_text_of_anything():
    assert [text_of(value) for value in ("a", None, [], [{"content": None}], [{"content": "b"}])] == [
        "a",
        "",
        "",
        "",
        "b",
    ]
    assert text_of([{"content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]}]) == "cd"


IMAGE_MODELS = ("idefics3", "llava", "smolvlm")  # whose templates read no plain text as a message's content
TRL_TEMPLATES = [
    path
    for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    if not path.stem.startswith(IMAGE_MODELS)
]


@pytest.mark.parametrize("path", TRL_TEMPLATES, ids=lambda path: path.stem)
def test_templates_of_real_models(path, tokenizer):
    """Those that TRL brings: a response is there and ends as in training, and none stands in open reasoning."""
    real = with_template(tokenizer, path.read_text())
    text = query_text(real, CHAT)
    try:
        check_reasoning(real, CHAT, "Hot water.", "the row")
    except ValueError:
        assert text.rstrip().endswith("<think>")
        check_reasoning(real, CHAT, REASONED, "the row")
        assert tokenizer.decode(response_ids(real, CHAT, REASONED)).endswith("Seven minutes.")
        return
    query, response = both_ids(real, CHAT, "Hot water.")
    assert tokenizer.decode(query) == text
    assert tokenizer.decode(response).endswith("Hot water.") and MARK not in tokenizer.decode(response)
    assert ids_of(real, CHAT, "Hot water.")[: len(response)] == response
