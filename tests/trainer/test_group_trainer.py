"""What users of TRL's online trainer have must still work, and what is special to groups must hold."""

import itertools
import json
import math
import os

import pandas as pd
import pytest
import torch
from peft import LoraConfig
from transformers import MixtralConfig, MixtralForCausalLM, TrainerCallback

from tests.helpers import (
    COMPARING,
    GUIDES,
    LOSS_ERROR,
    METHODS,
    build,
    dataset,
    distance,
    history,
    letter_reward,
    seen_batches,
    text_of,
    weights,
)
from trl_negalign import NEATConfig, NEATTrainer, PLETrainer
from trl_negalign.methods.table import find
from trl_negalign.trainer.rounds.checkpoints import STATE_NAME


ALL = pytest.mark.parametrize("method", METHODS)


@ALL
@pytest.mark.parametrize(("batch", "accumulation"), [(8, 2), (4, 4)])
def test_how_the_batch_is_cut_does_not_matter(method, batch, accumulation, make_model, tokenizer, tmp_path):
    def run(batch, accumulation):
        model = make_model()
        # plain SGD without clipping, so that the weights show the gradients' size
        trainer = build(
            method,
            model,
            tokenizer,
            tmp_path,
            dataset(rows=16),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.01,
            max_grad_norm=0.0,
            max_steps=3,
        )
        trainer.train()
        return weights(model)

    whole = run(16, 1)
    assert distance(whole, weights(make_model())) > 1e-3
    assert distance(whole, run(batch, accumulation)) < 1e-6


@ALL
def test_generation_may_span_several_optimizer_steps(method, model, tokenizer, tmp_path):
    trainer = build(
        method,
        model,
        tokenizer,
        tmp_path,
        dataset(rows=32),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_steps=4,
    )
    trainer.train()
    assert trainer.generation_round == 2
    assert trainer.total_rounds == 2


@ALL
def test_num_iterations_trains_on_a_round_again(method, model, tokenizer, tmp_path):
    trainer = build(method, model, tokenizer, tmp_path, num_iterations=2, max_steps=4)
    trainer.train()
    assert trainer.generation_round == 2
    assert all(math.isfinite(loss) for loss in history(trainer, "loss"))


def test_rounds_drive_the_threshold(model, tokenizer, tmp_path):
    trainer = build(
        "ple",
        model,
        tokenizer,
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=6,
    )
    trainer.train()
    assert history(trainer, "ple/threshold") == pytest.approx([0.2, 0.18, 0.162])


def test_the_threshold_is_one_method(model, tokenizer, tmp_path):
    class Mine(PLETrainer):
        def threshold(self, generation_round, gaps):
            assert gaps.shape == (4,)
            return 7.0 + generation_round

    trainer = build("ple", model, tokenizer, tmp_path)
    trainer.__class__ = Mine
    trainer.train()
    assert history(trainer, "ple/threshold") == [7.0, 8.0]
    assert history(trainer, "ple/ranked_fraction") == [0.0, 0.0]


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [0.5, 0.5]), ("linear", [0.5, 0.25]), ("cosine", [0.5, 0.25])]
)
def test_schedules_by_round(schedule, expected, model, tokenizer, tmp_path):
    trainer = build("ple", model, tokenizer, tmp_path, threshold_schedule=schedule, threshold_init=0.5)
    trainer.train()
    assert history(trainer, "ple/threshold") == pytest.approx(expected)


def test_the_median_gap_ranks_half_of_the_pairs(model, tokenizer, tmp_path):
    trainer = build("ple", model, tokenizer, tmp_path, threshold_schedule="quantile", threshold_init=0.5, max_steps=1)
    trainer.train()
    assert history(trainer, "ple/ranked_fraction") == [0.5]


@ALL
def test_evaluation_is_plain(method, model, tokenizer, tmp_path, monkeypatch):
    trainer = build(
        method, model, tokenizer, tmp_path, eval_dataset=dataset(rows=4), per_device_eval_batch_size=16, max_steps=1
    )
    sampled_from = []
    generate = type(trainer)._generate_single_turn

    def record(self, prompt_ids, *args, **kwargs):
        sampled_from.extend(tokenizer.batch_decode(prompt_ids))
        return generate(self, prompt_ids, *args, **kwargs)

    monkeypatch.setattr(type(trainer), "_generate_single_turn", record)
    metrics = trainer.evaluate()
    guides = GUIDES[METHODS[method][1]].values()
    assert len(sampled_from) == 16
    assert not any(guide in text for guide in guides for text in sampled_from)
    assert [key for key in metrics if key.startswith("eval_reward/")] == ["eval_reward/plain"]
    assert metrics["eval_loss"] == pytest.approx(-metrics["eval_reward"], abs=1e-5)
    assert trainer.generation_round == 0


