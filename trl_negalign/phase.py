"""
How far a command is, and how its errors are shown: what is raised while the input is still being checked is about that
input, and is shown in one line; what is raised once the work has begun (training, sampling, writing) is not, and keeps
its traceback.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable

from .masking import mask_text


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
    A command's exit code. Bad input is one line on the standard error and 2; an error after the checks, when the work
    had begun, is shown with its traceback and is 1.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' notes on their next versions
    begin_checks()
    # a process that is not the first says which it is: the others may know nothing of its error
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    name = name if rank == "0" else f"{name} (process {rank})"
    try:
        return run() or 0
    except Exception as error:
        checked = isinstance(error, (ValueError, OSError, ImportError)) and not is_working()
        if os.environ.get("NEGALIGN_DEBUG") == "1":
            raise
        shown = str(error) if checked else f"\n{traceback.format_exc()}"
        print(f"{name}: {mask_text(shown)}", file=sys.stderr)
        return 2 if checked else 1
