"""Heads are trained by maximum likelihood on the answers, saved on the way, and go on after a stop."""

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

from tests.conftest import save, tiny_model
from tests.helpers import CLOSING, DROPPING, dataset, with_template
from tests.likra.slow import option_logp, text_logp
from trl_negalign.likra.config import LikraConfig
from trl_negalign.likra.model import LikraModel
from trl_negalign.likra.questions import read_questions
from trl_negalign.likra.reward import LikraReward
from trl_negalign.likra.trainer import point_steps, saved_points


HEADS = ("positive", "negative")
QUERY = "Question: What is number 3?\nAnswer:"
RIGHT, WRONG = " boil an egg 3", " the music was loud 3"


def assert_same_weights(first: Path, second: Path):
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_each_head_learns_its_answers_and_the_base_stays(heads, make_model):
    right, wrong = (
        {state: text_logp(heads, state, QUERY, text) for state in (*HEADS, "base")} for text in (RIGHT, WRONG)
    )
    assert right["positive"] > right["base"] + 1
    assert wrong["negative"] > wrong["base"] + 1
    assert right["positive"] - right["negative"] > wrong["positive"] - wrong["negative"] + 1
    ids = heads.tokenizer(QUERY)["input_ids"], heads.tokenizer(RIGHT)["input_ids"]
    assert right["base"] == pytest.approx(option_logp(make_model().eval(), *ids), abs=1e-9)


def test_a_step_follows_the_gradient_of_the_answers_mean_log_likelihood(make_trainer, questions):
    trainer = make_trainer(
        train_dataset=questions.select(range(8)), optim="sgd", learning_rate=0.5, max_grad_norm=1e9, max_steps=1
    )
    model = trainer.heads.model
    model.set_adapter("negative")
    model.eval()
    total, count = 0.0, 0
    for row in trainer.tokenized("negative"):
        logps = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        answer = [place for place, label in enumerate(row["labels"]) if label != -100]
        total = total - sum(logps[place - 1, row["input_ids"][place]] for place in answer)
        count += len(answer)
    head = {name: value for name, value in model.named_parameters() if ".negative." in name}
    gradients = torch.autograd.grad(total / count, list(head.values()))
    expected = {name: (head[name] - 0.5 * slope).detach() for name, slope in zip(head, gradients, strict=True)}
    assert sum(slope.abs().sum() for slope in gradients) > 1e-3
    trainer.train()
    for name, value in head.items():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-4, atol=1e-7)


def test_the_chat_templates_arguments_are_the_heads(make_trainer, make_model, tokenizer, tmp_path):
    """In training, in what is saved, in scoring and as a reward; another choice is another training."""
    tokenizer, data = with_template(tokenizer, CLOSING), dataset("conversation", responses=True, rows=8)
    short = {"chat_template_kwargs": {"enable_thinking": False}}
    base = save(make_model(), tokenizer, tmp_path / "base")
    trainer = make_trainer(base, data, tokenizer, **short)
    closed = "[user]\nquestion number 3\n[assistant]\n<think>\n\n</think>\n\n"
    texts = [tokenizer.decode(row["input_ids"]) for row in trainer.tokenized("positive")]
    assert closed + "a kind word 3" in texts
    trainer.train()
    trainer.save_model()
    heads = LikraModel.from_pretrained(trainer.args.output_dir)
    for found in (trainer.heads, heads):
        [item] = found.encode([data[3]["prompt"]], [["a kind word 3"]])
        assert tokenizer.decode(item.query) == closed
    other = make_trainer(base, data, tokenizer)
    # with reasoning, its end is part of the answer
    labels = [[*itertools.chain(*one.tokenized("positive")["labels"])] for one in (trainer, other)]
    assert labels[0].count(-100) > labels[1].count(-100)
    with pytest.raises(ValueError, match="holds heads with chat_template_kwargs {'enable_thinking': False}, and now"):
        other.train(resume_from_checkpoint=True)
    reward = LikraReward(heads)
    rewards = reward([data[3]["prompt"]], [data[3]["chosen"]])
    (positive, negative), ids = (heads.all_logps(head, [item])[0] for head in HEADS), item.options[0]
    assert rewards == [pytest.approx((positive - negative).item() / len(ids))]
    with pytest.raises(ValueError, match="is for conversations, and train_dataset has texts"):
        make_trainer(**short)


