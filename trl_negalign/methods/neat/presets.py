"""Published methods that are settings of NEAT's loss, as configurations for [`NEATTrainer`]."""

from dataclasses import dataclass, field

from ..table import RAFT, RRHF
from .config import NEATConfig


@dataclass
class RAFTConfig(NEATConfig):
    r"""
    RAFT (arXiv 2304.06767): sample the plain query `num_generations` times and imitate the best. For [`NEATTrainer`].

    The best of each group is trained on as soon as it is scored; the paper collects a whole round of them first and
    may imitate the best k over several epochs (`num_iterations` repeats a round).

    Parameters:
        num_plain (`int`, *optional*):
            All candidates.
        num_positive (`int`, *optional*, defaults to `0`):
            None.
        num_negative (`int`, *optional*, defaults to `0`):
            None.
        dataset_responses (`list[str]`, *optional*, defaults to none):
            RAFT learns from its own samples only.
        ranking_weight (`float`, *optional*, defaults to `0.0`):
            Nothing is ranked.
        penalty_weight (`float`, *optional*, defaults to `0.0`):
            Nothing is pushed down.
    """

    method = RAFT

    num_plain: int | None = field(default=None, metadata={"help": "All candidates."})
    num_positive: int | None = field(default=0, metadata={"help": "None."})
    num_negative: int | None = field(default=0, metadata={"help": "None."})
    dataset_responses: list[str] | None = field(
        default_factory=list, metadata={"help": "RAFT learns from its own samples only."}
    )
    ranking_weight: float = field(default=0.0, metadata={"help": "Nothing is ranked."})
    penalty_weight: float = field(default=0.0, metadata={"help": "Nothing is pushed down."})


@dataclass
class RRHFConfig(NEATConfig):
    r"""
    RRHF (arXiv 2304.05302): rank the plain samples and the dataset's responses by reward, imitate the best by its
    summed log-probability. For [`NEATTrainer`].

    The paper samples once, before training, from several models; here the policy samples as it learns.

    Parameters:
        num_plain (`int`, *optional*):
            All candidates that are not the dataset's.
        num_positive (`int`, *optional*, defaults to `0`):
            None.
        num_negative (`int`, *optional*, defaults to `0`):
            None.
        sft_reduction (`str`, *optional*, defaults to `"sum"`):
            As in the paper.
        penalty_weight (`float`, *optional*, defaults to `0.0`):
            Nothing is pushed down but by the ranking.
    """

    method = RRHF

    num_plain: int | None = field(default=None, metadata={"help": "All candidates that are not the dataset's."})
    num_positive: int | None = field(default=0, metadata={"help": "None."})
    num_negative: int | None = field(default=0, metadata={"help": "None."})
    sft_reduction: str = field(default="sum", metadata={"help": "'sum', as in the paper, or 'mean'."})
    penalty_weight: float = field(default=0.0, metadata={"help": "Nothing is pushed down but by the ranking."})
