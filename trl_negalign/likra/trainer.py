"""Training likelihood-ratio heads, one after the other, on one base."""

import copy
import json
import math
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from ..borders import check_reasoning
from ..folders import HEAD_TRAINING, checkpoint_folders, is_whole, remove
from .config import MLP_MODULES, LikraConfig
from .encoding import Encoded, check_encoded, context_length, encode
from .model import LikraModel, digest_of, read_info, write_info
from .negatives import Pair, make_pairs
from .questions import Question, read_questions


FIRST_POINT = 32
POINT_PREFIX = "examples-"
SETTINGS_NAME = "settings.json"
# what changes the heads, beside the base and the examples
SETTINGS = (
    "chat_template_kwargs",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "seed",
)


class LikraTrainer:
    """
    Trainer for Likra, [How much do LLMs learn from negative examples?](https://huggingface.co/papers/2503.14391): two
    LoRA heads on one frozen base, each trained by maximum likelihood, one on right answers and one on wrong ones.
    TRL's [`~trl.SFTTrainer`] trains each head in turn, on the answers' tokens only and one question a sequence.

    ```python
    from trl_negalign import LikraConfig, LikraTrainer

    trainer = LikraTrainer(
        model="HuggingFaceTB/SmolLM2-135M",
        args=LikraConfig(output_dir="heads"),
        train_dataset=dataset,  # question, choices, answer; or prompt, chosen, rejected
    )
    heads = trainer.train()
    heads.score("What do plants need to grow?", ["light", "sand", "a clock"])
    ```

    Heads are saved into `output_dir/examples-N` at the numbers of examples that `save_examples` names.

    Args:
        model (`str` or `PreTrainedModel`): the base. It is frozen, and gets the adapters `positive` and `negative`.
        args ([`LikraConfig`], *optional*): the configuration.
        train_dataset (`Dataset` or `list[Question]`): see [`~trl_negalign.likra.questions.read_questions`].
        processing_class (`PreTrainedTokenizerBase`, *optional*): left out, the base's tokenizer.
        callbacks (`list[TrainerCallback]`, *optional*): for each head's training.

    Raises:
        ValueError: on a row that cannot be used, a question over the context length (naming its row), a number of
            `save_examples` that no optimizer step ends with, or a base without the modules that heads stand on.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: LikraConfig | None = None,
        train_dataset: Dataset | Sequence[Question] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        self.args = args = LikraConfig("likra") if args is None else args
        self.callbacks = callbacks or []
        if isinstance(train_dataset, Dataset) or train_dataset is None:
            train_dataset = read_questions(train_dataset, "train_dataset")
        if len({question.is_prompt for question in train_dataset}) > 1:
            raise ValueError("train_dataset mixes questions and preferences, which have different formats. Keep one.")
        self.template = None if train_dataset[0].is_prompt else args.prompt_template
        rendered = args.chat_template_kwargs
        if rendered and all(isinstance(question.query, str) for question in train_dataset):
            raise ValueError(
                f"chat_template_kwargs={rendered!r} is for conversations, and train_dataset has texts. Leave it out."
            )
        self.points = point_steps(args, min(len(train_dataset), args.num_examples or len(train_dataset)))
        if isinstance(model, PeftModel):
            raise ValueError("model has adapters already. Pass the plain base, or merge them (`negalign merge`).")
        kwargs = {"trust_remote_code": args.trust_remote_code} | (args.model_init_kwargs or {})
        if processing_class is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            processing_class = AutoTokenizer.from_pretrained(name, trust_remote_code=args.trust_remote_code)
        config = AutoConfig.from_pretrained(model, **kwargs) if isinstance(model, str) else model.config
        self.context = context_length(config, args.max_length)
        for i, question in enumerate(train_dataset):
            place = f"train_dataset[{i}]"
            encoded = encode(processing_class, question.query, question.options, self.template, rendered)
            check_encoded(encoded, self.context, place)
            if self.template is None:
                for option in question.options:
                    check_reasoning(processing_class, question.query, option, f"{place}: {option!r}", rendered)
        if isinstance(model, str):
            model = AutoModelForCausalLM.from_pretrained(model, **kwargs)
        base_digest = digest_of(model)
        self.heads = LikraModel(
            add_heads(model, args), processing_class, self.template, base_digest, chat_template_kwargs=rendered
        )
        fresh = get_peft_model_state_dict(self.heads.model, adapter_name=args.heads[0], save_embedding_layers=False)
        self.fresh_head = {name: weight.clone() for name, weight in fresh.items()}
        self.questions = train_dataset

    @cached_property
    def pairs(self) -> dict[str, list[Pair]]:
        """
        What each head is trained on, see [`~trl_negalign.likra.negatives.make_pairs`].

        Raises:
            ValueError: if no other question's text can serve, or one is over the context length behind its query.
        """
        args = self.args
        positive, negative = make_pairs(
            self.questions,
            args.negatives,
            args.wrong_option,
            args.flipped_share,
            args.num_examples,
            args.seed,
            self._base_logps,
        )
        if args.negatives != "same_question":  # a question's own options have been looked at
            for query, answer in positive + negative:
                encoded = self._encode(query, answer)
                check_encoded(encoded, self.context, f"the question {query!r} with the text of another")
        return {"positive": positive, "negative": negative}

    def _encode(self, query: str | list[dict], answer: str) -> Encoded:
        return encode(self.heads.tokenizer, query, [answer], self.template, self.args.chat_template_kwargs)

    def _base_logps(self, questions: list[Question]) -> list[torch.Tensor]:
        """Log-probabilities of all options under the base, which choose the hardest one."""
        self.heads.model.to(self.args.device)
        encoded = self.heads.encode([q.query for q in questions], [q.options for q in questions])
        found: list = [None] * len(encoded)
        with tqdm(total=len(encoded), desc="hardest options", unit="question") as bar:
            for indices, values in self.heads.logps("base", encoded):
                for index, value in zip(indices, values, strict=True):
                    found[index] = value
                bar.update(len(indices))
        return found

    def train(self, resume_from_checkpoint: bool = False) -> LikraModel:
        """
        Train the heads one after the other.

        Args:
            resume_from_checkpoint (`bool`): go on where an earlier run in `output_dir` with the same settings stopped:
                heads that are finished are read, the others continue from their last checkpoint.

        Returns:
            [`LikraModel`]: the trained heads.
        """
        folder = Path(self.args.output_dir)
        last = folder / f"{POINT_PREFIX}{self.points[max(self.points)]}"
        self._check_folder(folder, resume_from_checkpoint)
        left = [head for head in self.args.heads if not (resume_from_checkpoint and (last / head).exists())]
        for head in set(self.args.heads) - set(left):
            for count in self.points.values():
                if not (folder / f"{POINT_PREFIX}{count}" / head).exists():
                    raise ValueError(
                        f"save_examples names {count}, and the {head} head in output_dir {str(folder)!r} was trained "
                        "to its end without being saved there. Leave it out, or train in another folder."
                    )
        for head in left:
            self._train_head(head, resume_from_checkpoint)
        # what is on disk is what was trained, also where a head was finished before
        self.heads.load_heads(last)
        return self.heads

    def _check_folder(self, folder: Path, resume: bool) -> None:
        """Note the settings beside the heads; a `ValueError` if the folder holds other heads."""
        settings = {name: getattr(self.args, name) for name in SETTINGS} | {
            "base_digest": self.heads.base_digest,
            "dtype": str(self.heads.model.dtype).removeprefix("torch."),
            "template": self.template,
            "examples": sha256(json.dumps(self.pairs).encode()).hexdigest()[:32],
        }
        settings = json.loads(json.dumps(settings, default=str))
        path = folder / SETTINGS_NAME
        if path.exists() and not resume:
            raise ValueError(
                f"output_dir {str(folder)!r} holds the heads of an earlier run. Go on with it "
                "(resume_from_checkpoint=True), or choose another folder."
            )
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
        earlier.setdefault("dtype", settings["dtype"])  # earlier versions did not note it
        for name, value in settings.items():
            if earlier.get(name) != value:
                raise ValueError(
                    f"output_dir {str(folder)!r} holds heads with {name} {earlier.get(name)!r}, and now it is "
                    f"{value!r}. Choose another folder, or remove that one's heads (`negalign likra --overwrite`)."
                )
        PartialState().wait_for_everyone()  # all processes look before one writes
        if self.args.process_index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            unfinished.rename(path)

    def _train_head(self, head: str, resume: bool) -> None:
        args = copy.copy(self.args)
        args.output_dir = os.path.join(self.args.output_dir, "training", head)
        args.push_to_hub = False  # the heads are pushed together
        checkpoint = _newest_checkpoint(args.output_dir) if resume else None
        if checkpoint is None and args.process_index == 0:
            remove(args.output_dir, HEAD_TRAINING)  # half-written checkpoints
            # transformers takes the highest checkpoint for the newest and removes whole folders
            if left := sorted(Path(args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
                raise ValueError(
                    f"{left[0]} holds files that are not negalign's ({', '.join(sorted(os.listdir(left[0])))}), and "
                    f"the {head} head's training starts anew there. Move them elsewhere."
                )
        if checkpoint is None:
            # an interrupted call of this object's may have trained it already
            set_peft_model_state_dict(self.heads.model, self.fresh_head, adapter_name=head)
        self.heads.model.set_adapter(head)
        trainer = SFTTrainer(
            model=self.heads.model,
            args=args,
            train_dataset=self.tokenized(head),
            processing_class=self.heads.tokenizer,
            callbacks=[*self.callbacks, SaveHeads(self.heads, head, self.points, self.args.output_dir)],
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        # mixed precision stays around the model's forward otherwise, and scores would be rounded
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        trainer.accelerator.wait_for_everyone()

    def tokenized(self, head: str) -> Dataset:
        """
        A head's sequences in the order of training: `input_ids`, and `labels` with −100 on the query's tokens. Those
        of one optimizer step are sorted by length, which changes no gradient: its micro-batches need little padding.
        """
        rows = []
        for query, answer in self.pairs[head]:
            query_ids, (answer_ids,) = self._encode(query, answer)
            labels = [-100] * len(query_ids) + answer_ids
            rows.append({"input_ids": query_ids + answer_ids, "labels": labels})
        size = examples_per_step(self.args)
        steps = [rows[start : start + size] for start in range(0, len(rows), size)]
        return Dataset.from_list([row for step in steps for row in sorted(step, key=lambda row: len(row["labels"]))])

    def save_model(self, output_dir: str | None = None) -> None:
        """Write the heads, as ordinary PEFT adapters in one folder, with a card: [`LikraModel.save_pretrained`]."""
        self.heads.save_pretrained(output_dir or self.args.output_dir)

    def push_to_hub(self) -> str:
        """Push to `hub_model_id`, or to a repository of `output_dir`'s name; its address."""
        repo_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        return self.heads.push_to_hub(repo_id, private=self.args.hub_private_repo, token=self.args.hub_token)


