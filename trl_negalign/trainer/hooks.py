"""
What a method says of itself: the places where [`GroupTrainer`] asks it, in the order of a round. All else is the
trainer's.
"""

import torch

from ..groups import Candidate
from .group_config import GroupConfig
from .plan import Plan


class GroupMethod:
    """
    The hooks of a method that learns from groups. Two of them, [`build_candidates`] and [`group_loss`], have to be
    given, and [`plan`] wherever not every candidate is learnt from.

    Letters: `G` candidates of a group, `P` tokens of the longest query, `T` of the longest response.
    """

    @staticmethod
    def build_candidates(args: GroupConfig, columns: list[str]) -> list[Candidate]:
        """The `num_generations` candidates of a training group, in order, given the dataset's columns."""
        raise NotImplementedError

    def start_round(self, batch: dict[str, torch.Tensor], rewards: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Called once a generation round, before the batch is shuffled and split into micro-batches.

        Args:
            batch (`dict[str, torch.Tensor]`): this process's groups: `prompt_ids` and `prompt_mask` `[groups, P]`,
                `completion_ids`, `completion_mask` `[groups, G, T]`, `rewards` `[groups, G]` with NaN for a candidate
                without a score.
            rewards (`torch.Tensor`): the rewards of all processes, `[all groups, G]`.

        Returns:
            The batch to train on: its own groups first, in all a multiple of `steps_per_generation` of them, as many
            on every process.
        """
        return batch

    def plan(self, batch: dict[str, torch.Tensor]) -> Plan:
        """
        What the objective will need of a round's groups, see [`~trl_negalign.trainer.plan.Plan`]: here, every
        candidate's gradient. Called once a round, behind [`start_round`], and of the groups that a resumed run has yet
        to train on.

        Args:
            batch (`dict[str, torch.Tensor]`): groups as [`start_round`] returned them.
        """
        return Plan(trained=torch.ones_like(batch["rewards"], dtype=torch.bool))

    def group_loss(
        self, token_logps: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        The method's objective.

        Args:
            token_logps (`torch.Tensor`): `[groups, G, T]`, in nats, given the plain query; 0 for a candidate that was
                left out of the pass.
            batch (`dict[str, torch.Tensor]`): a micro-batch, shaped as in [`start_round`], with `scored`
                `[groups, G]`: the candidates that went through the model (what is logged of others must be NaN). For
                the candidates that the plan names, and 0 for others, `ref_per_token_logps` and `old_per_token_logps`
                `[groups, G, T]`; with its configuration's `needs_guided`, `guided_token_logps`.

        Returns:
            `tuple`: the loss of each group `[groups]` (with the plan's `counts`, the sum of its terms), and tensors to
            log by name, of any shape, whose mean over all processes is taken without the NaNs.
        """
        raise NotImplementedError

    def round_state(self) -> dict:
        """What a checkpoint keeps of the generation rounds: tensors, numbers, text, lists and dictionaries of them."""
        return {}

    def load_round_state(self, state: dict) -> None:
        """Take up what [`round_state`] gave."""
