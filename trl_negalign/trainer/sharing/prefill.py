"""
Generation that runs each distinct prompt once.

A group asks the model for several completions of one prompt, and transformers runs that prompt once per completion.
Here every distinct prompt, without its last token, is run once; its keys and values are copied to the rows that need
them, and transformers' own `generate` goes on from there. It still runs the last token of every row by itself, so what
is drawn, when it stops and what is returned are its own.

In fp32 the tokens are those of plain generation under the same seed. In bf16 the last token's logits round differently
when they are computed from the cache, as those of all later tokens do, so that some draws fall on another token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import (
    DynamicCache,
    DynamicLayer,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.generation import GenerationMode

from .exactness import causal_lm_of, reason_against_sharing


# what TRL hands to `generate`; anything else may depend on the prompt being run there
KNOWN_ARGUMENTS = {"input_ids", "attention_mask", "generation_config", "disable_compile"}
KNOWN_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
# other options that the mode does not tell, with the values that leave the prompt and the cache as they are
NEUTRAL_OPTIONS = {
    "use_cache": (None, True),
    "cache_implementation": (None, "dynamic"),
    "num_return_sequences": (None, 1),
    "prefill_chunk_size": (None,),
    "guidance_scale": (None, 1),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
}


@contextmanager
def prefill_once(model: nn.Module) -> Iterator[None]:
    """
    Let the model's `generate` run each distinct prompt once inside this context.

    A call is left to transformers as it is where that is not known to give the same tokens: models for which
    [`supports_prefill_once`] does not hold, active dropout, prompts of one token, arguments other than TRL's, beams,
    assistants, and caches other than the default one. So is a call without repeated prompts. All processes take the
    same way, since with sharded weights they must run the same forwards.

    Args:
        model (`nn.Module`): a transformers model or a PEFT model around one, unwrapped; `generate` may be called
            through whatever wraps it.
    """
    if not supports_prefill_once(model)[0]:
        yield
        return
    causal_lm = causal_lm_of(model)
    plain_generate = causal_lm.generate

    @wraps(plain_generate)
    def generate(*args, **kwargs):
        prompts = None if args else _repeated_prompts(causal_lm, kwargs)
        if all(gather_object([prompts is not None])):
            kwargs["past_key_values"] = _prefill(causal_lm, *prompts)
        return plain_generate(*args, **kwargs)

    causal_lm.generate = generate
    try:
        yield
    finally:
        del causal_lm.generate


def supports_prefill_once(model: nn.Module) -> tuple[bool, str]:
    """
    Whether [`prefill_once`] is known to leave a model's completions as they are, up to rounding.

    Args:
        model (`nn.Module`): a transformers model or a PEFT model around one, unwrapped.

    Returns:
        `tuple`: whether it is, and if not, why not, to be read after "Each prompt is run once per completion: ".
    """
    reason = _reason_against(model)
    return reason is None, reason or ""


def _reason_against(model: nn.Module) -> str | None:
    causal_lm = causal_lm_of(model)
    if reason := reason_against_sharing(model):
        return reason
    if type(causal_lm).generate is not GenerationMixin.generate or "generate" in vars(causal_lm):
        return f"{type(causal_lm).__name__} has a `generate` of its own."
    layers = {type(layer) for layer in DynamicCache(config=causal_lm.config).layers}
    if layers != {DynamicLayer}:
        return f"the cache has layers other than full attention ({', '.join(sorted(t.__name__ for t in layers))})."
    if causal_lm.config.to_dict().get("quantization_config") is not None:
        return "the weights are quantized, and some kernels round by what else is in the batch."
    return None


def _repeated_prompts(
    causal_lm: PreTrainedModel, kwargs: dict
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """
    The distinct prompts of a call without their last token and their masks, both `[distinct, P - 1]`, and the place
    of each row's prompt among them `[rows]`; `None` if the call is to be left as it is.
    """
    if not {"input_ids", "attention_mask"} <= kwargs.keys() <= KNOWN_ARGUMENTS or kwargs["input_ids"].shape[1] < 2:
        return None
    if causal_lm.training and _has_dropout(causal_lm):  # drawn per row there, and here would be drawn per prompt
        return None
    given = kwargs.get("generation_config") or GenerationConfig()
    # what is not set comes from the model
    config = GenerationConfig(**causal_lm.generation_config.to_dict() | given.to_diff_dict())
    if config.get_generation_mode() not in KNOWN_MODES:
        return None
    if any(getattr(config, name) not in values for name, values in NEUTRAL_OPTIONS.items()):
        return None
    # a padding token may also stand inside a prompt: only with the mask are equal rows equal prompts
    rows = torch.stack([kwargs["input_ids"][:, :-1], kwargs["attention_mask"][:, :-1]], dim=1)
    distinct, of_row = rows.unique(dim=0, return_inverse=True)
    return (distinct[:, 0], distinct[:, 1], of_row) if len(distinct) < len(rows) else None


def _has_dropout(causal_lm: PreTrainedModel) -> bool:
    of_layers = any(isinstance(module, nn.Dropout) and module.p > 0 for module in causal_lm.modules())
    return of_layers or causal_lm.config.to_dict().get("attention_dropout", 0) > 0


@torch.no_grad()
def _prefill(
    causal_lm: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, of_row: torch.Tensor
) -> DynamicCache:
    """The keys and values of all rows, `[rows, heads, P - 1, width of a head]` in every layer."""
    cache = DynamicCache(config=causal_lm.config)
    causal_lm(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),  # from the first token on, as `generate` counts
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.reorder_cache(of_row)
    return cache
