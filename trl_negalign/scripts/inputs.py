"""What a training command names, its dataset, rewards, model and folder: checked and loaded with one-line errors."""

from pathlib import Path

from datasets import Dataset, load_dataset
from transformers import AutoTokenizer
from trl import get_dataset

from ..data.loading import READERS, faults, read_splits, undecodable
from ..hub import refused, why_not
from ..rewards.loading import check_reward
from ..trainer.rounds.data import check_dataset
from .folder import check_folder


def check_options(args, script_args, model_args, data_args) -> list[str]:
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


def load_data(script_args, data_args, evaluated: bool) -> dict:
    """
    The train split, and the test split if it is evaluated, as `{"train": …, "eval": …}`.

    Raises:
        ValueError: if the dataset or a split is not there, naming the splits that are, or a row has no prompt.
    """
    if data_args.datasets:
        splits = get_dataset(data_args)
    else:
        splits = load_splits(script_args.dataset_name, script_args.dataset_config, script_args.dataset_streaming)
    wanted = {"train": script_args.dataset_train_split}
    if evaluated:
        wanted["eval"] = script_args.dataset_test_split
    for role, split in wanted.items():
        if split not in splits:
            field_name = "dataset_train_split" if role == "train" else "dataset_test_split"
            raise ValueError(f"{field_name} {split!r} is not in the dataset. It has {', '.join(splits)}.")
    loaded = {role: splits[split] for role, split in wanted.items()}
    for role, dataset in loaded.items():
        if isinstance(dataset, Dataset):
            check_dataset(dataset, f"{script_args.dataset_name or 'datasets'}, {wanted[role]}")
    return loaded


def load_splits(name: str, config: str | None, streaming: bool):
    """A dataset's splits; a folder's or a hub id's stay in the cache of `datasets`, on disk."""
    path = Path(name).expanduser()
    if not streaming and not path.is_dir() and (path.exists() or name.endswith(tuple(READERS))):
        return read_splits(name, "dataset_name", config)
    if name.startswith((".", "/", "~")) and not path.exists():
        raise ValueError(f"dataset_name {name!r} does not exist. Make it with `negalign data`, or name another.")
    if path.is_dir() and (fault := undecodable(path)):
        raise ValueError(f"dataset_name {name!r} cannot be loaded: {fault}")
    try:
        return load_dataset(str(path) if path.is_dir() else name, name=config, streaming=streaming)
    except Exception as error:  # a broken file raises what its reader raises
        fault = faults(path) if path.exists() else refused(name, error)
        raise ValueError(f"dataset_name {name!r} cannot be loaded: {fault or ' '.join(str(error).split())}") from error


def load_tokenizer(args, model_args):
    """
    The model's tokenizer, before the model.

    Raises:
        ValueError: if there is no such model.
    """
    name = model_args.model_name_or_path
    try:
        return AutoTokenizer.from_pretrained(
            name, revision=model_args.model_revision, trust_remote_code=args.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"model_name_or_path {name!r} cannot be loaded: {why_not(name, error)}") from error


def model_kwargs(args, model_args) -> dict:
    """How the policy is loaded."""
    return {
        "revision": model_args.model_revision,
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    } | (args.model_init_kwargs or {})
