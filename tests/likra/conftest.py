"""Tokenizers of two families, small questions, and heads trained on them."""

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.conftest import CORPUS
from trl_negalign.likra.config import LikraConfig
from trl_negalign.likra.trainer import LikraTrainer


@pytest.fixture(scope="session")
def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """SentencePiece's manner: a unigram model, ▁ for spaces, one put before the text, and a token at its beginning."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


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
