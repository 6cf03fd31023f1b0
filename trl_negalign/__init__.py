"""NEAT and PLE beside TRL: trainers that learn from guided, good and bad samples of each query."""

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__ as __version__


_EXPORTS = {
    "LikraConfig": "likra.config",
    "LikraModel": "likra.model",
    "LikraReward": "likra.reward",
    "LikraTrainer": "likra.trainer",
    "NEATConfig": "methods.neat.config",
    "NEATTrainer": "methods.neat.trainer",
    "NFTConfig": "methods.reinforce.presets",
    "NSRConfig": "methods.reinforce.presets",
    "PLEConfig": "methods.ple.config",
    "PLETrainer": "methods.ple.trainer",
    "RAFTConfig": "methods.neat.presets",
    "RRHFConfig": "methods.neat.presets",
    "TOPRConfig": "methods.reinforce.presets",
    "WeightedReinforceConfig": "methods.reinforce.config",
    "WeightedReinforceTrainer": "methods.reinforce.trainer",
}
__all__ = [
    "LikraConfig",
    "LikraModel",
    "LikraReward",
    "LikraTrainer",
    "NEATConfig",
    "NEATTrainer",
    "NFTConfig",
    "NSRConfig",
    "PLEConfig",
    "PLETrainer",
    "RAFTConfig",
    "RRHFConfig",
    "TOPRConfig",
    "WeightedReinforceConfig",
    "WeightedReinforceTrainer",
]

if TYPE_CHECKING:
    from .likra.config import LikraConfig
    from .likra.model import LikraModel
    from .likra.reward import LikraReward
    from .likra.trainer import LikraTrainer
    from .methods.neat.config import NEATConfig
    from .methods.neat.presets import RAFTConfig, RRHFConfig
    from .methods.neat.trainer import NEATTrainer
    from .methods.ple.config import PLEConfig
    from .methods.ple.trainer import PLETrainer
    from .methods.reinforce.config import WeightedReinforceConfig
    from .methods.reinforce.presets import NFTConfig, NSRConfig, TOPRConfig
    from .methods.reinforce.trainer import WeightedReinforceTrainer


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
