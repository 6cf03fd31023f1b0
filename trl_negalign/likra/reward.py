"""Likelihood-ratio heads as a reward function."""

import json
import logging
import os

from accelerate import PartialState

from ..borders import text_of
from .encoding import Encoded, context_length, encode
from .model import LikraModel
from .scoring import check_weight, combine, needed


logger = logging.getLogger(__name__)


class LikraReward:
    """
    Likelihood-ratio heads as a reward function of TRL's trainers: p₊(y|x) − w·p₋(y|x), the log-probability per token
    under the positive head less that under the negative one. Heads that were trained on a preference dataset's chosen
    and rejected responses make a reward without a reward model.

    Prompts are read as the heads' training data had them: a question for heads that were trained on questions, a
    policy's prompt (a text or a conversation) for heads that were trained on preferences. The heads stand on a base of
    their own: an object that the policy trains cannot be it too.

    ```python
    from trl_negalign import LikraReward, NEATTrainer

    trainer = NEATTrainer(model=policy, reward_funcs=LikraReward("heads"), ...)
    ```

    Args:
        model ([`LikraModel`] or `str`): the heads, or their folder or hub id. Loaded from there, they go to the
            process's device.
        weight (`float`): w, the negative head's weight.
        mode (`str`, *optional*): `"ratio"`, `"positive"` or `"negative_vs_base"`; left out, the ratio, or for a
            negative head alone what it gives against the base.
        tokens_per_batch (`int`): tokens of a forward.
        **kwargs: for [`LikraModel.from_pretrained`].

    Raises:
        ValueError: if there are no such heads, the mode needs one that is missing, or the weight is below 0.
    """

    def __init__(
        self,
        model: LikraModel | str | os.PathLike,
        weight: float = 1.0,
        mode: str | None = None,
        tokens_per_batch: int = 2048,
        **kwargs,
    ):
        check_weight(weight)
        self.__name__ = "likra_reward"
        self.place = not isinstance(model, LikraModel)
        self.heads = LikraModel.from_pretrained(model, **kwargs) if self.place else model
        if mode is None:
            mode = (
                "ratio"
                if len(self.heads.heads) == 2
                else {"positive": "positive", "negative": "negative_vs_base"}[self.heads.heads[0]]
            )
        missing = set(needed(mode)) - {*self.heads.heads, "base"}
        if missing:
            raise ValueError(f"mode={mode!r} needs a {missing.pop()} head, which these heads do not have.")
        self.weight, self.mode, self.tokens_per_batch = weight, mode, tokens_per_batch

    def __call__(self, prompts: list, completions: list, **kwargs) -> list[float | None]:
        """
        Reward of each completion in nats per token.

        Args:
            prompts, completions (`list[str]` or `list[list[dict]]`): texts or conversations.

        Returns:
            `list`: 0 for an empty completion; `None`, which takes the completion out of training, where prompt and
            completion are over the heads' context length.
        """
        if self.place:
            # the trainer has set the process's device up by now
            self.heads.model.to(PartialState().device)
            self.place = False
        context = context_length(self.heads.model.config)
        rewards: list[float | None] = [0.0] * len(prompts)
        grouped: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            grouped.setdefault(json.dumps(prompt), []).append(i)
        encoded, owners = [], []
        for rows in grouped.values():
            texts = [text_of(completions[i]) for i in rows]
            heads = self.heads
            item = encode(heads.tokenizer, prompts[rows[0]], texts, heads.template, heads.chat_template_kwargs)
            kept = []
            for row, option in zip(rows, item.options, strict=True):
                if context is not None and len(item.query) + len(option) > context:
                    rewards[row] = None
                elif option:
                    kept.append((row, option))
            if kept:
                owners.append([row for row, _ in kept])
                encoded.append(Encoded(item.query, [option for _, option in kept]))
        too_long = rewards.count(None)
        if too_long:
            logger.warning("%d completions are over the heads' context length and get no reward.", too_long)
        logps = {state: self.heads.all_logps(state, encoded, self.tokens_per_batch) for state in needed(self.mode)}
        for rows, item, scores in zip(owners, encoded, combine(logps, self.mode, self.weight), strict=True):
            for row, option, score in zip(rows, item.options, scores.tolist(), strict=True):
                rewards[row] = score / len(option)
        return rewards
