import importlib
import json
import math
import shutil
import statistics
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from tests.conftest import CHAT_TEMPLATE, save
from tests.helpers import dataset, letter_reward, with_template
from trl_negalign.evaluation.evaluate import evaluate
from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.queries import Queries, as_response
from trl_negalign.evaluation.rewards import (
    RewardModel,
    Scorer,
    bootstrap_interval,
    paired_difference,
    reward_statistics,
    score_with_function,
)
from trl_negalign.fingerprints import function_parts


COMPLETIONS = ["yes", "an angry writer, and a long answer", "no no no"]


def make_queries(style="string", **columns) -> Queries:
    return Queries([0, 1, 2], dataset(style)["prompt"][:3], None, columns, {})


def responses(style) -> list:
    return [as_response(text, style != "string") for text in COMPLETIONS]


@pytest.mark.parametrize(
    ("style", "rendered"), [("string", None), ("conversation", None), ("conversation", {"ending": " indeed"})]
)
def test_a_reward_model_scores_as_in_trls_trainer(style, rendered, saved_model, reward_model, tokenizer, tmp_path):
    ending = CHAT_TEMPLATE.replace("{{ '<|end|>", "{{ ending }}{{ '<|end|>")
    saved_reward_model = save(reward_model, with_template(tokenizer, ending), tmp_path / "reward")
    options = {"per_device_train_batch_size": 2, "num_generations": 2, "use_cpu": True, "bf16": False}
    args = GRPOConfig(str(tmp_path), chat_template_kwargs=rendered, **options)
    trainer = GRPOTrainer(saved_model, saved_reward_model, args=args, train_dataset=dataset(style))
    queries = replace(make_queries(style), chat_template_kwargs=rendered)
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
    assert seen.pop("trainer_state").global_step == 1
    seen.pop("log_extra")(column="words", values=["a", "b", "c"])
    seen.pop("log_metric")(name="mean", value=1.0)
    assert seen == {"answer": [1, 2, 3], "completion_ids": [[1], [2], [3]], "prompts": ["a", "b", "c"]}


def test_a_function_gets_the_keywords_of_trls_trainer(saved_model, tmp_path):
    """Whatever this TRL hands to a reward function, no more and no less."""
    seen = []

    def reward(completions, **kwargs):
        seen.append(set(kwargs))
        return [0.0] * len(completions)

    args = GRPOConfig(str(tmp_path), per_device_train_batch_size=2, num_generations=2, use_cpu=True, bf16=False)
    trainer = GRPOTrainer(saved_model, reward, args=args, train_dataset=dataset())
    trainer._calculate_rewards([{"prompt": "a", "answer": 1}] * 3, ["a"] * 3, COMPLETIONS, [[1]] * 3)
    score_with_function(reward, "mine", ["a"] * 3, COMPLETIONS, {"answer": [1] * 3, "completion_ids": [[1]] * 3})
    assert seen[0] == seen[1]


def test_a_reward_that_fades_with_the_training_gives_what_it_gave_at_its_end():
    def reward(completions, trainer_state, **kwargs):
        return [1.0 - trainer_state.global_step / trainer_state.max_steps] * len(completions)

    assert score_with_function(reward, "mine", ["a"] * 3, COMPLETIONS, {}) == [0.0] * 3


@pytest.mark.parametrize("value", [-math.inf, math.inf])
def test_an_infinite_reward_names_its_query(value):
    with pytest.raises(ValueError, match=r"The reward mine returned -?inf for the query 'b'\. Return a finite number"):
        score_with_function(lambda **kwargs: [1.0, value, None], "mine", ["a", "b", "c"], COMPLETIONS, {})


def test_a_function_that_fails_is_one_line_with_its_place():
    with pytest.raises(ValueError) as error:
        score_with_function(lambda prompts, completions, answer: [1.0], "mine", ["a"] * 3, COMPLETIONS, {})
    assert str(error.value).startswith("The reward mine failed: TypeError: ") and "'trainer_state'" in str(error.value)
    assert ".py, line " in str(error.value) and "\n" not in str(error.value)


def gpt2_reward(tokenizer, path, positions: int) -> str:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions, "num_labels": 1}
    return save(GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), **sizes)), tokenizer, path)


def test_a_text_over_the_models_context_has_no_reward(tokenizer, tmp_path, caplog):
    """With learnt positions the model fails at such a text, and with it the whole batch."""
    path = gpt2_reward(tokenizer, tmp_path / "short", positions=24)
    scorer = Scorer(path, tmp_path)
    found = scorer(make_queries(), ["yes", "a" * 40, "no no no"], description="short")
    assert [math.isnan(reward) for reward in found] == [False, True, False]
    assert "1 of 3 texts are over the reward model's context of 24 tokens" in caplog.text
    alone = Scorer(path, tmp_path / "alone")(make_queries(), ["yes", "no", "no no no"])
    assert found[0] == pytest.approx(alone[0]) and found[2] == pytest.approx(alone[2])


