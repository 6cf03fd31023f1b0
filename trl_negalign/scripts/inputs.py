"""What a training command names: its dataset and its model's tokenizer, loaded with one-line errors."""

import os

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import get_dataset


def load_data(script_args, data_args, evaluated: bool) -> dict:
    """
    The train split, and the test split if it is evaluated, as `{"train": …, "eval": …}`.

    Raises:
        ValueError: if the dataset or a split is not there, naming the splits that are.
    """
    if data_args.datasets:
        splits = get_dataset(data_args)
    else:
        name = script_args.dataset_name
        if name.startswith((".", "/", "~")) and not os.path.exists(os.path.expanduser(name)):
            raise ValueError(f"dataset_name {name!r} does not exist. Make it with `negalign data`, or name another.")
        try:
            splits = load_dataset(name, name=script_args.dataset_config, streaming=script_args.dataset_streaming)
        except FileNotFoundError as error:
            raise ValueError(f"dataset_name {name!r} cannot be loaded: {error}") from error
    wanted = {"train": script_args.dataset_train_split}
    if evaluated:
        wanted["eval"] = script_args.dataset_test_split
    for role, split in wanted.items():
        if split not in splits:
            field_name = "dataset_train_split" if role == "train" else "dataset_test_split"
            raise ValueError(f"{field_name} {split!r} is not in the dataset. It has {', '.join(splits)}.")
    return {role: splits[split] for role, split in wanted.items()}


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
        raise ValueError(f"model_name_or_path {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
