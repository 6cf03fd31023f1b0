"""Small questions, and heads trained on them."""

import pytest
from datasets import Dataset

from trl_negalign.likra.config import LikraConfig
from trl_negalign.likra.trainer import LikraTrainer


@pytest.fixture(params=["byte-level", "unigram"])
def any_tokenizer(request, tokenizer, unigram_tokenizer):
    return tokenizer if request.param == "byte-level" else unigram_tokenizer


@pytest.fixture
def questions() -> Dataset:
    """
    40 questions with three options. The right one speaks of an egg and is the shortest or the longest; the wrong ones
    speak of music and of a film.
    """
    rows = []
    for i in range(40):
        options = [f"the music was loud {i % 7}", f"the film was long {i % 5}"]
        options.insert(i % 3, f"boil an egg{' in hot water under the tap' if i % 2 else ''} {i % 4}")
        rows.append({"question": f"What is number {i}?", "choices": options, "answer": i % 3})
    return Dataset.from_list(rows)


@pytest.fixture
def preferences() -> Dataset:
    rows = [
        {"prompt": f"question number {i}", "chosen": f" a kind word {i}", "rejected": f" an angry word {i}"}
        for i in range(24)
    ]
    return Dataset.from_list(rows)


@pytest.fixture
def make_trainer(make_model, tokenizer, questions, tmp_path):
    """Build a trainer of heads on the tiny model; keyword arguments of the configuration override these defaults."""

    def make(model=None, train_dataset=None, processing_class=tokenizer, callbacks=None, **options):
        defaults = {
            "output_dir": str(tmp_path / "heads"),
            "learning_rate": 1e-2,
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        return LikraTrainer(
            model=make_model() if model is None else model,
            args=LikraConfig(**(defaults | options)),
            train_dataset=questions if train_dataset is None else train_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def heads(make_trainer):
    return make_trainer().train()
