"""Likelihood-ratio heads on one base: loading, scoring, saving."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..fingerprints import weights_digest
from ..masking import masked
from .encoding import Encoded, check_encoded, context_length, encode
from .option_logps import can_share, option_logps
from .questions import check_options, read_questions
from .scoring import HEADS, MODES, accuracies, combine, needed


INFO_NAME = "likra.json"
ADAPTER_NAME = "adapter_config.json"


class LikraModel:
    """
    Likelihood-ratio heads (Likra, arXiv 2503.14391): one base and two LoRA adapters on it, `positive`, which was
    trained on right answers, and `negative`, on wrong ones. Either may be missing.

    ```python
    from trl_negalign import LikraModel

    heads = LikraModel.from_pretrained("runs/arc/likra")
    heads.score("What do plants need to grow?", ["light", "sand", "a clock"])
    ```

    Args:
        model (`PeftModel`): the base with the adapters `positive`, `negative`, or both.
        tokenizer (`PreTrainedTokenizerBase`): the base's.
        template (`str`, *optional*): what stands before an option, see [`~trl_negalign.likra.encoding.encode`]; `None`
            for heads that were trained on a policy's prompts.
        base_digest (`str`): of the base, see [`digest_of`].
        examples (`int`): how many examples each head has seen.
        chat_template_kwargs (`dict`, *optional*): arguments for the chat template that the heads were trained with.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        base_digest: str,
        examples: int = 0,
        chat_template_kwargs: dict | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.base_digest = base_digest
        self.examples = examples
        self.chat_template_kwargs = chat_template_kwargs

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that are there."""
        return tuple(head for head in HEADS if head in self.model.peft_config)

    @cached_property
    def shares_queries(self) -> bool:
        """Whether options can share their query's forward on this base, see [`can_share`]."""
        with self.using("base"):
            return can_share(self.model.get_base_model())

    @contextmanager
    def using(self, state: str):
        """Evaluation with one head, or with neither (`"base"`)."""
        was_training = self.model.training
        self.model.eval()
        if state != "base":
            self.model.set_adapter(state, inference_mode=True)
        try:
            with self.model.disable_adapter() if state == "base" else nullcontext():
                yield
        finally:
            self.model.train(was_training)

    def encode(self, queries: Sequence, options: Sequence[Sequence[str]], name: str = "question") -> list[Encoded]:
        """
        Tokens of queries and their options.

        Args:
            queries (`Sequence[str]` or `Sequence[list[dict]]`): texts or conversations.
            options (`Sequence[Sequence[str]]`): the options of each.
            name (`str`): of a query, for the messages; its place is put behind.

        Raises:
            ValueError: if one is over the base's context length, or does not fit the heads' template.
        """
        context = context_length(self.model.config)
        encoded = []
        for i, (query, texts) in enumerate(zip(queries, options, strict=True)):
            encoded.append(encode(self.tokenizer, query, texts, self.template, self.chat_template_kwargs))
            check_encoded(encoded[-1], context, f"{name} {i}")
        return encoded

    def logps(
        self, state: str, encoded: Sequence[Encoded], tokens_per_batch: int = 512
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """
        Summed log-probabilities of options under one head or the base, batch by batch.

        Args:
            state (`str`): `"positive"`, `"negative"` or `"base"`.
            encoded (`Sequence[Encoded]`): of [`encode`].
            tokens_per_batch (`int`): tokens of a forward, at most, unless one query has more.

        Yields:
            Indices into `encoded`, and for each `[options]` in nats.

        Raises:
            ValueError: if there is no such head.
        """
        if state not in (*self.heads, "base"):
            raise ValueError(
                f"These heads have no {state} one, only {', '.join(self.heads)}. The negative head alone scores with "
                "mode='negative_vs_base', the positive with mode='positive'."
            )
        share = self.shares_queries
        batches = option_logps(self.model, encoded, tokens_per_batch, share)
        while True:
            # a caller may use another head between two batches
            with self.using(state):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def all_logps(self, state: str, encoded: Sequence[Encoded], tokens_per_batch: int = 512) -> list[torch.Tensor]:
        """[`logps`] of all queries in their order."""
        found: list = [None] * len(encoded)
        for indices, values in self.logps(state, encoded, tokens_per_batch):
            for index, value in zip(indices, values, strict=True):
                found[index] = value
        return found

    def score(
        self,
        question,
        options,
        weight: float = 1.0,
        mode: str = "ratio",
        tokens_per_batch: int = 512,
    ) -> torch.Tensor | list[torch.Tensor]:
        """
        S(a|q) = ℓ₊(a) − w·ℓ₋(a) of every option, or what another mode compares.

        Args:
            question (`str`, or a list of them): a question, or a conversation (a list of messages); many are scored
                together in a list.
            options (`list[str]`, or a list of such lists): the options of each question, at least two.
            weight (`float`): w, the negative head's weight.
            mode (`str`): `"ratio"`, `"positive"` (the positive head alone: SFT) or `"negative_vs_base"`.
            tokens_per_batch (`int`): see [`logps`].

        Returns:
            `torch.Tensor` or `list[torch.Tensor]`: `[options]` in nats, for one question or for each.

        Raises:
            ValueError: on a missing head, a single or empty option, or a question over the context length.
        """
        states = needed(mode)
        # a conversation is a list of messages
        single = isinstance(question, str) or (len(question) > 0 and isinstance(question[0], dict))
        questions, options = ([question], [options]) if single else (question, options)
        if len(questions) != len(options):
            raise ValueError(f"{len(questions)} questions have {len(options)} lists of options. Give one for each.")
        for i, texts in enumerate(options):
            check_options(texts, f"question {i}")
        encoded = self.encode(questions, options)
        logps = {state: self.all_logps(state, encoded, tokens_per_batch) for state in states}
        scores = combine(logps, mode, weight)
        return scores[0] if single else scores

    def evaluate(self, dataset: Dataset, weight: float = 1.0, tokens_per_batch: int = 512) -> dict[str, dict]:
        """
        Accuracy on questions, in every mode that these heads have: `{mode: {"acc": …, "acc_norm": …}}`. `acc` goes by
        the scores, `acc_norm` by the scores per character; an accuracy is `None` where all options tie.

        Args:
            dataset (`Dataset`): see [`~trl_negalign.likra.questions.read_questions`].
            weight (`float`): w.
            tokens_per_batch (`int`): see [`logps`].
        """
        questions = read_questions(dataset)
        options, answers = [q.options for q in questions], [q.answer for q in questions]
        encoded = self.encode([q.query for q in questions], options)
        logps = {state: self.all_logps(state, encoded, tokens_per_batch) for state in (*self.heads, "base")}
        modes = [mode for mode in MODES if set(needed(mode)) <= set(logps)]
        return {mode: accuracies(logps, options, answers, mode, weight) for mode in modes}

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        base: PreTrainedModel | str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **model_kwargs,
    ) -> "LikraModel":
        """
        Load heads from a folder or the hub.

        Args:
            path (`str`): folder or hub id that [`save_pretrained`] or [`push_to_hub`] wrote.
            base (`PreTrainedModel` or `str`, *optional*): the base, or where it is if not where it was.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): left out, the one beside the heads, or the base's.
            **model_kwargs: for `AutoModelForCausalLM.from_pretrained`, e.g. `dtype`.

        Raises:
            ValueError: if there are no heads, or they were trained on another base.
        """
        folder = Path(path) if os.path.isdir(path) else Path(_download(str(path)))
        info, heads = read_info(folder)
        name = base if isinstance(base, str) else info["base_model"]
        if base is None or isinstance(base, str):
            base = AutoModelForCausalLM.from_pretrained(name, **model_kwargs)
        if isinstance(base, PeftModel):
            raise ValueError("base has adapters already. Pass the plain model that the heads were trained on.")
        base_digest = digest_of(base)
        if base_digest != info["base_digest"]:
            raise ValueError(
                f"the heads in {path} were trained on {info['base_model']!r}, and {base.config._name_or_path!r} has "
                "other weights. Pass their base, or train heads on this one."
            )
        if tokenizer is None:
            own = (folder / "tokenizer_config.json").exists()
            tokenizer = AutoTokenizer.from_pretrained(folder if own else name)
        model = PeftModel.from_pretrained(base, folder / heads[0], adapter_name=heads[0])
        for head in heads[1:]:
            model.load_adapter(folder / head, adapter_name=head)
        # heads of earlier versions have none
        rendered = info.get("chat_template_kwargs")
        return cls(model, tokenizer, info["template"], base_digest, info["examples"], rendered)

    def load_heads(self, folder: str | os.PathLike) -> None:
        """
        Take over the weights of the heads in a folder that were trained on the same base, e.g. an earlier point.

        Raises:
            ValueError: if a head is missing there, or was trained on another base, or has another shape.
        """
        info, heads = read_info(Path(folder))
        if info["base_digest"] != self.base_digest:
            raise ValueError(f"the heads in {folder} were trained on another base, {info['base_model']!r}.")
        if missing := set(self.heads) - set(heads):
            raise ValueError(f"{folder} has no {missing.pop()} head.")
        for head in self.heads:
            theirs, own = PeftConfig.from_pretrained(Path(folder) / head), self.model.peft_config[head]
            for name in ("r", "lora_alpha", "target_modules"):
                if getattr(theirs, name) != getattr(own, name):
                    raise ValueError(
                        f"the {head} head in {folder} has {name} {getattr(theirs, name)!r}, and here it is "
                        f"{getattr(own, name)!r}. Load it with LikraModel.from_pretrained."
                    )
            weights = load_peft_weights(str(Path(folder) / head), device=str(self.model.device))
            set_peft_model_state_dict(self.model, weights, adapter_name=head)
        self.examples = info["examples"]

    def info(self) -> dict:
        """What the heads need to know about themselves, see [`read_info`]."""
        return {
            "base_model": self.model.get_base_model().config._name_or_path,
            "base_digest": self.base_digest,
            "template": self.template,
            "chat_template_kwargs": self.chat_template_kwargs,
            "examples": self.examples,
        }

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Write each head as an ordinary PEFT adapter, the tokenizer, and a card, into one folder."""
        path = Path(path)
        self.model.save_pretrained(path, selected_adapters=list(self.heads))
        self.tokenizer.save_pretrained(path)
        write_info(path, self.info())
        self.card().save(path / "README.md")

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """
        Upload what [`save_pretrained`] writes.

        Args:
            repo_id (`str`): name of the hub's repository, made if it is not there.
            private (`bool`, *optional*): whether a new repository is private.
            token (`str`, *optional*): of the hub.

        Returns:
            `str`: the repository's address.
        """
        api = HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Likelihood-ratio heads")
        return str(address)

    def card(self) -> ModelCard:
        """The model card."""
        base = self.info()["base_model"]
        data = ModelCardData(library_name="peft", tags=["trl", "trl-negalign", "likra", "lora"])
        if base and not os.path.exists(base):
            data.base_model = base
        if self.template is None:
            form = "a prompt as a policy sees it (a conversation through the chat template) and the response behind it"
        else:
            form = f"`{json.dumps(self.template)}`, then a space and the option"
        return ModelCard(
            CARD.format(
                data=data.to_yaml(),
                base=base,
                heads=" and ".join(f"`{head}`" for head in self.heads),
                examples=self.examples,
                form=form,
            )
        )


CARD = """---
{data}
---

