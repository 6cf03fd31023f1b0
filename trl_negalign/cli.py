"""`negalign <command>`: finds the command's script and runs it."""

import argparse
import os
import sys
from importlib import import_module

from .methods.table import GROUP_METHODS, METHODS
from .phase import run_command
from .version import __version__


COMMANDS = {
    **{method.command: method.says for method in METHODS},
    "guides": "measure guides before training: what they do, how far they lead, which group to train on",
    "evaluate": "compare models: perplexity, reward, BLEU, win rate, diversity, length",
    "report": "one page about a training: curves, samples, settings and warnings",
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
    script, options = arguments.command, arguments.options
    if script in [method.command for method in GROUP_METHODS]:
        script, options = "training", [script, *options]
    module = import_module(f".scripts.{script}", __package__)
    return run_command(lambda: module.run(options), f"negalign {arguments.command}")


if __name__ == "__main__":
    sys.exit(main())
