"""No pass that teaches nothing, and nothing in a pass that teaches nothing; what is learnt stays the same."""

import itertools
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface, AutoModelForCausalLM, GenerationMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from trl.trainer import utils

from tests.conftest import save
from tests.helpers import (
    COMPARING,
    LOSS_ERROR,
    METHODS,
    SHARES,
    build,
    dataset,
    distance,
    is_scoring,
    letter_reward,
    needs_fused_head,
    weights,
)
from trl_negalign.trainer import group_trainer
from trl_negalign.trainer.group_trainer import GroupTrainer


SGD = {"optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
ALL = pytest.mark.parametrize("method", METHODS)
LONG_AND_SHORT = Dataset.from_dict(
    {"prompt": ["How do I boil an egg? Put it in hot water"[: 8 + i] for i in range(32)]}
)


def scored(model, passes):
    """Keep what each scoring pass of a model is given in `passes`: tokens, mask, whether a gradient is kept."""

    def keep(module, args, kwargs):
        if is_scoring(kwargs):
            passes.append((kwargs["input_ids"], kwargs["attention_mask"], torch.is_grad_enabled()))

    model.register_forward_pre_hook(keep, with_kwargs=True)
    return passes


def keeping(rows):
    """A reward that keeps query, tokens and reward of every row."""

    def reward(prompts, completions, completion_ids, **kwargs):
        rows.extend(zip(prompts, completion_ids, letter_reward(completions), strict=True))
        return letter_reward(completions)

    return reward


def assert_rows(ids, rows, tokenizer, share):
    """Nothing but these went through the model, a row for each and no column too many."""
    expected, queries = [], []
    for prompt, tokens, _ in rows:
        query = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        queries.append(len(query))
        expected.append((query + tokens)[: -1 if share else None])  # packed, the last token predicts nothing
    found = [str(row)[1:-1] for row in ids.tolist()]
    assert len(found) == len(expected)
    assert all(any(str(sequence)[1:-1] in row for row in found) for sequence in expected)
    # separate rows are padded around the border between query and response
    assert ids.shape[1] == (max(map(len, expected)) if share else max(queries) + max(len(row[1]) for row in rows))


# Passes


@ALL
@pytest.mark.parametrize(
    ("options", "with_old"),
    [
        ({"num_iterations": 2, "max_steps": 4}, [False, True, True] * 2),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 4, "max_steps": 2}, [False] * 4 + [True] * 4),
    ],
)
def test_one_pass_a_micro_batch(method, options, with_old, model, tokenizer, tmp_path):
    """Also where the samples are of an older policy, for which TRL makes a pass more, unless the method reads it."""
    passes = scored(model, [])
    build(method, model, tokenizer, tmp_path, per_device_train_batch_size=4, **options).train()
    assert [gradient for *_, gradient in passes] == (with_old if method == "reinforce" else [True] * 4)


