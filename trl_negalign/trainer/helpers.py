"""Helpers out of TRL's inner modules, which may move: a release without them is named as such."""

from .seams import SeamError


try:
    from trl.models.utils import disable_gradient_checkpointing
    from trl.trainer.utils import RepeatSampler, use_adapter
except ImportError as error:
    raise SeamError(error.name or "an inner module", str(error)) from error


__all__ = ["RepeatSampler", "disable_gradient_checkpointing", "use_adapter"]
