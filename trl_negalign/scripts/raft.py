"""
RAFT (best-of-n imitation), a setting of NEAT's loss, from a YAML file: `negalign raft --config FILE`.
"""

import sys


def run(options: list[str], launched: bool = False) -> int:
    from .. import NEATTrainer, RAFTConfig
    from .training import run_training

    return run_training("raft", NEATTrainer, RAFTConfig, options, launched)


if __name__ == "__main__":
    from ..cli import run_command

    sys.exit(run_command(lambda: run(sys.argv[1:], launched=True), "negalign raft"))
