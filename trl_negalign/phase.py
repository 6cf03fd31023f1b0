"""
How far a command is: what is raised while the input is still being checked is about that input, and is shown in one
line; what is raised once the work has begun (training, sampling, writing) is not, and keeps its traceback. That what
is installed does not fit may show at any time, and is one line whenever it does.
"""


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
