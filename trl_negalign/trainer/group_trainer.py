"""
TRL's online trainer, taught to sample a group under several guides and to train on whole groups. This is the only file
that touches TRL's underscore methods.

How a batch flows: TRL's sampler repeats each query G times in order, so a row's place in its group is `row % G`. One
generation call serves all guides; rows whose response comes from the dataset are filled in after it, and every row's
query becomes the plain one again before TRL scores it. Rows are then packed into groups, so that TRL's shuffle and
split act on groups and never tear one. In evaluation every candidate is plain: what is measured is what is deployed.
"""

import inspect
import os

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object, is_peft_model, send_to_device
from datasets import Dataset
from transformers import ProcessorMixin
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from ..groups import PLAIN_CANDIDATE, Candidate, pack_groups, repeated_share
from ..guides import apply_guide
from ..objectives import has_signal, kl_penalty
from .checkpoints import find_checkpoint, unmark
from .corrections import EpochSampler, positions_from_mask
from .data import check_chat_template, check_dataset, column_names, response_ids
from .group_config import GroupConfig
from .seams import SeamError, check_seams
from .shared_prompt import packing_is_cheaper, shared_prompt_logps, supports_shared_prompts


logger = get_logger(__name__)

STATE_NAME = "group_state.pt"
# TRL's per-row tensors that group training reads
ROW_TENSORS = ("completion_ids", "completion_mask", "ref_per_token_logps")


