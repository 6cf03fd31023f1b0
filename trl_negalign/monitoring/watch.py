"""A callback that watches a training run for signs of trouble, in what the trainer logs anyway."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from accelerate.logging import get_logger
from transformers import TrainerCallback

from ..methods.table import PREFIXES


logger = get_logger(__name__)

WARNINGS_NAME = "warnings.jsonl"


@dataclass(frozen=True)
class Thresholds:
    """
    When to warn. "First" and "last" are means over the first and the last `window` logs.

    Args:
        window (`int`): logs that are averaged.
        displacement (`float`): nats per token by which the best candidate's log-probability falls while its margin
            over the worst grows by as much.
        runaway (`float`): nats per token by which the worst candidate's log-probability falls.
        entropy (`float`): share of the first entropy below which the last one is low. Only where TRL logs it.
        repetition (`float`): share of repeated 4-grams in a completion, if it also grew by half of that.
        truncation (`float`): growth of the share of completions that are cut off.
        length (`float`): factor by which the mean length grows or shrinks.
        overfit_gain (`float`): growth of the training reward, in standard deviations within groups, that held-out
            reward should share.
        overfit_share (`float`): share of that growth that counts as shared.
        separation (`float`): difference of the guides' mean rewards, in the same unit.
        tied (`float`): share of groups that the method learns nothing from, most often of tied rewards.
    """

    window: int = 10
    displacement: float = 0.5
    runaway: float = 3.0
    entropy: float = 0.3
    repetition: float = 0.3
    truncation: float = 0.3
    length: float = 2.0
    overfit_gain: float = 0.5
    overfit_share: float = 0.2
    separation: float = 0.1
    tied: float = 0.5


class WatchCallback(TrainerCallback):
    """
    Warns once of each sign of trouble, with advice, and keeps the warnings in `warnings.jsonl` in the run's folder.

    Works with the methods that learn from groups, and costs no forward pass. A warning is a reason to look at the
    completions, not a verdict.

    Args:
        thresholds (`Thresholds`, *optional*): when to warn.
    """

    def __init__(self, thresholds: Thresholds | None = None):
        self.thresholds = thresholds or Thresholds()
        self.history: dict[str, list[float]] = {}
        self.warned: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        # a run that is resumed is judged by its whole history
        for logs in state.log_history:
            self._remember(logs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is None or ("loss" not in logs and "eval_reward" not in logs):
            return
        self._remember(logs)
        for name, message, advice in self.signs():
            if name in self.warned:
                continue
            self.warned.add(name)
            if state.is_world_process_zero:
                logger.warning(f"step {state.global_step}: {message} {advice}")
                record = {"step": state.global_step, "name": name, "message": message, "advice": advice}
                path = Path(args.output_dir, WARNINGS_NAME)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _remember(self, logs: dict) -> None:
        for name, value in logs.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self.history.setdefault(name, []).append(value)

    def _first(self, name: str) -> float:
        return fmean(self.history[name][: self.thresholds.window])

    def _last(self, name: str) -> float:
        return fmean(self.history[name][-self.thresholds.window :])

    def _change(self, name: str) -> float | None:
        """Last minus first, once there are as many logs of both."""
        if len(self.history.get(name, ())) < 2 * self.thresholds.window:
            return None
        return self._last(name) - self._first(name)

    def signs(self) -> list[tuple[str, str, str]]:
        """The signs in the history so far: name, what is seen, what to do."""
        checks = (self._displacement, self._collapse, self._lengths, self._held_out, self._guides, self._ties)
        return [sign for check in checks for sign in check()]

    def _displacement(self):
        limits = self.thresholds
        for prefix in PREFIXES:
            best, worst = self._change(f"{prefix}/logp_best"), self._change(f"{prefix}/logp_worst")
            if best is None or worst is None:
                continue
            if best < -limits.displacement and best - worst > limits.displacement:
                yield (
                    "likelihood_displacement",
                    f"The best candidates' log-probability fell by {-best:.2f} nats a token while their margin over "
                    f"the worst grew by {best - worst:.2f}: the ranking is won by making both unlikely.",
                    "Raise sft_weight or lower ranking_weight, penalty_weight or the learning rate.",
                )
            if worst < -limits.runaway:
                yield (
                    "runaway_penalty",
                    f"The worst candidates' log-probability fell by {-worst:.2f} nats a token: what is pushed down "
                    "has no bound.",
                    "Set penalty_floor (NEAT) or weight_range='unit' (PLE), use penalty_type='unlikelihood' or "
                    "'npo', or lower the weight.",
                )

    def _collapse(self):
        limits = self.thresholds
        entropy = self._change("entropy")
        if entropy is not None and self._last("entropy") < limits.entropy * self._first("entropy"):
            yield (
                "low_entropy",
                f"The entropy fell from {self._first('entropy'):.2f} to {self._last('entropy'):.2f} nats: the samples "
                "of a query become one.",
                "Lower the learning rate, or set beta to keep near the reference model.",
            )
        repetition = self._change("completions/repeated_4grams")
        if repetition is not None and repetition > limits.repetition / 2:
            if self._last("completions/repeated_4grams") > limits.repetition:
                yield (
                    "repetition",
                    f"{self._last('completions/repeated_4grams'):.0%} of the completions' 4-grams repeat an earlier "
                    f"one, {self._first('completions/repeated_4grams'):.0%} at first.",
                    "Look at the completions: the reward may pay for repetition. Lower the learning rate, or set "
                    "beta.",
                )

    def _lengths(self):
        limits = self.thresholds
        cut_off = self._change("completions/clipped_ratio")
        if cut_off is not None and cut_off > limits.truncation:
            yield (
                "truncation",
                f"{self._last('completions/clipped_ratio'):.0%} of the completions are cut off at the length limit, "
                f"{self._first('completions/clipped_ratio'):.0%} at first: the policy forgets to end.",
                "Raise max_completion_length, or let the reward mind the length.",
            )
        if self._change("completions/mean_length") is not None:
            first, last = self._first("completions/mean_length"), self._last("completions/mean_length")
            if last > limits.length * first or first > limits.length * last:
                yield (
                    "length_drift",
                    f"The mean length went from {first:.0f} to {last:.0f} tokens.",
                    "Check that the reward does not pay for length itself.",
                )

    def _held_out(self):
        limits, held_out = self.thresholds, self.history.get("eval_reward", ())
        gain, spread = self._change("reward"), self._change("reward_std")
        if gain is None or spread is None or len(held_out) < 2:
            return
        unit = self._last("reward_std")
        shared = held_out[-1] - held_out[0]
        if unit > 0 and gain > limits.overfit_gain * unit and shared < limits.overfit_share * gain:
            yield (
                "held_out_reward",
                f"The training reward rose by {gain:.3g}, the held-out reward by {shared:.3g}.",
                "What is learnt does not carry over: fewer epochs, more queries, or a smaller learning rate.",
            )

    def _guides(self):
        limits = self.thresholds
        for upper, lower in (("positive", "negative"), ("principle", "plain")):
            names = f"reward/{upper}", f"reward/{lower}", "reward_std"
            if any(len(self.history.get(name, ())) < limits.window for name in names):
                continue
            difference, unit = self._last(names[0]) - self._last(names[1]), self._last("reward_std")
            if unit > 0 and difference < limits.separation * unit:
                yield (
                    "guides_do_not_separate",
                    f"{upper} samples earn {self._last(names[0]):.3g}, {lower} ones {self._last(names[1]):.3g}: the "
                    "guide no longer makes a difference.",
                    "Near the end that is what training aims at; early, write stronger guides or try another "
                    "guide_placement.",
                )

    def _ties(self):
        name = "frac_groups_no_signal"
        if len(self.history.get(name, ())) >= self.thresholds.window and self._last(name) > self.thresholds.tied:
            yield (
                "tied_groups",
                f"{self._last(name):.0%} of the groups teach nothing, by what the method learns from: most often all "
                "candidates have the same reward.",
                "Use a finer reward, a larger group, or harder queries.",
            )