class SaveHeads(TrainerCallback):
    """
    Has a checkpoint written at certain steps, and keeps the head that is in it.

    Args:
        heads ([`LikraModel`]): what is trained.
        head (`str`): the one in training.
        points (`dict[int, int]`): examples seen by step.
        output_dir (`str`): where the heads are kept, as `examples-N/head`.
    """

    def __init__(self, heads: LikraModel, head: str, points: dict[int, int], output_dir: str):
        self.heads, self.head, self.points, self.output_dir = heads, head, points, Path(output_dir)

    def on_train_begin(self, args, state, control, **kwargs):
        # a run may have been killed between its checkpoint and the copy of the head in it
        if state.global_step in self.points and not self._folder(state).exists():
            self.on_save(args, state, control)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.points:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if state.global_step not in self.points or not state.is_world_process_zero:
            return
        folder = self._folder(state)
        saved = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / self.head
        # a head's folder appears whole or not at all
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(saved, unfinished)
        write_info(folder.parent, self.heads.info() | {"examples": self.points[state.global_step]})
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)

    def _folder(self, state) -> Path:
        return self.output_dir / f"{POINT_PREFIX}{self.points[state.global_step]}" / self.head


def add_heads(base: PreTrainedModel, args: LikraConfig) -> PeftModel:
    """The base with a fresh adapter for each head; both begin with the same weights, whatever their order."""
    modules: str | list[str] = args.lora_target_modules or list(MLP_MODULES)
    if modules == ["all-linear"]:
        modules = "all-linear"
    else:
        names = [name for name, _ in base.named_modules()]
        modules = [module for module in modules if any(f".{name}".endswith(f".{module}") for name in names)]
        if not modules:
            raise ValueError(
                f"lora_target_modules={args.lora_target_modules} fits no module of {type(base).__name__}. Name its "
                "MLP's linear modules by the end of their names, or use all-linear."
            )
    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
    set_seed(args.seed)
    model = get_peft_model(base, config, adapter_name=args.heads[0])
    for head in args.heads[1:]:
        set_seed(args.seed)
        model.add_adapter(head, copy.deepcopy(config))
    return model


