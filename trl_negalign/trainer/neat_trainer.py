import textwrap

import torch

from ..groups import PLAIN_CANDIDATE, Candidate
from ..guides import resolve_guide
from ..objectives import best_and_worst, has_signal, neat_loss, ranking_accuracy, sequence_logps
from .group_trainer import GroupTrainer
from .neat_config import NEATConfig


class NEATTrainer(GroupTrainer):
    """
    Trainer for NEAT, [Negative-Prompt-driven Alignment for Generative Language
    Model](https://huggingface.co/papers/2410.12194).

    Each query is sampled under a positive and a negative guide, the reward model scores those samples and the
    dataset's own responses against the plain query, and the policy, given the plain query, imitates the best of the
    group, learns the group's ranking and is pushed away from the worst. The objective's parts, the counts and the
    guides are our reconstruction: the paper publishes the shape of the objective only.

    Takes the place of [`~trl.GRPOTrainer`] with the same arguments:

    ```python
    from trl_negalign import NEATConfig, NEATTrainer

    trainer = NEATTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=reward,
        args=NEATConfig(positive_prompt="@helpful", negative_prompt="@helpful"),
        train_dataset=dataset,
    )
    trainer.train()
    ```

    The group is ordered plain, positive, negative, dataset responses. See [`GroupTrainer`] for what is raised.
    """

    config_class = NEATConfig
    _tag_names = ["trl", "trl-negalign", "neat"]
    _name = "NEAT"
    _paper = {
        "title": "Negative-Prompt-driven Alignment for Generative Language Model",
        "id": "2410.12194",
        "citation": textwrap.dedent("""\
            @article{qiao2024negative,
                title   = {{Negative-Prompt-driven Alignment for Generative Language Model}},
                author  = {Shiqi Qiao and Ning Xv and Biao Liu and Xin Geng},
                year    = 2024,
                journal = {arXiv preprint arXiv:2410.12194},
            }"""),
    }

    @staticmethod
    def build_candidates(args: NEATConfig, columns: list[str]) -> list[Candidate]:
        responses = args.dataset_responses
        if responses is None:
            responses = [column for column in ("chosen", "rejected") if column in columns]
        num_plain, num_positive, num_negative = args.counts(len(responses))
        candidates = [PLAIN_CANDIDATE] * num_plain
        if num_positive:
            guide = resolve_guide(args.positive_prompt, "positive_prompt", "positive")
            candidates += [Candidate("positive", guide=guide)] * num_positive
        if num_negative:
            guide = resolve_guide(args.negative_prompt, "negative_prompt", "negative")
            candidates += [Candidate("negative", guide=guide)] * num_negative
        return candidates + [Candidate(column, column=column) for column in responses]

    @staticmethod
    def needs_reference(args: NEATConfig) -> bool:
        return args.penalty_type == "npo" and args.penalty_weight > 0

    def taught(self, batch):
        """
        Of a group with two different rewards: the best for the imitation, the worst for the penalty, and for the
        ranking every scored candidate, with `"linear"` only those that do not stand above as many as below (but all
        where shared prefixes are left out, which differ from pair to pair).
        """
        args, rewards = self.args, batch["rewards"]
        best, worst = self._extremes(rewards)
        pairs = rewards.unsqueeze(2) < rewards.unsqueeze(1)
        above, below = pairs.sum(1), pairs.sum(2)
        taught = torch.zeros_like(best)
        if args.sft_weight > 0:
            taught = taught | best
        if args.ranking_weight > 0:
            cancels = args.ranking_loss_type == "linear" and not args.skip_shared_prefix
            taught = taught | (above != below if cancels else above + below > 0)
        if args.penalty_weight > 0:
            taught = taught | worst
        return taught

    @staticmethod
    def _extremes(rewards):
        """Which candidates are the best and the worst of a group that has both, `[groups, G]` each."""
        places = torch.arange(rewards.shape[1], device=rewards.device)
        return [has_signal(rewards)[:, None] & (places == index[:, None]) for index in best_and_worst(rewards)]

    def group_loss(self, token_logps, batch):
        args, rewards, mask, taught = self.args, batch["rewards"], batch["completion_mask"], batch["taught"]
        parts = neat_loss(
            token_logps,
            mask,
            rewards,
            sft_reduction=args.sft_reduction,
            ranking_loss_type=args.ranking_loss_type,
            ranking_margin=args.ranking_margin,
            penalty_type=args.penalty_type if args.penalty_weight > 0 else "logprob",
            penalty_floor=args.penalty_floor,
            ref_token_logps=batch.get("ref_per_token_logps"),
            npo_beta=args.npo_beta,
            completion_ids=batch["completion_ids"] if args.skip_shared_prefix else None,
        )
        losses = (
            args.sft_weight * parts.sft + args.ranking_weight * parts.ranking + args.penalty_weight * parts.penalty
        )
        mean_logps = sequence_logps(token_logps.detach(), mask, "mean")
        best, worst = (taught.gather(1, index[:, None])[:, 0] for index in best_and_worst(rewards))
        left_out = (~taught & ~rewards.isnan()).any(-1)
        unscored = rewards.isnan().all(-1)
        # a part without a weight is only known where its candidates went through the model all the same
        everything = self.runs_all or args.ranking_weight > 0
        unknown = torch.full_like(losses, torch.nan)
        return losses, {
            "neat/loss_sft": parts.sft if everything or args.sft_weight > 0 else unknown,
            "neat/loss_ranking": parts.ranking if everything else unknown,
            "neat/loss_penalty": parts.penalty if everything or args.penalty_weight > 0 else unknown,
            "neat/ranking_accuracy": ranking_accuracy(mean_logps, rewards).masked_fill(left_out, torch.nan),
            "neat/logp_best": parts.logp_best.masked_fill(unscored | ~best, torch.nan),
            "neat/logp_worst": parts.logp_worst.masked_fill(unscored | ~worst, torch.nan),
        }
