"""
Attention over packed groups that skips what their mask hides.

A packed row holds a query x and behind it every candidate, here a and b. Who attends (rows) to whom (columns):

            x  x  x | a  a | b  b
        x   ■       |      |         1. the query to itself, causally: one call for all groups
        x   ■  ■    |      |
        x   ■  ■  ■ |      |
        ------------+------+------
        a   ■  ■  ■ | ■    |         2. each candidate to the query and to itself: one call a group, its candidates
        a   ■  ■  ■ | ■  ■ |            as a batch, each with a copy of the query's keys and values
        ------------+------+------
        b   ■  ■  ■ |      | ■
        b   ■  ■  ■ |      | ■  ■

The empty blocks, no candidate sees another, are most of the square and are never computed. Letters: `P` tokens of the
query, `G` candidates, `T` tokens of a candidate, `L` columns of a packed row. Pairs of tokens that are computed:
P²/2 + G * T * (P + T), instead of (P + G * T)². The mask of 2. has T * (P + T) numbers, and all candidates of the
group, all heads and all layers share it.

transformers has one function for SDPA, and every model looks it up by the name "sdpa" in each layer. Ours takes its
place and hands everything to it but packed rows, which bring their [`PackedGroups`] along as an argument of the
forward pass: so gradient checkpointing, which runs a layer again in the backward pass, finds them. The model and its
configuration stay as they are.
"""

from functools import wraps
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward


class PackedGroups(NamedTuple):
    """
    Where queries and candidates stand in packed rows of length L. P is the length of the longest query in the rows.
    For each group by itself P' is the length of its query, G' the number of its candidates with tokens and T' the
    length of the longest of them.

    Args:
        own (`tuple[torch.Tensor, ...]`): for each group `[G', T']`, the places of each candidate's tokens in the
            flattened rows, and any place after its end.
        bias (`tuple[torch.Tensor, ...]`): for each group `[1, 1, T', P' + T']`, 0 where a candidate's token sees one
            of the query or of its own, minus infinity elsewhere. Groups of the same lengths share one.
        origin (`torch.Tensor`): `[groups * L]`, where each position's result is found in the results of the queries,
            flattened from `[groups, P]`, with those of each group's candidates behind them, flattened from `[G', T']`;
            any place for padding.
        width (`int`): P.
    """

    own: tuple[torch.Tensor, ...]
    bias: tuple[torch.Tensor, ...]
    origin: torch.Tensor
    width: int


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple that is not less than a length."""
    return -(-length // multiple) * multiple


def locate(
    query_lengths: torch.Tensor, lengths: torch.Tensor, row_length: int, dtype: torch.dtype, multiple: int = 1
) -> PackedGroups:
    """
    The places in packed rows.

    Args:
        query_lengths (`torch.Tensor`): `[groups]`, tokens of each query at the beginning of its row; may be 0.
        lengths (`torch.Tensor`): `[groups, G]`, tokens of each candidate, one after the other behind them; may be 0.
        row_length (`int`): L, with padding on the right.
        dtype (`torch.dtype`): of the values that attention is computed on.
        multiple (`int`): attention is computed over multiples of so many tokens of a query and of a candidate; L is
            one too.
    """
    device = lengths.device
    query_lengths, lengths = query_lengths.tolist(), lengths.tolist()
    width = round_up(max(query_lengths), multiple)
    own, origin, biases = [], [], {}
    shapes, behind = [], len(lengths) * width
    for group, (query_length, of_candidates) in enumerate(zip(query_lengths, lengths, strict=True)):
        # a group without tokens is computed as one of a candidate that nothing is taken from
        of_candidates = [count for count in of_candidates if count > 0] or [0]
        length = round_up(max(*of_candidates, 1), multiple)
        starts = query_length + torch.tensor([0, *of_candidates[:-1]]).cumsum(0)
        places = starts[:, None] + torch.arange(length)
        own.append((places.clamp(max=row_length - 1) + row_length * group).to(device))
        results = torch.zeros(row_length, dtype=torch.long)
        results[:query_length] = group * width + torch.arange(query_length)
        for candidate, (start, count) in enumerate(zip(starts.tolist(), of_candidates, strict=True)):
            results[start : start + count] = behind + candidate * length + torch.arange(count)
        origin.append(results)
        behind += len(starts) * length
        shapes.append((query_length, length))
        if shapes[-1] not in biases:
            biases[shapes[-1]] = _bias(*shapes[-1], round_up(query_length, multiple), dtype, device)
    return PackedGroups(tuple(own), tuple(biases[shape] for shape in shapes), torch.cat(origin).to(device), width)


def _bias(query_length: int, length: int, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What a candidate of `length` tokens sees of a query's `width` places and of itself, `[1, 1, T', P' + T']`."""
    bias = torch.full((length, width + length), -torch.inf, dtype=dtype, device=device).triu(width + 1)
    bias[:, query_length:width] = -torch.inf
    return bias[None, None]


