"""
A method that learns from groups, from a YAML file: `negalign METHOD --config FILE`, or `accelerate launch -m
trl_negalign.scripts.training METHOD --config FILE`. Everything that can be wrong is checked before a model is loaded.
"""

import sys
from dataclasses import dataclass, field

from trl import (
    DatasetMixtureConfig,
    ModelConfig,
    ScriptArguments,
    get_peft_config,
    get_quantization_config,
)

from ..methods.table import GROUP_METHODS, classes
from ..monitoring.watch import WatchCallback
from ..phase import run_command
from ..reports.run_config import write_run_config
from ..rewards.loading import load_reward
from ..trainer.group_config import UNUSED_GRPO_OPTIONS
from ..trainer.rounds.data import check_chat_template, column_names
from .arguments import CommandParser, parse
from .folder import RecordFiles, prepare_folder, save_model
from .guide_check import check_guides
from .inputs import check_options, load_data, load_tokenizer, model_kwargs
from .launching import launch, launcher_arguments, launcher_options, needs_launcher
from .work import WorkBegins, forget_secrets


@dataclass
class TrainingScriptArguments(ScriptArguments):
    """
    Arguments of a training command beside the method's, TRL's and the model's.

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


def run(options: list[str], launched: bool = False) -> int:
    """
    A training command: everything that can be wrong is checked first, in this process; then the run, here or under
    `accelerate launch`.

    Args:
        options (`list[str]`): the method's command, then what stands behind it on the command line.
        launched (`bool`): whether accelerate has started this process.

    Returns:
        `int`: the exit code.

    Raises:
        ValueError, OSError, ImportError: on bad input.
    """
    command, *options = options
    method = next(method for method in GROUP_METHODS if method.command == command)
    trainer_class, config_class = classes(method)
    parser = CommandParser(
        (config_class, TrainingScriptArguments, ModelConfig, DatasetMixtureConfig),
        prog=f"negalign {command}",
        description=f"Train with {trainer_class.__name__}. Every field can stand in the YAML file or as a flag, and "
        "so can those of `accelerate launch`, with --accelerate_config NAME for a packaged launch file.",
        hidden=[name for name in UNUSED_GRPO_OPTIONS if name not in config_class.read_grpo_options],
    )
    (args, script_args, model_args, data_args), strings = parse(parser, options, launcher_options())
    arguments = launcher_arguments(strings)
    names = check_options(args, script_args, model_args, data_args)
    elsewhere = not launched and needs_launcher(arguments)
    if elsewhere and not script_args.check_guides:
        return launch(f"{__package__}.training", arguments, [command, *options])
    dataset = load_data(script_args, data_args, evaluated=args.eval_strategy != "no")
    candidates = trainer_class.build_candidates(args, column_names(dataset["train"], "train_dataset"))
    tokenizer = load_tokenizer(args, model_args)
    check_chat_template(dataset["train"], tokenizer, args, candidates)
    if script_args.check_guides:
        check_guides(script_args, args, model_args, tokenizer, dataset["train"], candidates, names, launched)
    if elsewhere:  # checked here, so not in every process
        return launch(f"{__package__}.training", arguments, [command, *options, "--check_guides", "0"])
    rewards = [load_reward(name) for name in names]
    prepare_folder(args, script_args.overwrite)
    train(trainer_class, args, rewards, dataset, model_args, script_args)
    return 0


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


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:], launched=True), f"negalign {sys.argv[1]}"))
