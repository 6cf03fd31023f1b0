"""
`negalign <command>`: finds the command's script and runs it. Bad input, or an environment that does not fit, ends in
one line and exit code 2, an error in the work itself in its traceback and exit code 1.
"""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module

from . import __version__, phase
from .masking import mask_text


COMMANDS = {
    "neat": "train with NEAT",
    "ple": "train with PLE",
    "raft": "train with RAFT, best-of-n imitation, as a setting of NEAT",
    "rrhf": "train with RRHF, ranking and imitation, as a setting of NEAT",
    "evaluate": "compare models: perplexity, reward, BLEU, win rate, diversity, length",
    "report": "one page about a training: curves, samples, settings and warnings",
    "likra": "train and score likelihood-ratio heads of right and wrong answers",
    "data": "turn public datasets into TRL's formats",
    "merge": "merge a LoRA adapter into its base, for the next stage",
    "env": "print versions, devices and whether this TRL fits",
    "quickstart": "train SmolLM2-135M to write happier reviews in minutes, and see what changed",
}


def main(argv: list[str] | None = None) -> int:
    listing = "\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="negalign",
        description="NEAT and PLE beside TRL.",
        epilog=f"commands:\n{listing}\n\n`negalign <command> --help` lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trl-negalign {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="see below")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the command")
    arguments = parser.parse_args(argv)
    if arguments.debug:
        os.environ["NEGALIGN_DEBUG"] = "1"  # for the processes of a launcher too
    script = import_module(f".scripts.{arguments.command}", __package__)
    return run_command(lambda: script.run(arguments.options), f"negalign {arguments.command}")


def run_command(run: Callable[[], int | None], name: str) -> int:
    """
    A command's exit code. Bad input is one line on the standard error and 2, and so is an installed package that does
    not fit, whenever it shows; another error after the checks, when the work had begun, is shown with its traceback
    and is 1.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on their next versions
    phase.begin_checks()
    # a process that is not the first says which it is: the others may know nothing of its error
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    name = name if rank == "0" else f"{name} (process {rank})"
    try:
        return run() or 0
    except Exception as error:
        of_input = isinstance(error, (ValueError, OSError, ImportError)) and not phase.is_working()
        clear = of_input or isinstance(error, phase.UnfitEnvironment)
        if os.environ.get("NEGALIGN_DEBUG") == "1":
            raise
        shown = str(error) if clear else f"\n{traceback.format_exc()}"
        print(f"{name}: {mask_text(shown)}", file=sys.stderr)
        return 2 if clear else 1


if __name__ == "__main__":
    sys.exit(main())
