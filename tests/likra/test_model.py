"""Scores of trained heads, and heads on disk and on the hub."""

import json

import huggingface_hub
import pytest
import torch
from peft import PeftModel

from tests.conftest import tiny_model
from tests.likra.slow import head_logp, text_logp
from trl_negalign.likra.model import LikraModel, digest_of


QUESTIONS = ["What is number 1?", "What is number 2?", "How do I boil an egg?"]
OPTIONS = [["the music", "boil an egg"], ["a", "the film was long", "7"], ["put it in hot water", "we went home"]]


def slow_score(heads, question: str, option: str, mode: str, weight: float) -> float:
    logp = {
        state: text_logp(heads, state, f"Question: {question}\nAnswer:", f" {option}")
        for state in ("positive", "negative", "base")
    }
    return {
        "ratio": logp["positive"] - weight * logp["negative"],
        "positive": logp["positive"],
        "negative_vs_base": logp["base"] - weight * logp["negative"],
    }[mode]


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("mode", ["ratio", "positive", "negative_vs_base"])
def test_scores_equal_one_option_at_a_time(mode, weight, heads):
    scores = heads.score(QUESTIONS, OPTIONS, weight=weight, mode=mode)
    for question, options, score in zip(QUESTIONS, OPTIONS, scores, strict=True):
        expected = [slow_score(heads, question, option, mode, weight) for option in options]
        assert score.tolist() == pytest.approx(expected, abs=1e-5)


def test_one_question_is_scored_as_among_many(heads):
    many = heads.score(QUESTIONS, OPTIONS, tokens_per_batch=1)
    single = heads.score(QUESTIONS[1], OPTIONS[1])
    assert single.tolist() == pytest.approx(many[1].tolist(), abs=1e-6)


def test_a_question_is_read_once_for_all_its_options(make_trainer):
    heads = make_trainer().heads
    assert heads.shares_queries
    read = []
    heads.model.get_base_model().model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    heads.score(QUESTIONS, OPTIONS)
    encoded = heads.encode(QUESTIONS, OPTIONS)
    # the query without its last token, which stands before each option without its own last; rows of one length
    rows = [len(item.query) - 1 + sum(map(len, item.options)) for item in encoded]
    once = len(rows) * max(rows)
    # under two heads
    assert read == [once, once]


def test_a_conversation_is_scored_through_the_chat_template(make_trainer, preferences):
    heads = make_trainer(train_dataset=preferences, max_steps=1).train()
    query = [{"role": "user", "content": "How?"}]
    score = heads.score(query, ["a kind word", "an angry word"], mode="positive")
    query_ids = heads.tokenizer.apply_chat_template(query, add_generation_prompt=True, return_dict=True)["input_ids"]
    option_ids = heads.tokenizer("an angry word")["input_ids"]
    assert score[1].item() == pytest.approx(head_logp(heads, "positive", query_ids, option_ids), abs=1e-5)


def test_scoring_leaves_the_model_as_it_was(heads):
    heads.model.train()
    heads.score(QUESTIONS, OPTIONS)
    assert heads.model.training
    heads.model.eval()
    heads.score(QUESTIONS, OPTIONS)
    assert not heads.model.training


def test_untrained_heads_choose_nothing(make_trainer, questions):
    heads = make_trainer().heads
    assert torch.equal(heads.score(QUESTIONS[0], OPTIONS[0]), torch.zeros(2, dtype=torch.float64))
    found = heads.evaluate(questions)
    assert found["ratio"] == found["negative_vs_base"] == {"acc": None, "acc_norm": None}
    assert 0 < found["positive"]["acc"] < 1


