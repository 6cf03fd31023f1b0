"""What the training commands share: arguments, checks before anything is loaded, data and rewards, and the run."""

from dataclasses import dataclass, field

from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    get_peft_config,
    get_quantization_config,
)

from ..evaluation.watch import WatchCallback
from ..reports.run_config import write_run_config
from ..rewards.loading import check_reward, load_reward
from ..trainer.data import check_chat_template, column_names
from ..trainer.group_config import UNUSED_GRPO_OPTIONS
from .arguments import CommandParser, parse
from .folder import RecordFiles, check_folder, prepare_folder, save_model
from .guide_check import check_guides
from .inputs import load_data, load_tokenizer, model_kwargs
from .launching import launch, launcher_arguments, launcher_options, needs_launcher
from .work import WorkBegins, forget_secrets


@dataclass
class TrainingScriptArguments(ScriptArguments):
    """
    Arguments of `negalign neat|ple|raft|rrhf` beside the method's, TRL's and the model's.

    Args:
        > Data, rewards and the run's folder

        reward_funcs (`list[str]`, *optional*):
            Rewards, each a packaged name, a dotted import path or a reward model's id or path; weighted by
            `reward_weights`.
        reward_model_name_or_path (`str`, *optional*):
            One more reward model, as TRL's scripts name it.
        overwrite (`bool`, *optional*, defaults to `False`):
            Remove what an earlier run wrote into `output_dir`. It is refused where the folder holds anything else: see
            `trl_negalign.folders`.
        watch (`bool`, *optional*, defaults to `True`):
            Warn of signs of trouble in what is logged, and keep the warnings in `output_dir/warnings.jsonl`.
        check_guides (`int`, *optional*, defaults to `0`):
            Sample so many queries under the guides first, 10 or more, and refuse to train where they do not separate:
            see [`~trl_negalign.scripts.guide_check.check_guides`]. 0 checks nothing, nor does a resumed run.
    """

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Rewards, each a packaged name (vader_reward), a dotted import path (module.function), or the id "
            "or path of a reward model or of likelihood-ratio heads; weighted by reward_weights."
        },
    )
    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "One more reward model, as TRL's scripts name it."}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Remove what an earlier run wrote into output_dir; refused if it holds anything else."},
    )
    watch: bool = field(
        default=True,
        metadata={"help": "Warn of signs of trouble in what is logged, and keep the warnings in warnings.jsonl."},
    )
    check_guides: int = field(
        default=0,
        metadata={"help": "Try the guides on so many queries first, and refuse to train where they do not separate."},
    )


def run_training(command: str, trainer_class: type, config_class: type, options: list[str], launched: bool) -> int:
    """
    A training command: everything that can be wrong is checked first, in this process; then the run, here or under
    `accelerate launch`.

    Returns:
        `int`: the exit code.

    Raises:
        ValueError, OSError, ImportError: on bad input.
    """
    parser = CommandParser(
        (config_class, TrainingScriptArguments, ModelConfig, DatasetMixtureConfig),
        prog=f"negalign {command}",
        description=f"Train with {trainer_class.__name__}. Every field can stand in the YAML file or as a flag, and "
        "so can those of `accelerate launch`, with --accelerate_config NAME for a packaged launch file.",
        hidden=UNUSED_GRPO_OPTIONS,
    )
    (args, script_args, model_args, data_args), strings = parse(parser, options, launcher_options())
    arguments = launcher_arguments(strings)
    names = check(args, script_args, model_args, data_args)
    elsewhere = not launched and needs_launcher(arguments)
    if elsewhere and not script_args.check_guides:
        return launch(f"{__package__}.{command}", arguments, options)
    dataset = load_data(script_args, data_args, evaluated=args.eval_strategy != "no")
    candidates = trainer_class.build_candidates(args, column_names(dataset["train"], "train_dataset"))
    tokenizer = load_tokenizer(args, model_args)
    check_chat_template(dataset["train"], tokenizer, args, candidates)
    if script_args.check_guides:
        check_guides(script_args, args, model_args, tokenizer, dataset["train"], candidates, names, launched)
    if elsewhere:  # checked here, so not in every process
        return launch(f"{__package__}.{command}", arguments, [*options, "--check_guides", "0"])
    rewards = [load_reward(name) for name in names]
    prepare_folder(args, script_args.overwrite)
    train(trainer_class, args, rewards, dataset, model_args, script_args)
    return 0


def check(args, script_args, model_args, data_args) -> list[str]:
    """Check what needs neither data nor model; the rewards' names."""
    if model_args.model_name_or_path is None:
        raise ValueError("model_name_or_path is missing. Name a model's id or path.")
    if not data_args.datasets and not script_args.dataset_name:
        raise ValueError("dataset_name is missing. Name a dataset's id or path, or list several under `datasets`.")
    if data_args.datasets and script_args.dataset_name:
        raise ValueError("dataset_name and datasets are both given. Keep one.")
    names = [*(script_args.reward_funcs or []), script_args.reward_model_name_or_path]
    names = [name for name in names if name is not None]
    if not names:
        raise ValueError("reward_funcs is missing. Name a packaged reward, an import path or a reward model.")
    if args.reward_weights is not None and len(args.reward_weights) != len(names):
        raise ValueError(f"reward_weights has {len(args.reward_weights)} value(s) for {len(names)} reward(s).")
    for name in names:
        check_reward(name)
    inputs = {
        "model": [model_args.model_name_or_path],
        "reward": names,
        "dataset": [script_args.dataset_name, *(part.path for part in data_args.datasets or [])],
        "checkpoint": [args.resume_from_checkpoint] if isinstance(args.resume_from_checkpoint, str) else [],
    }
    check_folder(args, script_args.overwrite, inputs)
    return names


def train(trainer_class: type, args, rewards: list, dataset: dict, model_args, script_args) -> None:
    """Build the trainer, train, save and push."""
    args.model_init_kwargs = model_kwargs(args, model_args)
    trainer = trainer_class(
        model=model_args.model_name_or_path,
        reward_funcs=rewards,
        args=args,
        train_dataset=dataset["train"],
        eval_dataset=dataset.get("eval"),
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
        callbacks=[WorkBegins(), RecordFiles(), *([WatchCallback()] if script_args.watch else [])],
    )
    forget_secrets(trainer.args)
    write_run_config(trainer)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    save_model(trainer)
    trainer.save_state()
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.accelerator.end_training()
    trainer.accelerator.print(f"The model is in {args.output_dir}.")
