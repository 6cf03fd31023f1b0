"""
TRL's online trainer, extended to sample a group under several guides and to train on whole groups. This is the only
file that touches TRL's underscore methods.

How a batch flows: TRL's sampler repeats each query G times in order, so a row's place in its group is `row % G`. One
generation call serves all guides; rows whose response comes from the dataset are filled in after it, and every row's
query becomes the plain one again before TRL scores it. Rows are then packed into groups, so that TRL's shuffle and
split act on groups and never tear one, and the method makes its plan of the round. In evaluation every candidate is
plain: what is measured is what is deployed.

Letters: `G` candidates of a group, `P` tokens of the longest query, `T` of the longest response.
"""

import inspect
import math
import os
from contextlib import nullcontext
from functools import partial

import torch
from accelerate.utils import gather_object, is_peft_model, send_to_device
from transformers import ProcessorMixin
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from ..borders import ended_response_ids
from ..groups import PLAIN_CANDIDATE, Candidate, pack_groups, repeated_share
from ..guides import apply_guide
from ..objectives import kl_penalty
from .group_config import GroupConfig
from .hooks import GroupMethod
from .plan import weigh
from .rounds.checkpoints import (
    check_resumable,
    find_checkpoint,
    load_round,
    not_finite,
    save_buffer,
    save_state,
    unmark,
)
from .rounds.collectives import means, on_all_processes
from .rounds.data import check_candidates, check_chat_template, check_datasets, column_names, end_tokens, put_in
from .rounds.guided import guided_token_logps, taper
from .rounds.lengths import check_longest_query, check_positions, warn_of_long_queries
from .rounds.scores import combine, means_by_kind, refuse_infinite
from .seams import check_attributes, check_generated, check_seams, watch_vllm
from .sharing.micro_batches import by_length, columns_multiple, group_lengths, select
from .sharing.packing import attends_by_blocks, decide_on_sharing, packing_is_cheaper, shared_prompt_logps
from .sharing.prefill import prefill_once
from .trl_patches import (
    EpochSampler,
    RepeatSampler,
    disable_gradient_checkpointing,
    leave_out_entropies,
    positions_from_mask,
    use_adapter,
)


# TRL's per-row tensors that group training reads
ROW_TENSORS = ("completion_ids", "completion_mask")


