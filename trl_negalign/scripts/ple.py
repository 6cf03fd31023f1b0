"""
PLE from a YAML file: `negalign ple --config FILE`, or `accelerate launch -m trl_negalign.scripts.ple --config FILE`.
"""

import sys


def run(options: list[str], launched: bool = False) -> int:
    from .. import PLEConfig, PLETrainer
    from .training import run_training

    return run_training("ple", PLETrainer, PLEConfig, options, launched)


if __name__ == "__main__":
    from ..cli import run_command

    sys.exit(run_command(lambda: run(sys.argv[1:], launched=True), "negalign ple"))
