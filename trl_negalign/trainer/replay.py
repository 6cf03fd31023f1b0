"""Old groups that are trained on again: kept one by one, drawn and put behind fresh ones."""

import torch

from ..groups import pad_and_stack


Row = dict[str, torch.Tensor]


def as_rows(batch: dict[str, torch.Tensor]) -> list[Row]:
    """Each group of a batch by itself, `[1, …]`, on the CPU."""
    return [
        {name: tensor[i : i + 1].cpu().clone() for name, tensor in batch.items()} for i in range(len(batch["rewards"]))
    ]


def draw(store: list[Row], count: int, seed: int) -> list[Row]:
    """`count` groups of the store, or all if it has fewer, in a random order, none of them twice."""
    order = torch.randperm(len(store), generator=torch.Generator().manual_seed(seed)).tolist()
    return [store[i] for i in order[:count]]


def join(batch: dict[str, torch.Tensor], old: list[Row]) -> dict[str, torch.Tensor]:
    """The batch with old groups behind its own, on its device: queries padded left, completions right."""
    return {
        name: pad_and_stack(
            [tensor, *(row[name].to(tensor.device) for row in old)],
            padding_side="left" if name.startswith("prompt") else "right",
        )
        for name, tensor in batch.items()
    }
