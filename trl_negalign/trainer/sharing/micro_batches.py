"""
What of a micro-batch goes through the model, and in which order: only the candidates that are scored, without the
padding that none of them needs, and groups of like length in one micro-batch. Tensors only, no TRL.

Letters: `G` candidates of a group, `P` and `T` columns of queries and completions; `S` groups of a micro-batch that
have a scored candidate, and P' and T' the columns that those need.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


# kernels of accelerators are chosen, and some are compiled, by the shape of what they are given
ACCELERATOR_MULTIPLE = 64


@dataclass
class Selection:
    """
    The candidates of a micro-batch that go through the model, with the groups and columns that they need. G stays the
    group's size; a candidate that is left out has a mask of zeros.

    Args:
        prompt_ids (`torch.Tensor`): `[S, P']`, padded on the left.
        prompt_mask (`torch.Tensor`): `[S, P']`.
        completion_ids (`torch.Tensor`): `[S, G, T']`, padded on the right.
        completion_mask (`torch.Tensor`): `[S, G, T']`.
        groups (`torch.Tensor`): `[S]`, which groups of the micro-batch these are.
        rows (`torch.Tensor`): indices into the `S * G` candidates of those that go through, at least one.
        shape (`torch.Size`): groups, G and T of the whole micro-batch.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    groups: torch.Tensor
    rows: torch.Tensor
    shape: torch.Size

    @property
    def length(self) -> int:
        """T', columns of the completions."""
        return self.completion_mask.shape[2]

    def as_groups(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens and mask of the queries, tokens and mask of the completions."""
        return self.prompt_ids, self.prompt_mask, self.completion_ids, self.completion_mask

    def as_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and attention mask of separate sequences, `[rows, P' + T']` each."""
        group = self.rows // self.shape[1]
        ids, mask = (x.flatten(0, 1)[self.rows] for x in (self.completion_ids, self.completion_mask))
        return torch.cat([self.prompt_ids[group], ids], dim=1), torch.cat([self.prompt_mask[group], mask], dim=1)

    def from_rows(self, values: torch.Tensor) -> torch.Tensor:
        """`[rows, T']` of separate sequences in their groups, `[S, G, T']`, 0 for a candidate that was left out."""
        places = values.new_zeros(self.completion_mask.shape).flatten(0, 1)
        return places.index_copy(0, self.rows, values).view(self.completion_mask.shape)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """`[S, G, T']` as `[groups, G, T]` of the whole micro-batch, 0 for a candidate that was left out."""
        values = F.pad(values, (0, self.shape[2] - self.length))  # or cut, where they were padded beyond it
        return values.new_zeros(self.shape).index_copy(0, self.groups, values)


def columns_multiple(pad_to_multiple_of: int | None, device_type: str) -> int:
    """
    To which multiple rows are made long: the user's, or else one that lets shapes repeat on an accelerator, and 1 on a
    CPU, where every column costs and a new shape nothing.
    """
    return pad_to_multiple_of or (1 if device_type == "cpu" else ACCELERATOR_MULTIPLE)


def select(batch: dict[str, torch.Tensor], run: torch.Tensor, multiple: int = 1) -> Selection:
    """
    Take out of a micro-batch what has to go through the model.

    Args:
        batch (`dict[str, torch.Tensor]`): `prompt_ids` and `prompt_mask` `[groups, P]`, `completion_ids` and
            `completion_mask` `[groups, G, T]`.
        run (`torch.Tensor`): `[groups, G]`, true for the candidates that are to be scored; one without tokens is left
            out all the same. Where none is left, a candidate of the shortest query goes through with a mask of zeros:
            the loss stays connected to all parameters, with a gradient of zero, and no other process waits.
        multiple (`int`): queries and completions are cut or padded to a multiple of so many columns.
    """
    prompt_mask, mask = batch["prompt_mask"], batch["completion_mask"]
    mask = mask * run[..., None]
    runs = mask.any(-1)
    if not runs.any():
        runs = torch.zeros_like(runs)
        runs[prompt_mask.sum(1).argmin(), 0] = True
    groups = runs.any(1).nonzero()[:, 0]
    prompt_mask, mask = prompt_mask[groups], mask[groups]

    def columns(lengths):
        return max(-(-int(lengths.max()) // multiple), 1) * multiple

    width, length = columns(prompt_mask.sum(-1)), columns(mask.sum(-1))
    # a negative number of columns is taken away
    left, right = (width - prompt_mask.shape[1], 0), (0, length - mask.shape[2])
    return Selection(
        prompt_ids=F.pad(batch["prompt_ids"][groups], left),
        prompt_mask=F.pad(prompt_mask, left),
        completion_ids=F.pad(batch["completion_ids"][groups], right),
        completion_mask=F.pad(mask, right),
        groups=groups,
        rows=runs[groups].flatten().nonzero()[:, 0],
        shape=batch["completion_mask"].shape,
    )


def group_lengths(batch: dict[str, torch.Tensor], run: torch.Tensor, packed: bool) -> torch.Tensor:
    """
    Tokens that each group's row or rows are long, `[groups]`: of the packed sequence, or of the longest separate one.
    Where no candidate is run, 0.
    """
    lengths = batch["completion_mask"].sum(-1) * run
    longest = lengths.sum(-1) if packed else lengths.amax(-1)
    return (batch["prompt_mask"].sum(-1) + longest).masked_fill(longest == 0, 0)


def by_length(
    micro_batches: list[dict[str, torch.Tensor]],
    lengths: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    together: int,
) -> list[dict[str, torch.Tensor]]:
    """
    Exchange groups between micro-batches of one optimizer step, so that those of like length are padded together. The
    longest come first: what does not fit into memory shows at once.

    Args:
        micro_batches (`list[dict[str, torch.Tensor]]`): tensors `[groups, …]`, as many groups in each.
        lengths (`Callable`): the lengths of a micro-batch's groups, `[groups]`.
        together (`int`): how many neighbours always fall into one optimizer step; it divides their number.
    """
    ordered = []
    for start in range(0, len(micro_batches), together):
        step = micro_batches[start : start + together]
        pool = {name: torch.cat([batch[name] for batch in step]) for name in step[0]}
        order = lengths(pool).argsort(descending=True, stable=True)
        for indices in order.chunk(len(step)):
            ordered.append({name: tensor[indices] for name, tensor in pool.items()})
    return ordered
