"""For which models the query of a group is known to be shared without a change of what comes out."""

from accelerate.utils import is_peft_model
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel


# every layer attends to all earlier tokens, and positions enter by `position_ids` alone; the tests compare each with
# separate sequences
EXACT_MODEL_TYPES = ("gemma", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
# these rotary frequencies depend on the longest sequence of the batch
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def causal_lm_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model, out of a PEFT model around it."""
    return model.get_base_model() if is_peft_model(model) else model


def reason_against_sharing(model: nn.Module) -> str | None:
    """
    Why sharing is not known to be exact for a model's architecture or its adapters, as a sentence; `None` if it is.

    Args:
        model (`nn.Module`): a transformers model or a PEFT model around one, unwrapped.
    """
    causal_lm = causal_lm_of(model)
    config = causal_lm.config
    if config.model_type not in EXACT_MODEL_TYPES:
        return (
            f"{config.model_type!r} is not among the architectures that are known to be exact "
            f"({', '.join(EXACT_MODEL_TYPES)})."
        )
    if not isinstance(causal_lm, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]):
        return f"{type(causal_lm).__name__} is not transformers' own causal language model."
    rope = (config.to_dict().get("rope_parameters") or {}).get("rope_type")
    if rope in LENGTH_DEPENDENT_ROPE:
        return f"rope_type is {rope!r}, whose frequencies depend on the length of the batch."
    if is_peft_model(model):
        for adapter in model.peft_config.values():
            if adapter.peft_type != "LORA" or adapter.to_dict().get("alora_invocation_tokens"):
                return f"the {adapter.peft_type.value} adapter is not known to be exact; plain LoRA is."
    return None