class GroupTrainer(GRPOTrainer):
    """
    Base of the methods that learn from a whole group. A subclass names its candidates ([`build_candidates`]) and
    its objective ([`group_loss`]); constructor and options are those of [`~trl.GRPOTrainer`], without tools,
    environments, rollout functions and images.

    Raises:
        SeamError: if the installed TRL changed what this class builds on.
        TypeError: if `args` is not of the method's configuration class.
        ValueError: on a dataset or an option that cannot work, before the model is loaded.
    """

    config_class = GroupConfig

    def __init__(
        self,
        model,
        reward_funcs=None,
        args=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        reward_processing_classes=None,
        callbacks=None,
        optimizers=(None, None),
        **kwargs,
    ):
        check_seams(GRPOTrainer)
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = self.config_class(f"{name.rstrip('/').split('/')[-1] or 'model'}-{self._name}")
        if not isinstance(args, self.config_class):
            raise TypeError(
                f"args is a {type(args).__name__}, and {type(self).__name__} needs a {self.config_class.__name__}. "
                "Change the configuration's class name too."
            )
        if args.preset is not None:
            self._name, self._paper = args.preset.name, args.preset.paper
            self._tag_names = [*self._tag_names, args.preset.name.lower()]
        for name in ("tools", "rollout_func", "environment_factory"):
            if kwargs.get(name):
                raise ValueError(f"{name} is not supported by {type(self).__name__}. Leave it out.")
        self._refuse_processor(processing_class)
        self.candidates = self.build_candidates(args, column_names(train_dataset, "train_dataset"))
        check_dataset(
            train_dataset,
            "train_dataset",
            [candidate.column for candidate in self.candidates if candidate.column is not None],
            guided_in_user_turn=args.guide_placement != "system" and any(c.guide for c in self.candidates),
        )
        queries = args.generation_batch_size // args.num_generations
        if isinstance(train_dataset, Dataset) and len(train_dataset) < queries:
            raise ValueError(
                f"train_dataset has {len(train_dataset)} row(s), and one generation batch takes {queries} queries "
                f"(generation_batch_size={args.generation_batch_size} / num_generations={args.num_generations}). Add "
                "rows, or lower per_device_train_batch_size or gradient_accumulation_steps."
            )
        if eval_dataset is not None:
            for dataset in eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]:
                check_dataset(dataset, "eval_dataset")
        if args.use_liger_kernel and hasattr(GRPOTrainer, "compute_liger_loss"):
            raise ValueError(
                "use_liger_kernel=True computes GRPO's loss in this TRL. Leave it out, or install TRL 1.16."
            )
        if processing_class is not None:
            check_chat_template(train_dataset, processing_class)
        self._round_inputs, self._round_rewards, self._round_start = None, None, None

        # TRL prepares reference log-probabilities where `args.beta` is not 0. A method that needs them for itself
        # turns that on for TRL alone; the KL term below reads the user's own value.
        self.kl_weight = args.beta
        if self.needs_reference(args) and args.beta == 0.0:
            args.beta = 1.0
        try:
            super().__init__(
                model=model,
                reward_funcs=reward_funcs,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                **kwargs,
            )
        finally:
            args.beta = self.kl_weight
        self._refuse_processor(self.processing_class)  # TRL may have loaded one
        check_chat_template(train_dataset, self.processing_class)
        exact, reason = supports_shared_prompts(self.model) if args.share_prompts else (True, "")
        if not exact:
            raise ValueError(f"share_prompts=True cannot be exact here: {reason} Leave it out.")
        base = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if "position_ids" in inspect.signature(base.forward).parameters:
            for scored in (self.model, self.ref_model):
                if scored is not None:
                    scored.register_forward_pre_hook(positions_from_mask, with_kwargs=True)

    def _refuse_processor(self, processing_class):
        if isinstance(processing_class, ProcessorMixin):
            raise ValueError(f"{type(self).__name__} trains text models only. Pass a tokenizer as processing_class.")

    @staticmethod
    def build_candidates(args: GroupConfig, columns: list[str]) -> list[Candidate]:
        """The `num_generations` candidates of a training group, in order, given the dataset's columns."""
        raise NotImplementedError

    @staticmethod
    def needs_reference(args: GroupConfig) -> bool:
        """Whether [`group_loss`] reads `ref_per_token_logps` even where `beta` is 0."""
        return False

    def comparisons(self, groups: torch.Tensor) -> torch.Tensor:
        """What is compared with each other, `[n, k]`, out of `[groups, G]`: the group itself, or its pairs."""
        return groups

    def start_round(self, batch: dict[str, torch.Tensor], rewards: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Called once a generation round, before the batch is shuffled and split into micro-batches.

        Args:
            batch (`dict[str, torch.Tensor]`): this process's groups: `prompt_ids` and `prompt_mask` `[groups, P]`,
                `completion_ids`, `completion_mask` (and `ref_per_token_logps`) `[groups, G, T]`, `rewards`
                `[groups, G]` with NaN for a candidate without a score.
            rewards (`torch.Tensor`): the rewards of all processes, `[all groups, G]`.

        Returns:
            The batch to train on: a multiple of `steps_per_generation` groups, as many on every process.
        """
        return batch

    def group_loss(
        self, token_logps: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        The method's objective.

        Args:
            token_logps (`torch.Tensor`): `[groups, G, T]`, in nats, given the plain query.
            batch (`dict[str, torch.Tensor]`): a micro-batch, shaped as in [`start_round`].

        Returns:
            `tuple`: the loss of each group `[groups]`, and tensors to log by name, of any shape, whose mean over all
            processes is taken without the NaNs.
        """
        raise NotImplementedError

    # Generation and scoring

    def _row_candidates(self, rows: int) -> list[Candidate]:
        """The candidate that stands in each row, local or gathered: every process holds whole groups."""
        if not self.model.training:
            return [PLAIN_CANDIDATE] * rows
        return [self.candidates[row % len(self.candidates)] for row in range(rows)]

    def _end_tokens(self) -> list[int]:
        """Every token that ends a completion: the tokenizer's, and those that the model declares."""
        declared = self.model.generation_config.eos_token_id
        declared = [declared] if isinstance(declared, int) else declared or []
        return [self.processing_class.eos_token_id, *declared]

    def _on_all_processes(self, prepare):
        """What `prepare()` returns; if it raises on any process, all processes raise, and none waits for another."""
        error, result = None, None
        try:
            result = prepare()
        except Exception as raised:
            error = raised
        for process, message in enumerate(gather_object([repr(error) if error else None])):
            if message is not None:
                raise error or RuntimeError(f"Process {process} stopped with {message}")
        return result

    def _prepare_group(self, prompts):
        """Guided prompts of the rows to sample, by row; plain prompts' tokens; tokens of dataset responses, by row."""
        candidates = self._row_candidates(len(prompts))
        prompt_ids = self._tokenize_prompts(prompts)[0]
        guided, from_dataset = {}, {}
        for row, candidate in enumerate(candidates):
            if candidate.column is None:
                guided[row] = apply_guide(prompts[row], candidate.guide, self.args.guide_placement)
            else:
                from_dataset[row] = response_ids(
                    self.processing_class,
                    prompts[row],
                    prompt_ids[row],
                    self._round_inputs[row][candidate.column],
                    self._end_tokens(),
                    self.max_completion_length,
                    self.chat_template_kwargs,
                )
        return guided, prompt_ids, from_dataset

    def _generate(self, prompts):
        training = self.model.training
        guided, prompt_ids, from_dataset = self._on_all_processes(lambda: self._prepare_group(prompts))
        # vLLM samples `prompts[::num_generations]` n times each, which would give all candidates the first one's guide
        sizes = self.num_generations, self.num_generations_eval
        self.num_generations = self.num_generations_eval = 1
        try:
            generated = list(super()._generate(list(guided.values())))
        finally:
            self.num_generations, self.num_generations_eval = sizes
            self.model.train(training)  # one of TRL's generation paths leaves it in training mode
        if not len(generated[0]) == len(generated[1]) == len(generated[3]) == len(guided):
            raise SeamError("GRPOTrainer._generate", "it no longer returns prompts, completions and masks in order")

        generated[0] = prompt_ids
        if not from_dataset:
            return tuple(generated)
        texts = self.processing_class.batch_decode(list(from_dataset.values()), skip_special_tokens=True)
        if not isinstance(prompts[0], str):
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        fills = {1: from_dataset, 3: dict(zip(from_dataset, texts, strict=True))}
        # anything else by row is the sampler's log-probabilities, which dataset responses do not have
        zeros = {row: [0.0] * len(ids) for row, ids in from_dataset.items()}
        for index in range(1, len(generated)):
            if isinstance(generated[index], list) and len(generated[index]) == len(guided):
                rows = fills.get(index, zeros) | dict(zip(guided, generated[index], strict=True))
                generated[index] = [rows[row] for row in range(len(prompts))]
        return tuple(generated)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self._log_completion_extra("kind", [candidate.kind for candidate in self._row_candidates(len(prompts))])
        calculate = super()._calculate_rewards

        def calculate_and_gather():
            try:
                return calculate(inputs, prompts, completions, completion_ids_list)
            except Exception:
                # the other processes wait where the rewards are gathered
                size = (len(prompts), len(self.reward_funcs))
                self.accelerator.gather(torch.full(size, torch.nan, device=self.accelerator.device))
                raise

        rewards_per_func = self._on_all_processes(calculate_and_gather)
        infinite = torch.isinf(rewards_per_func).nonzero()
        if len(infinite):
            row, func = infinite[0].tolist()
            raise ValueError(
                f"The reward function {self.reward_func_names[func]!r} returned {rewards_per_func[row, func].item()} "
                f"for the query {gather_object(prompts)[row]!r}. Return a finite number, or None where there is no "
                "score."
            )
        weights = self.reward_weights.to(rewards_per_func.device)
        rewards = (rewards_per_func * weights).nansum(dim=1)
        rewards[torch.isnan(rewards_per_func).all(dim=1)] = torch.nan
        metrics = self._metrics["train" if self.model.training else "eval"]
        kinds = [candidate.kind for candidate in self._row_candidates(len(rewards))]
        for kind in dict.fromkeys(kinds):
            of_kind = rewards[torch.tensor([k == kind for k in kinds], device=rewards.device)]
            metrics[f"reward/{kind}"].append(of_kind.nanmean().item())
        repeated = gather_object([repeated_share(ids) for ids in completion_ids_list])
        metrics["completions/repeated_4grams"].append(sum(repeated) / len(repeated))
        self._round_rewards = rewards
        return rewards_per_func

    def _generate_and_score_completions(self, inputs):
        self._round_inputs = inputs
        if self.model.training:
            self._round_start = self.round_state()
        output = super()._generate_and_score_completions(inputs)
        start = self.accelerator.process_index * len(inputs)
        rewards = self._round_rewards[start : start + len(inputs)]
        if not self.model.training:
            return {"rewards": rewards}
        size = len(self.candidates)
        batch = {name: pack_groups(output[name], size) for name in ROW_TENSORS if name in output}
        batch |= {name: output[name][::size] for name in ("prompt_ids", "prompt_mask")}
        # a candidate without tokens (mask_truncated_completions) has nothing to learn from
        batch["rewards"] = pack_groups(rewards, size).masked_fill(batch["completion_mask"].sum(-1) == 0, torch.nan)
        all_rewards = self.accelerator.gather(batch["rewards"])
        silent = ~has_signal(self.comparisons(all_rewards))
        self.log_round_metric("frac_groups_no_signal", silent.float().mean().item())
        return self.start_round(batch, all_rewards)

    @property
    def _cycle(self) -> int:
        """Micro-batches from one generation to the next."""
        return self.args.steps_per_generation * self.num_iterations

    @property
    def generation_round(self) -> int:
        """Number of the generation round that is being trained on or started, from 0; unchanged by a resume."""
        return self._step // self._cycle

    @property
    def total_rounds(self) -> int:
        """Generation rounds of the whole run."""
        steps = self.state.max_steps * self.args.gradient_accumulation_steps
        return -(-steps // self._cycle)

    # Loss

    def _compute_loss(self, model, inputs):
        if not self.model.training:
            # no objective is defined on plain samples alone; minus the reward makes lower better, as for any loss
            return -inputs["rewards"].nanmean().nan_to_num()
        mask = inputs["completion_mask"]
        token_logps, entropies, aux_loss = self._group_logps(model, inputs)
        losses, metrics = self.group_loss(token_logps, inputs)
        if self.args.log_entropy:
            metrics["entropy"] = entropies.masked_fill(mask == 0, torch.nan)
        if self.kl_weight != 0.0:
            kl = kl_penalty(token_logps, inputs["ref_per_token_logps"], mask)
            losses = losses + self.kl_weight * kl.mean(-1)
            metrics["kl"] = kl
        self._log_metrics(metrics)
        self._stop_if_not_finite(losses, inputs, model)
        loss = losses.mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * aux_loss
            self._log_metrics({"aux_loss": aux_loss})
        # every micro-batch and process holds as many groups, so this is the mean over the optimizer step's groups
        return loss / self.current_gradient_accumulation_steps

    def _group_logps(self, model, inputs):
        """Log-probs and entropies of a micro-batch, `[groups, G, T]`, and TRL's auxiliary loss."""
        prompt_ids, prompt_mask, mask = (inputs[name] for name in ("prompt_ids", "prompt_mask", "completion_mask"))
        groups, size, length = mask.shape
        if self.args.share_prompts and packing_is_cheaper(self.model.config.hidden_size, prompt_mask, mask):
            with self.accelerator.autocast():
                return *shared_prompt_logps(model, prompt_ids, prompt_mask, inputs["completion_ids"], mask), None
        prompt_ids, prompt_mask = (x.repeat_interleave(size, 0) for x in (prompt_ids, prompt_mask))
        token_logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([prompt_ids, inputs["completion_ids"].flatten(0, 1)], dim=1),
            torch.cat([prompt_mask, mask.flatten(0, 1)], dim=1),
            length,
            compute_entropy=self.args.log_entropy,
            compute_aux_loss=self.aux_loss_enabled,
        )
        if self.args.log_entropy:
            entropies = entropies.view(groups, size, length)
        return token_logps.view(groups, size, length), entropies, aux_loss

    def log_round_metric(self, name: str, value: float) -> None:
        """Log a training metric that all processes know alike."""
        self._metrics["train"][name].append(value)

    def _log_metrics(self, metrics):
        """Log each tensor's mean over all processes, NaNs left out, with one reduction for all of them."""
        values = [value.detach().float() for value in metrics.values()]
        sums = [torch.stack([value.nansum(), (~value.isnan()).sum().float()]) for value in values]
        totals = self.accelerator.reduce(torch.stack(sums), reduction="sum")
        for name, (total, count) in zip(metrics, totals.tolist(), strict=True):
            self.log_round_metric(name, total / count if count else float("nan"))

    def _stop_if_not_finite(self, losses, inputs, model):
        """Save a checkpoint and stop all processes if a group's loss is not finite on any of them."""
        broken = ~torch.isfinite(losses.detach())
        if self.accelerator.reduce(broken.sum(), reduction="sum") == 0:
            return
        prompts = [ids[mask.bool()] for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)]
        queries = gather_object(
            [self.processing_class.decode(ids) for ids, is_broken in zip(prompts, broken, strict=True) if is_broken]
        )
        self._step -= self._step % self.args.gradient_accumulation_steps  # back to the last optimizer step
        if self._step % self._cycle == 0:
            self.load_round_state(self._round_start)  # the round was sampled for nothing
        self._save_checkpoint(model, trial=None)
        shown = "\n".join(f"- {query!r}" for query in dict.fromkeys(queries))
        raise FloatingPointError(
            f"The loss is not finite at step {self.state.global_step + 1}, for the queries:\n{shown}\nThe weights "
            f"before this step are in {self.args.output_dir}/{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}. Lower "
            "the learning rate, or bound what is pushed down."
        )

    # Checkpoints

    def round_state(self) -> dict:
        """What a checkpoint keeps of the generation rounds: tensors, numbers, text, lists and dictionaries of them."""
        return {}

    def load_round_state(self, state: dict) -> None:
        """Take up what [`round_state`] gave."""

    def _run_identity(self) -> dict:
        """What must be the same in a run that is resumed."""
        candidates = [f"{candidate.kind}: {candidate.guide or candidate.column}" for candidate in self.candidates]
        return {"method": self._name, "group size": len(candidates), "candidates": candidates}

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        if isinstance(sampler, RepeatSampler):
            sampler.__class__ = EpochSampler
            sampler.epoch = lambda: int(self.state.epoch or 0)
        return sampler

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        As [`~transformers.Trainer.train`]; a run that is resumed goes on as if it had never stopped.

        Raises:
            ValueError: if a checkpoint is only half written, was left by a run of another method, group or guides, or
                stands inside a generation cycle of another number of processes.
        """
        if resume_from_checkpoint:
            resume_from_checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir)
            self._check_resumable(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _check_resumable(self, checkpoint: str) -> None:
        if not os.path.isfile(os.path.join(checkpoint, STATE_NAME)):
            logger.warning(f"{checkpoint} has no {STATE_NAME}: the generation rounds are counted from 0 again.")
            return
        state = torch.load(os.path.join(checkpoint, STATE_NAME), map_location="cpu", weights_only=True)
        for name, value in self._run_identity().items():
            if state["identity"][name] != value:
                raise ValueError(
                    f"{checkpoint} cannot be resumed: its {name} was {state['identity'][name]!r}, and this run's is "
                    f"{value!r}. Resume with the options it was written with, or start a new run from its weights."
                )
        if state["inside_cycle"] and state["processes"] != self.accelerator.num_processes:
            raise ValueError(
                f"{checkpoint} stands inside a generation cycle of {state['processes']} process(es), and this run has "
                f"{self.accelerator.num_processes}. Resume with as many, or from a checkpoint at the end of a cycle "
                "(every steps_per_generation * num_iterations / gradient_accumulation_steps steps)."
            )

    def _save_checkpoint(self, model, trial):
        inside_cycle = self._step % self._cycle != 0
        folder = os.path.join(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        os.makedirs(folder, exist_ok=True)
        if self.args.should_save:
            unmark(folder)  # an earlier attempt at this step must not vouch for a half-written folder
        self.accelerator.wait_for_everyone()
        if inside_cycle:  # the groups that are still to be trained on
            torch.save(self._buffered_inputs, os.path.join(folder, self._buffer_name()))
        if self.args.should_save:
            state = self.round_state() | {
                "identity": self._run_identity(),
                "processes": self.accelerator.num_processes,
                "inside_cycle": inside_cycle,
                "step": self._step,
            }
            torch.save(state, os.path.join(folder, STATE_NAME))
        super()._save_checkpoint(model, trial)

    def _buffer_name(self) -> str:
        return f"group_buffer_{self.accelerator.process_index}.pt"

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        # trainer_state.json comes next and marks the checkpoint as whole: no process may still be writing
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not os.path.isfile(os.path.join(checkpoint, STATE_NAME)):
            return
        state = torch.load(os.path.join(checkpoint, STATE_NAME), map_location="cpu", weights_only=True)
        self.load_round_state(state)
        self._step = state["step"]
        if state["inside_cycle"]:
            path = os.path.join(checkpoint, self._buffer_name())
            # torch cannot load onto "cpu:0", where a CPU process among several is
            buffer = torch.load(path, map_location="cpu", weights_only=True)
            self._buffered_inputs = send_to_device(buffer, self.accelerator.device)
