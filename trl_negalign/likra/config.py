"""The options of training likelihood-ratio heads."""

from dataclasses import dataclass, field

from trl import SFTConfig

from .negatives import NEGATIVES, WRONG_OPTIONS
from .scoring import HEADS


# the linear modules of a block's MLP, as the common families name them
MLP_MODULES = (
    "gate_proj",
    "up_proj",
    "down_proj",
    "gate_up_proj",
    "fc1",
    "fc2",
    "c_fc",
    "mlp.c_proj",
    "dense_h_to_4h",
    "dense_4h_to_h",
)


@dataclass
class LikraConfig(SFTConfig):
    r"""
    Configuration of [`LikraTrainer`]: Likra, likelihood-ratio heads (arXiv 2503.14391). The defaults are the paper's
    where it states them.

    Parameters:
        > Parameters that control the heads

        heads (`list[str]`, *optional*, defaults to `["positive", "negative"]`):
            Which heads are trained, and in which order. They share nothing but the frozen base, so the order changes
            no result. The negative head alone is compared with the base.
        lora_r (`int`, *optional*, defaults to `8`):
            Rank of each head.
        lora_alpha (`int`, *optional*, defaults to `8`):
            Scaling of each head.
        lora_dropout (`float`, *optional*, defaults to `0.0`):
            Dropout before a head's matrices.
        lora_target_modules (`list[str]`, *optional*):
            Modules that get a head's matrices, by the end of their names. `None` takes the linear modules of the MLPs,
            `all-linear` all but the output layer.

        > Parameters that control the examples

        negatives (`str`, *optional*, defaults to `"same_question"`):
            What the negative head learns: `"same_question"`, a wrong option (a near miss); `"other_question"`, an
            option of another question; `"unrelated"`, the beginning of another question's text.
        wrong_option (`str`, *optional*, defaults to `"random"`):
            Which wrong option: `"random"`, `"first"`, or `"hardest"`, the likeliest per character under the base.
        flipped_share (`float`, *optional*, defaults to `0.0`):
            Share of examples whose labels are flipped, for studies of robustness.
        num_examples (`int`, *optional*):
            How many questions are used, in a random order by `seed`. `None` uses all.
        prompt_template (`str`, *optional*, defaults to `"Question: {question}\nAnswer:"`):
            What stands before an option, which follows after a space. Prompts of preference data are taken as they
            are instead, conversations through the chat template.
        chat_template_kwargs (`dict`, *optional*):
            Arguments for the chat template, e.g. `{"enable_thinking": False}`. The heads keep them for scoring.

        > Parameters that control the learning curve

        save_examples (`list[int]`, *optional*):
            Numbers of examples at which the heads are saved, multiples of the examples in an optimizer step. `None`
            takes 32, 64, 128, … The heads of the run's end are always saved.

    > [!NOTE]
    > Other defaults than [`~trl.SFTConfig`]'s: `learning_rate` 1e-4, `lr_scheduler_type` `"constant"`,
    > `num_train_epochs` 1, `max_length` none (nothing is cut; what does not fit is refused),
    > `train_sampling_strategy` `"sequential"` (the examples are shuffled before), `save_strategy` `"no"` (a checkpoint
    > is written where heads are saved) and `save_total_limit` 1.
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "chat_template_kwargs"]

    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate for AdamW."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The scheduler type to use."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the examples."})
    max_length: int | None = field(
        default=None, metadata={"help": "Longest question with its option in tokens; longer ones are refused."}
    )
    train_sampling_strategy: str = field(
        default="sequential", metadata={"help": "Sampler for training; the examples are shuffled before."}
    )
    save_strategy: str = field(
        default="no", metadata={"help": "Checkpoints beside those that are written where heads are saved."}
    )
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints of a head that are kept."})

    heads: list[str] = field(
        default_factory=lambda: list(HEADS),
        metadata={"help": "Which heads are trained, and in which order: 'positive', 'negative'."},
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of each head."})
    lora_alpha: int = field(default=8, metadata={"help": "Scaling of each head."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before a head's matrices."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modules that get a head's matrices, by the end of their names. Left out, the linear modules of "
            "the MLPs; 'all-linear' for all but the output layer."
        },
    )
    negatives: str = field(
        default="same_question",
        metadata={"help": "What the negative head learns: 'same_question', 'other_question' or 'unrelated'."},
    )
    wrong_option: str = field(
        default="random", metadata={"help": "Which wrong option: 'random', 'hardest' (under the base) or 'first'."}
    )
    flipped_share: float = field(default=0.0, metadata={"help": "Share of examples whose labels are flipped."})
    num_examples: int | None = field(default=None, metadata={"help": "How many questions are used. Left out, all."})
    prompt_template: str = field(
        default="Question: {question}\nAnswer:",
        metadata={"help": "What stands before an option; {question} stands for the question."},
    )
    chat_template_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": "Arguments for the chat template of preferences' conversations, also in scoring."},
    )
    save_examples: list[int] | None = field(
        default=None,
        metadata={"help": "Numbers of examples at which the heads are saved. Left out, 32, 64, 128, … and the end."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.heads = [self.heads] if isinstance(self.heads, str) else list(self.heads)
        if not self.heads or not set(self.heads) <= set(HEADS) or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads={self.heads!r} must name positive, negative or both, each once.")
        for name, choices in (("negatives", NEGATIVES), ("wrong_option", WRONG_OPTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown. Use one of {', '.join(choices)}.")
        if not 0 <= self.flipped_share <= 1:
            raise ValueError(f"flipped_share={self.flipped_share!r} must lie between 0 and 1.")
        if self.num_examples is not None and self.num_examples < 1:
            raise ValueError(f"num_examples={self.num_examples!r} must be 1 or more.")
        if "{question}" not in self.prompt_template:
            raise ValueError(f"prompt_template={self.prompt_template!r} must hold {{question}}.")
        if self.lora_r < 1 or self.lora_alpha < 1:
            raise ValueError(f"lora_r={self.lora_r!r} and lora_alpha={self.lora_alpha!r} must be 1 or more.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout!r} must be 0 or more and below 1.")
        if self.save_examples is not None and not all(isinstance(n, int) and n > 0 for n in self.save_examples):
            raise ValueError(f"save_examples={self.save_examples!r} must be numbers of 1 or more.")
        if self.packing:
            raise ValueError("packing=True puts several questions in one sequence. Leave it out.")
        if self.dataloader_drop_last:
            raise ValueError(
                "dataloader_drop_last=True leaves the last examples out. Leave it out, or set num_examples."
            )
        if self.loss_type != "nll":
            raise ValueError(f"loss_type={self.loss_type!r} is no maximum likelihood. Leave it out.")
        if self.chat_template_path is not None:
            raise ValueError("chat_template_path is not read here. Give the tokenizer the template, and pass it.")
        if self.completion_only_loss is False:
            raise ValueError("completion_only_loss=False trains on the questions too. Leave it out.")
        if self.train_sampling_strategy != "sequential":
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} would show the heads different questions. "
                "Leave it out: the examples are shuffled before."
            )