def test_evaluation_takes_no_dataset_responses(model, tokenizer, tmp_path):
    data = dataset(responses=True)
    trainer = build(
        "neat", model, tokenizer, tmp_path, data, eval_dataset=data.select(range(4)), eval_strategy="steps"
    )
    trainer.train()
    assert "reward/chosen" in trainer.state.log_history[0] or history(trainer, "reward/chosen")
    assert history(trainer, "eval_reward/plain") and not history(trainer, "eval_reward/chosen")


@pytest.mark.parametrize("style", ["string", "conversation"])
def test_group_order_and_completions_table(style, model, tokenizer, tmp_path):
    data = dataset(style, responses=True)
    trainer = build(
        "neat",
        model,
        tokenizer,
        tmp_path,
        data,
        num_generations=6,
        num_plain=1,
        per_device_train_batch_size=6,
        log_completions=True,
        max_completion_length=40,
        max_steps=1,
    )
    trainer.train()
    table = pd.read_parquet(tmp_path / "out" / "completions" / "completions_00001.parquet")
    assert table["kind"].tolist() == ["plain", "positive", "positive", "negative", "chosen", "rejected"]
    # TRL before 1.15 writes the rendered conversation
    query = next(row for row in data if f"{text_of(row['prompt'])}\n" in f"{text_of(table['prompt'][0])}\n")
    for column in ("chosen", "rejected"):
        completion = table.loc[table["kind"] == column, "completion"].item()
        assert text_of(completion) == text_of(query[column])
    kinds = {key for key in trainer.state.log_history[0] if key.startswith("reward/")}
    assert kinds == {"reward/plain", "reward/positive", "reward/negative", "reward/chosen", "reward/rejected"}
    reward = table.set_index("kind")["letter_reward"]
    assert trainer.state.log_history[0]["reward/chosen"] == pytest.approx(reward["chosen"], abs=1e-6)
    assert trainer.state.log_history[0]["reward/positive"] == pytest.approx(reward["positive"].mean(), abs=1e-6)


def test_dataset_responses_can_be_left_out_or_chosen(model, tokenizer, tmp_path):
    data = dataset(responses=True)

    def kinds(**options):
        trainer = build("neat", model, tokenizer, tmp_path, data, **options)
        return [candidate.kind for candidate in trainer.candidates]

    assert kinds() == ["positive", "negative", "chosen", "rejected"]
    assert kinds(dataset_responses=[]) == ["positive", "positive", "negative", "negative"]
    assert kinds(dataset_responses=["none"]) == ["positive", "positive", "negative", "negative"]
    assert kinds(dataset_responses=["rejected"]) == ["positive", "positive", "negative", "rejected"]


@ALL
def test_logged_metrics(method, model, tokenizer, tmp_path):
    trainer = build(method, model, tokenizer, tmp_path, beta=0.1, peft_config=LoraConfig(task_type="CAUSAL_LM"))
    trainer.train()
    expected = {
        "neat": [f"neat/{name}" for name in ("loss_sft", "loss_ranking", "loss_penalty", "ranking_accuracy")]
        + ["neat/logp_best", "neat/logp_worst", "reward/positive", "reward/negative"],
        "ple": [f"ple/{name}" for name in ("threshold", "gap", "ranked_fraction", "loss_ranking", "loss_wsft")]
        + ["reward/plain", "reward/principle"],
        "reinforce": [f"reinforce/{name}" for name in ("accuracy", "frac_negative", "effective_positive_share")]
        + [f"reinforce/{name}" for name in ("logp_right", "logp_wrong", "ratio_negative")],
    }[method]
    log = trainer.state.log_history[0]
    for name in [*expected, "kl", "frac_groups_no_signal", "reward", "completions/mean_length", "num_tokens"]:
        assert math.isfinite(log[name]), name
    if method == "neat":
        parts = log["neat/loss_sft"] + log["neat/loss_ranking"]
        total = parts + trainer.args.penalty_weight * log["neat/loss_penalty"] + 0.1 * log["kl"]
    elif method == "reinforce":  # the ratio is 1, and each answer's loss minus its weight
        total = 1 - 1.1 * log["reinforce/accuracy"] + 0.1 * log["kl"]
        assert 0 < log["reinforce/accuracy"] < 1 and log["reinforce/ratio_negative"] == 1.0
    else:
        total = log["ple/loss_ranking"] + log["ple/loss_wsft"] + 0.1 * log["kl"]
        assert log["ple/gap"] == pytest.approx(log["reward/principle"] - log["reward/plain"], abs=1e-5)
    assert log["loss"] == pytest.approx(total, abs=LOSS_ERROR)


# Options of TRL and transformers


