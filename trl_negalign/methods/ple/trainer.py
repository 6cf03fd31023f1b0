"""PLE's trainer: its candidates, its threshold, replay, its plan, its objective and what it logs."""

import torch
from accelerate.utils import gather_object

from ...groups import PLAIN_CANDIDATE, Candidate, pack_pairs, unpack_pairs
from ...guides import resolve_guide
from ...objectives import sequence_logps, where_scored
from ...trainer.group_trainer import GroupTrainer
from ...trainer.plan import Plan
from ...trainer.rounds.replay import ReplayStore, own_share, pack
from . import schedules
from .config import PLEConfig
from .objective import ple_loss, ple_trained


class PLETrainer(GroupTrainer):
    """
    GRPO with plain and principle-guided samples in pairs, ranked or imitated by weight in the place of the advantage.

    Trainer for PLE, [Progressively Label Enhancement for Large Language Model
    Alignment](https://huggingface.co/papers/2408.02599). What was decided, where the paper leaves it open:

    1. A group is a plain half and a principle-guided half, paired in order; all are trained given the plain query.
    2. Where the guided response's reward exceeds the plain one's by more than τ the pair is ranked, elsewhere both
       responses are imitated by weights that may be negative, see [`~trl_negalign.methods.ple.objective.ple_loss`].
    3. τ shrinks by the generation round, and is kept through a resume.
    4. The loss is the mean over the pairs of the optimizer step, so that the learning rate does not depend on the
       batch's layout. A pair whose rewards tie or are missing teaches nothing.
    5. A round trains on its own pairs. The paper's Algorithm 1 trains on all pairs so far: `replay="all"`.

    Takes the place of [`~trl.GRPOTrainer`] with the same arguments:

    ```python
    from trl_negalign import PLEConfig, PLETrainer

    trainer = PLETrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=reward,
        args=PLEConfig(principle_prompt="@helpful"),
        train_dataset=dataset,
    )
    trainer.train()
    ```

    See [`GroupTrainer`] for what is raised.
    """

    config_class = PLEConfig

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.replay_store = ReplayStore([])  # every pair of earlier rounds, of all processes; empty without replay

    @staticmethod
    def build_candidates(args: PLEConfig, columns: list[str]) -> list[Candidate]:
        half = args.num_generations // 2
        guide = resolve_guide(args.principle_prompt, "principle_prompt", "principle")
        return [PLAIN_CANDIDATE] * half + [Candidate("principle", guide=guide)] * half

    def threshold(self, generation_round: int, gaps: torch.Tensor) -> float:
        """
        τ_t (PLE Eq. 7). Override it for a schedule of your own.

        Args:
            generation_round (`int`): t, counted from 0.
            gaps (`torch.Tensor`): s' − s of the round's pairs over all processes, NaN where a score is missing.
        """
        args, rounds = self.args, self.total_rounds
        settings = args.threshold_schedule, generation_round, args.threshold_init, args.threshold_decay, rounds
        return schedules.threshold(*settings, gaps)

    def start_round(self, batch, rewards):
        pairs = pack_pairs(rewards)
        threshold = self.threshold(self.generation_round, pairs[:, 1] - pairs[:, 0])
        self.log_round_metric("ple/threshold", threshold)
        if self.args.replay:
            batch = self._with_replay(batch)
        batch["threshold"] = torch.full((len(batch["rewards"]),), threshold, device=rewards.device)
        return batch

    def _with_replay(self, batch):
        """Add old groups to the fresh ones, the same ones however many processes share them, and store the fresh."""
        args, store, processes = self.args, self.replay_store, self.accelerator.num_processes
        if args.replay == "all":
            old = torch.arange(len(store))
        else:
            old = store.draw(args.replay * len(batch["rewards"]) * processes, args.seed + self.generation_round)
        self.replay_store = store.extended(gather_object([pack(batch)]))
        return store.join(batch, own_share(old, self.accelerator, args.steps_per_generation))

    def round_state(self):
        return {"replay_store": self.replay_store.blocks}

    def load_round_state(self, state):
        self.replay_store = ReplayStore(state["replay_store"])

    def plan(self, batch):
        args = self.args
        trained = ple_trained(
            pack_pairs(batch["rewards"]),
            self._of_pairs(batch["threshold"]),
            ranking_weight=args.ranking_weight,
            wsft_weight=args.wsft_weight,
            weight_range=args.weight_range,
        )
        silent = ~trained.any(-1).view(-1, args.num_generations // 2)
        return Plan(unpack_pairs(trained, args.num_generations), silent=silent)

    def _of_pairs(self, of_groups):
        return of_groups.repeat_interleave(self.args.num_generations // 2)

    def group_loss(self, token_logps, batch):
        args, pairs_of_group = self.args, self.args.num_generations // 2
        logps, mask, rewards, scored = (
            pack_pairs(x) for x in (token_logps, batch["completion_mask"], batch["rewards"], batch["scored"])
        )
        parts = ple_loss(
            logps,
            mask,
            rewards,
            self._of_pairs(batch["threshold"]),
            ranking_weight=args.ranking_weight,
            wsft_weight=args.wsft_weight,
            wsft_reduction=args.wsft_reduction,
            weight_range=args.weight_range,
        )
        paired = ~rewards.isnan().any(-1, keepdim=True).expand_as(rewards)
        means = sequence_logps(logps.detach(), mask, "mean").masked_fill(~paired | ~scored, torch.nan)

        def known(part, weight, of_pair):
            # a part without a weight is known where its pairs went through the model all the same
            return part if weight > 0 else where_scored(part, paired & of_pair[:, None], scored)

        return parts.loss.view(-1, pairs_of_group).mean(-1), {
            "ple/gap": parts.gap,
            "ple/ranked_fraction": parts.ranked.float(),
            "ple/loss_ranking": known(parts.ranking, args.ranking_weight, parts.ranked),
            "ple/loss_wsft": known(parts.wsft, args.wsft_weight, ~parts.ranked),
            "ple/logp_best": means.gather(-1, rewards.argmax(-1, keepdim=True)),
            "ple/logp_worst": means.gather(-1, rewards.argmin(-1, keepdim=True)),
        }