def register_packed_attention() -> bool:
    """
    Let "sdpa" attention take [`PackedGroups`] as the argument `packed_groups`, in all models of this process. Without
    that argument it is what it was. Where something else has already taken the place of transformers' own function,
    nothing is changed and `False` is returned.
    """
    registered = AttentionInterface()["sdpa"]
    if registered is sdpa_attention_forward:
        AttentionInterface.register("sdpa", sdpa_or_packed_attention)
    return registered in (sdpa_attention_forward, sdpa_or_packed_attention)


@wraps(sdpa_attention_forward)
def sdpa_or_packed_attention(*args, packed_groups: PackedGroups | None = None, **kwargs):
    if packed_groups is None:
        return sdpa_attention_forward(*args, **kwargs)
    return packed_attention(*args, packed_groups=packed_groups, **kwargs)


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    packed_groups: PackedGroups,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """
    Causal attention within each query, and of each candidate to its query and to itself.

    Args:
        module (`nn.Module`): the layer's attention.
        query (`torch.Tensor`): `[groups, heads, L, width of a head]`.
        key (`torch.Tensor`): `[groups, heads that have keys, L, width of a head]`.
        value (`torch.Tensor`): `[groups, heads that have keys, L, width of a head]`.
        attention_mask (`torch.Tensor`): not read.
        packed_groups (`PackedGroups`): where queries and candidates stand in the rows.

    Returns:
        `tuple`: `[groups, L, heads, width of a head]`, of no meaning at padding, and `None` for the weights.
    """
    heads_per_key = query.shape[1] // key.shape[1]
    queries, keys, values = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))

    def behind_query(states, tokens, group, own, width):
        # heads that share their keys see one copy of them
        of_query = states[group, :, :width].expand(len(own), -1, -1, -1)
        of_candidates = tokens.index_select(0, own.flatten()).unflatten(0, own.shape).transpose(1, 2)
        both = torch.cat([of_query, of_candidates], dim=2).flatten(0, 1)
        return both[:, None].expand(-1, heads_per_key, -1, -1)

    width = packed_groups.width
    results = []
    if width > 0:
        of_query = (states[:, :, :width] for states in (query, key, value))
        prefix, _ = sdpa_attention_forward(module, *of_query, None, dropout=dropout, scaling=scaling)
        results.append(prefix.flatten(0, 1))
    for group, (own, bias) in enumerate(zip(packed_groups.own, packed_groups.bias, strict=True)):
        size, length = own.shape
        blocks = queries.index_select(0, own.flatten()).unflatten(1, (-1, heads_per_key))
        blocks = F.scaled_dot_product_attention(
            blocks.unflatten(0, own.shape).permute(0, 2, 3, 1, 4).flatten(0, 1),
            behind_query(key, keys, group, own, bias.shape[-1] - length),
            behind_query(value, values, group, own, bias.shape[-1] - length),
            attn_mask=bias.to(value.dtype),
            dropout_p=dropout,
            scale=scaling,
        )
        blocks = blocks.unflatten(0, (size, -1)).permute(0, 3, 1, 2, 4)
        results.append(blocks.flatten(2, 3).flatten(0, 1))
    results = torch.cat(results).index_select(0, packed_groups.origin)
    return results.unflatten(0, (len(query), -1)), None
