"""
NEAT from a YAML file: `negalign neat --config FILE`, or `accelerate launch -m trl_negalign.scripts.neat --config
FILE`.
"""

import sys


def run(options: list[str], launched: bool = False) -> int:
    from .. import NEATConfig, NEATTrainer
    from .training import run_training

    return run_training("neat", NEATTrainer, NEATConfig, options, launched)


if __name__ == "__main__":
    from ..cli import run_command

    sys.exit(run_command(lambda: run(sys.argv[1:], launched=True), "negalign neat"))