class GroupTrainer(GroupMethod, GRPOTrainer):
    """
    Base of the methods that learn from a whole group. What a subclass says is in
    [`~trl_negalign.trainer.hooks.GroupMethod`]; constructor and options are those of [`~trl.GRPOTrainer`], without
    tools, environments, rollout functions and images.

    Raises:
        SeamError: if the installed TRL changed what this class builds on.
        TypeError: if `args` is not of the method's configuration class.
        ValueError: on a dataset or an option that cannot work, before the model is loaded.
    """

    config_class = GroupConfig
    loss_is_scaled_for_ga = True  # `_compute_loss` divides by the accumulation steps, and the trainer must not again

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
            args = self.config_class(f"{name.rstrip('/').split('/')[-1] or 'model'}-{self.config_class.method.name}")
        if not isinstance(args, self.config_class):
            raise TypeError(
                f"args is a {type(args).__name__}, and {type(self).__name__} needs a {self.config_class.__name__}. "
                "Change the configuration's class name too."
            )
        # the model card's: a class that left them out would have GRPO's
        self._name, self._paper, self._tag_names = args.method.name, args.method.paper, args.method.tags
        for name in ("tools", "rollout_func", "environment_factory"):
            if kwargs.get(name):
                raise ValueError(f"{name} is not supported by {type(self).__name__}. Leave it out.")
        self.candidates = self.build_candidates(args, column_names(train_dataset, "train_dataset"))
        check_candidates(self.candidates, args, type(self).__name__)
        check_datasets(train_dataset, eval_dataset, args, self.candidates)
        if args.use_liger_kernel and hasattr(GRPOTrainer, "compute_liger_loss"):
            raise ValueError(
                "use_liger_kernel=True computes GRPO's loss in this TRL. Leave it out, or install TRL 1.16."
            )
        if processing_class is not None:
            self._check_tokenizer(processing_class, train_dataset, args)
        self._round_inputs, self._round_rewards, self._round_start = None, None, None

        # TRL loads a reference model where `args.beta` is not 0. A method that needs one for itself turns that on for
        # TRL alone; the KL term below reads the user's own value.
        self.kl_weight = args.beta
        if args.needs_reference and args.beta == 0.0:
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
        check_attributes(self)
        self._check_tokenizer(self.processing_class, train_dataset, args)  # TRL may have loaded one
        check_positions(self.model, train_dataset, self.processing_class, args, self.candidates)
        self.shares_prompts = decide_on_sharing(self.model, args.share_prompts)
        # the KL term, entropies and the experts' balance are of all candidates, not of those that the plan names
        self.scores_all = self.kl_weight != 0.0 or args.log_entropy or self.aux_loss_enabled
        base = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if args.share_prompts and not args.log_entropy:
            leave_out_entropies(base, self.temperature, args.cast_lm_head_to_fp32)
        if "position_ids" in inspect.signature(base.forward).parameters:
            for scored in (self.model, self.ref_model):
                if scored is not None:
                    scored.register_forward_pre_hook(positions_from_mask, with_kwargs=True)

    def _check_tokenizer(self, tokenizer, train_dataset, args):
        if isinstance(tokenizer, ProcessorMixin):
            raise ValueError(f"{type(self).__name__} trains text models only. Pass a tokenizer as processing_class.")
        check_chat_template(train_dataset, tokenizer, args, self.candidates)
        check_longest_query(train_dataset, tokenizer, args, self.candidates)

    # Generation and scoring

    def _row_candidates(self, rows: int) -> list[Candidate]:
        """The candidate that stands in each row, local or gathered: every process holds whole groups."""
        if not self.model.training:
            return [PLAIN_CANDIDATE] * rows
        return [self.candidates[row % len(self.candidates)] for row in range(rows)]

    def _prepare_group(self, prompts):
        """Guided prompts to sample from and their tokens; plain prompts' tokens; dataset responses' tokens, by row."""
        candidates = self._row_candidates(len(prompts))
        prompt_ids = self._tokenize_prompts(prompts)[0]
        guided, from_dataset = {}, {}
        for row, candidate in enumerate(candidates):
            if candidate.column is None:
                columns = self._round_inputs[row]
                guided[row] = apply_guide(prompts[row], candidate.guide, self.args.guide_placement, columns)
            else:
                from_dataset[row] = ended_response_ids(
                    self.processing_class,
                    prompts[row],
                    self._round_inputs[row][candidate.column],
                    end_tokens(self.processing_class, self.model.generation_config),
                    self.max_completion_length,
                    self.chat_template_kwargs,
                )
        guided_ids = self._tokenize_prompts(list(guided.values()))[0]
        self._guided_ids = dict(zip(guided, guided_ids, strict=True))
        warn_of_long_queries(guided_ids, self.args, self.model.config)
        return list(guided.values()), guided_ids, prompt_ids, from_dataset

    def _generate(self, prompts):
        training = self.model.training
        guided, guided_ids, prompt_ids, from_dataset = on_all_processes(lambda: self._prepare_group(prompts))
        # vLLM samples `prompts[::num_generations]` n times each, which would give all candidates the first one's guide
        sizes = self.num_generations, self.num_generations_eval
        self.num_generations = self.num_generations_eval = 1
        once = prefill_once(self.accelerator.unwrap_model(self.model)) if self.args.share_prompts else nullcontext()
        try:
            with once, watch_vllm(self.vllm_generation if self.use_vllm else None) as vllm_calls:
                generated = super()._generate(guided)
        finally:
            self.num_generations, self.num_generations_eval = sizes
            self.model.train(training)  # one of TRL's generation paths leaves it in training mode
        on_all_processes(lambda: check_generated(generated, guided_ids, vllm_calls))
        return put_in(generated, prompt_ids, from_dataset, self.processing_class, isinstance(prompts[0], str))

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

        rewards_per_func = on_all_processes(calculate_and_gather)
        refuse_infinite(rewards_per_func, self.reward_func_names, lambda: gather_object(prompts))
        rewards = combine(rewards_per_func, self.reward_weights)
        metrics = self._metrics["train" if self.model.training else "eval"]
        kinds = [candidate.kind for candidate in self._row_candidates(len(rewards))]
        for kind, mean in means_by_kind(rewards, kinds).items():
            metrics[f"reward/{kind}"].append(mean)
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
        batch = {name: pack_groups(output[name], size) for name in ROW_TENSORS}
        batch |= {name: output[name][::size] for name in ("prompt_ids", "prompt_mask")}
        # a candidate without tokens (mask_truncated_completions) has nothing to learn from
        batch["rewards"] = pack_groups(rewards, size).masked_fill(batch["completion_mask"].sum(-1) == 0, torch.nan)
        if self.args.needs_guided:
            chunks, score = self.args.steps_per_generation, partial(self._fixed_logps, self.model)
            logps = guided_token_logps(batch, self.candidates, self._guided_ids, chunks, score)
            batch["guided_token_logps"] = logps
        sampled = len(batch["rewards"])
        batch = self.start_round(batch, self.accelerator.gather(batch["rewards"]))
        plan = self.plan(batch)
        self._log_metrics({"frac_groups_no_signal": plan.silent[:sampled].float()})
        return batch | self._columns(plan)

    def _columns(self, plan):
        if plan.reference is not None and not self.args.needs_reference:
            raise ValueError(
                f"{type(self).__name__}'s plan reads a reference. Let its configuration's needs_reference say so."
            )
        return plan.columns(self.scores_all, self.kl_weight != 0.0, self.args.mean_over == "signal")

    def _prepare_inputs(self, generation_batch):
        buffered = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.model.training or self._buffered_inputs is buffered:
            return inputs
        # neighbours in the buffer that fall into one optimizer step, in every iteration over it
        together = math.gcd(self.args.gradient_accumulation_steps, self.args.steps_per_generation)
        self._buffered_inputs = by_length(
            self._buffered_inputs,
            lambda batch: group_lengths(batch, batch["scored"], packed=self.shares_prompts),
            together,
        )
        if "counts" in self._buffered_inputs[0]:
            weigh(self._buffered_inputs, together, self.accelerator)
        self._add_reference_logps()
        # where one optimizer step trains on the whole round, the old log-probabilities are the new ones
        if "reads_old" in self._buffered_inputs[0] and self.args.gradient_accumulation_steps % self._cycle != 0:
            for batch in self._buffered_inputs:
                batch["old_per_token_logps"] = self._fixed_logps(self.model, batch, batch["reads_old"])
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

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
        token_logps, entropies, aux_loss = self._group_logps(
            model, inputs, compute_entropy=self.args.log_entropy, compute_aux_loss=self.aux_loss_enabled
        )
        if "reads_old" in inputs and "old_per_token_logps" not in inputs:
            inputs = inputs | {"old_per_token_logps": token_logps.detach()}
        weighted_logps, taper_metrics = taper(token_logps, inputs) if self.args.tapered else (token_logps, {})
        losses, metrics = self.group_loss(weighted_logps, inputs)
        metrics |= taper_metrics
        # every micro-batch and process holds as many groups, so this is the mean over the optimizer step's groups
        loss = (losses * inputs["weight"]).sum() if "weight" in inputs else losses.mean()
        if self.args.log_entropy:
            metrics["entropy"] = entropies.masked_fill(mask == 0, torch.nan)
        if self.kl_weight != 0.0:
            kl = kl_penalty(token_logps, inputs["ref_per_token_logps"], mask)
            loss, losses = loss + self.kl_weight * kl.mean(), losses + self.kl_weight * kl.mean(-1)
            metrics["kl"] = kl
        self._log_metrics(metrics)
        self._stop_if_not_finite(losses, inputs, model)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * aux_loss
            self._log_metrics({"aux_loss": aux_loss})
        return loss / self.current_gradient_accumulation_steps

    def _group_logps(self, model, batch, compute_entropy=False, compute_aux_loss=False):
        """Log-probs and entropies of the batch's scored candidates, `[groups, G, T]`, and TRL's auxiliary loss."""
        multiple = columns_multiple(self.pad_to_multiple_of, batch["scored"].device.type)
        part = select(batch, batch["scored"], multiple)
        # a model that shares nothing is neither asked for its width, which it may keep elsewhere, nor changed
        if self.shares_prompts and packing_is_cheaper(
            self.model.config.hidden_size, part.prompt_mask, part.completion_mask, attends_by_blocks(self.model)
        ):
            with self.accelerator.autocast():
                logps, entropies = shared_prompt_logps(model, *part.as_groups(), multiple)
            aux_loss = None
        else:
            logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
                model,
                *part.as_rows(),
                part.length,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
            )
            logps = part.from_rows(logps)
            entropies = part.from_rows(entropies) if compute_entropy else None
        return part.spread(logps), part.spread(entropies) if compute_entropy else None, aux_loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        # TRL asks in each round, also in evaluation, for ratios that group training has no use for and for reference
        # log-probabilities, which `_add_reference_logps` takes where the plan asks for them
        return None, None, None

    def _add_reference_logps(self):
        """Add the reference's log-probabilities, `[groups, G, T]`, where they are read."""
        if "reads_reference" not in self._buffered_inputs[0]:
            return
        model, scope = self.ref_model, nullcontext()
        if model is None:
            model, policy = self.model, self.accelerator.unwrap_model(self.model)
            # an adapter that was handed in has its copy, one that starts at zero is left out
            scope = use_adapter(policy, "ref" if "ref" in policy.peft_config else None)
        with scope:
            for batch in self._buffered_inputs:
                batch["ref_per_token_logps"] = self._fixed_logps(model, batch, batch["reads_reference"])

    def _fixed_logps(self, model, batch, reads):
        """
        Log-probabilities that do not change in the round, of the candidates in `reads`, 0 for others. The model runs
        what the policy will run, in the same arrangement: half precision rounds by it, and while both are the same
        they shall not differ.
        """
        checkpointing = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), checkpointing:
            return self._group_logps(model, batch)[0] * reads[..., None]

    def log_round_metric(self, name: str, value: float) -> None:
        """Log a training metric that all processes know alike."""
        self._metrics["train"][name].append(value)

    def _log_metrics(self, metrics):
        for name, value in means(self.accelerator, metrics).items():
            self.log_round_metric(name, value)

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
        raise not_finite(queries, self.state.global_step, self.args.output_dir)

    # Checkpoints

    def _run_identity(self) -> dict:
        """What must be the same in a run that is resumed."""
        taper = ", tapered" if self.args.tapered else ""
        candidates = [f"{one.kind}: {one.guide or one.column}{taper}" for one in self.candidates]
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
            check_resumable(resume_from_checkpoint, self._run_identity(), self.accelerator.num_processes)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model, trial):
        inside_cycle = self._step % self._cycle != 0
        folder = os.path.join(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        os.makedirs(folder, exist_ok=True)
        if self.args.should_save:
            unmark(folder)  # an earlier attempt at this step must not vouch for a half-written folder
        self.accelerator.wait_for_everyone()
        if inside_cycle:
            save_buffer(self._buffered_inputs, folder, self.accelerator.process_index)
        if self.args.should_save:
            state = self.round_state() | {"identity": self._run_identity(), "inside_cycle": inside_cycle}
            state |= {"processes": self.accelerator.num_processes, "step": self._step, "beta": self.kl_weight}
            save_state(state, folder)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        # trainer_state.json comes next and marks the checkpoint as whole: no process may still be writing
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        state, buffer = load_round(checkpoint, self.accelerator.process_index)
        if state is not None:
            self.load_round_state(state)
            self._step = state["step"]
        if buffer is not None:
            self._buffered_inputs = send_to_device(buffer, self.accelerator.device)
            for batch in self._buffered_inputs:  # with other options now, others may be scored or have a reference
                batch.pop("reads_reference", None)
                batch |= self._columns(self.plan(batch))
            if state.get("beta") != self.kl_weight or "ref_per_token_logps" not in self._buffered_inputs[0]:
                self._add_reference_logps()
