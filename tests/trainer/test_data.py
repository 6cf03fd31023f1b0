"""Tokens of the dataset's responses: what the policy would have had to sample."""

import pytest

from trl_negalign.trainer.data import response_ids


CHAT = [{"role": "user", "content": "How do I boil an egg?"}]


def ids_of(tokenizer, prompt, response, max_length=None, eos=None):
    if isinstance(prompt, str):
        prompt_ids = tokenizer(prompt)["input_ids"]
    else:
        prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    eos = eos or [tokenizer.eos_token_id]
    return response_ids(tokenizer, prompt, prompt_ids, response, eos, max_length, {})


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
