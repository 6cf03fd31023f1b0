"""
How far a command is, and how its errors are shown: what is raised while the input is still being checked is about that
input, and is shown in one line; what is raised once the work has begun (training, sampling, writing) is not, and keeps
its traceback. That what is installed does not fit may show at any time, and is one line whenever it does.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable

from .masking import mask_text


class UnfitEnvironment(RuntimeError):
    """Something that is installed does not fit; the message says what does."""


class _Phase:
    working = False


def begin_checks() -> None:
    _Phase.working = False


def begin_work() -> None:
    _Phase.working = True


def is_working() -> bool:
    return _Phase.working


def run_command(run: Callable[[], int | None], name: str) -> int:
    """
    A command's exit code. Bad input is one line on the standard error and 2, and so is an installed package that does
    not fit, whenever it shows; another error after the checks, when the work had begun, is shown with its traceback
    and is 1.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on their next versions
    begin_checks()
    # a process that is not the first says which it is: the others may know nothing of its error
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    name = name if rank == "0" else f"{name} (process {rank})"
    try:
        return run() or 0
    except Exception as error:
        of_input = isinstance(error, (ValueError, OSError, ImportError)) and not is_working()
        clear = of_input or isinstance(error, UnfitEnvironment)
        if os.environ.get("NEGALIGN_DEBUG") == "1":
            raise
        shown = str(error) if clear else f"\n{traceback.format_exc()}"
        print(f"{name}: {mask_text(shown)}", file=sys.stderr)
        return 2 if clear else 1
