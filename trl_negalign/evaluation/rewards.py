"""Rewards of completions under any TRL reward, their means, and paired differences between models."""

import asyncio
import inspect
import logging
import math
import traceback
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    TrainerState,
)
from trl import apply_chat_template

from ..fingerprints import digest, function_parts, model_parts, tokenizer_fingerprint
from ..likra.reward import LikraReward
from ..rewards.loading import load_reward
from . import FEWEST
from .cache import by_length, cached_table
from .queries import Queries


logger = logging.getLogger(__name__)


class RewardModel:
    """
    A reward model as TRL uses it: a sequence classifier with one label and its own tokenizer. Conversations go through
    that tokenizer's chat template, texts are joined; the reward is the logit at the last token. TRL does not cut texts
    that are over the model's context: some models fail at them, others give a number that they were never trained to
    give. Here such a text has no reward (NaN).

    Args:
        name (`str`): the model's id or path.
        dtype (`str`): see [`Policy.load`].
    """

    def __init__(self, name: str, dtype: str = "float32"):
        self.model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, dtype=dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.context = reward_context(self.model.config, self.tokenizer)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # the model looks for the last token that is not padding
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model.to(PartialState().device).eval()

    @cached_property
    def identity(self) -> dict:
        """What tells this reward model from others: the parts of [`model_parts`] and a digest of its tokenizer."""
        return model_parts(self.model) | {"tokenizer": tokenizer_fingerprint(self.tokenizer)}

    def texts(self, prompts: list, completions: list, chat_template_kwargs: dict | None = None) -> list[str]:
        """What the model reads of each prompt and completion, its template with the policies' arguments as in TRL."""
        joined = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        if isinstance(prompts[0], str):
            return joined
        options = chat_template_kwargs or {}
        return [apply_chat_template({"messages": messages}, self.tokenizer, **options)["text"] for messages in joined]

    @torch.no_grad()
    def score(self, texts: list[str]) -> list[float]:
        """Reward of each text, in one forward pass."""
        inputs = self.tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        )
        return self.model(**inputs.to(self.model.device)).logits[:, 0].float().tolist()

    def score_cached(
        self, texts: list[str], folder: Path, batch_size: int = 16, description: str = "reward"
    ) -> list[float]:
        """
        Reward of each text, each computed once and kept in `folder`; texts of like length together. NaN, with a
        warning, where one is over the model's context.
        """

        def compute(missing: list[int]) -> Iterator[tuple[list[int], dict[str, list]]]:
            read = self.tokenizer([texts[index] for index in missing], add_special_tokens=False)["input_ids"]
            lengths = {index: len(ids) for index, ids in zip(missing, read, strict=True)}
            fits = {index: n for index, n in lengths.items() if self.context is None or n <= self.context}
            if over := [index for index in missing if index not in fits]:
                yield over, {"reward": [math.nan] * len(over)}
            for batch in by_length(fits, batch_size):
                yield batch, {"reward": self.score([texts[index] for index in batch])}

        folder = folder / f"rewards-{digest(self.identity)}"
        rewards = cached_table(folder, [digest(text) for text in texts], compute, description)["reward"].tolist()
        if unscored := sum(map(math.isnan, rewards)):
            logger.warning(
                "%s: %d of %d texts are over the reward model's context of %s tokens and have no reward.",
                description,
                unscored,
                len(texts),
                self.context,
            )
        return rewards


