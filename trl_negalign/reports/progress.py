"""Progress of a run on the terminal, one short line a step instead of the whole log."""

from transformers import TrainerCallback


class ProgressLine(TrainerCallback):
    """Print the step, the mean reward of each kind of candidate and the seconds the step took."""

    def on_log(self, args, state, control, logs, **kwargs):
        rewards = "  ".join(f"{key[7:]} {logs[key]:+.2f}" for key in sorted(logs) if key.startswith("reward/"))
        if rewards and state.is_world_process_zero:
            line = f"step {state.global_step:3}/{state.max_steps}  reward: {rewards}  ({logs['step_time']:.1f} s)"
            print(line, flush=True)  # noqa: T201
