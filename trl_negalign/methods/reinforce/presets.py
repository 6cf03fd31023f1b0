"""Published methods that are settings of weighted REINFORCE, as configurations for [`WeightedReinforceTrainer`]."""

from dataclasses import dataclass, field

from ..table import NFT, NSR, TOPR
from .config import WeightedReinforceConfig


@dataclass
class NSRConfig(WeightedReinforceConfig):
    r"""
    NSR, negative sample reinforcement (arXiv 2506.01347, Eq. 4): push the wrong answers down and let the model choose
    what takes their place. For [`WeightedReinforceTrainer`].

    The paper's learning rate (1e-6), temperature (1.0), clip (0.2) and group (8) are the defaults of TRL and of this
    package. It samples 1,024 queries a round and takes 256 a step (`steps_per_generation`), with a small entropy
    bonus, which is left out here.

    Parameters:
        positive_weight (`float`, *optional*, defaults to `0.0`):
            Right answers are left out.
        normalize (`str`, *optional*, defaults to `"kept"`):
            As in the published code.
    """

    method = NSR

    positive_weight: float = field(default=0.0, metadata={"help": "Right answers are left out."})
    normalize: str = field(default="kept", metadata={"help": "'kept', as in the published code, or 'all'."})


@dataclass
class TOPRConfig(WeightedReinforceConfig):
    r"""
    TOPR, tapered off-policy REINFORCE (arXiv 2503.14286): right answers are imitated however stale they are, wrong
    ones count the less the further the policy has left them. For [`WeightedReinforceTrainer`].

    The paper samples 16 or 32 answers a query (`num_generations`) and trains for one epoch on each generated set,
    which is `steps_per_generation` far above `gradient_accumulation_steps`.

    Parameters:
        positive_weight (`float`, *optional*, defaults to `1.0`):
            As a wrong answer's.
        ratio (`str`, *optional*, defaults to `"tapered"`):
            The paper's.
        learning_rate (`float`, *optional*, defaults to `5e-7`):
            The paper's, of full training.
        lr_scheduler_type (`str`, *optional*, defaults to `"constant"`):
            The paper's.
        optim (`str`, *optional*, defaults to `"adafactor"`):
            The paper's.
    """

    method = TOPR

    positive_weight: float = field(default=1.0, metadata={"help": "As a wrong answer's."})
    ratio: str = field(default="tapered", metadata={"help": "The paper's."})
    learning_rate: float = field(default=5e-7, metadata={"help": "The paper's, of full training."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The paper's."})
    optim: str = field(default="adafactor", metadata={"help": "The paper's."})


@dataclass
class NFTConfig(WeightedReinforceConfig):
    r"""
    NFT, negative-aware fine-tuning (arXiv 2505.18116): maximum likelihood of right answers, and of wrong ones under
    the policy that is left when the right ones are taken out of the old one. For [`WeightedReinforceTrainer`].

    The paper samples 512 queries × 16 answers a round and takes 16 steps on them, at a learning rate of 1e-6 (TRL's
    default); an answer that was cut off counts as wrong, which here is the reward's affair.

    Parameters:
        positive_weight (`float`, *optional*, defaults to `1.0`):
            The paper's.
        ratio (`str`, *optional*, defaults to `"nft"`):
            The paper's.
        weight_decay (`float`, *optional*, defaults to `0.1`):
            The paper's.
        warmup_steps (`int`, *optional*, defaults to `10`):
            The paper's.
    """

    method = NFT

    positive_weight: float = field(default=1.0, metadata={"help": "The paper's."})
    ratio: str = field(default="nft", metadata={"help": "The paper's."})
    weight_decay: float = field(default=0.1, metadata={"help": "The paper's."})
    warmup_steps: int = field(default=10, metadata={"help": "The paper's."})
