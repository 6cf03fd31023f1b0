"""
Launch files for accelerate; installed as `trl_negalign.accelerate_configs`, where `--accelerate_config NAME` looks.
"""
