"""What tells models apart: a digest of every part of a model that changes the numbers it gives."""

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .version import __version__


# a new release may compute another way
LIBRARIES = ("torch", "transformers", "tokenizers", "peft")
PARTS = ("weights", "config", "adapter_config", "dtype", "attention", "device", "libraries")
# where a configuration comes from, what has an entry of its own, and what no forward pass reads
LEFT_OUT_OF_CONFIG = {
    "_name_or_path",
    "_commit_hash",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "bos_token_id",
    "eos_token_id",
    "id2label",
    "label2id",
    "initializer_range",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
}
LEFT_OUT_OF_ADAPTER = {"base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode"}
# by file: where a tokenizer comes from, and how it pads and cuts, which is done here or left by its last call
LEFT_OUT_OF_TOKENIZER = {
    "tokenizer.json": {"padding", "truncation"},
    "tokenizer_config.json": {
        "name_or_path",
        "is_local",
        "local_files_only",
        "transformers_version",
        "padding_side",
        "truncation_side",
    },
}


def digest(*values) -> str:
    """A short name for JSON values: the same values, in the same order, have the same name everywhere."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def model_parts(model: PreTrainedModel) -> dict:
    """
    A digest of every part of a model that changes its numbers, so that one sees in what two models differ.

    Returns:
        `dict`: `PARTS`: `weights`, `config`, `adapter_config` (`None` without an adapter; LoRA's scale stands nowhere
        else), `dtype`, `attention` (its implementation), `device` (its kind) and `libraries` (versions).
    """
    # of PeftModel, and of a model that loaded an adapter itself
    adapters = {name: adapter.to_dict() for name, adapter in getattr(model, "peft_config", {}).items()}
    return {
        "weights": weights_digest(model),
        "config": digest(without(json.loads(model.config.to_json_string(use_diff=False)), LEFT_OUT_OF_CONFIG)),
        "adapter_config": digest(without(adapters, LEFT_OUT_OF_ADAPTER)) if adapters else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "device": PartialState().device.type,
        "libraries": {name: version(name) for name in LIBRARIES} | {"trl-negalign": __version__},
    }


def weights_digest(model: torch.nn.Module, dtype: torch.dtype | None = None, beginning: int | None = None) -> str:
    """
    SHA-256 over the names, types, shapes and bytes of a model's weights: equal weights, wherever they come from.

    Args:
        model (`torch.nn.Module`): the model.
        dtype (`torch.dtype`, *optional*): to which floating-point weights are rounded first, so that the same model in
            another precision has the same digest.
        beginning (`int`, *optional*): how many numbers of each weight are read. Left out, all.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        shape, start = tuple(tensor.shape), tensor.detach().reshape(-1)[:beginning].cpu()
        if dtype is not None and tensor.is_floating_point():
            start = start.to(dtype)
        found.update(f"{name} {start.dtype} {shape}".encode())
        found.update(start.contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of a tokenizer as it is saved: vocabulary, rules, special tokens and chat template."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {}
        for path in sorted(Path(folder).rglob("*")):
            if path.name in LEFT_OUT_OF_TOKENIZER:
                settings = json.loads(path.read_text(encoding="utf-8"))
                files[path.name] = {
                    key: value for key, value in settings.items() if key not in LEFT_OUT_OF_TOKENIZER[path.name]
                }
            elif path.is_file():
                files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest(files)


def function_parts(function: Callable, name: str) -> dict:
    """
    What tells a reward function from others, also from itself before it was edited. What its module imports is not
    looked into.

    Args:
        function (`Callable`): a function, or an object that can be called.
        name (`str`): the import path that it was found by.

    Returns:
        `dict`: `weights` (`None`), `function` (the module and name of its definition) and `source`, a digest of the
        files of that module and of the one in `name`, which may have set it up; `None` where there is no file.
    """
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, functools.partial) else inspect.unwrap(function)
    owner = function if hasattr(function, "__qualname__") else type(function)
    modules = [sys.modules.get(module) for module in (owner.__module__, name.rpartition(".")[0])]
    files = [path for module in modules if (path := getattr(module, "__file__", None))]
    source = digest([hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files]) if files else None
    return {"weights": None, "function": f"{owner.__module__}.{owner.__qualname__}", "source": source}


def without(value, keys: set[str]):
    """A configuration without some keys, at any depth, in JSON's types; sets are sorted."""
    if isinstance(value, dict):
        return {str(key): without(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, set):
        return sorted(without(list(value), keys))
    if isinstance(value, list | tuple):
        return [without(item, keys) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)