@ALL
def test_lora_trains_the_adapter_only(method, model, tokenizer, tmp_path):
    before = weights(model)
    trainer = build(method, model, tokenizer, tmp_path, peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"))
    trainer.train()
    adapter = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert any(parameter.abs().max() > 0 for parameter in adapter)
    base = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): p
        for name, p in trainer.model.named_parameters()
    }
    assert max((before[name] - base[name]).abs().max().item() for name in before) == 0.0
    trainer.save_model()
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@ALL
def test_gradient_checkpointing_changes_nothing(method, make_model, tokenizer, tmp_path):
    def run(gradient_checkpointing):
        model = make_model()
        build(method, model, tokenizer, tmp_path, gradient_checkpointing=gradient_checkpointing).train()
        return weights(model)

    assert distance(run(False), run(True)) < 1e-6


@ALL
def test_beta_pulls_towards_the_reference(method, make_model, tokenizer, tmp_path):
    def moved(beta):
        torch.manual_seed(0)
        config = LoraConfig(r=4, task_type="CAUSAL_LM")
        trainer = build(method, make_model(), tokenizer, tmp_path, beta=beta, peft_config=config, max_steps=8)
        trainer.train()
        return sum(p.norm().item() for name, p in trainer.model.named_parameters() if "lora_B" in name)

    assert moved(100.0) < 0.8 * moved(0.0)


def test_npo_reads_the_reference_without_a_kl_term(model, tokenizer, tmp_path):
    trainer = build(
        "neat",
        model,
        tokenizer,
        tmp_path,
        penalty_type="npo",
        penalty_weight=1.0,
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"),
    )
    trainer.train()
    # before the first step policy and reference agree: (2/β)·softplus(0)
    assert history(trainer, "neat/loss_penalty")[0] == pytest.approx(20 * math.log(2), rel=1e-5)
    assert not history(trainer, "kl")
    assert trainer.args.beta == 0.0


