"""What to copy into a bug report: versions, devices, and whether the installed TRL has what this package builds on."""


def run(options: list[str]) -> int:
    import accelerate
    import torch
    from trl import GRPOTrainer
    from trl.scripts.env import print_env

    from ..trainer.seams import SeamError, check_seams
    from ..version import __version__

    if options:
        raise ValueError(f"{' '.join(options)!r}: env takes no options.")
    print_env()
    print(f"- trl-negalign version: {__version__}")
    state = accelerate.PartialState()
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    print(f"- accelerate would train on: {state.device} ({count} accelerator device(s))")
    try:
        check_seams(GRPOTrainer)
    except SeamError as error:
        print(f"- seam check: {error}")
        return 1
    print("- seam check: this TRL has everything that is built on")
    return 0