def test_evaluation_counts_right_choices(heads, questions):
    rows = questions.to_list()
    scores = heads.score([row["question"] for row in rows], [row["choices"] for row in rows], weight=0.9)
    chosen = [score.argmax().item() for score in scores]
    normed = [
        max(range(3), key=lambda i, score=score, row=row: score[i].item() / len(row["choices"][i]))
        for score, row in zip(scores, rows, strict=True)
    ]
    found = heads.evaluate(questions, weight=0.9)
    assert found["ratio"] == {
        "acc": pytest.approx(sum(c == row["answer"] for c, row in zip(chosen, rows, strict=True)) / 40),
        "acc_norm": pytest.approx(sum(c == row["answer"] for c, row in zip(normed, rows, strict=True)) / 40),
    }
    assert found["ratio"]["acc"] > 0.9


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (QUESTIONS[0], ["one"], r"question 0 has 1 option\(s\)"),
        (QUESTIONS[0], [], r"question 0 has 0 option\(s\)"),
        ([{"role": "user", "content": QUESTIONS[0]}], ["one"], r"question 0 has 1 option\(s\)"),
        (QUESTIONS, [["a", "b"], ["a", " "], ["a", "b"]], "question 1: option 1 is empty"),
        (
            QUESTIONS,
            [["a", "b"], ["a", "b"], ["a", "b " * 600]],
            r"question 2 has \d+ tokens .* context length of 512",
        ),
        (QUESTIONS[0], "yes", "question 0: the options are 'yes', and must be a list of texts"),
        (QUESTIONS, ["ab", "cd", "ef"], "question 0: the options are 'ab', and must be a list of texts"),
        (QUESTIONS[0], ["a", None], r"question 0: the options are \['a', None\], and must be a list of texts"),
        (QUESTIONS, [["a", "b"]], "3 questions have 1 lists of options"),
    ],
)
def test_what_cannot_be_scored_is_refused(question, options, message, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer().heads.score(question, options)


def test_a_missing_head_is_named(make_trainer, questions):
    heads = make_trainer(heads=["negative"]).heads
    with pytest.raises(ValueError, match="have no positive one, only negative. The negative head alone scores with"):
        heads.score(QUESTIONS[0], OPTIONS[0])
    with pytest.raises(ValueError, match="mode='best' is unknown"):
        heads.score(QUESTIONS[0], OPTIONS[0], mode="best")
    assert set(heads.evaluate(questions)) == {"negative_vs_base"}


@pytest.fixture
def saved(heads, tmp_path):
    heads.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_heads_score_the_same(saved, heads, make_model):
    loaded = LikraModel.from_pretrained(saved, base=make_model())
    assert loaded.heads == ("positive", "negative") and loaded.info() == heads.info()
    for mode in ("ratio", "negative_vs_base"):
        for first, second in zip(
            loaded.score(QUESTIONS, OPTIONS, mode=mode), heads.score(QUESTIONS, OPTIONS, mode=mode), strict=True
        ):
            assert torch.equal(first, second)


def test_each_head_is_an_ordinary_adapter(saved, heads, make_model):
    adapter = PeftModel.from_pretrained(make_model(), saved / "negative").eval()
    ids = heads.tokenizer("We went home early", return_tensors="pt")["input_ids"]
    heads.model.set_adapter("negative")
    assert torch.equal(adapter(input_ids=ids).logits, heads.model.eval()(input_ids=ids).logits)


def test_a_base_that_is_named_is_loaded(make_trainer, saved_model, tmp_path):
    trainer = make_trainer(saved_model, max_steps=1)
    heads = trainer.train()
    trainer.save_model()
    loaded = LikraModel.from_pretrained(tmp_path / "heads")
    assert torch.equal(loaded.score(QUESTIONS[0], OPTIONS[0]), heads.score(QUESTIONS[0], OPTIONS[0]))
    # a base that has moved
    info = json.loads((tmp_path / "heads" / "likra.json").read_text())
    (tmp_path / "heads" / "likra.json").write_text(json.dumps(info | {"base_model": "./moved"}))
    again = LikraModel.from_pretrained(tmp_path / "heads", base=saved_model)
    assert torch.equal(again.score(QUESTIONS[0], OPTIONS[0]), heads.score(QUESTIONS[0], OPTIONS[0]))


def test_heads_of_another_base_are_refused(saved, tokenizer, make_model):
    with pytest.raises(ValueError, match="were trained on .*, and .* has other weights. Pass their base, or train"):
        LikraModel.from_pretrained(saved, base=tiny_model(tokenizer, seed=1))
    changed = make_model()
    with torch.no_grad():
        changed.model.layers[1].self_attn.q_proj.weight += 0.01
    with pytest.raises(ValueError, match="has other weights"):
        LikraModel.from_pretrained(saved, base=changed)
    with pytest.raises(ValueError, match="base has adapters already"):
        LikraModel.from_pretrained(saved, base=PeftModel.from_pretrained(make_model(), saved / "positive"))


def test_a_base_in_another_precision_is_the_same_base(saved, make_model):
    assert digest_of(make_model().to(torch.bfloat16)) == digest_of(make_model())
    LikraModel.from_pretrained(saved, base=make_model().to(torch.bfloat16))


def test_a_folder_without_heads_is_refused(tmp_path, make_model, saved):
    with pytest.raises(ValueError, match="holds no likelihood-ratio heads"):
        LikraModel.from_pretrained(tmp_path, base=make_model())
    with pytest.raises(ValueError, match="./nowhere is no folder"):
        LikraModel.from_pretrained("./nowhere", base=make_model())
    (saved / "likra.json").unlink()
    with pytest.raises(ValueError, match="holds no likelihood-ratio heads"):
        LikraModel.from_pretrained(saved, base=make_model())


def test_heads_take_over_an_earlier_point(make_trainer, make_model, tokenizer, tmp_path):
    heads = make_trainer(save_examples=[8]).train()
    late = heads.score(QUESTIONS[0], OPTIONS[0])
    heads.load_heads(tmp_path / "heads" / "examples-8")
    early = heads.score(QUESTIONS[0], OPTIONS[0])
    fresh = LikraModel.from_pretrained(tmp_path / "heads" / "examples-8", make_model(), tokenizer)
    assert heads.examples == 8 and not torch.equal(early, late)
    assert torch.equal(early, fresh.score(QUESTIONS[0], OPTIONS[0]))


def test_points_of_other_heads_are_not_taken_over(make_trainer, tmp_path, tokenizer):
    make_trainer(output_dir=str(tmp_path / "one"), heads=["negative"], max_steps=1).train()
    make_trainer(output_dir=str(tmp_path / "two"), heads=["negative"], lora_alpha=16, max_steps=1).train()
    with pytest.raises(ValueError, match="has lora_alpha 16, and here it is 8"):
        make_trainer(heads=["negative"]).heads.load_heads(tmp_path / "two" / "examples-8")
    with pytest.raises(ValueError, match="has no positive head"):
        make_trainer().heads.load_heads(tmp_path / "one" / "examples-8")
    other = make_trainer(tiny_model(tokenizer, seed=1), heads=["negative"]).heads
    with pytest.raises(ValueError, match="were trained on another base"):
        other.load_heads(tmp_path / "one" / "examples-8")


def test_the_card_says_what_the_heads_are(saved, heads):
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    assert {"likra", "trl-negalign"} <= set(card.data.tags) and card.data.library_name == "peft"
    for part in (
        "`positive` and `negative`",
        "40 examples",
        r"`\"Question: {question}\\nAnswer:\"`".replace('\\"', '"'),
    ):
        assert part.replace("\\\\", "\\") in card.text
    heads.template = None
    assert "the response behind it" in heads.card().text


def test_a_push_uploads_what_is_saved(heads, monkeypatch):
    calls = {}

    def create(self, repo_id, **options):
        calls["created"] = (repo_id, options)
        return f"https://hub/{repo_id}"

    def upload(self, repo_id, folder_path, **options):
        from pathlib import Path

        calls["uploaded"] = {str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*")}

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert heads.push_to_hub("me/heads", private=True) == "https://hub/me/heads"
    assert calls["created"] == ("me/heads", {"private": True, "exist_ok": True})
    expected = {"README.md", "likra.json", "positive/adapter_model.safetensors", "negative/adapter_config.json"}
    assert expected <= calls["uploaded"]
