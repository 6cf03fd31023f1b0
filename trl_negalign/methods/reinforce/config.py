"""Weighted REINFORCE's options."""

from dataclasses import dataclass, field
from typing import ClassVar

from accelerate.logging import get_logger

from ...trainer.group_config import GroupConfig, not_all_zero, not_negative, one_of
from ..table import REINFORCE
from .objective import BASELINES, NORMALIZATIONS, RATIOS


logger = get_logger(__name__)

# the ratios that read ε, each with the paper's value
EPSILONS = {"clipped": 0.2, "nft": 1.0}


@dataclass
class WeightedReinforceConfig(GroupConfig):
    r"""
    Configuration of [`WeightedReinforceTrainer`]: REINFORCE whose right and wrong answers have weights of their own
    and from which no group mean is subtracted. The defaults are W-REINFORCE (arXiv 2506.01347); NSR is
    `positive_weight=0`, PSR `negative_weight=0`. All candidates of a group are sampled from the plain query.

    Parameters:
        > Parameters that control the weights

        positive_weight (`float`, *optional*, defaults to `0.1`):
            Weight of right answers, the paper's λ. With 0, only wrong answers go through the model.
        negative_weight (`float`, *optional*, defaults to `1.0`):
            Weight of wrong answers.
        success_threshold (`float`, *optional*, defaults to `0.5`):
            An answer is right where its reward is above it.
        baseline (`str`, *optional*, defaults to `"none"`):
            `"none"`: a right answer counts 1 and a wrong one −1, so that a group without a right answer teaches too.
            `"group"`: an answer counts its reward less the group's mean, and its sign decides which weight it has.
        negative_only_rounds (`int`, *optional*, defaults to `0`):
            For so many generation rounds at the start, `positive_weight` is 0: NSR as a warm-up, which its authors
            suggest.
        unlikeliness (`float`, *optional*, defaults to `0.0`):
            β in [0, 1) of the unlikeliness reward (arXiv 2506.02355, 0.25 there): a right answer counts
            1 − β(G − rank)/G, where rank 0 is the likeliest of the group's G answers at the round's start.

        > Parameters that control the objective

        ratio (`str`, *optional*, defaults to `"clipped"`):
            How later optimizer steps of a round treat an answer that the policy has moved away from since it was
            sampled. `"clipped"`: PPO's clipped ratio of tokens (W-REINFORCE). `"tapered"`: a wrong answer counts
            min(1, π(y)/μ(y)), the ratio of whole answers (TOPR). `"nft"`: NFT's likelihood of wrong answers, with
            weights by the group's share of right ones. `"none"`: nothing. With one optimizer step a round the first
            two do nothing and `"nft"` has Dr. GRPO's gradient.
        epsilon (`float`, *optional*):
            Half width of the clip (`"clipped"`, 0.2 if left out) or the floor of NFT's likelihood ratio (`"nft"`, 1.0
            if left out). The other ratios have none.
        normalize (`str`, *optional*, defaults to `"all"`):
            What the loss is divided by. `"all"`: the mean over all answers of the token means (`"nft"`: of the token
            sums over `max_completion_length`, Dr. GRPO's division). `"kept"`: the mean over the tokens of the answers
            that are learnt from in the optimizer step, as NSR's published code does, so that a step is as long however
            few these are.
    """

    method = REINFORCE
    read_grpo_options: ClassVar[tuple[str, ...]] = ("epsilon",)

    positive_weight: float = field(default=0.1, metadata={"help": "Weight of right answers."})
    negative_weight: float = field(default=1.0, metadata={"help": "Weight of wrong answers."})
    success_threshold: float = field(
        default=0.5, metadata={"help": "An answer is right where its reward is above it."}
    )
    baseline: str = field(
        default="none", metadata={"help": "'none' for rewards of 1 and -1, 'group' to subtract the group's mean."}
    )
    negative_only_rounds: int = field(
        default=0, metadata={"help": "Generation rounds at the start that learn from wrong answers alone."}
    )
    unlikeliness: float = field(
        default=0.0, metadata={"help": "How much less the likeliest right answer of a group counts, in [0, 1)."}
    )
    ratio: str = field(
        default="clipped",
        metadata={"help": "How a round's later optimizer steps are corrected: 'clipped', 'tapered', 'nft' or 'none'."},
    )
    epsilon: float | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None, metadata={"help": "Half width of the clip (0.2), or NFT's floor (1.0)."}
    )
    normalize: str = field(
        default="all",
        metadata={"help": "Divide the loss by 'all' answers, or by the tokens of those 'kept' to learn from."},
    )

    def __post_init__(self):
        chosen = self.ratio != "clipped" or self.epsilon is not None
        one_of(self, "ratio", RATIOS)
        if self.epsilon is None:
            self.epsilon = EPSILONS.get(self.ratio)
        elif self.ratio not in EPSILONS:
            raise ValueError(f"epsilon={self.epsilon!r} means nothing with ratio={self.ratio!r}. Leave it out.")
        elif not 0 < self.epsilon <= 1 or (self.epsilon == 1 and self.ratio == "clipped"):
            raise ValueError(f"epsilon={self.epsilon!r} must lie in (0, 1), or up to 1 with ratio='nft'.")
        super().__post_init__()
        one_of(self, "baseline", BASELINES)
        one_of(self, "normalize", NORMALIZATIONS)
        not_negative(self, "positive_weight", "negative_weight", "negative_only_rounds")
        not_all_zero(self, "positive_weight", "negative_weight")
        if not -float("inf") < self.success_threshold < float("inf"):
            raise ValueError(f"success_threshold={self.success_threshold!r} must be a finite number.")
        if not 0 <= self.unlikeliness < 1:
            raise ValueError(f"unlikeliness={self.unlikeliness!r} must lie in [0, 1). The paper uses 0.25.")
        if self.negative_only_rounds and not self.negative_weight:
            raise ValueError(
                f"negative_only_rounds={self.negative_only_rounds} learns from wrong answers alone, and "
                "negative_weight=0 leaves them out. Set it above 0."
            )
        if self.ratio == "nft" and (self.baseline != "none" or self.unlikeliness):
            name = "unlikeliness" if self.unlikeliness else "baseline"
            raise ValueError(
                f"{name}={getattr(self, name)!r} means nothing with ratio='nft', whose weights are the group's share "
                "of right answers. Leave it out."
            )
        if self.normalize == "kept" and self.mean_over == "signal":
            raise ValueError("mean_over='signal' means nothing with normalize='kept'. Leave it out.")
        steps = self.steps_per_generation * self.num_iterations
        if chosen and self.ratio != "none" and self.gradient_accumulation_steps % steps == 0:
            what = "has Dr. GRPO's gradient" if self.ratio == "nft" else "does nothing"
            logger.warning(
                f"ratio={self.ratio!r} {what} here: a generation round is one optimizer step, which finds the policy "
                "as it sampled. Raise num_iterations, or steps_per_generation above gradient_accumulation_steps."
            )
