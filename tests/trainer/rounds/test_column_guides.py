"""Guides that read dataset columns: what is sampled from, and what is refused before anything runs."""

import pytest

from tests.helpers import build, dataset
from trl_negalign.scripts.guide_check import check_guides, read_queries


GUIDE = "The answer is {answer}."
BOTH = {"positive_prompt": GUIDE, "negative_prompt": "Say {{no}} to {wrong_answer}."}


def with_columns(style="string", rows=16, **columns):
    data = dataset(style, rows=rows)
    data = data.add_column("answer", [f"kind {i}" for i in range(rows)])
    return data.add_column("wrong_answer", [f"word {i}" for i in range(rows)])


@pytest.mark.parametrize("style", ["string", "conversation"])
def test_each_row_is_sampled_under_its_own_guide(style, model, tokenizer, tmp_path):
    trainer = build("neat", model, tokenizer, tmp_path, with_columns(style), **BOTH, tapered=True, max_steps=1)
    asked = []
    tokenize = trainer._tokenize_prompts
    trainer._tokenize_prompts = lambda prompts: (asked.append(prompts), tokenize(prompts))[1]
    trainer.train()
    plain, guided = asked[:2]
    for row, (one, other) in enumerate(zip(plain, guided, strict=True)):
        text, more = (prompt if style == "string" else prompt[-1]["content"] for prompt in (one, other))
        number = text.rsplit(" ", 1)[1]
        expected = f"The answer is kind {number}." if row % 4 < 2 else f"Say {{no}} to word {number}."
        assert more == f"{expected}\n\n{text}"


def test_another_template_is_another_run(model, tokenizer, tmp_path):
    trainer = build(
        "neat", model, tokenizer, tmp_path, with_columns(), **BOTH, max_steps=2, save_strategy="steps", save_steps=1
    )
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    other = BOTH | {"positive_prompt": "Say {answer}."}
    with pytest.raises(ValueError, match="candidates"):
        build("neat", model, tokenizer, tmp_path, with_columns(), **other).train(str(checkpoint))
    build("neat", model, tokenizer, tmp_path, with_columns(), **BOTH).train(str(checkpoint))


def refuse(tokenizer, tmp_path, message, data, **options):
    with pytest.raises(ValueError, match=message):  # the model does not exist, and would be missed
        build("neat", "no/such-model", tokenizer, tmp_path, data, **BOTH | options)


def test_a_column_that_is_not_there(tokenizer, tmp_path):
    message = "guide 'Say .*'wrong_answer', which train_dataset does not have. It has prompt, answer"
    refuse(tokenizer, tmp_path, message, with_columns().remove_columns("wrong_answer"))


@pytest.mark.parametrize("value", [None, ""])
def test_a_row_without_a_value(value, tokenizer, tmp_path):
    data = with_columns().map(lambda row, i: {"answer": value if i == 3 else "x"}, with_indices=True)
    refuse(tokenizer, tmp_path, r"train_dataset\[3\]\['answer'\] is empty", data)


def test_columns_that_would_be_removed(tokenizer, tmp_path):
    refuse(
        tokenizer,
        tmp_path,
        "remove_unused_columns=True would remove .*answer",
        with_columns(),
        remove_unused_columns=True,
    )


def test_the_longest_query_is_the_one_with_its_values(tokenizer, tmp_path):
    data = with_columns().map(lambda row, i: {"answer": "word " * 30 if i == 2 else "x"}, with_indices=True)
    limit = len(tokenizer(text=data[2]["prompt"] + "\n\n" + GUIDE.format(answer="word " * 30))["input_ids"]) + 5
    options = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": limit}
    refuse(tokenizer, tmp_path, f"vllm_max_model_length={limit} is too short", data, **options)


def test_a_check_of_guides_names_the_column(tokenizer, tmp_path, monkeypatch):
    trainer_options = build("neat", _tiny(tokenizer), tokenizer, tmp_path, with_columns(), **BOTH)

    class Arguments:
        check_guides = 10

    with pytest.raises(ValueError, match="'wrong_answer', which the training set does not have"):
        data = with_columns().remove_columns("wrong_answer")
        check_guides(
            Arguments, trainer_options.args, None, tokenizer, data, trainer_options.candidates, [], launched=False
        )
    assert read_queries(with_columns(), 3, 0, None).columns.keys() == {"answer", "wrong_answer"}


def _tiny(tokenizer):
    from tests.conftest import tiny_model

    return tiny_model(tokenizer)
