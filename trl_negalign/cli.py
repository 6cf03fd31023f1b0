"""`negalign <command>`: finds the command's script and runs it; bad input ends in one line and exit code 2."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module

from . import __version__


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
    """A command's exit code: bad input is one line on the standard error and 2, without a traceback."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on their next versions
    try:
        return run() or 0
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("NEGALIGN_DEBUG") == "1":
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all processes read the same input
            print(f"{name}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