@ALL
@needs_fused_head
def test_one_pass_more_for_the_kl_term(method, model, tokenizer, tmp_path):
    passes = scored(model, [])
    lora = LoraConfig(r=4, task_type="CAUSAL_LM")
    options = {"beta": 0.1, "peft_config": lora, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    build(method, model, tokenizer, tmp_path, max_steps=2, **options).train()
    assert [gradient for *_, gradient in passes] == [False, False, True, True] * 2


@pytest.mark.parametrize("asked", [None, 16])
@pytest.mark.parametrize("device_type", ["cpu", "accelerator"])
@pytest.mark.parametrize("share", [False, True])
def test_rows_of_a_multiple(share, device_type, asked, model, tokenizer, tmp_path, monkeypatch):
    """Packed or not, the user's multiple holds; without it an accelerator gets one, which a CPU plays here."""
    if device_type == "accelerator":
        plain = group_trainer.columns_multiple
        monkeypatch.setattr(group_trainer, "columns_multiple", lambda asked, device_type: plain(asked, "npu"))
    passes = scored(model, [])
    options = {"share_prompts": share, "pad_to_multiple_of": asked, "gradient_accumulation_steps": 4, "max_steps": 1}
    trainer = build("neat", model, tokenizer, tmp_path, LONG_AND_SHORT, **SGD | options)
    trainer.train()
    widths = [ids.shape[1] for ids, *_ in passes]
    multiple = asked or (1 if device_type == "cpu" else 64)
    assert len(widths) == 4 and all(width % multiple == 0 for width in widths)
    assert multiple > 1 or any(width % 16 for width in widths)


NPO = {"penalty_type": "npo", "peft_config": LoraConfig(r=4), "max_steps": 1}


@pytest.mark.parametrize("share", [False, True])
def test_npo_alone_reads_the_reference_of_the_worst_alone(share, model, tokenizer, tmp_path):
    passes, rows = scored(model, []), []
    options = NPO | {"sft_weight": 0.0, "ranking_weight": 0.0, "share_prompts": share}
    build("neat", model, tokenizer, tmp_path, dataset("conversation"), keeping(rows), **options).train()
    (ids, _, gradient), _ = passes
    assert not gradient
    assert_rows(ids, [min(rows[i : i + 4], key=lambda row: row[2]) for i in (0, 4)], tokenizer, False)


@pytest.mark.parametrize("share", [False, True])
def test_the_reference_runs_what_the_policy_runs(share, model, tokenizer, tmp_path):
    """In every micro-batch, row by row and column by column: half precision rounds by the shape."""
    passes = scored(model, [])
    options = NPO | {"share_prompts": share, "gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 4}
    build("neat", model, tokenizer, tmp_path, LONG_AND_SHORT, **options).train()
    shapes = [ids.shape for ids, *_ in passes]
    assert [gradient for *_, gradient in passes] == ([False] * 2 + [True] * 4) * 2
    for start in (0, 6):
        reference = [ids for ids, *_ in passes[start : start + 2]]
        for ids, again in zip(reference * 2, (ids for ids, *_ in passes[start + 2 : start + 6]), strict=True):
            assert torch.equal(ids, again)
    assert len(set(shapes)) > 1


@pytest.fixture
def saved_bf16(model, tokenizer, tmp_path):
    return save(model.bfloat16(), tokenizer, tmp_path / "bf16")


@pytest.mark.parametrize("reference", ["adapter left out", "adapter's copy", "model"])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("options", [{}, {"sft_weight": 0.0, "ranking_weight": 0.0}, {"beta": 0.1}])
def test_the_policy_starts_at_its_reference(options, share, reference, saved_bf16, tokenizer, tmp_path, monkeypatch):
    """ℓ − ℓ_ref is 0 in bf16 too, to the last bit, for every token of the first optimizer step."""
    if not SHARES and reference != "adapter left out":
        pytest.skip("TRL before its fused head rounds another model's log-probabilities in another way")
    model = AutoModelForCausalLM.from_pretrained(saved_bf16, dtype=torch.bfloat16)
    lora = LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=reference == "adapter left out")
    peft_config = None
    if reference == "adapter left out":
        peft_config = lora
    elif reference == "adapter's copy":
        model = get_peft_model(model, lora)
    packed, original = [], group_trainer.shared_prompt_logps
    monkeypatch.setattr(group_trainer, "shared_prompt_logps", lambda *args: packed.append(1) or original(*args))
    options = SGD | {"gradient_accumulation_steps": 2, "max_steps": 1, "max_completion_length": 24} | options
    trainer = build(
        "neat",
        model,
        tokenizer,
        tmp_path,
        LONG_AND_SHORT,
        share_prompts=share,
        penalty_type="npo",
        peft_config=peft_config,
        **options,
    )
    ratios, group_loss = [], trainer.group_loss

    def record(token_logps, batch):
        taken = batch["reads_reference"][..., None] & (batch["completion_mask"] == 1)
        ratios.append((token_logps.detach() - batch["ref_per_token_logps"])[taken])
        assert batch["reads_reference"].any(-1).all() and token_logps.detach()[taken].abs().min() > 0
        return group_loss(token_logps, batch)

    trainer.group_loss = record
    trainer.train()
    assert len(ratios) == 2 and all(len(ratio) > 10 and ratio.count_nonzero() == 0 for ratio in ratios)
    assert not packed or share


@ALL
def test_no_pass_in_evaluation(method, model, tokenizer, tmp_path):
    passes = scored(model, [])
    options = {"beta": 0.1, "peft_config": LoraConfig(r=4), "per_device_eval_batch_size": 8}
    trainer = build(method, model, tokenizer, tmp_path, eval_dataset=dataset(rows=4), **options)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    assert passes == []


@ALL
@needs_fused_head
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("log_entropy", [False, True])
def test_entropies_only_to_log_them(method, share, log_entropy, model, tokenizer, tmp_path):
    outputs = []
    model.register_forward_hook(
        lambda module, args, kwargs, output: outputs.append(output) if is_scoring(kwargs) else None,
        with_kwargs=True,
    )
    trainer = build(method, model, tokenizer, tmp_path, share_prompts=share, log_entropy=log_entropy, max_steps=1)
    trainer.train()
    assert len(outputs) == 1
    # TRL's own head, which is left in place where nothing is shared, computes them in any case
    assert (outputs[0].entropy is not None) == (log_entropy or not share)
    assert ("entropy" in trainer.state.log_history[0]) == log_entropy


@needs_fused_head
def test_with_sharing_off_nothing_is_patched(model, tokenizer, tmp_path, monkeypatch):
    """Neither transformers' attention and its `generate` nor the head that TRL has put on the model."""
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    heads, generates, plain = [], [], GenerationMixin.generate
    monkeypatch.setattr(utils, "add_fused_lm_head", lambda *args, **kwargs: heads.append(1))

    def generate(self, *args, **kwargs):
        generates.append("generate" in vars(self))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    build("neat", model, tokenizer, tmp_path, share_prompts=False, max_steps=1).train()
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward
    assert heads == [] and generates == [False]


# Candidates


def asked(method, rewards, threshold=0.2, **options):
    """What a trainer with these options leaves in, as lists of 0 and 1."""
    trainer_class, config_class = METHODS[method]
    trainer = object.__new__(trainer_class)
    size = len(rewards[0])
    trainer.args = config_class(
        "out", use_cpu=True, bf16=False, num_generations=size, per_device_train_batch_size=size, **options
    )
    batch = {"rewards": torch.tensor(rewards), "threshold": torch.full((len(rewards),), threshold)}
    return trainer.plan(batch).trained.int().tolist()


NAN = math.nan
GROUPS = [[3.0, 1.0, 2.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0], [NAN, 1.0, NAN, 2.0, 2.0], [NAN, NAN, 1.0, NAN, NAN]]
NOTHING = [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "first", "third"),
    [
        ({}, [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]),
        ({"sft_weight": 0.0, "penalty_weight": 0.0}, [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]),
        ({"ranking_weight": 0.0}, [1, 0, 0, 0, 1], [0, 1, 0, 1, 0]),
        ({"ranking_weight": 0.0, "penalty_weight": 0.0}, [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]),
        ({"ranking_weight": 0.0, "sft_weight": 0.0}, [0, 0, 0, 0, 1], [0, 1, 0, 0, 0]),
        # the sum of p_i − p_j counts a candidate as often up as there are worse ones, down as there are better ones
        ({"ranking_loss_type": "linear"}, [1, 1, 1, 1, 1], [0, 1, 0, 1, 1]),
    ],
)
def test_what_neat_leaves_in(options, first, third):
    assert asked("neat", GROUPS, **options) == [first, NOTHING, third, NOTHING]


