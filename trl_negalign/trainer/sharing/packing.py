"""
A whole group through the model as one sequence: the query once, then every candidate.

Letters: `G` candidates of a group, `P` tokens of the longest query, `T` of the longest response, `L` columns of a
packed row. Scored one by one, a group runs the same query G times. Here a row holds

    x without its last token | last token of x, y_1 without its last token | last token of x, y_2 without ... | ...

and a mask lets every candidate see the query and its own tokens, and no other candidate. Positions are numbered as if
the candidate stood alone after the query, so each token's log-probability is the one of a separate sequence. The
query's last token is repeated because it predicts the first token of every candidate; a candidate's last token
predicts nothing and is left out. Padding is taken out of the rows: candidates without tokens cost nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_compiled_module
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from .attention import PackedGroups, locate, register_packed_attention, round_up
from .exactness import causal_lm_of, reason_against_sharing


logger = get_logger(__name__)

# these take a mask that is handed in as it is
EXACT_ATTENTION = ("sdpa", "eager")

PADDING, QUERY = -1, 0
NO_LABEL = -100


@dataclass
class SharedPromptBatch:
    """
    Groups as packed rows of length L, padded on the right.

    Args:
        input_ids (`torch.Tensor`): `[groups, L]`.
        position_ids (`torch.Tensor`): `[groups, L]`, as if each candidate stood alone after its query.
        blocks (`torch.Tensor`): `[groups, L]`, 0 for the query, `i` for candidate `i` counted from 1, -1 for padding.
        labels (`torch.Tensor`): `[groups, L]`, the token that each position predicts, -100 where none is scored.
        query_lengths (`torch.Tensor`): `[groups]`, positions of each query.
        lengths (`torch.Tensor`): `[groups, G]`, positions of each candidate, in order.
        multiple (`int`): of which L is one, and the lengths that attention is computed over.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    blocks: torch.Tensor
    labels: torch.Tensor
    query_lengths: torch.Tensor
    lengths: torch.Tensor
    multiple: int = 1

    def attention_mask(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """
        Who sees whom, `[groups, 1, L, L]`: boolean, or 0 and the lowest number of `dtype` to be added to the scores.
        """
        query, key = self.blocks[:, :, None], self.blocks[:, None, :]
        # a padded position sees itself, so that no row of the softmax is empty
        allowed = ((key == QUERY) | (key == query)).tril()[:, None]
        if dtype is None:
            return allowed
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)

    def places(self, dtype: torch.dtype) -> PackedGroups:
        """The same for [`register_packed_attention`], which leaves out what is hidden; see [`locate`]."""
        return locate(self.query_lengths, self.lengths, self.blocks.shape[1], dtype, self.multiple)

    def block_mask(self) -> BlockMask:
        """The same mask for flex attention, which leaves out the blocks that are hidden as a whole."""
        blocks = self.blocks

        def allowed(row, head, query, key):
            return (key <= query) & ((blocks[row, key] == QUERY) | (blocks[row, key] == blocks[row, query]))

        return create_block_mask(allowed, len(blocks), None, blocks.shape[1], blocks.shape[1], device=blocks.device)


def pack_shared_prompts(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    multiple: int = 1,
) -> SharedPromptBatch:
    """
    Pack each group into one row.

    Args:
        prompt_ids (`torch.Tensor`): `[groups, P]`, padded on the left; at least one token each.
        prompt_mask (`torch.Tensor`): `[groups, P]`, 1 for tokens.
        completion_ids (`torch.Tensor`): `[groups, G, T]`, padded on the right.
        completion_mask (`torch.Tensor`): `[groups, G, T]`, 1 for tokens; a candidate may have none.
        multiple (`int`): L is padded to a multiple of so many columns.
    """
    groups, size, length = completion_ids.shape
    completion_mask = completion_mask.bool()
    last = prompt_ids[:, None, -1:].expand(groups, size, 1)
    prefix = prompt_ids[:, :-1]
    # position t of a candidate's block holds the token before y_t
    before = torch.cat([last, completion_ids], dim=2)[:, :, :length]
    prefix_positions = prompt_mask[:, :-1].long().cumsum(1) - 1
    first = prompt_mask.sum(1).long()[:, None, None] - 1
    positions = first + torch.arange(length, device=first.device).expand(groups, size, length)
    candidates = torch.arange(1, size + 1, device=first.device)[:, None].expand(groups, size, length)
    kept = torch.cat([prompt_mask[:, :-1].bool(), completion_mask.flatten(1)], dim=1)

    lengths = kept.sum(1, keepdim=True)
    slots = torch.arange(round_up(max(int(lengths.max()), 1), multiple), device=lengths.device) < lengths

    def pack(of_prefix, of_candidates, padding):
        values = torch.cat([of_prefix, of_candidates.flatten(1)], dim=1)
        return values.new_full(slots.shape, padding).masked_scatter(slots, values[kept])

    return SharedPromptBatch(
        input_ids=pack(prefix, before, 0),
        position_ids=pack(prefix_positions, positions, 0),
        blocks=pack(torch.full_like(prefix, QUERY), candidates, PADDING),
        labels=pack(torch.full_like(prefix, NO_LABEL), completion_ids, NO_LABEL),
        query_lengths=prompt_mask[:, :-1].sum(1),
        lengths=completion_mask.sum(2),
        multiple=multiple,
    )


