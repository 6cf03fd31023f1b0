"""TRL's language-model head on a CPU, doing no more than it does on a GPU."""

from contextlib import ExitStack

from torch.nn.functional import pad
from transformers import PreTrainedModel

from trl_negalign.trainer.sharing.packing import NO_LABEL, only_positions


class CompactHead:
    """
    Lets TRL's fused head score only the positions that have a label, as it does by itself where it has a GPU kernel.
    On CPUs it scores all positions and throws those of the queries away.

    Args:
        model (`PreTrainedModel`): with TRL's head on it.
    """

    def __init__(self, model: PreTrainedModel):
        self._entered = ExitStack()
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after)

    def _before(self, model, args, kwargs):
        self._scored = None
        labels = kwargs.get("labels")
        if not kwargs.get("fused_lm_head") or labels is None:
            return None
        shifted = pad(labels, (0, 1), value=NO_LABEL)[:, 1:]
        self._scored = shifted != NO_LABEL
        self._entered.enter_context(only_positions(model.base_model, self._scored))
        return args, kwargs | {"labels": None, "shift_labels": shifted[self._scored][None]}

    def _after(self, model, args, output):
        if self._scored is None:
            return
        self._entered.close()
        output.log_probs = self._spread(output.log_probs)
        if output.entropy is not None:
            output.entropy = self._spread(output.entropy)

    def _spread(self, values):
        # the last position predicts nothing, and TRL's head leaves it out
        return values.new_zeros(self._scored.shape).masked_scatter(self._scored, values)[:, :-1]