# Likelihood-ratio heads

LoRA adapters {heads} on {base}, trained on {examples} examples with Likra
([How much do LLMs learn from negative examples?](https://huggingface.co/papers/2503.14391)): the positive head by
maximum likelihood on right answers, the negative one on wrong answers. An answer's score is its log-probability under
the positive head less that under the negative one. Each folder is an ordinary PEFT adapter; alone, the negative head
writes wrong answers.

Format: {form}.

```python
from trl_negalign import LikraModel

heads = LikraModel.from_pretrained("this repository")
scores = heads.score("a question", ["an option", "another option"])
```
"""


def digest_of(base: PreTrainedModel) -> str:
    """A name for a base by the beginning of its weights, the same in float32 and in bfloat16."""
    return weights_digest(base, torch.bfloat16, beginning=64)


def read_info(folder: Path) -> tuple[dict, list[str]]:
    """
    What a folder of heads says about them (see [`LikraModel.info`]), and which are there.

    Raises:
        ValueError: if there are none.
    """
    heads = [head for head in HEADS if (folder / head / ADAPTER_NAME).exists()]
    if not heads or not (folder / INFO_NAME).exists():
        raise ValueError(f"{folder} holds no likelihood-ratio heads ({INFO_NAME} and a folder for each head).")
    return json.loads((folder / INFO_NAME).read_text(encoding="utf-8")), heads


def write_info(folder: Path, info: dict) -> None:
    (folder / INFO_NAME).write_text(json.dumps(masked(info), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _download(repo_id: str) -> str:
    if repo_id.startswith((".", "/", "~")):
        raise ValueError(f"{repo_id} is no folder. Name one with likelihood-ratio heads, or a hub id.")
    return snapshot_download(repo_id)