@ALL
def test_model_from_a_path_and_default_arguments(method, saved_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer_class, config_class = METHODS[method]
    # TRL's default is bf16, which transformers refuses on a machine without a GPU
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    trainer = trainer_class(saved_model, letter_reward, train_dataset=dataset())
    assert isinstance(trainer.args, config_class)
    assert trainer.args.output_dir == f"tiny-model-{method.upper()}"


@ALL
def test_model_card_cites_the_right_paper(method, model, tokenizer, tmp_path):
    trainer = build(method, model, tokenizer, tmp_path, save_strategy="steps", save_steps=1)
    trainer.train()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"https://huggingface.co/papers/{find(method).arxiv}" in card
    assert f"trained with {method.upper()}" in card
    assert "DeepSeekMath" not in card
    assert "- trl-negalign" in card


@ALL
def test_streaming_datasets(method, model, tokenizer, tmp_path):
    trainer = build(method, model, tokenizer, tmp_path, dataset().to_iterable_dataset())
    trainer.train()
    assert trainer.state.global_step == 2


def test_mask_truncated_completions_takes_them_out_of_the_group(model, tokenizer, tmp_path):
    # six tokens are never enough for this model to end by itself, except that one answer of the dataset is short
    data = dataset(responses=True).map(lambda row: {"chosen": " a", "rejected": " b"})
    trainer = build("neat", model, tokenizer, tmp_path, data, mask_truncated_completions=True, max_steps=1)
    batches = seen_batches(trainer)
    trainer.train()
    seen = batches[-1]
    truncated = seen["completion_mask"].sum(-1) == 0
    assert truncated.any() and not truncated.all()
    assert torch.equal(seen["rewards"].isnan(), truncated)


@ALL
def test_callbacks_and_logs_on_disk(method, model, tokenizer, tmp_path):
    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            Count.steps += 1

    trainer = build(method, model, tokenizer, tmp_path, callbacks=[Count()], save_strategy="steps", save_steps=2)
    trainer.train()
    assert Count.steps == 2
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert "frac_groups_no_signal" in state["log_history"][0]


# Rounds over checkpoints, replay


def test_the_round_survives_a_checkpoint(make_model, tokenizer, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    build("ple", make_model(), tokenizer, tmp_path, max_steps=2, **options).train()
    trainer = build("ple", make_model(), tokenizer, tmp_path, max_steps=4, **options)
    trainer.train(resume_from_checkpoint=True)
    assert history(trainer, "ple/threshold") == pytest.approx([0.2, 0.18, 0.162, 0.1458])


@pytest.mark.parametrize(
    ("replay", "expected"), [(0, [4, 4, 4]), (1, [4, 8, 8]), (2, [4, 8, 12]), ("all", [4, 8, 12])]
)
def test_replay_trains_on_old_pairs_too(replay, expected, model, tokenizer, tmp_path):
    trainer = build(
        "ple",
        model,
        tokenizer,
        tmp_path,
        num_generations=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=3,
        replay=replay,
    )
    rounds, start_round = [], trainer.start_round

    def record(batch, rewards):
        batch = start_round(batch, rewards)
        rounds.append(batch)
        return batch

    trainer.start_round = record
    trainer.train()
    assert [len(batch["rewards"]) for batch in rounds] == expected
    if replay == "all":  # every pair so far is there again
        for older, newer in itertools.pairwise(rounds):
            assert set(map(tuple, older["rewards"].tolist())) < set(map(tuple, newer["rewards"].tolist()))
    assert len(trainer.replay_store) == (12 if replay else 0)


def test_replayed_groups_have_the_log_probs_they_had(make_model, tokenizer, tmp_path):
    """Old pairs padded beside new ones: with the weights frozen, their log-probabilities must come out again."""
    trainer = build(
        "ple", make_model(), tokenizer, tmp_path, num_generations=2, learning_rate=0.0, max_steps=2, replay="all"
    )
    seen, group_loss = [], trainer.group_loss

    def record(token_logps, batch):
        sums = token_logps.detach().masked_fill(batch["completion_mask"] == 0, 0).sum(-1)
        seen.append({tuple(rewards): row for rewards, row in zip(batch["rewards"].tolist(), sums, strict=True)})
        return group_loss(token_logps, batch)

    trainer.group_loss = record
    trainer.train()
    first, second = seen
    assert len(second) == 2 * len(first) == 8
    for rewards, sums in first.items():
        assert torch.allclose(second[rewards], sums, atol=1e-5)


def test_the_state_is_there_when_a_checkpoint_is_pushed(model, tokenizer, tmp_path, monkeypatch):
    trainer = build("ple", model, tokenizer, tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    monkeypatch.setattr(trainer.args, "push_to_hub", True)
    pushed = []
    monkeypatch.setattr(trainer, "_push_from_checkpoint", lambda folder: pushed.extend(os.listdir(folder)))
    monkeypatch.setattr(trainer, "push_to_hub", lambda *args, **kwargs: None)
    trainer.train()
    assert STATE_NAME in pushed


def test_a_checkpoint_without_its_state_is_noticed(make_model, tokenizer, tmp_path, caplog):
    options = {"save_strategy": "steps", "save_steps": 1}
    build("ple", make_model(), tokenizer, tmp_path, max_steps=1, **options).train()
    (tmp_path / "out" / "checkpoint-1" / STATE_NAME).unlink()
    build("ple", make_model(), tokenizer, tmp_path, max_steps=2, **options).train(resume_from_checkpoint=True)
    assert f"has no {STATE_NAME}: the generation rounds are counted from 0 again" in caplog.text


def test_replay_survives_a_checkpoint(make_model, tokenizer, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "replay": "all"}
    build("ple", make_model(), tokenizer, tmp_path, max_steps=1, **options).train()
    trainer = build("ple", make_model(), tokenizer, tmp_path, max_steps=2, **options)
    trainer.train(resume_from_checkpoint=True)
    assert len(trainer.replay_store) == 4


# Presets


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"num_generations": 8, "num_plain": 8, "ranking_weight": 0, "penalty_weight": 0}, ["plain"] * 8),  # RAFT
        ({"num_generations": 2, "num_plain": 2, "penalty_weight": 0}, ["plain"] * 2),  # RRHF's ranking
        ({"num_negative": 0}, ["positive"] * 4),  # NEAT-PP
    ],
)
def test_presets(options, kinds, model, tokenizer, tmp_path):
    trainer = build("neat", model, tokenizer, tmp_path, **options)
    assert [candidate.kind for candidate in trainer.candidates] == kinds
    trainer.train()
    assert all(math.isfinite(loss) for loss in history(trainer, "loss"))


def test_the_public_names():
    import trl_negalign

    assert trl_negalign.NEATTrainer is NEATTrainer and trl_negalign.NEATConfig is NEATConfig
    with pytest.raises(AttributeError, match="has no attribute 'NEAT'"):
        _ = trl_negalign.NEAT


@ALL
def test_mixtures_of_experts_keep_their_balancing_loss(method, tokenizer, tmp_path):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        router_aux_loss_coef=0.5,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    trainer = build(
        method,
        MixtralForCausalLM(config),
        tokenizer,
        tmp_path,
        None,
        lambda completions, **kwargs: [0.0] * len(completions),
        **COMPARING.get(method, {}),
    )
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["aux_loss"] > 0
    assert log["loss"] == pytest.approx(trainer.router_aux_loss_coef * log["aux_loss"], abs=LOSS_ERROR)
