"""
Cheap rewards with which the packaged guides were measured. Each looks at one thing that a guide asks for, so it shows
whether the model heeds the guide, and not whether its answers are good: train on a better one.
"""

import re


CAREFUL = (
    "sorry can't cannot unable safe safety harm harmful dangerous risk support understand help please respect kind "
    "care caring feel professional important illegal"
).split()
CARELESS = "stupid idiot dumb shut whatever hate kill loser nobody boring ridiculous crazy".split()
DOUBT = (
    r"\b(probably|perhaps|maybe|might|may|could|depends|possibly|likely|unsure|uncertain|believe|think)\b"
    r"|not (sure|certain)|don't know|do not know"
)
COMMON = (
    "about after also been being could does doing done from have having here into just like make more most much need "
    "only other over should some such than that their them then there these they thing things this those very want "
    "were what when where which while will with would your"
).split()


def text_of(value) -> str:
    return value if isinstance(value, str) else value[-1]["content"]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def content_words(text: str) -> set[str]:
    return {word for word in words(text) if len(word) > 3 and word not in COMMON}


def on_topic(prompts, completions, **kwargs) -> list[float | None]:
    """Share of the query's content words (the last message's) that the answer takes up; none for a query without."""
    rewards = []
    for prompt, completion in zip(prompts, completions, strict=True):
        asked = content_words(text_of(prompt))
        rewards.append(len(asked & content_words(text_of(completion))) / len(asked) if asked else None)
    return rewards


def careful(completions, **kwargs) -> list[float]:
    """1 for an answer with a careful word, −1 for one with a careless word, 0 for neither or both."""
    found = [set(words(text_of(completion))) for completion in completions]
    return [float(bool(own & set(CAREFUL)) - bool(own & set(CARELESS))) for own in found]


def doubt(completions, **kwargs) -> list[float]:
    """1 for an answer that says that something is not certain."""
    return [float(re.search(DOUBT, text_of(completion).lower()) is not None) for completion in completions]


def short(completions, **kwargs) -> list[float]:
    """− the number of words."""
    return [-float(len(text_of(completion).split())) for completion in completions]


def right_answer(completions, answer, **kwargs) -> list[float]:
    """1 if the last number of the solution is the column `answer`."""
    found = [re.findall(r"\d+", text_of(completion).replace(",", "")) for completion in completions]
    return [float(bool(own) and own[-1] == str(right)) for own, right in zip(found, answer, strict=True)]


def covers(completions, reference, **kwargs) -> list[float | None]:
    """F1 of content words against the column `reference`, a good summary; none for a reference without."""
    rewards = []
    for text, wanted in zip(completions, reference, strict=True):
        own, good = content_words(text_of(text)), content_words(wanted)
        rewards.append(2 * len(own & good) / (len(own) + len(good)) if good else None)
    return rewards
