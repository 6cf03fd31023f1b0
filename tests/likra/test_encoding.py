"""Tokens of queries and options: the same everywhere, with the option's leading space."""

import copy

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from trl_negalign.likra.encoding import Encoded, check_encoded, encode


TEMPLATE = "Question: {question}\nAnswer:"
QUERY = "How do I boil an egg?"
OPTIONS = ["put it in hot water", "the music"]


def test_an_option_is_tokenized_as_inside_the_text(any_tokenizer):
    query_ids, option_ids = encode(any_tokenizer, QUERY, OPTIONS, TEMPLATE)
    for option, ids in zip(OPTIONS, option_ids, strict=True):
        text = f"Question: {QUERY}\nAnswer: {option}"
        assert query_ids + ids == any_tokenizer(text)["input_ids"]
        # the space belongs to the option's first token, not to the query's last
        assert any_tokenizer.convert_ids_to_tokens(ids[0])[0] in "Ġ▁"
        assert not any_tokenizer.convert_ids_to_tokens(query_ids[-1]).endswith(("Ġ", "▁"))


def test_spaces_around_an_option_do_not_count(any_tokenizer):
    assert encode(any_tokenizer, QUERY, ["  the music "], TEMPLATE) == encode(
        any_tokenizer, QUERY, ["the music"], TEMPLATE
    )


def test_the_token_at_the_beginning_comes_once(unigram_tokenizer):
    query_ids, option_ids = encode(unigram_tokenizer, QUERY, OPTIONS, TEMPLATE)
    assert query_ids.count(unigram_tokenizer.bos_token_id) == 1 and query_ids[0] == unigram_tokenizer.bos_token_id
    assert all(unigram_tokenizer.bos_token_id not in ids for ids in option_ids)


def test_a_question_may_hold_braces(tokenizer):
    encoded = encode(tokenizer, "What is {x}?", ["one"], TEMPLATE)
    assert tokenizer.decode(encoded.query) == "Question: What is {x}?\nAnswer:"


def test_a_template_may_hold_other_braces(tokenizer):
    encoded = encode(tokenizer, "Why? {question}", ["one"], '{"question": "{question}", "answer":')
    assert tokenizer.decode(encoded.query) == '{"question": "Why? {question}", "answer":'


def test_where_a_token_reaches_over_the_border_all_options_share_the_query():
    # ":" and " " merge, so that "a: b" is "a", ": ", "b" and its beginning "a:" no prefix of it
    vocabulary = {token: i for i, token in enumerate(["a", "b", "c", ":", " ", ": "])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [(":", " ")])))
    assert tokenizer("a: b")["input_ids"] == [0, 5, 1]
    assert encode(tokenizer, "a", ["b", "c"], "{question}:") == Encoded([0, 3], [[4, 1], [4, 2]])


def test_a_prompt_and_its_response_stay_as_they_are(tokenizer):
    encoded = encode(tokenizer, "We went home ", ["early", " late"])
    assert tokenizer.decode(encoded.query) == "We went home "
    assert [tokenizer.decode(ids) for ids in encoded.options] == ["early", " late"]


def test_a_conversation_goes_through_the_chat_template(tokenizer):
    query = [{"role": "system", "content": "Answer kindly."}, {"role": "user", "content": "How?"}]
    encoded = encode(tokenizer, query, ["a kind word"])
    assert tokenizer.decode(encoded.query) == (
        "<|start|>system\nAnswer kindly.<|end|>\n<|start|>user\nHow?<|end|>\n<|start|>assistant\n"
    )
    assert tokenizer.decode(encoded.options[0]) == "a kind word"


def test_a_chat_template_writes_the_token_at_the_beginning_itself(unigram_tokenizer, tokenizer):
    chat = copy.deepcopy(unigram_tokenizer)
    chat.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    query_ids, _ = encode(chat, [{"role": "user", "content": "How?"}], ["so"])
    assert query_ids.count(chat.bos_token_id) == 1 and query_ids[0] == chat.bos_token_id


def test_a_conversation_with_one_question_fits_a_template(tokenizer):
    query = [{"role": "system", "content": "Answer kindly."}, {"role": "user", "content": QUERY}]
    assert encode(tokenizer, query, OPTIONS, TEMPLATE) == encode(tokenizer, QUERY, OPTIONS, TEMPLATE)


def test_a_conversation_with_two_questions_does_not_fit_a_template(tokenizer):
    query = [{"role": "user", "content": "How?"}, {"role": "user", "content": "Why?"}]
    with pytest.raises(ValueError, match="2 user messages does not fit the heads' template"):
        encode(tokenizer, query, OPTIONS, TEMPLATE)


def test_too_long_is_refused_by_name():
    encoded = Encoded([1, 2, 3], [[4], [5, 6]])
    check_encoded(encoded, 5, "question 7")
    check_encoded(encoded, None, "question 7")
    with pytest.raises(ValueError, match="question 7 has 5 tokens .* context length of 4"):
        check_encoded(encoded, 4, "question 7")


def test_an_option_without_tokens_is_refused():
    with pytest.raises(ValueError, match="question 7: option 1 has no tokens"):
        check_encoded(Encoded([1], [[4], []]), 5, "question 7")
