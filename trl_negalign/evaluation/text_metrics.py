"""Metrics of completions as texts. Words are those of sacrebleu's tokenizer 13a, so punctuation stands alone."""

import math
import random
from collections.abc import Iterator

import numpy as np


try:
    from sacrebleu.metrics import BLEU
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
except ImportError as error:
    raise ImportError('sacrebleu is missing. Install it with `pip install "trl-negalign[evaluation]"`.') from error


SELF_BLEU_SAMPLE = 100
TOKENIZER = Tokenizer13a()


def corpus_bleu(completions: list[str], references: list[str]) -> dict:
    """
    sacrebleu's corpus BLEU with its defaults, one reference a completion; queries without a reference's text are left
    out.

    Returns:
        `dict`: `bleu` (0 to 100; NaN without references), `signature` (sacrebleu's, which names the settings) and
        `count`.
    """
    pairs = [
        (completion, reference)
        for completion, reference in zip(completions, references, strict=True)
        if reference.strip()
    ]
    metric = BLEU()
    if not pairs:
        return {"bleu": math.nan, "signature": None, "count": 0}
    score = metric.corpus_score([pair[0] for pair in pairs], [[pair[1] for pair in pairs]]).score
    return {"bleu": score, "signature": str(metric.get_signature()), "count": len(pairs)}


def words(text: str) -> list[str]:
    return TOKENIZER(text.strip()).split()


def ngrams(tokens: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def distinct_n(texts: list[str], n: int) -> float:
    """
    Distinct n-grams of all texts together over all their n-grams (Li et al., 2016), 0 to 1; NaN without n-grams.

    It falls with the amount of text: compare equal numbers of texts of like length.
    """
    found = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(found)) / len(found) if found else math.nan


def repetition(texts: list[str], n: int = 4) -> float:
    """
    Mean over texts of 1 − distinct n-grams / n-grams of a text (seq-rep-n of Welleck et al., 2020), 0 to 1. Texts of
    fewer than n words are left out; NaN if none is left.
    """
    counts = [list(ngrams(words(text), n)) for text in texts]
    shares = [1 - len(set(grams)) / len(grams) for grams in counts if grams]
    return float(np.mean(shares)) if shares else math.nan


def self_bleu(texts: list[str], sample: int = SELF_BLEU_SAMPLE, seed: int = 0) -> float:
    """
    Mean BLEU of a text against all others as references (Zhu et al., 2018), 0 (nothing shared) to 100; NaN below two
    texts.

    sacrebleu's sentence BLEU with effective order. It rises with the number of texts, and its cost with the square, so
    more than `sample` texts are represented by a random sample.
    """
    texts = [text for text in texts if text.strip()]
    if len(texts) > sample:
        texts = random.Random(seed).sample(texts, sample)
    if len(texts) < 2:
        return math.nan
    metric = BLEU(effective_order=True)
    return float(
        np.mean([metric.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)])
    )


def diversity(texts: list[str], seed: int = 0) -> dict:
    """distinct-1 and -2, self-BLEU over a sample, and repetition of 4-grams."""
    return {
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "self_bleu": self_bleu(texts, seed=seed),
        "self_bleu_sample": min(len(texts), SELF_BLEU_SAMPLE),
        "repetition_4": repetition(texts),
    }


def length(texts: list[str], tokens: list[int], truncated: list[bool]) -> dict:
    """
    Mean length in the model's tokens (the end of sequence counted) and in words, the share of completions that were
    cut before an end of sequence, and the share of empty ones.
    """
    return {
        "tokens": float(np.mean(tokens)),
        "words": float(np.mean([len(words(text)) for text in texts])),
        "truncated": float(np.mean(truncated)),
        "empty": float(np.mean([not text.strip() for text in texts])),
    }