def examples_per_step(args: LikraConfig) -> int:
    """Examples in an optimizer step, over all micro-batches and processes."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def point_steps(args: LikraConfig, num_examples: int) -> dict[int, int]:
    """
    Optimizer steps at which heads are saved, and the examples seen by then.

    Raises:
        ValueError: if no step ends at one of `save_examples`, or there is no step.
    """
    per_step = examples_per_step(args)
    if per_step < 1 or (args.max_steps <= 0 and args.num_train_epochs <= 0):
        raise ValueError(
            f"per_device_train_batch_size={args.per_device_train_batch_size}, gradient_accumulation_steps="
            f"{args.gradient_accumulation_steps} and num_train_epochs={args.num_train_epochs} must be above 0."
        )
    steps_in_epoch = math.ceil(num_examples / per_step)
    last = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_in_epoch)
    # an epoch's last step may be a smaller one
    seen = {
        step: step // steps_in_epoch * num_examples + min(step % steps_in_epoch * per_step, num_examples)
        for step in range(1, last + 1)
    }
    points = args.save_examples
    if points is None:
        points = {FIRST_POINT * 2**i for i in range(64)} & set(seen.values())
    for count in points:
        if count not in seen.values():
            raise ValueError(
                f"save_examples names {count}, and no optimizer step ends there: a step takes {per_step} examples, "
                f"and the run ends after {seen[last]}."
            )
    return {step: count for step, count in seen.items() if count in points or step == last}


def saved_points(output_dir: str | os.PathLike, heads: Sequence[str]) -> dict[int, Path]:
    """Folders of the saved heads by number of examples, the fewest first, where all of `heads` are there."""
    folders = [
        path for path in Path(output_dir).glob(f"{POINT_PREFIX}*") if all((path / head).is_dir() for head in heads)
    ]
    points = {read_info(path)[0]["examples"]: path for path in folders}
    return {count: points[count] for count in sorted(points)}


def _newest_checkpoint(folder: str) -> str | None:
    """The newest checkpoint that was written to its end: the trainer's state comes last."""
    whole = [path for path in checkpoint_folders(folder) if is_whole(path)]
    return whole[-1] if whole else None
