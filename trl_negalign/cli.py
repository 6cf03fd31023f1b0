"""`negalign <command>`: finds the command's script and runs it; bad input ends in one line and exit code 2."""

import argparse
import sys
from importlib import import_module

from . import __version__


COMMANDS = {
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
    script = import_module(f".scripts.{arguments.command}", __package__)
    try:
        script.main(
            *script.make_parser(f"negalign {arguments.command}").parse_args_into_dataclasses(arguments.options)
        )
    except (ValueError, OSError, ImportError) as error:
        if arguments.debug:
            raise
        print(f"negalign {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
