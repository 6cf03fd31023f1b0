"""The trainers that are compared, NEAT, PLE and TRL's GRPO and Online DPO, with one and the same work to do."""

import argparse


METHODS = ("NEAT", "PLE", "GRPO", "Online DPO")
GUIDE = "Answer the following message as a knowledgeable and caring assistant would, and say why. "


def build_trainers(args: argparse.Namespace, query: int, completion: int, group: int, folder: str) -> dict:
    """
    The trainers of `args.methods` by name, each on a model of its own with the same random weights.

    A step of each samples `args.queries * group` completions of exactly `completion` tokens for the same queries of
    `query` tokens, or with `args.spread_queries` of half of that on, and trains on all of them. Online DPO samples two
    completions a query by design, so it takes every query once for each pair of a group. Only NEAT's candidates and
    half of PLE's are sampled after a guide.

    Args:
        args (`argparse.Namespace`): the options of `speed.py`.
        query (`int`): tokens of a query.
        completion (`int`): tokens of a completion.
        group (`int`): completions of a query.
        folder (`str`): where trainers may write.
    """
    import torch
    from compact_head import CompactHead
    from datasets import concatenate_datasets
    from shapes import byte_tokenizer, model_config, queries
    from transformers import AutoModelForCausalLM, PrinterCallback
    from trl import GRPOConfig, GRPOTrainer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    from trl_negalign import NEATConfig, NEATTrainer, PLEConfig, PLETrainer

    tokenizer = byte_tokenizer()
    dataset = queries(args.queries, query, args.seed, args.spread_queries).select_columns("prompt")
    reward = length_checking_reward(args.queries * group, completion, tokenizer.eos_token_id)

    def build(trainer_class, config_class, rows, repeated=1, **options):
        torch.manual_seed(args.seed)
        config = config_class(
            output_dir=folder,
            per_device_train_batch_size=rows,
            max_steps=args.repeats + 2,
            learning_rate=1e-6,
            temperature=1.0,
            generation_kwargs={"min_new_tokens": completion, "use_cache": True},
            gradient_checkpointing=args.gradient_checkpointing,
            torch_compile=args.compile,
            bf16=args.dtype == "bf16",
            use_cpu=not torch.accelerator.is_available(),
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=args.seed,
            **options,
        )
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_config(
                model_config(args.shape), dtype=torch.float32, attn_implementation=args.attention
            ),
            reward_funcs=reward,
            args=config,
            train_dataset=concatenate_datasets([dataset] * repeated),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        if args.compact_head and trainer.accelerator.device.type == "cpu":
            CompactHead(trainer.model)
        return trainer

    rows = args.queries * group
    of_group = {"rows": rows, "num_generations": group, "max_completion_length": completion}
    ours = of_group | {"share_prompts": {"auto": "auto", "true": True, "false": False}[args.share_prompts]}
    text = guide(args.guide)
    half = {"num_positive": group // 2, "num_negative": group // 2, "dataset_responses": []}
    pairs = {"rows": rows // 2, "repeated": group // 2}
    options = {
        "NEAT": (NEATTrainer, NEATConfig, ours | half | {"positive_prompt": text, "negative_prompt": text}),
        "PLE": (PLETrainer, PLEConfig, ours | {"principle_prompt": text}),
        "GRPO": (GRPOTrainer, GRPOConfig, of_group),
        # max_length would cut queries from the left
        "Online DPO": (
            OnlineDPOTrainer,
            OnlineDPOConfig,
            pairs | {"max_new_tokens": completion, "max_length": query + completion},
        ),
    }
    return {
        name: build(trainer_class, config_class, **kwargs)
        for name, (trainer_class, config_class, kwargs) in options.items()
        if name in args.methods
    }


def guide(tokens: int) -> str:
    """A guide that takes `tokens` tokens of the byte tokenizer, the blank line after it included."""
    from trl_negalign.guides import SEPARATOR

    length = tokens - len(SEPARATOR)
    # a blank at its end would be stripped
    return (GUIDE * (length // len(GUIDE) + 1))[: length - 1] + "."


def length_checking_reward(rows: int, completion: int, eos_token_id: int):
    """
    A reward function that makes sure that the work was the same for all.

    Args:
        rows (`int`): completions of a step.
        completion (`int`): tokens of each.
        eos_token_id (`int`): the token that none of them may have.

    Raises:
        RuntimeError: from the reward function, if a completion is missing, too short, too long or ended early.
    """

    def reward(completions, completion_ids, **kwargs):
        lengths = [ids.index(eos_token_id) if eos_token_id in ids else len(ids) for ids in completion_ids]
        if lengths != [completion] * rows:
            raise RuntimeError(f"the completions should be {rows} of {completion} tokens, and are of {lengths}.")
        return [float(sum(ids) % 97) for ids in completion_ids]

    return reward
