"""Sentiment of a text without a model."""

from functools import cache

from ..extras import need


@cache
def _analyzer():
    need("quickstart", "vaderSentiment")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def vader_reward(completions: list[str] | list[list[dict]], **kwargs) -> list[float]:
    """
    VADER's compound sentiment of each completion, from −1 (most negative) to 1 (most positive).

    A TRL reward function; messages are scored by the last one's text. VADER is a lexicon with rules for negation and
    emphasis, so it can be fooled by a list of happy words: watch the completions beside the number.

    Args:
        completions (`list[str]` or `list[list[dict]]`): texts or message lists.

    Raises:
        ImportError: if `vaderSentiment` is missing (`pip install "trl-negalign[quickstart]"`).
    """
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [_analyzer().polarity_scores(text)["compound"] for text in texts]
