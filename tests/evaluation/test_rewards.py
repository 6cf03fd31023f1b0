import math
import statistics

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from tests.conftest import save
from tests.helpers import dataset, letter_reward
from trl_negalign.evaluation.queries import Queries, as_response
from trl_negalign.evaluation.rewards import (
    RewardModel,
    Scorer,
    bootstrap_interval,
    paired_difference,
    reward_statistics,
    score_with_function,
)


COMPLETIONS = ["yes", "an angry writer, and a long answer", "no no no"]


def make_queries(style="string", **columns) -> Queries:
    return Queries([0, 1, 2], dataset(style)["prompt"][:3], None, columns, {})


def responses(style) -> list:
    return [as_response(text, style != "string") for text in COMPLETIONS]


@pytest.mark.parametrize("style", ["string", "conversation"])
def test_a_reward_model_scores_as_in_trls_trainer(style, saved_model, saved_reward_model, tmp_path):
    args = GRPOConfig(str(tmp_path), per_device_train_batch_size=2, num_generations=2, use_cpu=True, bf16=False)
    trainer = GRPOTrainer(saved_model, saved_reward_model, args=args, train_dataset=dataset(style))
    queries = make_queries(style)
    rows = [{"prompt": prompt} for prompt in queries.prompts]
    expected = trainer._calculate_rewards(rows, queries.prompts, responses(style), [[1]] * 3)[:, 0]
    for batch_size in (1, 2, 8):
        found = Scorer(saved_reward_model, tmp_path / str(batch_size), batch_size)(queries, responses(style))
        assert found == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_reward_model_reads_with_its_own_tokenizer(saved_reward_model, tokenizer, tmp_path):
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "num_labels": 1}
    other = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), **sizes))
    own = AutoTokenizer.from_pretrained(saved_reward_model)
    own.chat_template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    own.pad_token = None
    # the template writes special tokens, so the tokenizer must not add its own
    start = TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", own.bos_token_id)])
    own.backend_tokenizer.post_processor = start
    path = save(other, own, tmp_path / "reward")
    model = RewardModel(path)
    assert model.texts(make_queries("conversation").prompts, responses("conversation"))[0] == "question number 0!yes!"
    alone = [
        AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)(
            torch.tensor([own(f"question number {i}!{text}!")["input_ids"][1:]])
        ).logits.item()
        for i, text in enumerate(COMPLETIONS)
    ]
    found = Scorer(path, tmp_path)(make_queries("conversation"), responses("conversation"))
    assert found == pytest.approx(alone, abs=1e-5)


def test_scores_of_a_model_are_kept(saved_reward_model, tmp_path, monkeypatch):
    first = Scorer(saved_reward_model, tmp_path)(make_queries(), responses("string"))
    scorer, seen = Scorer(saved_reward_model, tmp_path), []
    original = RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda self, texts: seen.extend(texts) or original(self, texts))
    assert scorer(make_queries(), responses("string")) == first and not seen
    scorer(make_queries(), ["yes", "new", "no no no"])
    assert seen == ["question number 1new"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_function_gets_what_trl_gives_it(asynchronous):
    seen = {}

    def reward(prompts, completions, **kwargs):
        seen.update(kwargs, prompts=prompts)
        return [1, None, 2.5]

    async def slowly(**kwargs):
        return reward(**kwargs)

    columns = {"answer": [1, 2, 3], "completion": ["reference"] * 3, "completion_ids": [[1], [2], [3]]}
    function = slowly if asynchronous else reward
    found = score_with_function(function, "reward", ["a", "b", "c"], COMPLETIONS, columns)
    assert found[0] == 1.0 and math.isnan(found[1]) and found[2] == 2.5
    assert seen == {"answer": [1, 2, 3], "completion_ids": [[1], [2], [3]], "prompts": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("returned", "message"),
    [([1.0], "returned 1 for 3"), (1.0, "returned float for 3"), (["good"] * 3, "returned what is no number")],
)
def test_a_function_must_return_a_number_each(returned, message):
    with pytest.raises(ValueError, match=f"The reward mine {message}"):
        score_with_function(lambda **kwargs: returned, "mine", ["a"] * 3, COMPLETIONS, {})


def test_functions_by_name_and_packaged_ones(tmp_path):
    queries = make_queries()
    scorer = Scorer("tests.helpers.letter_reward", tmp_path)
    assert scorer(queries, COMPLETIONS, [[1]] * 3) == letter_reward(COMPLETIONS)
    assert Scorer("vader_reward", tmp_path)(queries, ["wonderful", "awful", "x"])[0] > 0.5
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is no packaged one"):
        Scorer("sentiment", tmp_path)


def test_mean_and_error_by_hand():
    # 1, 2, 3: deviation 1, error 1/√3; the missing one is counted, not averaged
    found = reward_statistics([1.0, 2.0, math.nan, 3.0])
    assert found == {"mean": 2.0, "standard_error": pytest.approx(3**-0.5), "count": 3, "unscored": 1}
    assert math.isnan(reward_statistics([math.nan])["mean"]) and reward_statistics([])["count"] == 0
    assert math.isnan(reward_statistics([1.0])["standard_error"])


def test_differences_are_paired_by_query():
    # paired, the difference is always 1, although the rewards vary much more
    baseline = [float(10 * i) for i in range(50)]
    found = paired_difference([value + 1 for value in baseline], baseline)
    assert found == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 50}
    assert paired_difference([2.0, math.nan, 5.0], [1.0, 1.0, math.nan])["count"] == 1
    assert math.isnan(paired_difference([math.nan], [1.0])["mean"])


def test_the_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(3).normal(2.0, 1.5, size=400).tolist()
    low, high = bootstrap_interval(values)
    error = statistics.stdev(values) / 20
    assert low == pytest.approx(statistics.mean(values) - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(statistics.mean(values) + 1.96 * error, abs=0.1 * error)
    assert (low, high) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_the_level_of_the_interval():
    values = [float(i) for i in range(100)]
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.exponential(1.0, size=80), resamples=500)
        covered += low < 1.0 < high
    assert 0.88 < covered / 200 < 0.99
