"""NEAT's options."""

from dataclasses import dataclass, field

from ...groups import split_counts
from ...guides import resolve_guide
from ...objectives import REDUCTIONS
from ...trainer.group_config import GroupConfig, not_all_zero, not_negative, one_of
from ..table import NEAT
from .objective import PENALTY_TYPES, RANKING_LOSS_TYPES


@dataclass
class NEATConfig(GroupConfig):
    r"""
    Configuration of [`NEATTrainer`]: NEAT, negative-prompt-driven alignment (arXiv 2410.12194).

    The paper states the shape of the objective, L = L_sft(best) + α·L_rank(all) + β·L_penalty(worst), and publishes
    neither the prompts nor the counts, weights, margin or normalisation. The options and defaults here are our
    reconstruction.

    Parameters:
        > Parameters that control the group

        positive_prompt (`str`, *optional*, defaults to `"@dialogue"`):
            Guide for the positive candidates: a text, or `@name` for a packaged guide (see `trl_negalign/guides`).
        negative_prompt (`str`, *optional*, defaults to `"@dialogue"`):
            Guide for the negative candidates.
        num_generations (`int`, *optional*, defaults to `4`):
            Size of the whole group, dataset responses included. If it is left out while `num_positive` and
            `num_negative` are given, it is the sum of the counts.
        num_positive (`int`, *optional*):
            Candidates sampled under the positive guide. What `num_plain` and the dataset's responses leave of the
            group is split evenly; the positive guide takes the odd one.
        num_negative (`int`, *optional*):
            Candidates sampled under the negative guide.
        num_plain (`int`, *optional*, defaults to `0`):
            Candidates sampled without a guide. `None` takes all that the other counts leave.
        dataset_responses (`list[str]`, *optional*):
            Dataset columns whose responses join the group. `None` takes whichever of `chosen` and `rejected` there
            are, `[]` (on a command line, `none`) takes none.

        > Parameters that control the objective

        sft_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the imitation of the best candidate.
        ranking_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the ranking of all candidates, the paper's α.
        penalty_weight (`float`, *optional*, defaults to `0.1`):
            Weight of the penalty on the worst candidate, the paper's β; form and weight are chosen by trial
            (`recipes/quickstart/README.md`).
        sft_reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` imitates by the log-probability per token, `"sum"` by the whole response's.
        ranking_loss_type (`str`, *optional*, defaults to `"hinge"`):
            `"hinge"`, `"linear"` or `"logsigmoid"`, over all pairs with different rewards.
        ranking_margin (`float`, *optional*, defaults to `0.0`):
            Margin of the ranking in nats per token (not used by `"linear"`).
        penalty_type (`str`, *optional*, defaults to `"logprob"`):
            `"logprob"` (unbounded below), `"unlikelihood"` or `"npo"` (which needs a reference model).
        penalty_floor (`float`, *optional*):
            Log-probability per token of the worst candidate below which it is no longer pushed down. The plain
            log-probability is unbounded below, so set it (say −5) for long runs or larger penalty weights.
        npo_beta (`float`, *optional*, defaults to `0.1`):
            β of the `"npo"` penalty.
        skip_shared_prefix (`bool`, *optional*, defaults to `False`):
            Leave the tokens that the two candidates of a ranked pair have in common at their beginning out of their
            ranking, and those that the worst has in common with the best out of the penalty: they would be pushed up
            and down at once (GTPO's observation, arXiv 2508.03772; the form is ours). The imitation keeps them, and
            token means are still divided by the whole length. In a pair of equal length a shared prefix cancels out of
            the ranking by itself; the penalty's share of it does not.
    """

    method = NEAT

    positive_prompt: str = field(
        default="@dialogue",
        metadata={"help": "Guide for the positive candidates: a text, or '@name' for a packaged guide."},
    )
    negative_prompt: str = field(
        default="@dialogue",
        metadata={"help": "Guide for the negative candidates: a text, or '@name' for a packaged guide."},
    )
    num_positive: int | None = field(
        default=None,
        metadata={"help": "Candidates under the positive guide. Left out, half of what is left, and the odd one."},
    )
    num_negative: int | None = field(
        default=None,
        metadata={"help": "Candidates under the negative guide. Left out, half of what is left."},
    )
    num_plain: int | None = field(
        default=0, metadata={"help": "Candidates sampled without a guide. 'none' for all that are left."}
    )
    dataset_responses: list[str] | None = field(
        default=None,
        metadata={
            "help": "Dataset columns whose responses join the group. Left out, whichever of chosen and rejected there "
            "are; 'none' for none."
        },
    )
    sft_weight: float = field(default=1.0, metadata={"help": "Weight of the imitation of the best candidate."})
    ranking_weight: float = field(default=1.0, metadata={"help": "Weight of the ranking of all candidates."})
    penalty_weight: float = field(default=0.1, metadata={"help": "Weight of the penalty on the worst candidate."})
    sft_reduction: str = field(
        default="mean",
        metadata={"help": "'mean' imitates by the log-probability per token, 'sum' by the whole response's."},
    )
    ranking_loss_type: str = field(default="hinge", metadata={"help": "'hinge', 'linear' or 'logsigmoid'."})
    ranking_margin: float = field(default=0.0, metadata={"help": "Margin of the ranking in nats per token."})
    penalty_type: str = field(default="logprob", metadata={"help": "'logprob', 'unlikelihood' or 'npo'."})
    penalty_floor: float | None = field(
        default=None,
        metadata={"help": "Log-probability per token of the worst candidate below which it is no longer pushed down."},
    )
    npo_beta: float = field(default=0.1, metadata={"help": "Beta of the 'npo' penalty."})
    skip_shared_prefix: bool = field(
        default=False,
        metadata={"help": "Leave what two candidates share at their beginning out of their ranking and the penalty."},
    )

    def __post_init__(self):
        if isinstance(self.dataset_responses, str):
            self.dataset_responses = [self.dataset_responses]
        if self.dataset_responses == ["none"]:
            self.dataset_responses = []
        for name in ("num_plain", "num_positive", "num_negative"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or larger.")
        if self.num_generations is None:
            self.num_generations = 4
            if None not in (self.num_plain, self.num_positive, self.num_negative):
                counted = self.num_plain + self.num_positive + self.num_negative
                self.num_generations = counted + len(self.dataset_responses or [])
        super().__post_init__()
        if self.dataset_responses is not None:
            self.counts(len(self.dataset_responses))
        one_of(self, "sft_reduction", REDUCTIONS)
        one_of(self, "ranking_loss_type", RANKING_LOSS_TYPES)
        one_of(self, "penalty_type", PENALTY_TYPES)
        not_negative(self, "sft_weight", "ranking_weight", "penalty_weight", "ranking_margin")
        not_all_zero(self, "sft_weight", "ranking_weight", "penalty_weight")
        if self.skip_shared_prefix and self.ranking_weight == self.penalty_weight == 0:
            raise ValueError(
                "skip_shared_prefix=True is about the ranking and the penalty, and ranking_weight and penalty_weight "
                "are 0. Leave it out, or set one of them above 0."
            )
        if self.penalty_floor is not None and not self.penalty_floor < 0:
            raise ValueError(f"penalty_floor={self.penalty_floor!r} is a log-probability per token: set it below 0.")
        if not 0 < self.npo_beta < float("inf"):
            raise ValueError(f"npo_beta={self.npo_beta!r} must be a finite number above 0.")
        if self.num_positive != 0:
            resolve_guide(self.positive_prompt, "positive_prompt", "positive")
        if self.num_negative != 0:
            resolve_guide(self.negative_prompt, "negative_prompt", "negative")

    @property
    def needs_reference(self) -> bool:
        return self.penalty_type == "npo" and self.penalty_weight > 0

    def counts(self, num_responses: int) -> tuple[int, int, int]:
        """How many candidates are sampled plain, under the positive and under the negative guide."""
        plain, positive, negative = self.num_plain, self.num_positive, self.num_negative
        if plain is None:
            positive, negative = positive or 0, negative or 0
            plain = max(self.num_generations - num_responses - positive - negative, 0)
        return plain, *split_counts(self.num_generations, plain, positive, negative, num_responses)
