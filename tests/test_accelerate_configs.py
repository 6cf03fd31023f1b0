"""Every launch file passes accelerate's own loader and its launcher's checks; no device is needed for that."""

from pathlib import Path

import pytest
from accelerate import state
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils import launch as launch_utils


FOLDER = Path(__file__).parent.parent / "accelerate_configs"
NAMES = (
    "single_device multi_gpu zero1 zero2 zero3 zero3_offload fsdp2 multi_node_zero3 npu_ddp npu_zero2 npu_zero3 "
    "cpu_ddp cpu_zero2 cpu_zero3"
).split()


def launcher_arguments(name, *options):
    arguments = ["--config_file", str(FOLDER / f"{name}.yaml"), *options, "train.py"]
    return _validate_launch_command(launch_command_parser().parse_args(arguments))[0]


def test_every_file_is_known():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_and_launches_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    arguments = launcher_arguments(name)
    assert arguments.num_processes == config.num_processes
    assert arguments.use_deepspeed == ("zero" in name)
    assert arguments.use_fsdp == (name == "fsdp2")
    if "zero" in name:
        assert arguments.zero_stage == int(name.split("zero")[1][0])
        assert "gradient_accumulation_steps" not in config.deepspeed_config


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_to_launch_it(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert lines[: len(head)] == head and len(head) >= 2
    command = head[-1].removeprefix("# ").split()
    assert command[:4] == ["accelerate", "launch", "--config_file", f"accelerate_configs/{name}.yaml"]
    assert len(lines) <= 25


def test_several_machines():
    arguments = launcher_arguments("multi_node_zero3", "--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    assert (arguments.num_machines, arguments.machine_rank, arguments.num_processes) == (2, 1, 16)


# Ascend: nothing but torch_npu's availability is stood in for


@pytest.mark.parametrize("name", ["npu_ddp", "npu_zero2", "npu_zero3"])
def test_an_npu_config_resolves_to_hccl(name, monkeypatch):
    monkeypatch.setattr(state, "is_npu_available", lambda *args: True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    partial = state.PartialState.__new__(state.PartialState)
    backend, distributed_type = partial._prepare_backend(cpu=False, sagemaker_dp=False, backend=None)
    assert backend == "hccl"
    assert distributed_type == DistributedType.MULTI_NPU
    expected = DistributedType.MULTI_NPU if name == "npu_ddp" else DistributedType.DEEPSPEED
    assert load_config_from_file(str(FOLDER / f"{name}.yaml")).distributed_type == expected


def test_chosen_npus_become_visible_devices(monkeypatch):
    monkeypatch.setattr(launch_utils, "is_npu_available", lambda *args: True)
    arguments = launcher_arguments("npu_ddp", "--gpu_ids", "0,1", "--num_processes", "2")
    environment = launch_utils.prepare_multi_gpu_env(arguments)
    assert environment["ASCEND_RT_VISIBLE_DEVICES"] == "0,1"
    assert arguments.multi_gpu
