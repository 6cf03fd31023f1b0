"""
RRHF (ranking and imitation of samples and dataset responses), a setting of NEAT's loss, from a YAML file:
`negalign rrhf --config FILE`.
"""

import sys


def run(options: list[str], launched: bool = False) -> int:
    from .. import NEATTrainer, RRHFConfig
    from .training import run_training

    return run_training("rrhf", NEATTrainer, RRHFConfig, options, launched)


if __name__ == "__main__":
    from ..cli import run_command

    sys.exit(run_command(lambda: run(sys.argv[1:], launched=True), "negalign rrhf"))