def shared_prompt_logps(
    model: nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    multiple: int = 1,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Token log-probabilities of whole groups, each query run once.

    The model is called once through whatever wraps it (PEFT, DDP, DeepSpeed, FSDP), with TRL's fused head, so that
    logits are never held for all positions; the temperature is the one that was given to
    [`~trl.trainer.utils.add_fused_lm_head`]. Call it under autocast as any forward.

    Args:
        model (`nn.Module`): a model for which [`supports_shared_prompts`] holds, wrapped or not.
        prompt_ids (`torch.Tensor`): `[groups, P]`, padded on the left; at least one token each.
        prompt_mask (`torch.Tensor`): `[groups, P]`, 1 for tokens.
        completion_ids (`torch.Tensor`): `[groups, G, T]`, padded on the right.
        completion_mask (`torch.Tensor`): `[groups, G, T]`, 1 for tokens; a candidate may have none.
        multiple (`int`): packed rows are padded to a multiple of so many columns.

    Returns:
        `tuple`: log-probabilities in nats `[groups, G, T]`, 0 where there is no token, and the entropies of the
        tokens' distributions in the same shape, or `None` if the head was not told to compute them.
    """
    batch = pack_shared_prompts(prompt_ids, prompt_mask, completion_ids, completion_mask, multiple)
    causal_lm = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    scored = batch.labels != NO_LABEL
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids} | _attention_inputs(causal_lm, batch)
    # TRL's head leaves positions without a label out on GPUs, and on CPUs runs them all
    if scored.device.type == "cpu" and not any(is_compiled_module(module) for module in model.modules()):
        with only_positions(causal_lm.base_model, scored):
            output = model(**inputs, shift_labels=batch.labels[scored][None], fused_lm_head=True)
        scored = scored[scored][None]
    else:
        output = model(**inputs, shift_labels=batch.labels, fused_lm_head=True)

    def unpack(values):
        # tokens come in the same order in both; unlike indexing, this stays connected where there are none
        return values.new_zeros(completion_mask.shape).masked_scatter(completion_mask.bool(), values[scored])

    return unpack(output.log_probs), None if output.entropy is None else unpack(output.entropy)


def attends_by_blocks(model: nn.Module) -> bool:
    """Whether packed rows take [`packed_attention`] in this model: with "sdpa", unless its function was exchanged."""
    return model.config._attn_implementation == "sdpa" and register_packed_attention()


def _attention_inputs(causal_lm: PreTrainedModel, batch: SharedPromptBatch) -> dict:
    """What tells the model who sees whom."""
    dtype = causal_lm.get_input_embeddings().weight.dtype
    if attends_by_blocks(causal_lm):
        device = batch.input_ids.device
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        # a mask of four dimensions is handed on as it is, and one without content fails wherever it is read
        nothing = torch.empty((len(batch.input_ids), 1, 0, 0), dtype=torch.bool, device=device)
        return {"attention_mask": nothing, "packed_groups": batch.places(dtype)}
    attention = causal_lm.config._attn_implementation
    if attention == "flex_attention":
        return {"attention_mask": batch.block_mask()}
    # eager attention adds the mask to its scores, where a boolean one would add 1
    return {"attention_mask": batch.attention_mask(dtype if attention == "eager" else None)}


@contextmanager
def only_positions(backbone: nn.Module, scored: torch.Tensor) -> Iterator[None]:
    """Let the backbone return the hidden states of the scored positions alone, `[1, scored tokens, width]`."""

    def keep(module, args, output):
        output.last_hidden_state = output.last_hidden_state[scored][None]
        return output

    handle = backbone.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def packing_is_cheaper(
    hidden_size: int, prompt_mask: torch.Tensor, completion_mask: torch.Tensor, by_blocks: bool = True
) -> bool:
    """
    Whether packed groups take less work than padded separate sequences.

    In multiplications, with layers of 12 * width² weights, a token costs 12 * width² in each layer and a pair of
    tokens that are compared 2 * width. Separate rows of S tokens compare S² / 2 pairs each, or S² where one is padded
    and the kernels need a mask. Packed rows run each query once, P² / 2 pairs, and T * (P + T) for each candidate,
    with P and T of its own group. So packing saves the queries' repetitions and the padding, and loses where long
    completions follow a short query. Candidates without tokens cost nothing either way. A tenth must be saved, since
    the model's head and the copies of keys are not counted.

    The mask is counted with the pairs, of which it holds a number for one or more. So where packing is cheaper, the
    mask's numbers, held once for all layers, are fewer than the squares of the separate rows with 6 * width for every
    token that is saved, of which each layer holds more.

    Args:
        hidden_size (`int`): the model's width.
        prompt_mask (`torch.Tensor`): `[groups, P]`, as in [`shared_prompt_logps`].
        completion_mask (`torch.Tensor`): `[groups, G, T]`, as in [`shared_prompt_logps`].
        by_blocks (`bool`): [`attends_by_blocks`]. If not, a mask of the whole square is used in either case, so a row
            of L tokens costs L² pairs.
    """
    runs = completion_mask.any(-1)
    rows, alone = int(runs.sum()), prompt_mask.shape[1] + completion_mask.shape[2]
    groups, queries = len(prompt_mask), prompt_mask.sum(1) - 1
    packed = int((queries + completion_mask.sum((1, 2))).max())
    if by_blocks:
        lengths = completion_mask.sum(2).amax(1)
        packed_pairs = groups * int(queries.max()) ** 2 / 2
        packed_pairs += int((runs.sum(1) * lengths * (queries + lengths)).sum())
        padded = not prompt_mask.all() or not completion_mask[runs].all()
        alone_pairs = alone**2 if padded else alone**2 / 2
    else:
        packed_pairs, alone_pairs = groups * packed**2, alone**2
    token = 6 * hidden_size
    return groups * packed * token + packed_pairs < 0.9 * rows * (alone * token + alone_pairs)


def decide_on_sharing(model: nn.Module, share_prompts: str | bool) -> bool:
    """
    Whether a trainer packs its groups, given its `share_prompts`: `"auto"`, `True` or `False`. Where `"auto"` falls
    back, the reason is logged once, on the main process.

    Raises:
        ValueError: if it is `True` and [`supports_shared_prompts`] does not hold.
    """
    if not share_prompts:
        return False
    exact, reason = supports_shared_prompts(model)
    if not exact and share_prompts is True:
        raise ValueError(f"share_prompts=True cannot be exact here: {reason} Leave it out.")
    if not exact:
        logger.warning(f"The query runs once per candidate: {reason}")
    return exact


def has_fused_head(causal_lm: PreTrainedModel) -> bool:
    """Whether TRL's fused head is on the model, so that its forward returns log-probabilities."""
    return "fused_lm_head" in signature(causal_lm.forward, follow_wrapped=False).parameters


def supports_shared_prompts(model: nn.Module) -> tuple[bool, str]:
    """
    Whether [`shared_prompt_logps`] is known to give a model's exact log-probabilities.

    Args:
        model (`nn.Module`): a transformers model or a PEFT model around one, not yet wrapped for training.

    Returns:
        `tuple`: whether it does, and if not, why not, to be read after "The query runs once per candidate: ".
    """
    reason = _reason_against(model)
    return reason is None, reason or ""


def _reason_against(model: nn.Module) -> str | None:
    causal_lm = causal_lm_of(model)
    config = causal_lm.config
    options = config.to_dict()
    if config.get_text_config() is not config:
        return f"{config.model_type!r} is a multimodal model."
    other_layers = sorted(set(options.get("layer_types") or ()) - {"full_attention"})
    if other_layers:
        return (
            f"the model has layers with {' and '.join(other_layers)}, and only full attention can be masked by group."
        )
    if options.get("sliding_window") is not None and options.get("use_sliding_window", True):
        return f"the model attends within a sliding window (sliding_window={options['sliding_window']})."
    if config._attn_implementation not in EXACT_ATTENTION:
        return (
            f"attn_implementation is {config._attn_implementation!r}, which is not known to take the mask of a group "
            f"({' and '.join(EXACT_ATTENTION)} are)."
        )
    if reason := reason_against_sharing(model):
        return reason
    if not has_fused_head(causal_lm):
        return "the model has no fused LM head (add_fused_lm_head; GRPOTrainer adds it since TRL 1.16)."
    return None