def reward_context(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """
    Longest text in tokens that a reward model reads, `None` without a limit: its positions, or fewer where its
    tokenizer says so (RoBERTa's first position is not 0).
    """
    # recurrent models have no such thing
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else min(positions, tokenizer.model_max_length)


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
        self.parts: dict = {"weights": None}  # a reward model's are known when it has been loaded
        if isinstance(self.function, LikraReward):
            self.parts = likra_parts(self.function)
        elif callable(self.function):
            self.parts = function_parts(self.function, name)

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
        model = self._loaded()
        texts = model.texts(queries.prompts, completions, queries.chat_template_kwargs)
        return model.score_cached(texts, self.folder, self.batch_size, description)

    def reader(self) -> tuple[PreTrainedTokenizerBase, int | None] | None:
        """A reward model's tokenizer and context, without the weights; `None` for a function."""
        if callable(self.function):
            return None
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.function)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"The reward model {self.name!r} has no tokenizer that loads: {reason}") from error
        return tokenizer, reward_context(AutoConfig.from_pretrained(self.function), tokenizer)

    def probe(self, queries: Queries, completion: str | list[dict], completion_ids: list[int] | None = None) -> None:
        """
        Score a completion of the first query, so that a reward that cannot be used is named before anything expensive.
        A reward model is let go of again: the policies need its memory first.

        Raises:
            ValueError: if it fails.
        """
        first = queries.select([0])
        if callable(self.function):
            self(first, [completion], completion_ids and [completion_ids])
            return
        if self.parts["weights"]:
            return  # as the reward and the judge of one evaluation
        try:
            model = self._loaded()
            model.score(model.texts(first.prompts, [completion], first.chat_template_kwargs))
        except Exception as error:
            raise ValueError(f"The reward model {self.name} cannot score: {_reason(error)}") from error
        self.model = None
        clear_device_cache(garbage_collection=True)

    def _loaded(self) -> RewardModel:
        if self.model is None:
            self.model = RewardModel(self.function, self.dtype)
            self.parts = self.model.identity
        return self.model

    @property
    def identity(self) -> dict:
        """
        Which reward this is: its name with the parts of a model, which must have been loaded before, or those of
        [`~trl_negalign.fingerprints.function_parts`].
        """
        return {"name": self.name} | self.parts


def likra_parts(reward: LikraReward) -> dict:
    """What tells likelihood-ratio heads apart, as [`RewardModel.identity`] does reward models."""
    heads = reward.heads
    own = {"template": heads.template, "mode": reward.mode, "weight": reward.weight}
    own["chat_template_kwargs"] = heads.chat_template_kwargs
    return model_parts(heads.model) | {"tokenizer": tokenizer_fingerprint(heads.tokenizer)} | own


def score_with_function(reward: Callable, name: str, prompts: list, completions: list, columns: dict) -> list[float]:
    """
    Call a TRL reward function, async ones too, with what TRL's trainer hands it. `trainer_state` is that of a training
    of one step at its end, so that shares of progress are 1; what is given to `log_extra` and `log_metric` is dropped.

    Args:
        reward (`Callable`): as TRL takes it.
        name (`str`): for errors.
        prompts, completions (`list`): plain queries, and a completion of each.
        columns (`dict[str, list]`): `completion_ids`, and the dataset's other columns.

    Returns:
        `list[float]`: NaN where the function returned `None`.

    Raises:
        ValueError: if it fails, or does not return one finite number or `None` for each completion.
    """
    # TRL does not hand on a reference either, which functions could take for the policy's completion
    given = {key: values for key, values in columns.items() if key not in ("prompt", "completion")}
    given["trainer_state"] = TrainerState(global_step=1, max_steps=1, epoch=1.0, num_train_epochs=1)
    given["log_extra"], given["log_metric"] = _log_extra, _log_metric
    try:
        rewards = reward(prompts=prompts, completions=completions, **given)
        if inspect.isawaitable(rewards):
            rewards = asyncio.run(_wait(rewards))
    except Exception as error:
        raise ValueError(f"The reward {name} failed: {_reason(error)}") from error
    if not hasattr(rewards, "__len__") or len(rewards) != len(prompts):
        count = len(rewards) if hasattr(rewards, "__len__") else type(rewards).__name__
        raise ValueError(f"The reward {name} returned {count} for {len(prompts)} completions. Return one number each.")
    try:
        numbers = [math.nan if value is None else float(value) for value in rewards]
    except (TypeError, ValueError) as error:
        raise ValueError(f"The reward {name} returned what is no number: {error}.") from error
    if infinite := [index for index, number in enumerate(numbers) if math.isinf(number)]:
        raise ValueError(
            f"The reward {name} returned {numbers[infinite[0]]} for the query {prompts[infinite[0]]!r}. Return a "
            "finite number, or None where there is no score. Completions are kept: run the same again."
        )
    return numbers


def _log_extra(column: str, values: list) -> None:
    pass


def _log_metric(name: str, value: float) -> None:
    pass


def _reason(error: Exception) -> str:
    """An error in one line, with the place where it happened."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})."


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
        `tuple[float, float]`: lower and upper end; NaN with fewer than [`FEWEST`] values.
    """
    data = np.asarray(values, dtype=float)
    if len(data) < FEWEST:
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
