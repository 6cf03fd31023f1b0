"""A run stopped at any optimizer step and resumed is the run that was never stopped."""

import shutil

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from tests.helpers import METHODS, build, dataset, seen_batches
from trl_negalign.trainer.rounds.checkpoints import STATE_NAME, is_whole


NOT_COMPARED = ("runtime", "per_second", "step_time", "total_flos", "train_loss")
# a round of one step; of two optimizer steps; trained on twice; several epochs
LAYOUTS = {
    "one step a round": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
    "accumulated": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "two steps a round": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
    },
    "a round twice": {"per_device_train_batch_size": 8, "num_iterations": 2},
}
OPTIONS = {"num_generations": 4, "max_steps": 6, "save_strategy": "steps", "save_steps": 1}


class StopAt(TrainerCallback):
    """Stops as a killed run does: nothing is done after the step's checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def run(method, model, tokenizer, out, resume=None, stop=None, lora=False, **options):
    trainer = build(
        method,
        model,
        tokenizer,
        out,
        dataset(rows=6),
        callbacks=[StopAt(stop)] if stop else [],
        peft_config=LoraConfig(r=4) if lora else None,
        **OPTIONS | options,
    )
    try:
        trainer.train(resume_from_checkpoint=resume)
    except KeyboardInterrupt:
        assert stop == trainer.state.global_step
    weights = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    logs = [
        {key: value for key, value in log.items() if not any(part in key for part in NOT_COMPARED)}
        for log in trainer.state.log_history
    ]
    return trainer, weights, logs


def same(one, two):
    return max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("neat", {"num_plain": 1}),
        ("neat", {"num_plain": 1, "tapered": True, "mean_over": "signal", "skip_shared_prefix": True}),
        ("ple", {"replay": 1, "tapered": True}),
        ("ple", {"replay": "all", "lora": True}),
        ("reinforce", {"negative_only_rounds": 1, "unlikeliness": 0.25}),
        ("reinforce", {"ratio": "tapered", "normalize": "kept", "lora": True}),
    ],
)
def test_resumed_is_uninterrupted(method, options, layout, make_model, tokenizer, tmp_path):
    options = options | LAYOUTS[layout]
    _, expected, expected_logs = run(method, make_model(), tokenizer, tmp_path / "whole", **options)
    for stop in (1, 2, 3, 5):
        out = tmp_path / f"stopped at {stop}"
        run(method, make_model(), tokenizer, out, stop=stop, **options)
        # full training takes all its weights from the checkpoint, LoRA needs its base
        model = make_model() if options.get("lora") else make_model(seed=9)
        _, weights, logs = run(method, model, tokenizer, out, resume=True, **options)
        assert same(weights, expected), stop
        assert len(logs) == len(expected_logs)
        for found, wanted in zip(logs, expected_logs, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5, nan_ok=True), stop


def test_later_epochs_have_orders_of_their_own(make_model, tokenizer, tmp_path):
    seen = []

    def reward(prompts, completions, **kwargs):
        seen.append(prompts[0])
        return [0.0] * len(prompts)

    build(
        "neat", make_model(), tokenizer, tmp_path, dataset(rows=8), reward, per_device_train_batch_size=4, max_steps=24
    ).train()
    epochs = [seen[:8], seen[8:16], seen[16:]]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_path_resumes_too(make_model, tokenizer, tmp_path):
    _, expected, _ = run("neat", make_model(), tokenizer, tmp_path / "whole")
    path = str(tmp_path / "whole" / "out" / "checkpoint-3")
    _, weights, _ = run("neat", make_model(seed=9), tokenizer, tmp_path / "other", resume=path)
    assert same(weights, expected)


@pytest.mark.parametrize(
    ("method", "options"), [("ple", {"replay": 1}), ("neat", {"penalty_type": "npo", "ranking_weight": 0.0})]
)
def test_beta_may_be_raised_inside_a_cycle(method, options, make_model, tokenizer, tmp_path):
    """The kept groups have no reference's log-probabilities by then, or those of the candidates that npo reads."""
    options = options | LAYOUTS["two steps a round"]
    run(method, make_model(), tokenizer, tmp_path, stop=1, lora=True, **options)
    options |= {"beta": 0.1, "peft_config": LoraConfig(r=4), "max_steps": 3}
    trainer = build(method, make_model(), tokenizer, tmp_path, dataset(rows=6), **OPTIONS | options)
    batches = seen_batches(trainer)
    trainer.train(resume_from_checkpoint=True)
    batch, base = batches[0], make_model().eval()
    for group, query in enumerate(batch["prompt_ids"]):
        query = query[batch["prompt_mask"][group].bool()]
        for place, mask in enumerate(batch["completion_mask"][group].bool()):
            ids = batch["completion_ids"][group, place][mask]
            logits = base(input_ids=torch.cat([query, ids])[None]).logits[0, len(query) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
            torch.testing.assert_close(batch["ref_per_token_logps"][group, place][mask], expected, atol=1e-4, rtol=0)


# What cannot be resumed


@pytest.fixture
def stopped(make_model, tokenizer, tmp_path):
    run("neat", make_model(), tokenizer, tmp_path, stop=3, **LAYOUTS["two steps a round"])
    return tmp_path / "out"


@pytest.mark.parametrize("damage", ["missing", "cut off", "empty"])
def test_half_written_checkpoints_are_passed_over(damage, stopped, make_model, tokenizer, tmp_path):
    state = stopped / "checkpoint-3" / "trainer_state.json"
    if damage == "missing":
        state.unlink()
    else:
        state.write_text(state.read_text()[: 0 if damage == "empty" else 50])
    with pytest.raises(ValueError, match="checkpoint-3' is no whole checkpoint.*newest whole one"):
        run("neat", make_model(), tokenizer, tmp_path, resume=str(stopped / "checkpoint-3"))
    _, weights, _ = run("neat", make_model(), tokenizer, tmp_path, resume=True, **LAYOUTS["two steps a round"])
    _, expected, _ = run("neat", make_model(), tokenizer, tmp_path / "whole", **LAYOUTS["two steps a round"])
    assert same(weights, expected)


def test_no_checkpoint_at_all(make_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="found no whole checkpoint in .* Start the run without it"):
        run("neat", make_model(), tokenizer, tmp_path, resume=True)


def test_only_half_written_checkpoints(stopped, make_model, tokenizer, tmp_path):
    for folder in stopped.glob("checkpoint-*"):
        (folder / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match="only half-written ones: checkpoint-1, checkpoint-2, checkpoint-3"):
        run("neat", make_model(), tokenizer, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("method", "options", "difference"),
    [
        ("ple", {}, "its method was 'NEAT', and this run's is 'PLE'"),
        ("neat", {"num_generations": 2}, "its group size was 4, and this run's is 2"),
        ("neat", {"positive_prompt": "Be brief."}, "its candidates was .*Answer kindly.*Be brief"),
        ("neat", {"num_plain": 2}, "its candidates was"),
        ("neat", {"tapered": True}, "its candidates was .*Answer kindly.*Answer kindly., tapered"),
    ],
)
def test_another_runs_checkpoint(method, options, difference, stopped, make_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=f"cannot be resumed: {difference}"):
        run(method, make_model(), tokenizer, tmp_path, resume=True, **options)


def test_inside_a_cycle_of_more_processes(stopped, make_model, tokenizer, tmp_path):
    path = stopped / "checkpoint-3" / STATE_NAME
    torch.save(torch.load(path) | {"processes": 2}, path)
    with pytest.raises(ValueError, match=r"inside a generation cycle of 2 process\(es\), and this run has 1"):
        run("neat", make_model(), tokenizer, tmp_path, resume=True, **LAYOUTS["two steps a round"])


@pytest.mark.parametrize("method", METHODS)
def test_what_a_checkpoint_adds_is_small(method, make_model, tokenizer, tmp_path):
    run(method, make_model(), tokenizer, tmp_path, stop=1, **LAYOUTS["two steps a round"])
    folder = tmp_path / "out" / "checkpoint-1"
    added = [path for path in folder.iterdir() if path.name == STATE_NAME or path.name.startswith("group_buffer")]
    assert len(added) == 2
    assert sum(path.stat().st_size for path in added) < 50_000
    shutil.rmtree(folder)


def test_a_checkpoint_that_is_written_again_counts_as_half_written(make_model, tokenizer, tmp_path, monkeypatch):
    trainer, _, _ = run("neat", make_model(), tokenizer, tmp_path)
    folder = tmp_path / "out" / "checkpoint-3"
    assert is_whole(str(folder))

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(trainer), "_save_optimizer_and_scheduler", killed)
    run("neat", make_model(), tokenizer, tmp_path, resume=str(tmp_path / "out" / "checkpoint-2"), stop=3)
    assert not is_whole(str(folder))
