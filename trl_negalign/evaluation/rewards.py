"""Rewards of completions under any TRL reward, their means, and paired differences between models."""

import asyncio
import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import apply_chat_template

from ..rewards.loading import load_reward
from .kept import by_length, digest, keep
from .policies import weights_fingerprint
from .queries import Queries


class RewardModel:
    """
    A reward model as TRL uses it: a sequence classifier with one label and its own tokenizer. Conversations go through
    that tokenizer's chat template, texts are joined; the reward is the logit at the last token.

    Args:
        name (`str`): the model's id or path.
        dtype (`str`): see [`Policy.load`].
    """

    def __init__(self, name: str, dtype: str = "float32"):
        self.model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, dtype=dtype)
        self.weights = weights_fingerprint(self.model)
        self.model.to(PartialState().device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # the model looks for the last token that is not padding
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id

    def texts(self, prompts: list, completions: list) -> list[str]:
        """What the model reads of each prompt and completion."""
        joined = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        if isinstance(prompts[0], str):
            return joined
        return [apply_chat_template({"messages": messages}, self.tokenizer)["text"] for messages in joined]

    @torch.no_grad()
    def score(self, texts: list[str]) -> list[float]:
        """Reward of each text, in one forward pass."""
        inputs = self.tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        )
        return self.model(**inputs.to(self.model.device)).logits[:, 0].float().tolist()

    def score_kept(
        self, prompts: list, completions: list, folder: Path, batch_size: int = 16, description: str = "reward"
    ) -> list[float]:
        """Reward of each completion, each computed once and kept in `folder`; texts of like length together."""
        texts = self.texts(prompts, completions)

        def compute(missing: list[int]) -> Iterator[tuple[list[int], dict[str, list]]]:
            for batch in by_length({index: len(texts[index]) for index in missing}, batch_size):
                yield batch, {"reward": self.score([texts[index] for index in batch])}

        folder = folder / f"rewards-{digest(self.weights, str(self.model.dtype))}"
        return keep(folder, [digest(text) for text in texts], compute, description)["reward"].tolist()


class Scorer:
    """
    Any reward that a configuration can name, as one thing to call. A reward model is loaded when it is first needed.

    Args:
        name (`str`): see [`~trl_negalign.rewards.loading.load_reward`], which also says what is raised.
        folder (`Path`): where a reward model's scores are kept. Those of functions, which may change, are not.
        batch_size (`int`): texts that a reward model reads at a time.
        dtype (`str`): of a reward model, see [`Policy.load`].
    """

    def __init__(self, name: str, folder: Path, batch_size: int = 16, dtype: str = "float32"):
        self.name, self.folder, self.batch_size, self.dtype = name, folder, batch_size, dtype
        self.function = load_reward(name)
        self.model: RewardModel | None = None

    def __call__(
        self,
        queries: Queries,
        completions: list,
        completion_ids: list[list[int]] | None = None,
        description: str = "reward",
    ) -> list[float]:
        """Reward of a completion of each plain query, NaN where there is none."""
        if callable(self.function):
            columns = queries.columns | ({} if completion_ids is None else {"completion_ids": completion_ids})
            return score_with_function(self.function, self.name, queries.prompts, completions, columns)
        if self.model is None:
            self.model = RewardModel(self.function, self.dtype)
        return self.model.score_kept(queries.prompts, completions, self.folder, self.batch_size, description)

    @property
    def identity(self) -> dict:
        """What says which reward this is, after it was called."""
        return {"name": self.name, "weights": self.model and self.model.weights}


def score_with_function(reward: Callable, name: str, prompts: list, completions: list, columns: dict) -> list[float]:
    """
    Call a TRL reward function, async ones too.

    Args:
        reward (`Callable`): as TRL takes it.
        name (`str`): for errors.
        prompts, completions (`list`): plain queries, and a completion of each.
        columns (`dict[str, list]`): `completion_ids`, and the dataset's other columns.

    Returns:
        `list[float]`: NaN where the function returned `None`.

    Raises:
        ValueError: if it does not return one number for each completion.
    """
    # TRL does not hand on a reference either, which functions could take for the policy's completion
    others = {key: values for key, values in columns.items() if key not in ("prompt", "completion")}
    rewards = reward(prompts=prompts, completions=completions, **others)
    if inspect.isawaitable(rewards):
        rewards = asyncio.run(_wait(rewards))
    if not hasattr(rewards, "__len__") or len(rewards) != len(prompts):
        count = len(rewards) if hasattr(rewards, "__len__") else type(rewards).__name__
        raise ValueError(f"The reward {name} returned {count} for {len(prompts)} completions. Return one number each.")
    try:
        return [math.nan if value is None else float(value) for value in rewards]
    except (TypeError, ValueError) as error:
        raise ValueError(f"The reward {name} returned what is no number: {error}.") from error


async def _wait(awaitable):
    return await awaitable


def reward_statistics(rewards: list[float]) -> dict:
    """
    Mean and standard error (sample deviation over √n) over the queries that have a reward.

    Returns:
        `dict`: `mean`, `standard_error` (NaN below two rewards), `count`, and `unscored`, those without one (NaN).
    """
    values = np.array(rewards, dtype=float)
    scored = values[~np.isnan(values)]
    return {
        "mean": scored.mean().item() if len(scored) else math.nan,
        "standard_error": (scored.std(ddof=1) / len(scored) ** 0.5).item() if len(scored) > 1 else math.nan,
        "count": len(scored),
        "unscored": len(values) - len(scored),
    }


def bootstrap_interval(
    values: list[float], resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a mean: queries are drawn with replacement, `resamples` times.

    Returns:
        `tuple[float, float]`: lower and upper end; NaN without values.
    """
    data = np.asarray(values, dtype=float)
    if not len(data):
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    means = [data[generator.integers(0, len(data), len(data))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return low.item(), high.item()


def paired_difference(rewards: list[float], baseline: list[float], **bootstrap) -> dict:
    """
    Mean of a model's reward − the baseline's over the queries that both have one for, with a bootstrap interval.

    Args:
        rewards, baseline (`list[float]`): rewards of two models on the same queries, NaN where there is none.
        **bootstrap: see [`bootstrap_interval`].

    Returns:
        `dict`: `mean`, `low` and `high` (95%), `count`.
    """
    differences = np.asarray(rewards, dtype=float) - np.asarray(baseline, dtype=float)
    differences = differences[~np.isnan(differences)]
    low, high = bootstrap_interval(differences, **bootstrap)
    mean = differences.mean().item() if len(differences) else math.nan
    return {"mean": mean, "low": low, "high": high, "count": len(differences)}
