"""
What is put into TRL's trainer, and what is taken out of TRL's inner modules: a sampler with another order of queries
in each epoch, positions numbered by the mask, a head without entropies.
"""

from transformers import PreTrainedModel
from trl.trainer import utils

from .seams import SeamError, inner
from .sharing.packing import has_fused_head


disable_gradient_checkpointing = inner("trl.models.utils", "disable_gradient_checkpointing")
RepeatSampler = inner("trl.trainer.utils", "RepeatSampler")
use_adapter = inner("trl.trainer.utils", "use_adapter")


class EpochSampler(RepeatSampler):
    """TRL's sampler, shuffling each epoch by its number: a run resumed in a later epoch sees the same order."""

    def __iter__(self):
        if self.shuffle and self.seed is not None:
            self.generator.manual_seed(self.seed + self.epoch())
        return super().__iter__()


def positions_from_mask(module, args, kwargs):
    """
    Forward pre-hook: number the tokens from the first that is not padding, as generation does.

    TRL scores left-padded rows without positions. Rotary models do not mind; models with learnt positions (GPT-2)
    would be scored at other positions than they sampled from, by an amount that depends on the batch.
    """
    mask = kwargs.get("attention_mask")
    if mask is None or kwargs.get("position_ids") is not None or kwargs.get("past_key_values") is not None:
        return None
    return args, kwargs | {"position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}


def leave_out_entropies(causal_lm: PreTrainedModel, temperature: float, cast_lm_head_to_fp32: bool) -> None:
    """Put a head on the model that scores as TRL's does, without the entropies that TRL's computes in every pass."""
    if has_fused_head(causal_lm):  # there is none before TRL 1.16, which computes entropies on request
        if not hasattr(utils, "add_fused_lm_head"):
            raise SeamError("trl.trainer.utils.add_fused_lm_head", "it is gone, and the model has a fused head")
        utils.add_fused_lm_head(causal_lm, temperature=temperature, cast_lm_head_to_fp32=cast_lm_head_to_fp32)
