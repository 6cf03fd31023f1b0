"""Groups: which candidates a query gets, and how rows become groups and pairs. Pure Python and tensors, no TRL."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


PLAIN = "plain"


@dataclass(frozen=True)
class Candidate:
    """
    One place in a group, and where its response comes from.

    Args:
        kind (`str`): Name of the candidate in metrics and tables: `"plain"`, `"positive"`, `"negative"`,
            `"principle"`, or the dataset column it is read from.
        guide (`str`, *optional*): Text put before the query while sampling. `None` samples from the query as it is.
        column (`str`, *optional*): Dataset column that holds the response. `None` means that it is sampled.
    """

    kind: str
    guide: str | None = None
    column: str | None = None


PLAIN_CANDIDATE = Candidate(PLAIN)


def split_counts(
    num_generations: int, num_plain: int, num_positive: int | None, num_negative: int | None, num_responses: int
) -> tuple[int, int]:
    """
    How many candidates of a NEAT group are sampled under the positive and under the negative guide.

    A count that is left out (`None`) takes what the others leave of the group; if both are left out they share it
    evenly and the positive guide takes the odd one.

    Args:
        num_generations (`int`): Size of the group, dataset responses included.
        num_plain (`int`): Candidates sampled without a guide.
        num_positive (`int`, *optional*): Candidates sampled under the positive guide.
        num_negative (`int`, *optional*): Candidates sampled under the negative guide.
        num_responses (`int`): Responses taken from the dataset.

    Returns:
        `tuple[int, int]`: the two counts.

    Raises:
        ValueError: if the counts do not add up to `num_generations`, or nothing is left to sample.
    """
    left = num_generations - num_plain - num_responses
    if num_positive is None and num_negative is None:
        num_negative = max(left, 0) // 2
        num_positive = max(left, 0) - num_negative
    elif num_positive is None:
        num_positive = max(left - num_negative, 0)
    elif num_negative is None:
        num_negative = max(left - num_positive, 0)
    total = num_plain + num_positive + num_negative + num_responses
    if total != num_generations:
        raise ValueError(
            f"num_generations={num_generations} is the size of the whole group, but num_plain={num_plain} + "
            f"num_positive={num_positive} + num_negative={num_negative} + {num_responses} dataset response(s) make "
            f"{total}. Set num_generations={total}, change the counts, or choose the dataset's responses with "
            "dataset_responses ([] for none)."
        )
    if total == num_responses:
        raise ValueError(
            f"num_generations={num_generations} leaves nothing to sample beside {num_responses} dataset response(s). "
            "Raise num_generations, or name fewer columns in dataset_responses."
        )
    return num_positive, num_negative


def repeated_share(tokens: Sequence[int], n: int = 4) -> float:
    """Share of a completion's n-grams that stood earlier in it, 0 where it has none."""
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def pack_groups(rows: torch.Tensor, group_size: int) -> torch.Tensor:
    """Rows in group order, `[groups * G, …]`, as groups, `[groups, G, …]`."""
    return rows.reshape(-1, group_size, *rows.shape[1:])


def pack_pairs(groups: torch.Tensor) -> torch.Tensor:
    """
    Groups `[groups, G, …]` with G even as pairs `[groups * G/2, 2, …]`: the i-th of the first half with the i-th of
    the second half.
    """
    half = groups.shape[1] // 2
    return torch.stack([groups[:, :half], groups[:, half:]], dim=2).flatten(0, 1)


def unpack_pairs(pairs: torch.Tensor, group_size: int) -> torch.Tensor:
    """Pairs, `[groups * G/2, 2, …]`, as groups again, `[groups, G, …]`: the inverse of [`pack_pairs`]."""
    return pairs.unflatten(0, (-1, group_size // 2)).transpose(1, 2).flatten(1, 2)


def pad_and_stack(parts: Sequence[torch.Tensor], padding_side: str = "right") -> torch.Tensor:
    """
    Concatenate tensors along the first dimension, zero-padding their last one to the longest.

    Args:
        parts (`Sequence[torch.Tensor]`): tensors `[n_i, …, T_i]` that agree in all but the first and last dimension.
        padding_side (`str`): `"left"` or `"right"`.
    """
    longest = max(part.shape[-1] for part in parts)
    padded = []
    for part in parts:
        missing = longest - part.shape[-1]
        padded.append(torch.nn.functional.pad(part, (missing, 0) if padding_side == "left" else (0, missing)))
    return torch.cat(padded)
