import math

import pytest
import sacrebleu

from trl_negalign.evaluation.text_metrics import (
    SELF_BLEU_SAMPLE,
    corpus_bleu,
    distinct_n,
    diversity,
    length,
    repetition,
    self_bleu,
    words,
)


TEXTS = ["the cat sat on the mat today", "a dog ran over the long road", "the cat sat on the long road"]
REFERENCES = ["the cat sat on the mat", "a dog ran over the road", "the cat lay on the long road"]


def test_bleu_is_sacrebleus_with_its_signature():
    found = corpus_bleu(TEXTS, REFERENCES)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    assert 0 < found["bleu"] < 100 and found["count"] == 3
    assert "tok:13a" in found["signature"] and f"version:{sacrebleu.__version__}" in found["signature"]


def test_bleu_by_hand():
    # 4, 3, 2 and 1 n-grams of 4, 3, 2 and 1 match, and the brevity penalty is exp(1 − 5/4)
    assert corpus_bleu(["a b c d"], ["a b c d e"])["bleu"] == pytest.approx(100 * math.exp(-0.25))


def test_bleu_leaves_out_queries_without_a_reference():
    assert corpus_bleu([*TEXTS, "x"], [*REFERENCES, " "]) == corpus_bleu(TEXTS, REFERENCES)
    none = corpus_bleu(["x"], [""])
    assert math.isnan(none["bleu"]) and none["count"] == 0


def test_words_leave_punctuation_alone():
    assert words(" Well, he said.\n") == ["Well", ",", "he", "said", "."]


def test_distinct_by_hand():
    # 6 words, 4 of them different; 2 + 2 pairs, 3 different, none across texts
    assert distinct_n(["a b a", "a b c"], 1) == 3 / 6
    assert distinct_n(["a b a", "a b c"], 2) == 3 / 4
    assert math.isnan(distinct_n(["a"], 2))


def test_repetition_by_hand():
    # "a b c d a b c d": 5 four-grams, 4 different; the second text repeats nothing; the third is too short
    assert repetition(["a b c d a b c d", "a b c d e f", "a b"]) == pytest.approx((1 / 5 + 0) / 2)
    assert math.isnan(repetition(["a b c"]))


def test_self_bleu_of_equal_and_of_different_texts():
    assert self_bleu(["the same words here"] * 3) == pytest.approx(100)
    assert self_bleu(["a b c d", "e f g h", "i j k l"]) < 1e-6
    assert math.isnan(self_bleu(["one", ""]))


def test_self_bleu_has_all_other_texts_as_references():
    expected = [
        sacrebleu.sentence_bleu(text, TEXTS[:i] + TEXTS[i + 1 :], use_effective_order=True).score
        for i, text in enumerate(TEXTS)
    ]
    assert self_bleu(TEXTS) == pytest.approx(sum(expected) / 3)


def test_self_bleu_samples_where_there_are_many():
    texts = [f"word{i} and word{i % 7} on road {i % 3} of {i % 60}" for i in range(SELF_BLEU_SAMPLE + 50)]
    found = diversity(texts)
    assert found["self_bleu_sample"] == SELF_BLEU_SAMPLE
    assert found["self_bleu"] == self_bleu(texts)
    assert found["self_bleu"] != self_bleu(texts, seed=1)


def test_length_by_hand():
    found = length(["a b", "", "a b c d"], [3, 1, 8], [False, False, True])
    assert found == {"tokens": 4.0, "words": 2.0, "truncated": pytest.approx(1 / 3), "empty": pytest.approx(1 / 3)}
