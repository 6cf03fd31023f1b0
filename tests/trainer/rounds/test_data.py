"""What a training set is checked for before a model is loaded: answers under templates that open reasoning."""

import pytest
from datasets import Dataset

from tests.helpers import CLOSING, DROPPING, build, dataset, with_template


def rows(*answers: str) -> Dataset:
    prompt = [{"role": "user", "content": "How do I boil an egg?"}]
    chosen = [[{"role": "assistant", "content": answer}] for answer in answers]
    return Dataset.from_dict({"prompt": [prompt] * len(answers), "chosen": chosen})


def build_neat(tokenizer, tmp_path, train_dataset, model="no/such-model", **options):
    options = {"dataset_responses": ["chosen"], "num_generations": 4} | options
    return build("neat", model, tokenizer, tmp_path, train_dataset, **options)


@pytest.mark.parametrize("place", [0, 5])
def test_an_answer_in_open_reasoning_is_refused_by_row(tokenizer, tmp_path, place):
    """Before the model is loaded, whose name is wrong here."""
    answers = ["It boils.\n</think>\n\nSeven minutes."] * 8
    answers[place] = "Seven minutes."
    message = rf"train_dataset\[{place}\]\['chosen'\] has no </think>, and the query"
    with pytest.raises(ValueError, match=message):
        build_neat(with_template(tokenizer, DROPPING), tmp_path, rows(*answers))


def test_a_template_that_closes_reasoning_is_trained(tokenizer, model, tmp_path):
    """By itself where the answers have none; the reasoning that they have stays in."""
    answers = ["It boils.\n</think>\n\nSeven minutes.", "Seven minutes."] * 4
    trainer = build_neat(with_template(tokenizer, CLOSING), tmp_path, rows(*answers), model, max_completion_length=60)
    trainer._round_inputs = [{"chosen": trainer.train_dataset[i // 4]["chosen"]} for i in range(8)]
    *_, responses = trainer._prepare_group([trainer.train_dataset[0]["prompt"]] * 8)
    texts = [tokenizer.decode(ids) for ids in responses.values()]
    assert texts == ["It boils.\n</think>\n\nSeven minutes.<|end|>", "\n</think>\n\nSeven minutes.<|end|>"]


def test_reasoning_that_is_turned_off_takes_answers(tokenizer, model, tmp_path):
    template = DROPPING.replace("add_generation_prompt", "enable_thinking | default(true)")
    open_unless_off = with_template(tokenizer, template)
    answers = rows(*["Seven minutes."] * 8)
    with pytest.raises(ValueError, match="chat_template_kwargs=.*enable_thinking"):
        build_neat(open_unless_off, tmp_path, answers)
    build_neat(open_unless_off, tmp_path, answers, model, chat_template_kwargs={"enable_thinking": False})


def test_without_dataset_responses_reasoning_is_the_policys(tokenizer, model, tmp_path):
    build("neat", model, with_template(tokenizer, DROPPING), tmp_path, dataset("conversation"))