def test_the_middle_of_a_linear_ranking():
    options = {"ranking_loss_type": "linear", "sft_weight": 0.0, "penalty_weight": 0.0}
    assert asked("neat", [[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]], **options) == [[1, 0, 1], [1, 1, 1]]
    # what it shares with the better one is not what it shares with the worse one
    options["skip_shared_prefix"] = True
    assert asked("neat", [[2.0, 1.0, 0.0], [1.0, 0.0, 0.0]], **options) == [[1, 1, 1], [1, 1, 1]]


# pairs (0, 2) and (1, 3) of each group: ranked and imitated, tied and unscored, and a gap of 200
PAIRS = [[0.0, 1.0, 0.5, 0.0], [1.0, NAN, 1.0, 2.0], [200.0, 0.0, 0.0, 0.1]]


@pytest.mark.parametrize(
    ("options", "first", "third"),
    [
        ({}, [1, 1, 1, 1], [1, 1, 1, 1]),
        ({"wsft_weight": 0.0}, [1, 0, 1, 0], [0, 0, 0, 0]),
        ({"ranking_weight": 0.0}, [0, 1, 0, 1], [1, 1, 1, 1]),
        ({"weight_range": "unit"}, [1, 1, 1, 1], [1, 1, 0, 1]),  # σ(−200) is 0 in single precision
    ],
)
def test_what_ple_leaves_in(options, first, third):
    assert asked("ple", PAIRS, **options) == [first, [0, 0, 0, 0], third]


