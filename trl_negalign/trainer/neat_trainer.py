import textwrap

import torch

from ..groups import PLAIN_CANDIDATE, Candidate
from ..guides import resolve_guide
from ..objectives import neat_loss, ranking_accuracy, sequence_logps
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

    def group_loss(self, token_logps, batch):
        args, rewards, mask = self.args, batch["rewards"], batch["completion_mask"]
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
        )
        losses = (
            args.sft_weight * parts.sft + args.ranking_weight * parts.ranking + args.penalty_weight * parts.penalty
        )
        unscored = torch.isnan(rewards).all(-1)
        mean_logps = sequence_logps(token_logps.detach(), mask, "mean")
        return losses, {
            "neat/loss_sft": parts.sft,
            "neat/loss_ranking": parts.ranking,
            "neat/loss_penalty": parts.penalty,
            "neat/ranking_accuracy": ranking_accuracy(mean_logps, rewards),
            "neat/logp_best": parts.logp_best.masked_fill(unscored, torch.nan),
            "neat/logp_worst": parts.logp_worst.masked_fill(unscored, torch.nan),
        }