def test_the_context_is_the_tokenizers_where_it_says_less(tokenizer, tmp_path):
    path = gpt2_reward(tokenizer, tmp_path / "short", positions=64)
    assert Scorer(path, tmp_path).reader()[1] == 64
    own = AutoTokenizer.from_pretrained(path)
    own.model_max_length = 62
    own.save_pretrained(path)
    assert Scorer(path, tmp_path).reader()[1] == RewardModel(path).context == 62


@pytest.mark.parametrize("change", ["config", "tokenizer"])
def test_another_reward_model_of_the_same_weights_scores_anew(change, saved_reward_model, tokenizer, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(saved_reward_model, path)
    scorer = Scorer(str(path), tmp_path / "kept")
    first = scorer(make_queries("conversation"), responses("conversation"))
    if change == "config":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1.0}))
    else:
        settings = json.loads((path / "tokenizer.json").read_text())
        settings["pre_tokenizer"]["add_prefix_space"] = True
        (path / "tokenizer.json").write_text(json.dumps(settings))
    again = Scorer(str(path), tmp_path / "kept")
    assert again(make_queries("conversation"), responses("conversation")) != first
    assert [key for key in again.identity if again.identity[key] != scorer.identity[key]] == [change]


def test_a_probe_scores_one_row_and_lets_the_model_go(saved_reward_model, tmp_path, monkeypatch):
    scorer, seen = Scorer(saved_reward_model, tmp_path), []
    original = RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda self, texts: seen.extend(texts) or original(self, texts))
    scorer.probe(make_queries(), " Yes.")
    assert seen == ["question number 0 Yes."] and scorer.model is None
    assert len(scorer.identity["weights"]) == 64 and not list(tmp_path.iterdir())


def test_a_probe_of_a_function_gets_the_tokens(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("tests.helpers.letter_reward", lambda **kwargs: seen.update(kwargs) or [1.0])
    Scorer("tests.helpers.letter_reward", tmp_path).probe(make_queries(answer=[7, 8, 9]), " Yes.", [4, 5])
    assert seen["completion_ids"] == [[4, 5]] and seen["answer"] == [7] and seen["completions"] == [" Yes."]


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


FACTORY = """
from functools import partial

class Longest:
    def __call__(self, completions, **kwargs):
        return [float(len(text)) for text in completions]

def base(completions, factor, **kwargs):
    return [factor * len(text) for text in completions]

longest, doubled = Longest(), partial(base, factor=2)
def plain(completions, **kwargs):
    return [1.0] * len(completions)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of rewards, anew for each text, as two processes would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text, name="own_rewards"):
        (tmp_path / f"{name}.py").write_text(text)
        for known in ("own_rewards", "other_rewards"):
            sys.modules.pop(known, None)
        importlib.invalidate_caches()

    yield write
    for known in ("own_rewards", "other_rewards"):
        sys.modules.pop(known, None)


@pytest.mark.parametrize(
    ("name", "defined"), [("plain", "plain"), ("longest", "Longest"), ("doubled", "base")], ids=lambda name: name
)
def test_a_function_is_identified_by_its_source(name, defined, module, tmp_path):
    def identity():
        return Scorer(f"own_rewards.{name}", tmp_path).identity

    module(FACTORY)
    first = identity()
    assert first["function"] == f"own_rewards.{defined}" and first["weights"] is None and len(first["source"]) == 32
    module(FACTORY)
    assert identity() == first
    module(FACTORY.replace("1.0", "1.5"))
    assert [key for key in first if identity()[key] != first[key]] == ["source"]


def test_a_function_that_was_edited_since_is_refused(module, saved_model, tmp_path):
    options = {"metrics": ("reward",), "rewards": ("own_rewards.plain",), "sampling": Sampling(max_new_tokens=2)}
    module(FACTORY)
    before = evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    module(FACTORY.replace("1.0", "1.5"))
    with pytest.raises(ValueError, match=r"'own_rewards.plain' has changed since \(source\)"):
        evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    after = evaluate([saved_model], make_queries(), tmp_path / "out", overwrite=True, **options)
    one, two = (found["rewards"]["own_rewards.plain"] for found in (before, after))
    assert one["function"] == two["function"] == "own_rewards.plain" and one["source"] != two["source"]


def test_a_function_that_another_module_set_up(module, tmp_path):
    """The module of the name may hand other arguments to the module of the function."""
    module(FACTORY)
    found = []
    for factor in (2, 3):
        text = f"from functools import partial\nfrom own_rewards import base\nmine = partial(base, factor={factor})\n"
        module(text, "other_rewards")
        found.append(Scorer("other_rewards.mine", tmp_path).identity)
    first, second = found
    assert first["function"] == second["function"] == "own_rewards.base" and first["source"] != second["source"]


def test_a_function_without_a_file_has_no_source():
    assert function_parts(len, "builtins.len") == {"weights": None, "function": "builtins.len", "source": None}


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
