"""Secrets, by the names they stand under, wherever that is."""

import pytest

from trl_negalign.masking import MASK, is_secret, mask_text, masked


@pytest.mark.parametrize(
    "name",
    "token hub_token HF_TOKEN use_auth_token api_key apiKey x-api-key openai_api_key password db_password passphrase "
    "secret client_secret clientSecret Authorization Proxy-Authorization aws_secret_access_key private_key".split(),
)
def test_names_of_secrets(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    "eos_token pad_token num_tokens max_tokens tokens_per_batch token_ids judge_key_variable key keys tokenizer "
    "include_num_input_tokens_seen image_token".split(),
)
def test_names_of_other_things(name):
    assert not is_secret(name)


def test_every_depth_is_reached_and_the_rest_is_as_it_was():
    value = {
        "model_init_kwargs": {"token": "s3cret", "dtype": "float32", "use_auth_token": True, "revision": None},
        "headers": [["Authorization", "Bearer s3cret"], ("Accept", "text")],
        "command": ["--hub_token", "s3cret", "--lr", "1"],
        "json": '{"a": [{"api_key": "s3cret"}]}',
        "repr": "{'password': 's3cret words', 'eos_token': '<|end|>'}",
        "address": "https://user:s3cret@host/path",
        "number": 1,
    }
    found = masked(value)
    assert "s3cret" not in repr(found)
    assert found["model_init_kwargs"] == {
        "token": MASK, "dtype": "float32", "use_auth_token": True, "revision": None
    }  # fmt: skip
    assert found["headers"][1] == ("Accept", "text") and found["command"] == ["--hub_token", MASK, "--lr", "1"]
    assert found["address"] == f"https://{MASK}@host/path" and found["number"] == 1
    assert "'eos_token': '<|end|>'" in found["repr"]
    assert value["model_init_kwargs"]["token"] == "s3cret"


@pytest.mark.parametrize(
    "text",
    [
        "--hub_token s3cret --lr 1",
        "--hub_token=s3cret",
        '--model_init_kwargs={"token": "s3cret"}',
        '{\\"token\\": \\"s3cret\\"}',
        "Authorization: Bearer s3cret",
        "https://host/v1?api_key=s3cret&a=1",
        "git clone https://s3cret@host/x",
        "no file at /data/hf:/user:s3cret@host/x",  # an address as a path
        "api_key = 's3cret words'",
    ],
)
def test_texts(text):
    assert "s3cret" not in mask_text(text) and MASK in mask_text(text)


@pytest.mark.parametrize("text", ["the token is long", "eos_token: <|end|>", "http://h/a@b", "'token': None", "a: b"])
def test_texts_without_a_secret(text):
    assert mask_text(text) == text


def test_keys_of_well_known_forms_need_no_name():
    assert mask_text(f"hf_{'a' * 34} or sk-{'b' * 20}") == f"{MASK} or {MASK}"
