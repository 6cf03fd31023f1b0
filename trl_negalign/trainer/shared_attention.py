"""
Attention over packed groups without what their mask hides.

In a row `query | candidate 1 | candidate 2 | ...` a mask of the whole square hides most of it: no candidate sees
another. Here the query's tokens attend among themselves, causally, and each candidate's tokens to the query and to
their own, which are copied together into a batch of candidates. With a query of P tokens and G candidates of T tokens
that is P²/2 + G * T * (P + T) pairs of tokens instead of (P + G * T)².

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
    Where queries and candidates stand in packed rows of length L. P is the length of the longest query in the rows, G
    the largest number of candidates with tokens, T the length of the longest candidate.

    Args:
        own (`torch.Tensor`): `[groups, G, T]`, the places of each candidate's tokens in the flattened rows, and any
            place after its end.
        origin (`torch.Tensor`): `[groups * L]`, where each position's result is found in the results of the queries
            and of the candidates, flattened from `[groups, P + G * T]`, and any place for padding.
        bias (`torch.Tensor`): `[1 or groups * G, 1, T, P + T]`, 0 where a candidate's token sees one of the query or
            of its own, minus infinity elsewhere. Heads that share their keys are taken together: its T is then as many
            times longer.
    """

    own: torch.Tensor
    origin: torch.Tensor
    bias: torch.Tensor


def locate(
    query_lengths: torch.Tensor, lengths: torch.Tensor, row_length: int, heads_per_key: int, dtype: torch.dtype
) -> PackedGroups:
    """
    The places in packed rows.

    Args:
        query_lengths (`torch.Tensor`): `[groups]`, tokens of each query at the beginning of its row; may be 0.
        lengths (`torch.Tensor`): `[groups, G]`, tokens of each candidate, one after the other behind them; may be 0.
        row_length (`int`): L, with padding on the right.
        heads_per_key (`int`): how many of the model's heads share their keys and values.
        dtype (`torch.dtype`): of the values that attention is computed on.
    """
    groups, device = len(lengths), lengths.device
    starts = query_lengths[:, None] + lengths.cumsum(1) - lengths
    # candidates without tokens go behind the others and are cut off
    order = (lengths > 0).int().argsort(dim=1, descending=True, stable=True)
    order = order[:, : max(int((lengths > 0).sum(1).max()), 1)]
    starts, lengths = starts.gather(1, order), lengths.gather(1, order)
    width, length = int(query_lengths.max()), max(int(lengths.max()), 1)
    size = order.shape[1]
    tokens, row = torch.arange(length, device=device), torch.arange(groups, device=device)[:, None]
    own = (starts[..., None] + tokens).clamp(max=row_length - 1) + row_length * row[..., None]

    positions = torch.arange(row_length, device=device)
    origin = torch.where(positions < query_lengths[:, None], positions, 0).flatten()
    of_candidates = width + torch.arange(size * length, device=device).view(size, length).expand(groups, -1, -1)
    # what stands after a candidate's end goes to a place that is cut off
    places = torch.where(tokens < lengths[..., None], own, len(origin))
    origin = F.pad(origin, (0, 1)).scatter(0, places.flatten(), of_candidates.flatten())[:-1]
    origin = origin.view(groups, row_length) + (width + size * length) * row

    # one mask does for all candidates where the queries are equally long
    widths = query_lengths[:1] if bool((query_lengths == width).all()) else query_lengths.repeat_interleave(size)
    sees_query = (torch.arange(width, device=device) < widths[:, None])[:, None].expand(-1, length, -1)
    sees_own = (tokens <= tokens[:, None]).expand(len(widths), -1, -1)
    allowed = torch.cat([sees_query, sees_own], dim=2)[:, None].repeat(1, 1, heads_per_key, 1)
    bias = torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, -torch.inf)
    return PackedGroups(own, origin.flatten(), bias)


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
    own, origin, bias = packed_groups
    groups, size, length = own.shape
    width = bias.shape[-1] - length
    heads_per_key = query.shape[1] // key.shape[1]

    def of_candidates(states):
        tokens = states.transpose(1, 2).flatten(0, 1)
        return tokens.index_select(0, own.flatten()).unflatten(0, own.shape)

    def behind_query(states):
        of_query = states.transpose(1, 2)[:, None, :width].expand(-1, size, -1, -1, -1)
        return torch.cat([of_query, of_candidates(states)], dim=2).flatten(0, 1).transpose(1, 2)

    # heads that share their keys stand one after the other in one, so that no key is copied for each of them
    blocks = of_candidates(query).flatten(0, 1).unflatten(2, (-1, heads_per_key)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    blocks = F.scaled_dot_product_attention(
        blocks,
        behind_query(key),
        behind_query(value),
        attn_mask=bias.to(value.dtype),
        dropout_p=dropout,
        scale=scaling,
    )
    blocks = blocks.unflatten(2, (heads_per_key, length)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    results = blocks.unflatten(0, (groups, size)).flatten(1, 2)
    if width > 0:
        of_query = (states[:, :, :width] for states in (query, key, value))
        prefix, _ = sdpa_attention_forward(module, *of_query, None, dropout=dropout, scaling=scaling)
        results = torch.cat([prefix, results], dim=1)
    return results.flatten(0, 1).index_select(0, origin).unflatten(0, (groups, -1)), None
