"""
Training runs on the tiny model, one after the other in the same processes, started once a process by a launcher.
Options come as JSON. The main process writes each run's final weights and log history to `out/<name>`, so that a test
can compare runs of different worlds.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import LoraConfig
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from transformers import AutoTokenizer, TrainerCallback

from tests.helpers import build, dataset, letter_reward


class StopAt(TrainerCallback):
    """Stops as a killed run does: nothing is done after the step's checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def let_the_cpu_take_fsdp() -> None:
    """
    accelerate takes `distributed_type: FSDP` on a CPU for data parallel, without a word. Its own FSDP2 code and
    torch's run there all the same once its state says so.
    """
    original = AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
        self.distributed_type = DistributedType.FSDP

    AcceleratorState.__init__ = init


def reward_functions(kinds: list[str], reward_model: str, rank):
    def letters(prompts, completions, **kwargs):
        return letter_reward(completions)

    def special(value):
        def reward(prompts, completions, **kwargs):
            if rank() != 1:
                return letter_reward(completions)
            if value == "raises":
                raise ZeroDivisionError("a broken reward")
            return [value] * len(completions)

        return reward

    def some_tied(prompts, completions, **kwargs):
        # all alike for every third query, wherever it is
        return [
            1.0 if int(prompt.split()[-1]) % 3 == 0 else reward
            for prompt, reward in zip(prompts, letter_reward(completions), strict=True)
        ]

    return [
        {"letters": letters, "some tied": some_tied, "model": reward_model}.get(kind)
        or special({"tied": 1.0, "none": None}.get(kind, kind))
        for kind in kinds
    ]


def one_run(out: Path, model: str, reward_model: str, method: str, **options) -> None:
    rewards, responses = options.pop("rewards", ["letters"]), options.pop("responses", False)
    lora, rows, eval_rows = options.pop("lora", False), options.pop("rows", 16), options.pop("eval_rows", 0)
    stop, resume = options.pop("stop", None), options.pop("resume", None)
    state = {}
    trainer = build(
        method,
        model,
        AutoTokenizer.from_pretrained(model),
        out,
        dataset(rows=rows, responses=responses),
        reward_functions(rewards, reward_model, lambda: state["trainer"].accelerator.process_index),
        # adapters that already do something, the same ones wherever they are made
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False) if lora else None,
        eval_dataset=dataset(rows=eval_rows) if eval_rows else None,
        callbacks=[StopAt(stop)] if stop else None,
        model_init_kwargs={"dtype": "float32"},
        **options,
    )
    state["trainer"] = trainer
    try:
        trainer.train(resume_from_checkpoint=resume)
    except KeyboardInterrupt:
        return
    if trainer.is_fsdp_enabled:
        assert isinstance(trainer.model_wrapped, FSDPModule)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        trained = {name.removeprefix("module."): tensor.clone() for name, tensor in weights.items()}
        out.mkdir(parents=True, exist_ok=True)
        (out / "log.json").write_text(json.dumps(trainer.state.log_history))
        save_file(trained, out / "weights.safetensors")
    trainer.accelerator.wait_for_everyone()


def main(out: str, model: str, runs: dict[str, dict], reward_model: str = "", fsdp_on_cpu: bool = False) -> None:
    torch.set_num_threads(1)
    if fsdp_on_cpu:
        let_the_cpu_take_fsdp()
    for name, options in runs.items():
        torch.manual_seed(0)  # adapters are made before the trainer sets its own seed
        one_run(Path(out) / name, model, reward_model, **options)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
    # gloo's threads now and then abort the interpreter's own shutdown, long after all that is tested
    sys.stderr.flush()
    time.sleep(0.5)
    os._exit(0)
