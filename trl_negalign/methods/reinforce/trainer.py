"""Weighted REINFORCE's trainer: its candidates, its plan, its objective and what it logs."""

import torch

from ...groups import PLAIN_CANDIDATE
from ...objectives import sequence_logps
from ...trainer.group_trainer import GroupTrainer
from ...trainer.plan import Plan, token_counts
from .config import WeightedReinforceConfig
from .objective import (
    log_ratios,
    nft_loss,
    nft_weights,
    sign_weights,
    taper_of_answer,
    unlikeliness_shares,
    weighted_reinforce_loss,
)


class WeightedReinforceTrainer(GroupTrainer):
    """
    GRPO without the group's mean: right and wrong answers have weights of their own.

    Trainer for W-REINFORCE, NSR and PSR, [The Surprising Effectiveness of Negative Reinforcement in LLM
    Reasoning](https://huggingface.co/papers/2506.01347), and, by `ratio`, for TOPR (arXiv 2503.14286) and NFT (arXiv
    2505.18116). What was decided:

    1. A group holds answers to the plain query. One is right where its reward is above `success_threshold`.
    2. A group without a right answer teaches, unless the group's mean is subtracted (`baseline="group"`) or `ratio` is
       `"nft"`. An answer without a score takes no part. What has no weight does not go through the model.
    3. The ratio is to the policy at the round's start. The published entropy bonus is left out.
    4. PSR and NSR are one objective in expectation: what tells them apart in practice are finite samples, length
       weights, `normalize` and several steps a round.

    Takes the place of [`~trl.GRPOTrainer`] with the same arguments:

    ```python
    from trl_negalign import WeightedReinforceConfig, WeightedReinforceTrainer

    trainer = WeightedReinforceTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=is_right,
        args=WeightedReinforceConfig(positive_weight=0.1),
        train_dataset=dataset,
    )
    trainer.train()
    ```

    See [`GroupTrainer`] for what is raised.
    """

    config_class = WeightedReinforceConfig

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.separated = False  # whether a round had right and wrong answers

    @staticmethod
    def build_candidates(args, columns):
        return [PLAIN_CANDIDATE] * args.num_generations

    def start_round(self, batch, rewards):
        threshold, values = self.args.success_threshold, rewards[~rewards.isnan()]
        right = values > threshold
        self.separated = self.separated or bool(right.any() and not right.all())
        if self.args.baseline == "none" and not self.separated and len(values.unique()) > 1:
            raise ValueError(
                f"success_threshold={threshold} separates no right answer from a wrong one: the rewards lie between "
                f"{values.min():.4g} and {values.max():.4g}. Set it between the two kinds, or set baseline='group'."
            )
        return batch

    def round_state(self):
        return {"separated": self.separated}

    def load_round_state(self, state):
        self.separated = state["separated"]

    @property
    def _factors(self):
        args = self.args
        first_rounds = args.negative_only_rounds > 0 and self.generation_round < args.negative_only_rounds
        return {
            "success_threshold": args.success_threshold,
            "positive_weight": 0.0 if first_rounds else args.positive_weight,
            "negative_weight": args.negative_weight,
        }

    def _weights(self, rewards, shares=None):
        if self.args.ratio == "nft":
            return nft_weights(rewards, **self._factors)
        return sign_weights(rewards, **self._factors, baseline=self.args.baseline, shares=shares)

    def plan(self, batch):
        args, rewards = self.args, batch["rewards"]
        trained = self._weights(rewards) != 0
        old = trained if args.ratio != "none" else None
        if args.unlikeliness:
            right = rewards > args.success_threshold
            # what the ranks give right answers moves the group's mean, and whose weight is 0 with it
            if args.baseline == "group":
                trained = ~rewards.isnan() & trained.any(-1, keepdim=True)
            ranked = ~rewards.isnan() & (right & trained).any(-1, keepdim=True)
            old = ranked if old is None else ranked | trained
        counts = token_counts(batch["completion_mask"], trained) if args.normalize == "kept" else None
        return Plan(trained, old=old, counts=counts)

    def group_loss(self, token_logps, batch):
        args, mask, rewards = self.args, batch["completion_mask"], batch["rewards"]
        old, kept, shares = batch.get("old_per_token_logps"), args.normalize == "kept", None
        if args.unlikeliness:
            shares = unlikeliness_shares(old, mask, batch["reads_old"], args.unlikeliness)
        weights = self._weights(rewards, shares)
        if args.ratio == "nft":
            losses = nft_loss(token_logps, mask, rewards, old, **self._factors, epsilon=args.epsilon)
            losses = losses if kept else losses / args.max_completion_length
        else:
            form = {"ratio": args.ratio, "epsilon": args.epsilon, "reduction": "sum" if kept else "mean"}
            losses = weighted_reinforce_loss(token_logps, mask, weights, old, **form)
        return losses.sum(-1) if kept else losses.mean(-1), self._metrics_of(token_logps.detach(), old, weights, batch)

    def _metrics_of(self, token_logps, old, weights, batch):
        mask, scored, rewards = batch["completion_mask"], batch["scored"], batch["rewards"]
        right, unknown = rewards > self.args.success_threshold, rewards.isnan()
        means = sequence_logps(token_logps, mask, "mean").masked_fill(~scored, torch.nan)
        positive, all_weights = weights.clamp(min=0).sum(-1), weights.abs().sum(-1)
        metrics = {
            "reinforce/accuracy": right.float().masked_fill(unknown, torch.nan),
            "reinforce/frac_negative": (weights < 0).float().masked_fill(weights == 0, torch.nan),
            "reinforce/effective_positive_share": positive / all_weights,  # NaN in a silent group
            "reinforce/logp_right": means.masked_fill(~right, torch.nan),
            "reinforce/logp_wrong": means.masked_fill(right | unknown, torch.nan),
        }
        if self.args.ratio != "none":
            log_ratio = log_ratios(token_logps, mask, old)
            tapered = self.args.ratio == "tapered"
            ratios = taper_of_answer(log_ratio) if tapered else sequence_logps(log_ratio.exp(), mask, "mean")
            metrics["reinforce/ratio_negative"] = ratios.masked_fill(weights >= 0, torch.nan)
        return metrics