def test_answers_are_tokenized_alike_in_training_and_scoring(any_tokenizer, make_trainer):
    any_tokenizer.pad_token = any_tokenizer.pad_token or any_tokenizer.eos_token
    trainer = make_trainer(tiny_model(any_tokenizer), processing_class=any_tokenizer)
    for head in HEADS:
        rows = [(row["input_ids"], row["labels"]) for row in trainer.tokenized(head)]
        for query, answer in trainer.pairs[head]:
            (query_ids, (answer_ids,)) = trainer.heads.encode([query], [[answer]])[0]
            rows.remove((query_ids + answer_ids, [-100] * len(query_ids) + answer_ids))
            assert any_tokenizer(f"Question: {query}\nAnswer: {answer}")["input_ids"] == query_ids + answer_ids
        assert not rows


def test_an_optimizer_steps_examples_are_sorted_by_length(make_trainer):
    trainer = make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=3)
    found = [row["input_ids"] for row in trainer.tokenized("positive")]
    expected = [
        sum(trainer.heads.encode([query], [[answer]])[0].options, trainer.heads.encode([query], [[answer]])[0].query)
        for query, answer in trainer.pairs["positive"]
    ]
    for start in range(0, 40, 6):
        assert sorted(found[start : start + 6]) == sorted(expected[start : start + 6])
        lengths = list(map(len, found[start : start + 6]))
        assert lengths == sorted(lengths)


def test_micro_batches_change_nothing(make_trainer, tmp_path):
    sizes = {"one": (8, 1), "four": (2, 4)}
    for name, (batch, accumulated) in sizes.items():
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        make_trainer(output_dir=str(tmp_path / name), heads=["negative"], optim="sgd", **options).train()
    first, second = (load_file(tmp_path / name / "examples-40/negative/adapter_model.safetensors") for name in sizes)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-7)


