"""
A whole group through the model as one sequence: the query once, then every candidate.

Scored one by one, a group of G candidates runs the same query G times. Here a row holds

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
from accelerate.utils import is_compiled_module, is_peft_model
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel


# Every layer attends to all earlier tokens, positions enter by `position_ids` alone, and a mask that is handed in is
# used as it is. Each of these is compared with separate sequences in the tests.
EXACT_MODEL_TYPES = ("gemma", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
EXACT_ATTENTION = ("sdpa", "eager")
# these rotary frequencies depend on the longest sequence of the batch
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

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
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    blocks: torch.Tensor
    labels: torch.Tensor

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


def pack_shared_prompts(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
) -> SharedPromptBatch:
    """
    Pack each group into one row.

    Args:
        prompt_ids (`torch.Tensor`): `[groups, P]`, padded on the left; at least one token each.
        prompt_mask (`torch.Tensor`): `[groups, P]`, 1 for tokens.
        completion_ids (`torch.Tensor`): `[groups, G, T]`, padded on the right.
        completion_mask (`torch.Tensor`): `[groups, G, T]`, 1 for tokens; a candidate may have none.
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
    slots = torch.arange(max(int(lengths.max()), 1), device=lengths.device) < lengths

    def pack(of_prefix, of_candidates, padding):
        values = torch.cat([of_prefix, of_candidates.flatten(1)], dim=1)
        return values.new_full(slots.shape, padding).masked_scatter(slots, values[kept])

    return SharedPromptBatch(
        input_ids=pack(prefix, before, 0),
        position_ids=pack(prefix_positions, positions, 0),
        blocks=pack(torch.full_like(prefix, QUERY), candidates, PADDING),
        labels=pack(torch.full_like(prefix, NO_LABEL), completion_ids, NO_LABEL),
    )


def shared_prompt_logps(
    model: nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
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

    Returns:
        `tuple`: log-probabilities in nats `[groups, G, T]`, 0 where there is no token, and the entropies of the
        tokens' distributions in the same shape, or `None` if the head was not told to compute them.
    """
    batch = pack_shared_prompts(prompt_ids, prompt_mask, completion_ids, completion_mask)
    causal_lm = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    eager = causal_lm.config._attn_implementation == "eager"
    scored = batch.labels != NO_LABEL
    inputs = {
        "input_ids": batch.input_ids,
        # eager attention adds the mask to its scores, where a boolean one would add 1
        "attention_mask": batch.attention_mask(causal_lm.get_input_embeddings().weight.dtype if eager else None),
        "position_ids": batch.position_ids,
    }
    # TRL's head leaves positions without a label out on GPUs, and on CPUs runs them all
    if scored.device.type == "cpu" and not any(is_compiled_module(module) for module in model.modules()):
        with _only_positions(causal_lm.base_model, scored):
            output = model(**inputs, shift_labels=batch.labels[scored][None], fused_lm_head=True)
        scored = scored[scored][None]
    else:
        output = model(**inputs, shift_labels=batch.labels, fused_lm_head=True)

    def unpack(values):
        # tokens come in the same order in both; unlike indexing, this stays connected where there are none
        return values.new_zeros(completion_mask.shape).masked_scatter(completion_mask.bool(), values[scored])

    return unpack(output.log_probs), None if output.entropy is None else unpack(output.entropy)


@contextmanager
def _only_positions(backbone: nn.Module, scored: torch.Tensor) -> Iterator[None]:
    """Let the backbone return the hidden states of the scored positions alone, `[1, scored tokens, width]`."""

    def keep(module, args, output):
        output.last_hidden_state = output.last_hidden_state[scored][None]
        return output

    handle = backbone.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def packing_is_cheaper(hidden_size: int, prompt_mask: torch.Tensor, completion_mask: torch.Tensor) -> bool:
    """
    Whether packed groups take less work than padded separate sequences.

    In a row, every position is compared with every other, whether the mask hides it or not. In multiplications, with
    layers of 12 * width² weights, a row of L tokens costs L * (6 * width + L) * 2 * width * layers: packing saves
    the queries' repetitions and the padding, and loses where many long completions follow a short query.

    Args:
        hidden_size (`int`): the model's width.
        prompt_mask (`torch.Tensor`): `[groups, P]`, as in [`shared_prompt_logps`].
        completion_mask (`torch.Tensor`): `[groups, G, T]`, as in [`shared_prompt_logps`].
    """
    size = completion_mask.shape[1]
    alone = prompt_mask.shape[1] + completion_mask.shape[2]
    packed = int((prompt_mask.sum(1) - 1 + completion_mask.sum((1, 2))).max())
    return packed * (6 * hidden_size + packed) < size * alone * (6 * hidden_size + alone)


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
    causal_lm = model.get_base_model() if is_peft_model(model) else model
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
    if config.model_type not in EXACT_MODEL_TYPES:
        return (
            f"{config.model_type!r} is not among the architectures that are known to be exact "
            f"({', '.join(EXACT_MODEL_TYPES)})."
        )
    if not isinstance(causal_lm, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]):
        return f"{type(causal_lm).__name__} is not transformers' own causal language model."
    if config._attn_implementation not in EXACT_ATTENTION:
        return (
            f"attn_implementation is {config._attn_implementation!r}, which is not known to take the mask of a group "
            f"({' and '.join(EXACT_ATTENTION)} are)."
        )
    rope = (options.get("rope_parameters") or {}).get("rope_type")
    if rope in LENGTH_DEPENDENT_ROPE:
        return f"rope_type is {rope!r}, whose frequencies depend on the length of the batch."
    if is_peft_model(model):
        for adapter in model.peft_config.values():
            if adapter.peft_type != "LORA" or adapter.to_dict().get("alora_invocation_tokens"):
                return f"the {adapter.peft_type.value} adapter is not known to be exact; plain LoRA is."
    if "fused_lm_head" not in signature(causal_lm.forward, follow_wrapped=False).parameters:
        return "the model has no fused LM head (add_fused_lm_head; GRPOTrainer adds it since TRL 1.16)."
    return None
