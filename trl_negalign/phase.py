"""
How far a command is: what is raised while the input is still being checked is about that input, and is shown in one
line; what is raised once the work has begun (training, sampling, writing) is not, and keeps its traceback.
"""


class _Phase:
    working = False


def begin_checks() -> None:
    _Phase.working = False


def begin_work() -> None:
    _Phase.working = True


def is_working() -> bool:
    return _Phase.working
