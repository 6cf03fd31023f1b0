import textwrap

import torch
from accelerate.utils import gather_object

from ...groups import PLAIN_CANDIDATE, Candidate, pack_pairs
from ...guides import resolve_guide
from ...objectives import sequence_logps
from ...trainer.group_trainer import GroupTrainer
from ...trainer.rounds.replay import ReplayStore, pack
from . import schedules
from .config import PLEConfig
from .objective import ple_loss, ple_taught


class PLETrainer(GroupTrainer):
    """
    Trainer for PLE, [Progressively Label Enhancement for Large Language Model
    Alignment](https://huggingface.co/papers/2408.02599).

    Each query is sampled plain and under a principle guide. Where the guided response's reward exceeds the plain one's
    by more than a threshold that shrinks from round to round, the pair is ranked; elsewhere both are imitated by
    weights that may be negative. Everything is trained given the plain query.

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

    The group is ordered plain half, principle-guided half, paired in order. See [`GroupTrainer`] for what is raised.
    """

    config_class = PLEConfig
    _tag_names = ["trl", "trl-negalign", "ple"]
    _name = "PLE"
    _paper = {
        "title": "Progressively Label Enhancement for Large Language Model Alignment",
        "id": "2408.02599",
        "citation": textwrap.dedent("""\
            @inproceedings{liu2025progressively,
                title     = {{Progressively Label Enhancement for Large Language Model Alignment}},
                author    = {Biao Liu and Ning Xu and Xin Geng},
                year      = 2025,
                booktitle = {Proceedings of the 42nd International Conference on Machine Learning},
                pages     = {39915--39928},
            }"""),
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.replay_store = ReplayStore([])  # every pair of earlier rounds, of all processes; empty without replay

    @staticmethod
    def build_candidates(args: PLEConfig, columns: list[str]) -> list[Candidate]:
        half = args.num_generations // 2
        guide = resolve_guide(args.principle_prompt, "principle_prompt", "principle")
        return [PLAIN_CANDIDATE] * half + [Candidate("principle", guide=guide)] * half

    def comparisons(self, groups):
        return pack_pairs(groups)

    def threshold(self, generation_round: int, gaps: torch.Tensor) -> float:
        """
        τ_t (PLE Eq. 7). Override it for a schedule of your own.

        Args:
            generation_round (`int`): t, counted from 0.
            gaps (`torch.Tensor`): s' − s of the round's pairs over all processes, NaN where a score is missing.
        """
        args = self.args
        return schedules.threshold(
            args.threshold_schedule,
            generation_round,
            args.threshold_init,
            args.threshold_decay,
            self.total_rounds,
            gaps,
        )

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
        # every micro-batch of every process gets as many
        share = len(old) // processes // args.steps_per_generation * args.steps_per_generation
        own = old[self.accelerator.process_index * share :][:share]
        self.replay_store = store.extended(gather_object([pack(batch)]))
        return store.join(batch, own)

    def round_state(self):
        return {"replay_store": self.replay_store.blocks}

    def load_round_state(self, state):
        self.replay_store = ReplayStore(state["replay_store"])

    def taught(self, batch):
        args, half = self.args, self.args.num_generations // 2
        threshold = batch["threshold"].repeat_interleave(half)
        taught = ple_taught(
            pack_pairs(batch["rewards"]), threshold, args.ranking_weight, args.wsft_weight, args.weight_range
        )
        return taught.view(-1, half, 2).transpose(1, 2).flatten(1)

    def group_loss(self, token_logps, batch):
        args, pairs_of_group = self.args, self.args.num_generations // 2
        logps, mask, rewards, taught = (
            pack_pairs(x) for x in (token_logps, batch["completion_mask"], batch["rewards"], batch["taught"])
        )
        threshold = batch["threshold"].repeat_interleave(pairs_of_group)
        parts = ple_loss(
            logps, mask, rewards, threshold, wsft_reduction=args.wsft_reduction, weight_range=args.weight_range
        )
        losses = args.ranking_weight * parts.ranking + args.wsft_weight * parts.wsft
        means = sequence_logps(logps.detach(), mask, "mean").masked_fill(
            rewards.isnan().any(-1, keepdim=True) | ~taught, torch.nan
        )
        # a part without a weight is only known where its pairs went through the model all the same
        unknown = torch.full_like(losses, torch.nan)

        def pick(candidate):
            return means.gather(-1, candidate[:, None])

        return losses.view(-1, pairs_of_group).mean(-1), {
            "ple/gap": parts.gap,
            "ple/ranked_fraction": parts.ranked.float(),
            "ple/loss_ranking": parts.ranking if self.runs_all or args.ranking_weight > 0 else unknown,
            "ple/loss_wsft": parts.wsft if self.runs_all or args.wsft_weight > 0 else unknown,
            "ple/logp_best": pick(rewards.argmax(-1)),
            "ple/logp_worst": pick(rewards.argmin(-1)),
        }
