"""NEAT and PLE beside TRL: trainers that learn from guided, good and bad samples of each query."""

from importlib import import_module
from typing import TYPE_CHECKING


__version__ = "0.1.0"

_EXPORTS = {
    "LikraConfig": "likra.config",
    "LikraModel": "likra.model",
    "LikraReward": "likra.reward",
    "LikraTrainer": "likra.trainer",
    "NEATConfig": "trainer.neat_config",
    "NEATTrainer": "trainer.neat_trainer",
    "PLEConfig": "trainer.ple_config",
    "PLETrainer": "trainer.ple_trainer",
    "RAFTConfig": "trainer.presets",
    "RRHFConfig": "trainer.presets",
}
__all__ = [
    "LikraConfig",
    "LikraModel",
    "LikraReward",
    "LikraTrainer",
    "NEATConfig",
    "NEATTrainer",
    "PLEConfig",
    "PLETrainer",
    "RAFTConfig",
    "RRHFConfig",
]

if TYPE_CHECKING:
    from .likra.config import LikraConfig
    from .likra.model import LikraModel
    from .likra.reward import LikraReward
    from .likra.trainer import LikraTrainer
    from .trainer.neat_config import NEATConfig
    from .trainer.neat_trainer import NEATTrainer
    from .trainer.ple_config import PLEConfig
    from .trainer.ple_trainer import PLETrainer
    from .trainer.presets import RAFTConfig, RRHFConfig


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