def test_heads_with_a_sentencepiece_tokenizer(unigram_tokenizer, make_trainer):
    unigram_tokenizer.pad_token = unigram_tokenizer.eos_token
    heads = make_trainer(tiny_model(unigram_tokenizer), processing_class=unigram_tokenizer, max_steps=2).train()
    scores = heads.score("What is number 3?", [RIGHT, WRONG], mode="positive")
    expected = [text_logp(heads, "positive", QUERY, option) for option in (RIGHT, WRONG)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_order_of_the_heads_changes_nothing(make_trainer, tmp_path):
    for order in (["positive", "negative"], ["negative", "positive"]):
        make_trainer(output_dir=str(tmp_path / order[0]), heads=order, lora_dropout=0.1).train()
    for head in HEADS:
        assert_same_weights(*(tmp_path / first / "examples-40" / head for first in HEADS))


def test_the_negative_head_alone_is_the_same_head(make_trainer, tmp_path):
    make_trainer(output_dir=str(tmp_path / "both")).train()
    heads = make_trainer(output_dir=str(tmp_path / "alone"), heads=["negative"]).train()
    assert heads.heads == ("negative",)
    assert not (tmp_path / "alone" / "examples-40" / "positive").exists()
    assert_same_weights(*(tmp_path / name / "examples-40" / "negative" for name in ("both", "alone")))


def test_heads_on_the_way_are_those_of_a_shorter_run(make_trainer, make_model, tokenizer, tmp_path):
    make_trainer(output_dir=str(tmp_path / "long"), save_examples=[8, 16]).train()
    make_trainer(output_dir=str(tmp_path / "short"), num_examples=16).train()
    points = saved_points(tmp_path / "long", HEADS)
    assert list(points) == [8, 16, 40]
    for head in HEADS:
        assert_same_weights(points[16] / head, tmp_path / "short" / "examples-16" / head)
    assert LikraModel.from_pretrained(points[8], make_model(), tokenizer).examples == 8


class Killed(Exception):
    pass


class Kill(TrainerCallback):
    """Stop a run in a step, or right after a checkpoint was written and before the head in it was kept."""

    def __init__(self, head: str, step: int, after_checkpoint: bool = False):
        self.head, self.step, self.after_checkpoint = head, step, after_checkpoint

    def _stop(self, args, state):
        if Path(args.output_dir).name == self.head and state.global_step == self.step:
            raise Killed

    def on_step_begin(self, args, state, control, **kwargs):
        if not self.after_checkpoint:
            self._stop(args, state)

    def on_save(self, args, state, control, **kwargs):
        if self.after_checkpoint:
            self._stop(args, state)


@pytest.mark.parametrize(
    "kill",
    [
        Kill("positive", 0),
        Kill("positive", 3),
        Kill("positive", 2, after_checkpoint=True),
        Kill("positive", 5, after_checkpoint=True),
        Kill("negative", 4),
    ],
    ids=["before any checkpoint", "between points", "at a point", "at the end", "in the second head"],
)
def test_a_killed_run_goes_on_and_ends_in_the_same_heads(kill, make_trainer, tmp_path):
    options = {"save_examples": [8, 16, 32], "lora_dropout": 0.1}
    make_trainer(output_dir=str(tmp_path / "whole"), **options).train()
    with pytest.raises(Killed):
        make_trainer(output_dir=str(tmp_path / "killed"), callbacks=[kill], **options).train()
    heads = make_trainer(output_dir=str(tmp_path / "killed"), **options).train(resume_from_checkpoint=True)
    assert list(saved_points(tmp_path / "killed", HEADS)) == [8, 16, 32, 40] and heads.examples == 40
    for examples in (8, 16, 32, 40):
        for head in HEADS:
            assert_same_weights(*(tmp_path / run / f"examples-{examples}" / head for run in ("whole", "killed")))


def test_an_interrupted_call_goes_on_in_the_same_object(make_trainer, tmp_path):
    make_trainer(output_dir=str(tmp_path / "whole"), max_steps=3).train()
    trainer = make_trainer(output_dir=str(tmp_path / "killed"), max_steps=3, callbacks=[Kill("positive", 2)])
    with pytest.raises(Killed):
        trainer.train()
    trainer.callbacks.clear()
    # no checkpoint was written, so the head begins anew
    trainer.train(resume_from_checkpoint=True)
    for head in HEADS:
        assert_same_weights(*(tmp_path / run / "examples-24" / head for run in ("whole", "killed")))


def test_all_processes_look_at_the_folder_before_one_writes(make_trainer, tmp_path, monkeypatch):
    path, seen = tmp_path / "heads" / "settings.json", []
    monkeypatch.setattr(PartialState, "wait_for_everyone", lambda self: seen.append(path.exists()))
    make_trainer()._check_folder(path.parent, False)
    assert seen == [False] and path.exists()


class Count(TrainerCallback):
    """The steps that a run has trained, by head."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append((Path(args.output_dir).name, state.global_step))


def test_what_is_done_is_not_done_again(make_trainer):
    with pytest.raises(Killed):
        make_trainer(save_examples=[8, 16], callbacks=[Kill("negative", 3)]).train()
    count = Count()
    make_trainer(save_examples=[8, 16], callbacks=[count]).train(resume_from_checkpoint=True)
    assert count.steps == [("negative", 3), ("negative", 4), ("negative", 5)]


def test_a_finished_run_is_read(make_trainer, monkeypatch):
    first = make_trainer().train()
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "_train_head", None)
    again = trainer.train(resume_from_checkpoint=True)
    question = ("What is number 1?", ["boil an egg", "the music"])
    assert torch.equal(again.score(*question), first.score(*question))


def test_a_finished_run_saves_nowhere_else(make_trainer):
    make_trainer().train()
    with pytest.raises(ValueError, match="save_examples names 8, and the (positive|negative) head in output_dir"):
        make_trainer(save_examples=[8]).train(resume_from_checkpoint=True)


def test_another_runs_folder_is_refused(make_trainer):
    make_trainer().train()
    with pytest.raises(ValueError, match="holds the heads of an earlier run. Go on with it"):
        make_trainer().train()
    with pytest.raises(ValueError, match="holds heads with learning_rate 0.01, and now it is 0.02"):
        make_trainer(learning_rate=2e-2).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="holds heads with examples "):
        make_trainer(flipped_share=0.5).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="holds heads with base_digest "):
        make_trainer(tiny_model(make_trainer().heads.tokenizer, seed=1)).train(resume_from_checkpoint=True)


def test_mixed_precision_in_training_does_not_round_the_scores(make_trainer, make_model, tokenizer, tmp_path):
    heads = make_trainer(bf16=True, max_steps=1).train()
    fresh = LikraModel.from_pretrained(tmp_path / "heads" / "examples-8", make_model(), tokenizer)
    question = ("What is number 1?", ["boil an egg", "the music"])
    assert torch.equal(heads.score(*question), fresh.score(*question))


def test_the_hardest_negative_is_the_likeliest_per_character_under_the_base(make_trainer, make_model, questions):
    trainer = make_trainer(wrong_option="hardest")
    base = make_model().eval()
    rows = {row["question"]: row for row in questions}
    varied = set()
    for query, chosen in trainer.pairs["negative"]:
        wrong = [text for i, text in enumerate(rows[query]["choices"]) if i != rows[query]["answer"]]
        tokenize = trainer.heads.tokenizer
        query_ids = tokenize(f"Question: {query}\nAnswer:")["input_ids"]
        rates = [option_logp(base, query_ids, tokenize(f" {text}")["input_ids"]) / len(text) for text in wrong]
        assert chosen == wrong[rates.index(max(rates))]
        varied.add(rates.index(max(rates)))
    assert varied == {0, 1}


def test_preferences_make_heads_without_a_template(make_trainer, preferences):
    heads = make_trainer(train_dataset=preferences).train()
    assert heads.template is None
    right = text_logp(heads, "positive", "question number 3", " a kind word 3")
    assert right > text_logp(heads, "base", "question number 3", " a kind word 3") + 1
    assert heads.evaluate(preferences)["ratio"]["acc"] > 0.9


def test_another_family_of_models(make_trainer, tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128)
    heads = make_trainer(GPT2LMHeadModel(config), max_steps=1).train()
    targets = heads.model.peft_config["positive"].target_modules
    assert targets == {"c_fc", "mlp.c_proj"}


def test_a_base_by_its_path(make_trainer, saved_model):
    heads = make_trainer(saved_model, processing_class=None, max_steps=1).train()
    assert heads.info()["base_model"] == saved_model and len(heads.tokenizer) == 400


@pytest.mark.parametrize(
    ("options", "examples", "expected"),
    [
        ({}, 40, {4: 32, 5: 40}),
        ({}, 32, {4: 32}),
        ({}, 1024, {4: 32, 8: 64, 16: 128, 32: 256, 64: 512, 128: 1024}),
        ({"per_device_train_batch_size": 24}, 100, {5: 100}),
        ({"gradient_accumulation_steps": 4}, 70, {1: 32, 2: 64, 3: 70}),
        ({"num_train_epochs": 2, "save_examples": [20]}, 20, {3: 20, 6: 40}),
        ({"max_steps": 2, "save_examples": [8]}, 40, {1: 8, 2: 16}),
    ],
)
def test_points_end_with_a_step(options, examples, expected, tmp_path):
    assert point_steps(LikraConfig(str(tmp_path), use_cpu=True, bf16=False, **options), examples) == expected


def test_points_count_what_several_devices_take(tmp_path):
    args = LikraConfig(str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=4)
    args._n_gpu = 2  # one process on two devices
    assert point_steps(args, 40) == {4: 32, 5: 40}


def test_a_run_without_steps_is_refused(make_trainer):
    with pytest.raises(ValueError, match="num_train_epochs=0 must be above 0"):
        make_trainer(num_train_epochs=0)
    with pytest.raises(ValueError, match="per_device_train_batch_size=0, .* must be above 0"):
        make_trainer(per_device_train_batch_size=0)


def test_a_folder_that_was_not_finished_is_no_point(tmp_path):
    (tmp_path / "examples-8" / "positive.unfinished").mkdir(parents=True)
    assert saved_points(tmp_path, HEADS) == {}


def test_heads_are_pushed_together_at_the_end(make_trainer, monkeypatch, tmp_path):
    pushed = []
    monkeypatch.setattr(LikraModel, "push_to_hub", lambda self, repo_id, **options: pushed.append((repo_id, options)))
    # a trainer of TRL's would ask the hub for a repository at once
    trainer = make_trainer(push_to_hub=True, hub_private_repo=True, hub_token="secret", max_steps=1)
    trainer.train()
    assert pushed == []
    trainer.push_to_hub()
    make_trainer(output_dir=str(tmp_path / "named"), hub_model_id="me/likra").push_to_hub()
    assert pushed[0] == ("heads", {"private": True, "token": "secret"}) and pushed[1][0] == "me/likra"


@pytest.mark.parametrize("count", [12, 48])
def test_a_point_without_a_step_is_refused(count, make_trainer):
    message = f"save_examples names {count}, and no optimizer step ends there: a step takes 8 .* ends after 40"
    with pytest.raises(ValueError, match=message):
        make_trainer(save_examples=[8, count])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["positive", "neutral"]}, "must name positive, negative or both"),
        ({"heads": ["positive", "positive"]}, "must name positive, negative or both"),
        ({"heads": []}, "must name positive, negative or both"),
        ({"negatives": "near"}, "negatives='near' is unknown. Use one of same_question, other_question, unrelated"),
        ({"wrong_option": "last"}, "wrong_option='last' is unknown"),
        ({"flipped_share": 1.5}, "flipped_share=1.5 must lie between 0 and 1"),
        ({"num_examples": 0}, "num_examples=0 must be 1 or more"),
        ({"prompt_template": "Answer:"}, "must hold {question}"),
        ({"save_examples": [0]}, "must be numbers of 1 or more"),
        ({"save_examples": ["8"]}, "must be numbers of 1 or more"),
        ({"lora_r": 0}, "lora_r=0 and lora_alpha=8 must be 1 or more"),
        ({"lora_alpha": 0}, "lora_r=8 and lora_alpha=0 must be 1 or more"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0 must be 0 or more and below 1"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last=True leaves the last examples out"),
        ({"loss_type": "dft"}, "loss_type='dft' is no maximum likelihood"),
        ({"packing": True, "max_length": 64}, "packing=True puts several questions in one sequence"),
        ({"completion_only_loss": False}, "completion_only_loss=False trains on the questions too"),
        ({"chat_template_path": "x"}, "chat_template_path is not read here"),
        ({"train_sampling_strategy": "random"}, "would show the heads different questions"),
    ],
)
def test_a_bad_configuration_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        LikraConfig(str(tmp_path), use_cpu=True, bf16=False, **options)


def test_a_question_over_the_context_length_is_named(make_trainer, questions):
    rows = questions.to_list()
    rows[7]["choices"][1] = "a word " * 600
    with pytest.raises(ValueError, match=r"train_dataset\[7\] has \d+ tokens .* context length of 512"):
        make_trainer(train_dataset=Dataset.from_list(rows))
    with pytest.raises(ValueError, match=r"train_dataset\[0\] has \d+ tokens .* context length of 10"):
        make_trainer(max_length=10)


@pytest.mark.parametrize(
    ("negatives", "rows"),
    [
        ("other_question", [("Why? " * 30, ["x", "y"]), ("How?", ["a b " * 40, "b a " * 40])]),
        ("unrelated", [("Who boils eggs? " * 15, ["x", "y"]), ("How? " * 12, ["a", "a " * 45])]),
    ],
)
def test_a_text_of_another_question_over_the_context_length_is_refused(negatives, rows, make_trainer):
    rows = [{"question": question, "choices": choices, "answer": 0} for question, choices in rows]
    # every question fits with its own options
    trainer = make_trainer(train_dataset=Dataset.from_list(rows), negatives=negatives, max_length=200)
    with pytest.raises(ValueError, match=r"with the text of another has \d+ tokens .* context length of 200"):
        trainer.train()


def test_a_base_that_heads_cannot_stand_on_is_refused(make_trainer, make_model):
    with pytest.raises(ValueError, match=r"lora_target_modules=\['query'\] fits no module of LlamaForCausalLM"):
        make_trainer(lora_target_modules=["query"])
    with pytest.raises(ValueError, match="model has adapters already"):
        make_trainer(get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM")))


def test_questions_and_preferences_do_not_mix(make_trainer, questions, preferences):
    with pytest.raises(ValueError, match="mixes questions and preferences"):
        make_trainer(train_dataset=read_questions(questions) + read_questions(preferences))


def test_a_checkpoint_cut_off_is_passed_over(make_trainer, tmp_path):
    with pytest.raises(Killed):
        make_trainer(save_examples=[8, 16], save_total_limit=2, callbacks=[Kill("positive", 3)]).train()
    shutil.rmtree(tmp_path / "heads" / "examples-16")
    (tmp_path / "heads" / "training" / "positive" / "checkpoint-2" / "trainer_state.json").unlink()
    make_trainer(save_examples=[8, 16], save_total_limit=2).train(resume_from_checkpoint=True)
    assert list(saved_points(tmp_path / "heads", HEADS)) == [8, 16, 40]


def test_an_answer_in_open_reasoning_is_refused(make_trainer, tokenizer):
    conversations = dataset("conversation", responses=True)
    with pytest.raises(ValueError, match=r"train_dataset\[0\]: 'a kind word 0' has no </think>"):
        make_trainer(train_dataset=conversations, processing_class=with_template(tokenizer, DROPPING))
    make_trainer(train_dataset=conversations, processing_class=with_template(tokenizer, CLOSING))
