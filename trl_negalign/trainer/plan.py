"""What a method needs of a generation round, said once, before any forward pass of its update."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator


@dataclass(frozen=True)
class Plan:
    """
    What [`GroupTrainer.plan`] answers. The trainer runs what the plan names, the metrics leave out what it does not,
    and `frac_groups_no_signal` counts the groups that it calls silent. The masks stay with their groups through
    shuffling, micro-batches and checkpoints.

    Letters: `G` candidates of a group, `n` parts of a group that are compared each by itself.

    Args:
        trained (`torch.Tensor`): `[groups, G]`, the candidates that need a gradient: false where the objective's
            coefficient of every token is known to be 0 from the rewards alone. They are left out of the forward pass,
            unless the KL term, the logged entropy or the experts' balance reads them.
        reference (`torch.Tensor`, *optional*): `[groups, G]`, the candidates whose log-probabilities under the
            reference model the objective reads. Its configuration's `needs_reference` must say so too, since the
            model is loaded long before.
        old (`torch.Tensor`, *optional*): `[groups, G]`, the candidates whose log-probabilities under the policy at
            the round's start the objective reads. They cost a pass only where a round has several optimizer steps.
        silent (`torch.Tensor`, *optional*): `[groups]`, or `[groups, n]` for parts of groups, true where nothing is
            learnt. Left out, the groups without a trained candidate. What is silent is the method's own word: where
            all answers are wrong, a method that compares has nothing to say, one that penalises each wrong answer has.
        counts (`torch.Tensor`, *optional*): `[groups]`, how many terms each group's loss is a *sum* of, for an
            objective that is a mean over all terms of the optimizer step, whatever their group, micro-batch or
            process: tokens (see [`token_counts`]), or 1 for a group that counts and 0 for one that does not. Left out,
            each group counts as 1 and the loss is the mean over all groups.

    A field that is left out must be left out in every round and on every process.
    """

    trained: torch.Tensor
    reference: torch.Tensor | None = None
    old: torch.Tensor | None = None
    silent: torch.Tensor | None = None
    counts: torch.Tensor | None = None

    def __post_init__(self):
        if self.silent is None:
            object.__setattr__(self, "silent", ~self.trained.any(-1))

    @property
    def scored(self) -> torch.Tensor:
        """The candidates that go through the model for the objective's sake, `[groups, G]`."""
        scored = self.trained
        for read in (self.reference, self.old):
            scored = scored if read is None else scored | read
        return scored

    def columns(
        self, score_all: bool = False, reference_all: bool = False, over_signal: bool = False
    ) -> dict[str, torch.Tensor]:
        """
        The plan as columns of the batch: `scored`, where they are read `reads_reference` and `reads_old`, all
        `[groups, G]`, and `counts` `[groups]`.

        Args:
            score_all (`bool`): whether the trainer itself needs every candidate in the forward pass.
            reference_all (`bool`): whether it needs every candidate's reference log-probabilities.
            over_signal (`bool`): whether the loss is a mean over the groups (or parts of groups) that are not silent.

        Raises:
            ValueError: on `over_signal` beside the plan's own `counts`.
        """
        if over_signal and self.counts is not None:
            raise ValueError("mean_over='signal' means nothing where the plan counts its own terms. Leave it out.")
        teaching = (~self.silent).float().view(len(self.silent), -1).mean(1)
        everything = torch.ones_like(self.trained)
        columns = {
            "scored": everything if score_all else self.scored,
            "reads_reference": everything if reference_all else self.reference,
            "reads_old": self.old,
            "counts": teaching if over_signal else self.counts,
        }
        return {name: column for name, column in columns.items() if column is not None}


def token_counts(mask: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """
    Tokens of each group's chosen candidates, `[groups]`, for [`Plan`]'s `counts`.

    Args:
        mask (`torch.Tensor`): `[groups, G, T]`, 1 for tokens.
        candidates (`torch.Tensor`): `[groups, G]`, true for the candidates whose tokens count.
    """
    return (mask.sum(-1) * candidates).sum(-1)


def weigh(micro_batches: list[dict[str, torch.Tensor]], together: int, accelerator: Accelerator) -> None:
    """
    Put `weight` beside `counts`, `[groups]`: what each group's loss counts in the mean over an optimizer step's terms.
    The backward pass averages over micro-batches and processes, so that the sum over a step's terms is divided by
    their number here and multiplied by those two. A step that spans several rounds takes the mean of the rounds'.

    Args:
        micro_batches (`list[dict[str, torch.Tensor]]`): a round's, with as many groups in each.
        together (`int`): how many neighbours always fall into one optimizer step; it divides their number.
        accelerator ([`~accelerate.Accelerator`]): of the run.
    """
    counts = torch.stack([batch["counts"].sum().float() for batch in micro_batches]).view(-1, together)
    totals = accelerator.reduce(counts.sum(1), reduction="sum")
    # of a step without any term the mean is 0 in any case
    weights = together * accelerator.num_processes / totals.masked_fill(totals == 0, 1.0)
    weights = weights.repeat_interleave(together)
    for batch, weight in zip(micro_batches, weights, strict=True):
        batch["weight"] = weight.expand(len(batch["counts"])).clone()
