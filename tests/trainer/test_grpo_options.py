"""Every option that GRPOConfig adds does what docs/grpo_options.md says: one run or check of its effect each."""

import json
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
import trl
from packaging.version import Version
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM, TrainingArguments
from trl import GRPOConfig
from trl.generation import vllm_generation
from trl.trainer import grpo_trainer

from tests.conftest import CHAT_TEMPLATE, save
from tests.helpers import SHARES, build, dataset, letter_reward
from trl_negalign import NEATConfig
from trl_negalign.trainer.group_config import UNUSED_GRPO_OPTIONS


PAGE = Path(__file__).parent.parent.parent / "docs" / "grpo_options.md"
TABLE = dict(
    re.findall(r"^\| `(\w+)` \| (works|refused|no effect) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
)
OWN = {field.name: field.default for field in fields(GRPOConfig)}
for inherited in fields(TrainingArguments):
    OWN.pop(inherited.name, None)
CHECKS = {}


def shows(*names):
    """The decorated check shows the effect of these options."""

    def keep(check):
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return keep


class Bench:
    """Trains a NEAT group of four plain candidates on the tiny model and keeps what was sampled."""

    def __init__(self, make_model, tokenizer, tmp_path, monkeypatch, saved_model, capsys):
        self.make_model, self.tokenizer, self.tmp_path = make_model, tokenizer, tmp_path
        self.monkeypatch, self.saved_model, self.capsys = monkeypatch, saved_model, capsys

    def build(self, model=None, data=None, **options):
        self.prompts, self.completions = [], []

        def reward(prompts, completions, completion_ids, **kwargs):
            self.prompts.extend(prompts)
            self.completions.extend(map(tuple, completion_ids))
            return letter_reward(completions)

        options = {"num_plain": 4, "max_steps": 1, "reward_funcs": reward} | options
        return build("neat", model or self.make_model(), self.tokenizer, self.tmp_path, data, **options)

    def train(self, *args, **options):
        trainer = self.build(*args, **options)
        self.batches, group_loss = [], trainer.group_loss

        def record(token_logps, batch):
            self.batches.append(batch)
            return group_loss(token_logps, batch)

        trainer.group_loss = record
        trainer.train()
        return trainer

    @property
    def distinct(self):
        """Different completions of each query."""
        return [len(set(self.completions[i : i + 4])) for i in range(0, len(self.completions), 4)]


@pytest.fixture
def bench(make_model, tokenizer, tmp_path, monkeypatch, saved_model, capsys):
    return Bench(make_model, tokenizer, tmp_path, monkeypatch, saved_model, capsys)


# The model


@shows("model_init_kwargs")
def model_init_kwargs(bench):
    assert bench.build(bench.saved_model, model_init_kwargs={"dtype": "bfloat16"}).model.dtype == torch.bfloat16
    assert bench.build(bench.saved_model, model_init_kwargs={"dtype": "float32"}).model.dtype == torch.float32


@shows("trust_remote_code")
def trust_remote_code(bench):
    folder = Path(save(bench.make_model(), bench.tokenizer, bench.tmp_path / "remote"))
    (folder / "modeling_mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\nclass MineConfig(LlamaConfig):\n"
        "    model_type = 'mine'\n\n\nclass MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    config |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        bench.build(str(folder))
    trainer = bench.train(str(folder), trust_remote_code=True)
    assert type(trainer.model).__name__ == "MineForCausalLM" and trainer.state.global_step == 1


@shows("router_aux_loss_coef")
def router_aux_loss_coef(bench):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(
        vocab_size=len(bench.tokenizer), num_key_value_heads=1, num_local_experts=2, router_aux_loss_coef=0.5, **sizes
    )
    trainer = bench.train(
        MixtralForCausalLM(config),
        router_aux_loss_coef=0.25,
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
    )
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(0.25 * log["aux_loss"], rel=1e-5)
    if SHARES:  # older releases of TRL ignore it
        with pytest.raises(ValueError, match="is not a Mixture-of-Experts model"):
            bench.build(router_aux_loss_coef=0.25)


@shows("disable_dropout")
def disable_dropout(bench):
    def rates(**options):
        config = GPT2Config(vocab_size=len(bench.tokenizer), n_embd=16, n_layer=1, n_head=2)
        model = bench.build(GPT2LMHeadModel(config), **options).model
        return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}

    assert (rates(), rates(disable_dropout=True)) == ({0.1}, {0})


@shows("cast_lm_head_to_fp32")
def cast_lm_head_to_fp32(bench):
    """That it is scored in fp32 is in test_recovery.py."""
    trainer = bench.train(bench.make_model().bfloat16(), cast_lm_head_to_fp32=True)
    assert (trainer.model.dtype, trainer.model.lm_head.weight.dtype) == (torch.bfloat16, torch.float32)


# The groups and the batch


@shows("num_generations")
def num_generations(bench):
    bench.train(num_generations=2, num_plain=2)
    assert [len(set(bench.prompts[i : i + 2])) for i in range(0, 8, 2)] == [1] * 4
    assert len(set(bench.prompts)) == 4


@shows("num_generations_eval")
def num_generations_eval(bench):
    options = {"eval_dataset": dataset(rows=4), "per_device_eval_batch_size": 8}
    bench.build(num_generations_eval=2, **options).evaluate()
    assert len(bench.completions) == 8
    bench.build(**options).evaluate()
    assert len(bench.completions) == 16


@shows("max_completion_length")
def max_completion_length(bench):
    bench.train(max_completion_length=3)
    assert max(map(len, bench.completions)) == 3


@shows("shuffle_dataset")
def shuffle_dataset(bench):
    first = [f"question number {i}" for i in range(8)]
    bench.train(shuffle_dataset=False, max_steps=4)
    assert list(dict.fromkeys(bench.prompts)) == first
    bench.train(max_steps=4)
    assert list(dict.fromkeys(bench.prompts)) != first


@shows("pad_to_multiple_of")
def pad_to_multiple_of(bench):
    bench.train(pad_to_multiple_of=8)
    for name in ("prompt_ids", "completion_ids"):
        assert bench.batches[0][name].shape[-1] % 8 == 0
    bench.train()
    assert bench.batches[0]["completion_ids"].shape[-1] == 6


@shows("generation_batch_size")
def generation_batch_size(bench):
    trainer = bench.train(generation_batch_size=16)
    assert trainer.args.steps_per_generation == 2 and len(bench.completions) == 16


@shows("steps_per_generation")
def steps_per_generation(bench):
    trainer = bench.train(steps_per_generation=3, max_steps=3)
    assert trainer.args.generation_batch_size == len(bench.completions) == 24


@shows("num_iterations")
def num_iterations(bench):
    bench.train(num_iterations=2, max_steps=2)
    assert len(bench.completions) == 8
    first, second = (sorted(batch["rewards"].flatten().tolist()) for batch in bench.batches)
    assert first == second


# Sampling


@pytest.mark.parametrize("option", [{}, {"generation_kwargs": {}}])
def test_candidates_differ_by_default(option, bench):
    bench.train(**option)
    assert min(bench.distinct) > 1


GREEDY = {"temperature": 1e-4, "top_p": 1e-4, "top_k": 1, "min_p": 1.0}


def greedy(name):
    def check(bench):
        bench.train(**{name: GREEDY[name]})
        assert bench.distinct == [1, 1]

    check.__name__ = name
    return check


for option_name in GREEDY:
    shows(option_name)(greedy(option_name))


@shows("repetition_penalty")
def repetition_penalty(bench):
    options = {"top_k": 1, "max_completion_length": 40}
    bench.train(**options)
    assert any(len(set(ids)) < len(ids) for ids in bench.completions)
    bench.train(repetition_penalty=1e6, **options)
    assert all(len(set(ids)) == len(ids) for ids in bench.completions)


@shows("generation_kwargs")
def generation_kwargs(bench):
    bench.train(generation_kwargs={"suppress_tokens": list(range(3, 200)), "top_k": 1})
    assert not set(sum(bench.completions, ())) & set(range(3, 200))
    assert bench.distinct == [1, 1]


@shows("chat_template_kwargs")
def chat_template_kwargs(bench):
    """That dataset responses are rendered with them too is in test_recovery.py."""
    bench.tokenizer = type(bench.tokenizer)(
        tokenizer_object=bench.tokenizer.backend_tokenizer,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    bench.tokenizer.pad_token, bench.tokenizer.eos_token = "<|pad|>", "<|end|>"
    bench.tokenizer.chat_template = "{{ style }}" + CHAT_TEMPLATE
    bench.train(data=dataset("conversation"), chat_template_kwargs={"style": "brief"})
    assert all("brief<|start|>user" in bench.tokenizer.decode(ids) for ids in bench.batches[0]["prompt_ids"])


@shows("cache_implementation")
def cache_implementation(bench):
    bench.train(top_k=1)
    expected, caches = list(bench.completions), []
    model = bench.make_model()
    model.register_forward_pre_hook(
        # transformers 5.24 renamed it
        lambda module, args, kwargs: caches.append(type(kwargs.get("cache", kwargs.get("past_key_values"))).__name__),
        with_kwargs=True,
    )
    bench.train(model, top_k=1, cache_implementation="static")
    assert "StaticCache" in caches and "DynamicCache" not in caches
    assert bench.completions == expected


# Rewards and the reference


@shows("beta")
def beta(bench):
    first, second = (
        log["kl"] for log in bench.train(beta=0.1, max_steps=2, model=bench.saved_model).state.log_history[:2]
    )
    assert first == pytest.approx(0.0, abs=1e-6) and second > 0
    assert "kl" not in bench.train().state.log_history[0]


@shows("reward_weights")
def reward_weights(bench):
    rewards = [letter_reward, lambda completions, **kwargs: [1.0] * len(completions)]
    log = bench.train(reward_funcs=rewards, reward_weights=[2.0, 0.5]).state.log_history[0]
    assert log["reward/plain"] == pytest.approx(2 * log["rewards/letter_reward/mean"] + 0.5, abs=1e-5)


@shows("mask_truncated_completions")
def mask_truncated_completions(bench):
    bench.train(mask_truncated_completions=True)
    batch = bench.batches[0]
    cut = torch.tensor([bench.tokenizer.eos_token_id not in ids for ids in bench.completions])
    assert cut.any() and batch["rewards"].isnan().sum() == cut.sum()
    assert torch.equal(batch["rewards"].isnan(), batch["completion_mask"].sum(-1) == 0)


@shows("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps")
def sync_ref_model(bench):
    def apart(**options):
        trainer = bench.train(bench.saved_model, beta=0.1, **options)
        pairs = zip(trainer.model.parameters(), trainer.ref_model.parameters(), strict=True)
        return max((one - two).abs().max().item() for one, two in pairs)

    sync = {"sync_ref_model": True, "ref_model_mixup_alpha": 1.0, "ref_model_sync_steps": 1}
    whole = apart()
    assert whole > 1e-3
    assert apart(**sync) == pytest.approx(0.0, abs=1e-6)
    assert apart(**sync | {"ref_model_mixup_alpha": 0.25}) == pytest.approx(0.75 * whole, rel=1e-3)
    assert apart(**sync | {"ref_model_sync_steps": 2}) == pytest.approx(whole, rel=1e-6)


# What is logged


@shows("log_completions")
def log_completions(bench):
    bench.train(log_completions=True)
    assert (bench.tmp_path / "out" / "completions" / "completions_00001.parquet").is_file()


@shows("num_completions_to_print")
def num_completions_to_print(bench):
    def printed(**options):
        bench.capsys.readouterr()
        bench.train(log_completions=True, **options)
        return bench.capsys.readouterr().out.count("question")

    assert printed() == 4 * printed(num_completions_to_print=2) > 0


@shows("log_unique_prompts")
def log_unique_prompts(bench):
    def rows(**options):
        tables = []
        wandb = SimpleNamespace(
            run=True, Table=lambda dataframe: dataframe, log=lambda entry: tables.append(entry["completions"])
        )
        bench.monkeypatch.setattr(grpo_trainer, "wandb", wandb, raising=False)
        trainer = bench.build(log_completions=True, **options)
        trainer.args.report_to = ["wandb"]
        trainer.train()
        return [len(table) for table in tables]

    assert set(rows()) == {8}
    assert set(rows(log_unique_prompts=True)) == {2}


@shows("log_completions_hub_repo")
def log_completions_hub_repo(bench):
    calls = []
    bench.monkeypatch.setattr(grpo_trainer, "create_repo", lambda repo_id, **kwargs: calls.append(repo_id))
    bench.monkeypatch.setattr(grpo_trainer.DatasetCard, "push_to_hub", lambda self, repo_id: calls.append(repo_id))
    bench.monkeypatch.setattr(grpo_trainer, "CommitScheduler", lambda **kwargs: calls.append(kwargs["folder_path"]))
    bench.build(log_completions=True, log_completions_hub_repo="mine/completions")
    assert calls == ["mine/completions", "mine/completions", f"{bench.tmp_path}/out/completions"]


# Other engines


@shows("use_transformers_continuous_batching", "transformers_continuous_batching_config", "use_transformers_paged")
def continuous_batching(bench):
    if Version(transformers.__version__) < Version("5.8"):
        pytest.skip("needs transformers 5.8")
    trainer = bench.train(
        use_transformers_continuous_batching=True, transformers_continuous_batching_config={"max_memory_percent": 0.1}
    )
    assert trainer.continuous_batching_config.max_memory_percent == 0.1
    assert len(bench.completions) == 8 and all(bench.completions)
    assert bench.build(use_transformers_paged=True).use_transformers_continuous_batching


VLLM = {
    "vllm_model_impl": ("model_impl", "transformers"),
    "vllm_enable_sleep_mode": ("enable_sleep_mode", True),
    "vllm_structured_outputs_regex": ("structured_outputs_regex", "[a-z]+"),
    "vllm_server_base_url": ("server_base_url", "http://localhost:8001"),
    "vllm_server_host": ("server_host", "127.0.0.1"),
    "vllm_server_port": ("server_port", 8001),
    "vllm_server_timeout": ("server_timeout", 1.0),
    "vllm_group_port": ("group_port", 51217),
    "vllm_gpu_memory_utilization": ("gpu_memory_utilization", 0.5),
    "vllm_max_model_length": ("max_model_length", 512),
    "vllm_tensor_parallel_size": ("tensor_parallel_size", 2),
}


@shows("use_vllm", "vllm_mode", *VLLM)
def vllm_options_reach_the_engine(bench):
    """What vLLM samples from is in test_vllm.py."""
    bench.monkeypatch.setattr(vllm_generation.VLLMGeneration, "_init_vllm", lambda self: None)
    options = {name: value for name, (_, value) in VLLM.items()}
    engine = bench.build(use_vllm=True, vllm_mode="server", **options).vllm_generation
    assert engine.mode == "server"
    assert {name: getattr(engine, name) for name, _ in VLLM.values()} == dict(VLLM.values())


@shows("ds3_gather_for_generation")
def ds3_gather_for_generation(bench):
    """With ZeRO-3 itself: tests/distributed."""
    asked, unwrap = [], grpo_trainer.unwrap_model_for_generation

    def record(*args, gather_deepspeed3_params, **kwargs):
        asked.append(gather_deepspeed3_params)
        return unwrap(*args, gather_deepspeed3_params=gather_deepspeed3_params, **kwargs)

    bench.monkeypatch.setattr(grpo_trainer, "unwrap_model_for_generation", record)
    bench.train(ds3_gather_for_generation=False)
    assert asked == [False]


# No effect, refused


@shows("log_multimodal")
def log_multimodal(bench):
    one = bench.train(log_completions=True).state.log_history[0]["loss"]
    assert bench.train(log_completions=True, log_multimodal=False).state.log_history[0]["loss"] == one


@pytest.mark.parametrize("check", dict.fromkeys(CHECKS.values()), ids=lambda check: check.__name__)
def test_effect(check, bench):
    if missing := [name for name, shown in CHECKS.items() if shown is check and name not in OWN]:
        pytest.skip(f"TRL {trl.__version__} has no {', '.join(missing)}")
    check(bench)


OTHER_VALUES = {"loss_type": "grpo", "importance_sampling_level": "sequence", "scale_rewards": "batch"}
OTHER_VALUES |= {"multi_objective_aggregation": "normalize_then_sum", "vllm_importance_sampling_mode": "token_mask"}


@pytest.mark.parametrize("name", sorted(name for name, what in TABLE.items() if what == "refused"))
def test_refused(name, tmp_path):
    if name not in OWN:
        pytest.skip(f"TRL {trl.__version__} has no {name}")
    default = NEATConfig.__dataclass_fields__[name].default
    if name in OTHER_VALUES:
        value = OTHER_VALUES[name]
    else:
        value = not default if isinstance(default, bool) else (default or 0) + 0.25
    with pytest.raises(ValueError, match=f"{name}=.* means nothing in NEATConfig. Leave it out"):
        NEATConfig(str(tmp_path), bf16=False, use_cpu=True, **{name: value})


def test_the_table_is_of_every_option():
    listed, noted = PAGE.read_text(encoding="utf-8").split("## Only in some versions")
    if f"TRL {trl.__version__};" in listed:
        assert set(TABLE) == set(OWN)
    else:
        assert all(name in TABLE or f"`{name}`" in noted for name in OWN)
    assert {name for name, what in TABLE.items() if what == "refused"} == set(UNUSED_GRPO_OPTIONS)
    assert {name for name, what in TABLE.items() if what != "refused"} == set(CHECKS)