# rewards of two groups of four (of three where the ranking is linear): some tied, some missing
REWARDS = {
    "spread": lambda completions, **kwargs: letter_reward(completions),
    "one group tied": lambda completions, **kwargs: [1.0] * 4 + letter_reward(completions[4:]),
    "missing": lambda completions, **kwargs: [None, *letter_reward(completions[1:7]), None],
    "all tied": lambda completions, **kwargs: [1.0] * len(completions),
    "all missing": lambda completions, **kwargs: [None] * len(completions),
}
CASES = [
    ("neat", {}, "one group tied"),
    ("neat", {}, "missing"),
    ("neat", {}, "all missing"),
    ("neat", {"ranking_weight": 0.0}, "spread"),
    ("neat", {"ranking_weight": 0.0, "penalty_weight": 0.0, "sft_reduction": "sum"}, "missing"),
    (
        "neat",
        {"ranking_weight": 0.0, "sft_weight": 0.0, "penalty_weight": 50.0, "penalty_type": "unlikelihood"},
        "spread",
    ),
    ("neat", {"ranking_loss_type": "logsigmoid", "ranking_margin": 0.1}, "missing"),
    ("neat", {"ranking_loss_type": "linear", "num_generations": 3, "per_device_train_batch_size": 6}, "spread"),
    ("neat", {"tapered": True, "skip_shared_prefix": True, "ranking_loss_type": "linear"}, "one group tied"),
    ("ple", {"tapered": True, "ranking_weight": 0.0}, "missing"),
    ("ple", {}, "missing"),
    ("ple", {}, "all tied"),
    ("ple", {"ranking_weight": 0.0}, "spread"),
    ("ple", {"wsft_weight": 0.0, "threshold_init": 0.0}, "spread"),
    ("ple", {"weight_range": "unit", "replay": 1}, "one group tied"),
    ("reinforce", {"positive_weight": 0.0}, "spread"),
    ("reinforce", {"positive_weight": 0.0, "ratio": "tapered"}, "missing"),
    ("reinforce", {"baseline": "group"}, "one group tied"),
    ("reinforce", {"ratio": "nft"}, "all tied"),
]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("method", "options", "reward"), CASES)
def test_nothing_else_is_learnt(method, options, reward, share, make_model, tokenizer, tmp_path, monkeypatch):
    def run():
        model, passes = make_model(), []
        scored(model, passes)
        trainer = build(
            method, model, tokenizer, tmp_path, None, REWARDS[reward], share_prompts=share, **SGD | options
        )
        trainer.train()
        return weights(model), trainer.state.log_history, sum(ids.numel() for ids, *_ in passes)

    trained, log, tokens = run()
    monkeypatch.setattr(METHODS[method][0], "plan", GroupTrainer.plan)
    expected, expected_log, all_tokens = run()
    assert distance(trained, expected) < 1e-6
    assert (distance(trained, weights(make_model())) > 1e-4) == (not reward.startswith("all"))
    assert tokens < all_tokens
    for entry, expected_entry in zip(log[:2], expected_log[:2], strict=True):
        for name in {"loss", "grad_norm"} & entry.keys():  # the norm is logged by some releases only
            assert entry[name] == pytest.approx(expected_entry[name], rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("share", [False, True])
def test_raft_runs_the_best_alone(share, model, tokenizer, tmp_path):
    passes, rows = scored(model, []), []
    options = {"ranking_weight": 0.0, "penalty_weight": 0.0, "max_steps": 1, "share_prompts": share}
    trainer = build("neat", model, tokenizer, tmp_path, dataset("conversation"), keeping(rows), **options)
    trainer.train()
    [(ids, _, _)] = passes
    assert_rows(ids, [max(rows[i : i + 4], key=lambda row: row[2]) for i in (0, 4)], tokenizer, False)
    log = trainer.state.log_history[0]
    assert log["neat/loss_sft"] == pytest.approx(log["loss"], abs=LOSS_ERROR) and log["neat/logp_best"] < 0
    for name in ("loss_ranking", "loss_penalty", "ranking_accuracy", "logp_worst"):
        assert log[f"neat/{name}"] is None, name


def test_ple_without_its_ranking_logs_none(model, tokenizer, tmp_path):
    trainer = build("ple", model, tokenizer, tmp_path, ranking_weight=0.0, max_steps=1)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["ple/loss_ranking"] is None
    assert math.isfinite(log["ple/gap"]) and math.isfinite(log["ple/loss_wsft"])


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("options", [{"log_entropy": True}, {"beta": 0.1}])
def test_all_are_run_where_more_than_the_objective_reads_them(options, share, model, tokenizer, tmp_path):
    passes = scored(model, [])
    options = options | {"peft_config": LoraConfig(r=4, init_lora_weights=False), "share_prompts": share}
    trainer = build("neat", model, tokenizer, tmp_path, None, REWARDS["all tied"], max_steps=1, **options)
    trainer.train()
    assert passes[-1][0].shape[0] == (2 if share else 8)
    assert trainer.state.log_history[0]["entropy" if "log_entropy" in options else "kl"] > 0


@ALL
@pytest.mark.parametrize("share", [False, True])
def test_a_tied_micro_batch_is_one_row(method, share, model, tokenizer, tmp_path):
    """One row goes through, every parameter gets a gradient, and it is zero."""
    passes, gradients = scored(model, []), {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: gradients.update({name: p.grad.clone()}))
    options = {"share_prompts": share, "max_steps": 1} | COMPARING.get(method, {})
    build(method, model, tokenizer, tmp_path, None, REWARDS["all tied"], **options).train()
    [(ids, _, _)] = passes
    assert len(ids) == 1
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.count_nonzero() == 0 for gradient in gradients.values())


