"""PLE's options."""

from dataclasses import dataclass, field

from ...guides import resolve_guide
from ...objectives import REDUCTIONS
from ...trainer.group_config import GroupConfig, not_all_zero, not_negative, one_of
from ..table import PLE
from .objective import WEIGHT_RANGES
from .schedules import THRESHOLD_SCHEDULES


@dataclass
class PLEConfig(GroupConfig):
    r"""
    Configuration of [`PLETrainer`]: PLE, progressively label enhancement (arXiv 2408.02599). Defaults are the paper's
    where it publishes a value (τ₀ = 0.2, α = 0.9); the learning rate, batch size and temperature are not published.

    Parameters:
        > Parameters that control the pairs

        principle_prompt (`str`, *optional*, defaults to `"@dialogue"`):
            Guide for the principle-guided half of the group: a text, or `@name` for a packaged guide.
        num_generations (`int`, *optional*, defaults to `2`):
            Size of the group, even: the first half is sampled from the plain query, the second half under the
            principle guide, and the two are paired in order.
        replay (`int` or `str`, *optional*, defaults to `0`):
            Old pairs that each fresh pair is trained with: `0` trains on the current round only (ours), a number k
            adds k random old pairs a fresh one, `"all"` trains on every pair so far, as the paper's Algorithm 1 does.
            They join the fresh pairs' micro-batches: a step takes k + 1 times the time and memory, and with `"all"`
            it grows with every round. Every process keeps the tokens of all pairs in its main memory, 4 bytes each.

        > Parameters that control the objective

        threshold_init (`float`, *optional*, defaults to `0.2`):
            τ₀, in the reward's units. For the `"quantile"` schedule, the first level, in [0, 1].
        threshold_decay (`float`, *optional*, defaults to `0.9`):
            α, in (0, 1]; used by the `"geometric"` and `"quantile"` schedules.
        threshold_schedule (`str`, *optional*, defaults to `"geometric"`):
            `"geometric"` (the paper's), `"constant"`, `"linear"`, `"cosine"` or `"quantile"`. For any other, override
            [`PLETrainer.threshold`].
        wsft_reduction (`str`, *optional*, defaults to `"sum"`):
            `"sum"` weights the whole response's log-probability (the paper's), `"mean"` the one per token.
        weight_range (`str`, *optional*, defaults to `"signed"`):
            `"signed"` for the paper's weights in [−1, 1], `"unit"` for weights in [0, 1] that imitate both responses.
        ranking_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the ranking part.
        wsft_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the weighted imitation.
    """

    method = PLE

    principle_prompt: str = field(
        default="@dialogue",
        metadata={"help": "Guide for the principle-guided half: a text, or '@name' for a packaged guide."},
    )
    replay: int | str | None = field(
        default=0,
        metadata={"help": "Old pairs that each fresh pair is trained with: a number, or 'all'."},
    )
    threshold_init: float = field(default=0.2, metadata={"help": "First threshold, in the reward's units."})
    threshold_decay: float = field(default=0.9, metadata={"help": "Decay of the threshold a round, in (0, 1]."})
    threshold_schedule: str = field(
        default="geometric",
        metadata={"help": "'geometric' (the paper's), 'constant', 'linear', 'cosine' or 'quantile'."},
    )
    wsft_reduction: str = field(
        default="sum",
        metadata={"help": "'sum' weights the whole response's log-probability, 'mean' the one per token."},
    )
    weight_range: str = field(
        default="signed",
        metadata={"help": "'signed' for weights in [-1, 1], 'unit' for weights in [0, 1]."},
    )
    ranking_weight: float = field(default=1.0, metadata={"help": "Weight of the ranking part."})
    wsft_weight: float = field(default=1.0, metadata={"help": "Weight of the weighted imitation."})

    def __post_init__(self):
        if self.num_generations is None:
            self.num_generations = 2
        if self.num_generations % 2 != 0:
            raise ValueError(
                f"num_generations={self.num_generations} must be even: half of the group is plain, half is "
                f"principle-guided. Set it to {self.num_generations + 1}."
            )
        super().__post_init__()
        if self.replay != "all":
            if not str(self.replay).isdecimal():
                raise ValueError(f"replay={self.replay!r} must be a whole number, 0 or larger, or 'all'.")
            self.replay = int(self.replay)
        one_of(self, "threshold_schedule", THRESHOLD_SCHEDULES)
        one_of(self, "wsft_reduction", REDUCTIONS)
        one_of(self, "weight_range", WEIGHT_RANGES)
        not_negative(self, "ranking_weight", "wsft_weight")
        not_all_zero(self, "ranking_weight", "wsft_weight")
        if not 0 < self.threshold_decay <= 1:
            raise ValueError(f"threshold_decay={self.threshold_decay!r} must lie in (0, 1]. The paper uses 0.9.")
        if not -float("inf") < self.threshold_init < float("inf"):
            raise ValueError(f"threshold_init={self.threshold_init!r} must be a finite number.")
        if self.threshold_schedule == "quantile" and not 0 <= self.threshold_init <= 1:
            raise ValueError(
                f"threshold_init={self.threshold_init!r} is a quantile level with threshold_schedule='quantile': set "
                "it in [0, 1]."
            )
        resolve_guide(self.principle_prompt, "principle_prompt", "principle")
