"""Datasets, rewards and trainers that many tests share."""

from copy import deepcopy

import pytest
import torch
import transformers
import trl.trainer.utils
from datasets import Dataset
from packaging.version import Version
from peft import LoraConfig

from trl_negalign import NEATConfig, PLEConfig, WeightedReinforceConfig
from trl_negalign.methods.table import GROUP_METHODS, classes


needs_activated_lora = pytest.mark.skipif(
    "alora_invocation_tokens" not in LoraConfig.__dataclass_fields__, reason="this PEFT has no activated LoRA"
)
# TRL before 1.16 has no fused head, and without one nothing is shared
SHARES = hasattr(trl.trainer.utils, "add_fused_lm_head")
needs_fused_head = pytest.mark.skipif(not SHARES, reason="this TRL has no fused head")
# transformers before 5 rounds the loss that it logs to four decimals
LOSS_ERROR = 1e-5 if Version(transformers.__version__) >= Version("5") else 6e-5

QUESTIONS = [f"question number {i}" for i in range(32)]
GUIDES = {
    NEATConfig: {"positive_prompt": "Answer kindly.", "negative_prompt": "Answer rudely."},
    PLEConfig: {"principle_prompt": "Follow the principle."},
    WeightedReinforceConfig: {},
}
# letter_reward lies between −1 and 1
SETTINGS = {WeightedReinforceConfig: {"success_threshold": 0.0}}
# with these every method compares the rewards of a group, whatever their scale: ties teach nothing
COMPARING = {"reinforce": {"baseline": "group"}}
# trainer and configuration by command, without the settings of another method
METHODS = {method.command: classes(method) for method in GROUP_METHODS if method.prefix == method.command}

# Qwen3's family: the generation prompt opens reasoning unless it is turned off, and the template closes it
CLOSING = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set parts = m['content'].split('</think>') %}"
    "{{ '[assistant]\n<think>\n' + (parts[0].split('<think>')[-1].strip() if parts | length > 1 else '')"
    " + '\n</think>\n\n' + parts[-1].strip() + eos_token + '\n' }}"
    "{% else %}{{ '[' + m['role'] + ']\n' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n<think>\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
# DeepSeek-R1's family: the generation prompt opens reasoning, and a message is rendered without any
DROPPING = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'].split('</think>')[-1] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]<think>\n' }}{% endif %}"
)


def with_template(tokenizer, template):
    """The tokenizer with another chat template."""
    changed = deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def dataset(style: str = "string", responses: bool = False, rows: int = 16) -> Dataset:
    """`rows` queries as plain strings or as conversations, with `chosen` and `rejected` if wanted."""

    def user(text):
        return text if style == "string" else [{"role": "user", "content": text}]

    def assistant(text):
        return f" {text}" if style == "string" else [{"role": "assistant", "content": text}]

    columns = {"prompt": [user(text) for text in QUESTIONS[:rows]]}
    if responses:
        columns["chosen"] = [assistant(f"a kind word {i}") for i in range(rows)]
        columns["rejected"] = [assistant(f"nobody said {i}") for i in range(rows)]
    return Dataset.from_dict(columns)


def text_of(completion) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def letter_reward(completions, **kwargs) -> list[float]:
    """Deterministic, spread out, and different for almost any two texts."""
    return [
        (sum((i + 1) * ord(char) for i, char in enumerate(text_of(completion))) % 997) / 500 - 1
        for completion in completions
    ]


def is_scoring(kwargs: dict) -> bool:
    """Whether a forward pass with these arguments scores completions, by TRL's fused head or without it."""
    return bool(kwargs.get("fused_lm_head")) or kwargs.get("use_cache") is False


def build(method: str, model, tokenizer, tmp_path, train_dataset=None, reward_funcs=letter_reward, **kwargs):
    """A trainer on the tiny model; keyword arguments of the configuration override these defaults."""
    trainer_class, config_class = METHODS[method]
    trainer_keys = ("eval_dataset", "peft_config", "callbacks", "reward_processing_classes")
    trainer_kwargs = {key: kwargs.pop(key) for key in trainer_keys if key in kwargs}
    options = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 1e-2,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    options |= GUIDES.get(config_class, {}) | SETTINGS.get(config_class, {}) | kwargs
    if options.get("share_prompts") and not SHARES:
        pytest.skip("this TRL has no fused head, and without one nothing is shared")
    return trainer_class(
        model=model,
        reward_funcs=reward_funcs,
        args=config_class(**options),
        train_dataset=dataset() if train_dataset is None else train_dataset,
        processing_class=tokenizer,
        **trainer_kwargs,
    )


def uniform(mean_logps):
    """Token log-probabilities `[groups, G, 2]` whose mean is given, and a mask of ones."""
    token_logps = torch.tensor(mean_logps, dtype=torch.float64).unsqueeze(-1).repeat(1, 1, 2)
    return token_logps, torch.ones_like(token_logps)


def seen_batches(trainer) -> list[dict]:
    """The micro-batches that a trainer's objective gets, from now on."""
    group_loss, seen = trainer.group_loss, []

    def record(token_logps, batch):
        seen.append(batch)
        return group_loss(token_logps, batch)

    trainer.group_loss = record
    return seen


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def distance(before, after):
    return max((before[name] - after[name]).abs().max().item() for name in before)


def history(trainer, key):
    return [log[key] for log in trainer.state.log_history if key in log]
