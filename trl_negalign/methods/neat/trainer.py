"""NEAT's trainer: its candidates, its plan, its objective and what it logs."""

from ...groups import PLAIN_CANDIDATE, Candidate
from ...guides import resolve_guide
from ...objectives import ranking_accuracy, sequence_logps, where_scored
from ...trainer.group_trainer import GroupTrainer
from .config import NEATConfig
from .objective import neat_loss, neat_parts, neat_plan, one_of_each


class NEATTrainer(GroupTrainer):
    """
    GRPO with guided samples in the group, and imitation, ranking and penalty in the place of the clipped advantage.

    Trainer for NEAT, [Negative-Prompt-driven Alignment for Generative Language
    Model](https://huggingface.co/papers/2410.12194). The paper publishes the shape of the objective only; prompts,
    counts, forms and weights are our reconstruction. What was decided:

    1. A group holds samples of the plain query, samples under a positive and under a negative guide, and the dataset's
       own responses, in this order.
    2. All are scored and trained given the plain query: a guide steers the sampling and nothing else.
    3. The policy imitates the best of the group, learns the ranking of all pairs with different rewards, and is pushed
       away from the worst, see [`~trl_negalign.methods.neat.objective.neat_loss`].
    4. A group whose rewards all tie teaches nothing. A candidate without a reward takes no part.
    5. A reference model is loaded for the `"npo"` penalty and for `beta` only.
    6. RAFT and RRHF are settings of this objective, see `presets.py` beside it.

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

    See [`GroupTrainer`] for what is raised.
    """

    config_class = NEATConfig

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

    def plan(self, batch):
        args = self.args
        return neat_plan(
            batch["rewards"],
            sft_weight=args.sft_weight,
            ranking_weight=args.ranking_weight,
            penalty_weight=args.penalty_weight,
            ranking_loss_type=args.ranking_loss_type,
            penalty_type=args.penalty_type,
            skip_shared_prefix=args.skip_shared_prefix,
        )

    def group_loss(self, token_logps, batch):
        args, rewards, mask, scored = self.args, batch["rewards"], batch["completion_mask"], batch["scored"]
        parts = neat_loss(
            token_logps,
            mask,
            rewards,
            sft_weight=args.sft_weight,
            ranking_weight=args.ranking_weight,
            penalty_weight=args.penalty_weight,
            sft_reduction=args.sft_reduction,
            ranking_loss_type=args.ranking_loss_type,
            ranking_margin=args.ranking_margin,
            penalty_type=args.penalty_type,
            penalty_floor=args.penalty_floor,
            ref_token_logps=batch.get("ref_per_token_logps"),
            npo_beta=args.npo_beta,
            completion_ids=batch["completion_ids"] if args.skip_shared_prefix else None,
        )
        reads, (best, worst) = neat_parts(rewards, args.ranking_loss_type), one_of_each(rewards)
        accuracy = ranking_accuracy(sequence_logps(token_logps.detach(), mask, "mean"), rewards)

        def known(part, weight, candidates):
            # a part without a weight is known where its candidates went through the model all the same
            return part if weight > 0 else where_scored(part, candidates, scored)

        return parts.loss, {
            "neat/loss_sft": known(parts.sft, args.sft_weight, reads.sft),
            "neat/loss_ranking": known(parts.ranking, args.ranking_weight, reads.pairs),
            "neat/loss_penalty": known(parts.penalty, args.penalty_weight, reads.penalty),
            "neat/ranking_accuracy": where_scored(accuracy, reads.pairs, scored),
            "neat/logp_best": where_scored(parts.logp_best, best, scored),
            "neat/logp_worst": where_scored(parts.logp_worst, worst, scored),
        }
