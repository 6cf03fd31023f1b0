"""How a training command reads its YAML file and its flags: TRL's parser, with clear errors and a help by topic."""

import dataclasses
import difflib
import json
import re
import textwrap
from collections.abc import Sequence
from typing import get_type_hints

import yaml
from trl import TrlParser


# fields that accept `--field` alone, as `--field True`
BARE_FLAGS = ("resume_from_checkpoint",)


class CommandParser(TrlParser):
    """
    TRL's parser, for `negalign` commands.

    Numbers from a YAML file pass the same checks as flags, a single value where a list belongs becomes a list, errors
    are one line, and `--help` is grouped by the headings of the dataclasses' docstrings.

    Args:
        hidden (`Sequence[str]`): fields that the help leaves out.
        **kwargs: as for [`~trl.TrlParser`].
    """

    def __init__(self, *args, hidden: Sequence[str] = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.hidden = hidden

    def error(self, message: str):
        raise ValueError(message.replace("argument --", "--").replace("unrecognized arguments", "unknown"))

    def set_defaults_with_config(self, **config) -> list[str]:
        hints = {name: hint for cls in self.dataclass_types for name, hint in get_type_hints(cls).items()}
        for name, value in config.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = str(value)  # argparse converts and checks text only
            if isinstance(value, str) and "list[" in str(hints.get(name)):
                value = [value]
            config[name] = value
        return super().set_defaults_with_config(**config)

    def format_help(self) -> str:
        lines = [f"usage: {self.prog} --config FILE [--field value ...]", "", self.description or "", ""]
        shown = set(self.hidden)
        # the method's own options come first: a subclass's fields are listed under the subclass
        for cls in self.dataclass_types:
            for owner in cls.__mro__:
                if not dataclasses.is_dataclass(owner):
                    continue
                headings = topics(owner)
                fields = [f for f in dataclasses.fields(owner) if f.init and f.name not in shown]
                fields = [f for f in fields if f.name in vars(owner).get("__annotations__", {})]
                other = f"Other options of {owner.__name__}"
                for topic in dict.fromkeys(headings.get(f.name, other) for f in fields):
                    lines += [f"{topic}:"]
                    for f in fields:
                        if headings.get(f.name, other) == topic:
                            shown.add(f.name)
                            lines += describe(cls, f)
                    lines += [""]
        return "\n".join(lines)


def topics(owner: type) -> dict[str, str]:
    """Topic of each field, by the `> Heading` it stands under in the class's docstring."""
    topic, found = None, {}
    for line in (owner.__doc__ or "").splitlines():
        if heading := re.match(r"\s*> (?:Parameters that control )?(?:the )?([^\[].*)", line):
            topic = heading[1][0].upper() + heading[1][1:]
        elif topic and (name := re.match(r"\s{4,12}(\w+) ?\(", line)):
            found[name[1]] = topic
    return found


def describe(cls: type, field: dataclasses.Field) -> list[str]:
    """A field's lines in the help: name, default in the class that is parsed, and what it is."""
    default = next(f for f in dataclasses.fields(cls) if f.name == field.name).default
    text = " ".join(str(field.metadata.get("help", "")).split())
    default = "" if default is dataclasses.MISSING else f" (default: {default})"
    body = textwrap.wrap((text + default).strip(), width=110)
    return [f"  --{field.name}", *(f"      {line}" for line in body)]


def json_object(option: str, text: str) -> dict:
    """An option's JSON object; raises `ValueError` if it is none."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{option} {text!r} is no JSON object: {error}.") from error


def read_config(path: str) -> dict:
    """
    A YAML file's mapping.

    Raises:
        ValueError: if it is missing, no YAML or no mapping, in one line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--config {path} is no UTF-8 text: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        if "'\\t'" in problem:
            problem = "a tab, where YAML wants spaces"
        raise ValueError(f"--config {path} is no YAML:{place} {problem}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"--config {path} must hold `field: value` lines, and holds {type(config).__name__}.")
    return config


def parse(parser: TrlParser, options: list[str], launcher_options: set[str]) -> tuple[tuple, list[str]]:
    """
    Read flags and the file of `--config`; flags win.

    Args:
        parser (`TrlParser`): of the command's dataclasses.
        options (`list[str]`): the command line after the command.
        launcher_options (`set[str]`): names that belong to `accelerate launch`.

    Returns:
        `tuple`: the dataclasses, and the launcher's options as strings.

    Raises:
        ValueError: on a bad file or value, or an unknown name, with the nearest right one.
    """
    options = list(options)
    for name in BARE_FLAGS:
        if f"--{name}" in options:
            value = options.index(f"--{name}") + 1
            if value == len(options) or options[value].startswith("--"):
                options.insert(value, "True")
    if "--config" in options:
        place = options.index("--config") + 1
        if place == len(options):
            raise ValueError("--config needs a file.")
        in_file = set(read_config(options[place])) - {"env"}
    else:
        in_file = set()
    known = {field.name for cls in parser.dataclass_types for field in dataclasses.fields(cls) if field.init}
    for name in sorted(in_file - known - launcher_options):
        raise ValueError(unknown(name, f"{options[place]} has the key {name!r}, which", known | launcher_options))
    try:
        *parsed, from_file, from_flags = parser.parse_args_and_config(
            options, return_remaining_strings=True, separate_remaining_strings=True
        )
    except TypeError as error:  # a dataclass that was given a value of another type
        raise ValueError(str(error)) from error
    for flag in from_flags:
        name = flag.removeprefix("--").split("=")[0].replace("-", "_")
        if flag.startswith("--") and name not in launcher_options:
            raise ValueError(unknown(name, flag, known | launcher_options))
    if from_flags and not from_flags[0].startswith("--"):
        raise ValueError(f"{from_flags[0]!r} stands for nothing. Options are written --field value.")
    return tuple(parsed), from_file + from_flags


def unknown(name: str, shown: str, known: set[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"{shown} is unknown." + (f" Did you mean {nearest[0]!r}?" if nearest else " `--help` lists all names.")
