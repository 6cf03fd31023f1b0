"""Replay: old groups that are trained on again, stored without padding and put behind fresh ones."""

import torch
from accelerate import Accelerator

from ...groups import pad_and_stack


Block = dict[str, torch.Tensor]
# what a block holds a number of for each token of a completion; the others it holds for each group
LOGPS_OF_TOKENS = ("ref_per_token_logps", "guided_token_logps")
OF_COMPLETION_TOKENS = ("completion_ids", *LOGPS_OF_TOKENS)


def pack(batch: dict[str, torch.Tensor]) -> Block:
    """
    A batch's groups without padding, on the CPU: tokens one after the other as int32, `prompt_lengths` `[groups]` and
    `completion_lengths` `[groups, G]`, `rewards` `[groups, G]`, and the reference's and the guided policy's
    log-probabilities where there are.
    """
    prompt_mask, mask = batch["prompt_mask"].bool(), batch["completion_mask"].bool()
    block = {
        "prompt_ids": batch["prompt_ids"][prompt_mask].int(),
        "prompt_lengths": prompt_mask.sum(-1).int(),
        "completion_ids": batch["completion_ids"][mask].int(),
        "completion_lengths": mask.sum(-1).int(),
        "rewards": batch["rewards"].clone(),
    }
    block |= {name: batch[name][mask] for name in LOGPS_OF_TOKENS if name in batch}
    return {name: tensor.cpu() for name, tensor in block.items()}


def unpack(block: Block, groups: torch.Tensor) -> dict[str, torch.Tensor]:
    """The given groups of a block, shaped as a batch: queries padded left, completions right."""
    prompts, lengths = block["prompt_lengths"], block["completion_lengths"]
    first_of_prompt = prompts.cumsum(0) - prompts
    first = lengths.flatten().cumsum(0).view(lengths.shape) - lengths
    at, prompt_mask = _places(first_of_prompt[groups], prompts[groups], left=True)
    batch = {"prompt_ids": _spread(block["prompt_ids"], at, prompt_mask), "prompt_mask": prompt_mask}
    at, mask = _places(first[groups], lengths[groups], left=False)
    for name in OF_COMPLETION_TOKENS:
        if name in block:
            batch[name] = _spread(block[name], at, mask)
    return batch | {"completion_mask": mask, "rewards": block["rewards"][groups]}


def _places(first: torch.Tensor, lengths: torch.Tensor, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in the flat tensor each column's token stands, and which columns have one."""
    columns = torch.arange(int(lengths.max())) - (lengths.max() - lengths[..., None] if left else 0)
    return first[..., None] + columns, (columns >= 0) & (columns < lengths[..., None])


def _spread(flat: torch.Tensor, at: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    values = flat.new_zeros(mask.shape)
    values[mask] = flat[at[mask]]
    return values


def own_share(groups: torch.Tensor, accelerator: Accelerator, micro_batches: int) -> torch.Tensor:
    """This process's part of the groups' numbers: every micro-batch of every process gets as many."""
    share = len(groups) // accelerator.num_processes // micro_batches * micro_batches
    return groups[accelerator.process_index * share :][:share]


class ReplayStore:
    """
    Groups of earlier rounds, numbered from 0 in their order. A store never changes: [`extended`] gives a new one.

    Args:
        blocks (`list[Block]`): as [`pack`] makes them, and as a checkpoint keeps them.

    Raises:
        ValueError: if the blocks are of another format.
    """

    def __init__(self, blocks: list[Block]):
        for block in blocks:
            if "completion_lengths" not in block:
                raise ValueError(
                    "replay_store in the checkpoint was written by another version of trl-negalign: its groups hold "
                    f"{sorted(block)}, and 'completion_lengths' was expected. Resume with the version that wrote it, "
                    "or start a new run from the checkpoint's weights."
                )
        self.blocks = blocks

    def __len__(self) -> int:
        return sum(len(block["rewards"]) for block in self.blocks)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for block in self.blocks for tensor in block.values())

    def extended(self, new: list[Block]) -> "ReplayStore":
        """
        The store with blocks behind its own. A block is joined with the one before it unless that one is larger: of n
        groups there are about log₂ n blocks, and each group is copied as often.
        """
        blocks = list(self.blocks)
        for block in new:
            while blocks and len(blocks[-1]["rewards"]) <= len(block["rewards"]):
                before = blocks.pop()
                block = {name: torch.cat([before[name], block[name]]) for name in block}
            blocks.append(block)
        return ReplayStore(blocks)

    def draw(self, count: int, seed: int) -> torch.Tensor:
        """Numbers of `count` groups, or of all if there are fewer, in a random order, none of them twice."""
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]

    def join(self, batch: dict[str, torch.Tensor], groups: torch.Tensor) -> dict[str, torch.Tensor]:
        """The batch with the store's groups of these numbers behind its own, on its device."""
        parts, places, start = [], [], 0
        for block in self.blocks:
            end = start + len(block["rewards"])
            place = ((groups >= start) & (groups < end)).nonzero()[:, 0]
            if len(place):
                parts.append(unpack(block, groups[place] - start))
                places.append(place)
            start = end
        if not parts:
            return batch
        order = torch.cat(places).argsort()
        joined = {}
        for name, fresh in batch.items():
            side = "left" if name.startswith("prompt") else "right"
            old = pad_and_stack([part[name] for part in parts], side)[order]
            joined[name] = pad_and_stack([fresh, old.to(fresh.device, fresh.dtype)], side)
        return joined
