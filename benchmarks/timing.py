"""One optimizer step at a time: trainers that take turns in one process, and what each part of a step costs."""

import threading
import time
from functools import wraps
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationMixin, TrainerCallback


# `passes` are forward passes without gradients that sample nothing: an old policy's, a reference model's
PARTS = ("generate", "score", "passes", "update")


class Stopwatch(TrainerCallback):
    """
    Runs a trainer in a thread of its own, a step for each call of [`step`], and times the parts of every step.

    The trainer trains as it always does: the clock hangs on its callbacks, on transformers' `generate`, on its reward
    functions and on its models' forward hooks. `generate` lasts from the step's beginning to the end of that function,
    `score` from there to the rewards, `update` from there to the step's end: loss, forward, backward, clipping and the
    optimizer. A forward pass with gradients begins `update` too, where it comes before the rewards.

    Memory is the most that a step held at once after its completions were there, above what it held then. GPUs say so
    themselves, in every step; on CPUs every allocation of a tensor is added up by torch's profiler, in the steps that
    are profiled, whose times mean nothing.

    Args:
        trainer (`Trainer`): a `GRPOTrainer`, one derived from it, or an `OnlineDPOTrainer`, not yet trained.

    Attributes:
        times (`list[dict[str, float]]`): seconds by part, a dictionary a step.
        memory (`list[int | None]`): bytes, one a step, `None` where it was not measured.
        table (`str`): the operators of the last profiled step, the most expensive first.
    """

    def __init__(self, trainer):
        self.times, self.memory, self.table = [], [], ""
        self._trainer, self._part, self._profiler = trainer, None, None
        self._profile_next, self._error, self._around_pass = False, None, None
        self._on_device = trainer.accelerator.device.type != "cpu"
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        trainer.reward_funcs[:] = [self._timed_reward(reward) for reward in trainer.reward_funcs]
        for model in (trainer.model, trainer.ref_model):
            if model is not None:
                model.register_forward_pre_hook(self._before_forward)
                model.register_forward_hook(self._after_forward)
        trainer.add_callback(self)
        self._thread = threading.Thread(target=self._train, daemon=True)

    def step(self, profiled: bool = False) -> None:
        """Let the trainer take its next step, and wait for its end; what the trainer raises is raised here."""
        self._profile_next = profiled
        if self._thread.ident is None:
            self._thread.start()
            self._wait()  # now it stands before its first step
        with patch.object(GenerationMixin, "generate", self._timed_generate(GenerationMixin.generate)):
            self._go.release()
            self._wait()

    def _wait(self):
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def _train(self):
        try:
            self._trainer.train()
        except BaseException as error:
            self._error = error
        finally:
            self._stopped.release()

    def on_step_begin(self, args, state, control, **kwargs):
        self._stopped.release()
        self._go.acquire()
        self._seconds, self._part = dict.fromkeys(PARTS, 0.0), "generate"
        self._mark = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        self._enter(None)
        self.times.append(self._seconds)
        peak = torch.accelerator.max_memory_allocated() - self._held if self._on_device else None
        if self._profiler is not None:
            self._profiler.stop()
            if not self._on_device:
                peak = largest_allocation(self._profiler)
            order = f"self_{self._trainer.accelerator.device.type}_time_total"
            self.table = self._profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)
            self._profiler = None
        self.memory.append(peak)

    def _timed_generate(self, generate):
        @wraps(generate)
        def timed(*args, **kwargs):
            completions = generate(*args, **kwargs)
            self._enter("score")
            self._watch_memory()
            return completions

        return timed

    def _timed_reward(self, reward):
        @wraps(reward)
        def timed(*args, **kwargs):
            self._enter("score")
            rewards = reward(*args, **kwargs)
            self._enter("update")
            return rewards

        return timed

    def _before_forward(self, model, args):
        if torch.is_grad_enabled():
            self._enter("update")
        elif self._part != "generate":
            self._around_pass = self._enter("passes")

    def _after_forward(self, model, args, output):
        if self._part == "passes":
            self._enter(self._around_pass)

    def _enter(self, part):
        """Add the time since the last call to the part that ends, and return that part."""
        now, before = self._now(), self._part
        self._seconds[before] += now - self._mark
        self._part, self._mark = part, now
        return before

    def _now(self):
        if self._on_device:
            torch.accelerator.synchronize()
        return time.perf_counter()

    def _watch_memory(self):
        if self._on_device:
            torch.accelerator.reset_peak_memory_stats()
            self._held = torch.accelerator.memory_allocated()
        if self._profile_next:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profiler = profile(activities=activities, profile_memory=not self._on_device)
            self._profiler.start()


def largest_allocation(profiler: profile) -> int:
    """The most bytes on the CPU that tensors made while profiling with `profile_memory` held at once."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        largest = max(largest, held)
    return largest
