"""The models of an evaluation: by path, hub id, base and adapter, or as objects; loaded one after the other."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from accelerate import PartialState
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..fingerprints import model_parts, tokenizer_fingerprint
from ..hub import why_not
from .generation import end_tokens


# loads a model and its tokenizer
Loader = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]


@dataclass
class Policy:
    """
    A model to evaluate.

    Args:
        label (`str`): its name in tables.
        base (`str`): id or path of the model, or a name among the packaged ones.
        adapter (`str`, *optional*): path or id of a PEFT adapter on it.
        loader (`Callable`, *optional*): loads the base and its tokenizer where `from_pretrained` does not, or gives
            a model that is there already.
    """

    label: str
    base: str
    adapter: str | None = None
    loader: Loader | None = None

    def reader(self) -> tuple[PreTrainedTokenizerBase, int | None]:
        """
        The tokenizer, and the context in tokens (`None` where a model has no limit), without the weights.

        Raises:
            ValueError: if the model or its adapter cannot be found.
        """
        try:
            if self.loader:
                model, own = self.loader()
                config, tokenizer = model.config, self._tokenizer(own)
            else:
                config, tokenizer = AutoConfig.from_pretrained(self.base), self._tokenizer()
        except (OSError, ValueError) as error:
            reason = why_not(self.adapter or self.base, error)
            raise ValueError(f"The model {self.label!r} ({self.base}) cannot be loaded: {reason}") from error
        # recurrent models have no such thing
        return tokenizer, getattr(config.get_text_config(), "max_position_embeddings", None)

    def _tokenizer(self, own: PreTrainedTokenizerBase | None = None) -> PreTrainedTokenizerBase:
        if self.adapter:
            PeftConfig.from_pretrained(self.adapter)
            # training may have added tokens or a chat template
            if os.path.isfile(os.path.join(self.adapter, "tokenizer_config.json")):
                return AutoTokenizer.from_pretrained(self.adapter)
            if not os.path.isdir(self.adapter):
                try:
                    return AutoTokenizer.from_pretrained(self.adapter)
                except (OSError, ValueError):
                    pass  # the hub has the adapter alone
        return AutoTokenizer.from_pretrained(self.base) if own is None else own

    def load(self, dtype: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
        """
        The model in evaluation mode on accelerate's device, its tokenizer, and what identifies it: its names, the
        parts of [`model_parts`], a digest of its tokenizer and the tokens that end a completion.

        Args:
            dtype (`str`): `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for that of the checkpoint. Models that
                come with their own loader keep theirs.
        """
        own = None
        if self.loader:
            model, own = self.loader()
        else:
            model = AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype)
        # only models from a hub have one
        commit = getattr(model.config, "_commit_hash", None)
        identity = {"model": self.base, "commit": commit, "adapter": self.adapter}
        if self.adapter:
            model = PeftModel.from_pretrained(model, self.adapter)
        tokenizer = self._tokenizer(own)
        identity |= model_parts(model)
        identity |= {"tokenizer": tokenizer_fingerprint(tokenizer), "end_tokens": sorted(end_tokens(model, tokenizer))}
        return model.to(PartialState().device).eval(), tokenizer, identity


def parse_policy(text: str, packaged: dict[str, Loader] | None = None) -> Policy:
    """
    Read `[LABEL=]MODEL[+ADAPTER]`.

    MODEL is a path, a hub id, or a packaged name; a folder that holds an adapter alone is read with the base that it
    names. Left out, the label is the last part of the path or id (of the adapter's, if there is one).

    Raises:
        ValueError: if a part is empty.
    """
    label, name = None, text
    if not os.path.exists(text) and (match := re.fullmatch(r"([\w.-]+)=(.*)", text)):
        label, name = match.groups()
    base, adapter = name, None
    if not os.path.exists(name) and "+" in name:
        base, adapter = name.rsplit("+", 1)
    elif os.path.isfile(os.path.join(name, "adapter_config.json")):
        base, adapter = PeftConfig.from_pretrained(name).base_model_name_or_path, name
    if not base or adapter == "":
        raise ValueError(f"model {text!r} names nothing. Write a path or hub id, [LABEL=]MODEL[+ADAPTER].")
    for path in (base, adapter):
        if path and path.startswith((".", "/", "~")) and not os.path.isdir(path):
            raise ValueError(f"model {text!r}: the folder {path} does not exist.")
    label = label or (adapter or base).rstrip("/").rsplit("/", 1)[-1]
    return Policy(label, base, adapter, (packaged or {}).get(base))