# Micro-batches


ROUNDS = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "steps_per_generation": 4}


@ALL
@pytest.mark.parametrize("options", [{}, {"num_iterations": 2}])
def test_micro_batches_of_like_length(method, options, make_model, tokenizer, tmp_path, monkeypatch):
    def run():
        model, passes, batches = make_model(), [], []
        scored(model, passes)
        trainer = build(
            method,
            model,
            tokenizer,
            tmp_path,
            LONG_AND_SHORT,
            share_prompts=False,
            max_steps=4,
            **SGD | ROUNDS | options,
        )
        group_loss = trainer.group_loss

        def record(token_logps, batch):
            batches.append(batch["prompt_mask"].sum(1).tolist())
            return group_loss(token_logps, batch)

        trainer.group_loss = record
        trainer.train()
        steps = [sorted(one + two) for one, two in itertools.pairwise(batches)][::2]
        return weights(model), batches, steps, sum(ids.numel() for ids, *_ in passes)

    trained, batches, steps, tokens = run()
    monkeypatch.setattr(group_trainer, "by_length", lambda micro_batches, lengths, together: micro_batches)
    expected, shuffled, expected_steps, all_tokens = run()
    assert batches != shuffled
    assert steps == expected_steps  # no group has left its optimizer step
    assert distance(trained, expected) < 1e-6
    assert tokens < all_tokens
