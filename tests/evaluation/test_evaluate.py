"""An evaluation from models to results.json, on tiny models and a judge on this machine."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sacrebleu import corpus_bleu
from transformers import GPT2Config, GPT2ForSequenceClassification

import trl_negalign.evaluation.generation as generation
from tests.conftest import save, tiny_model
from tests.evaluation.judge_server import JudgeServer, fail, shorter
from tests.helpers import dataset, letter_reward
from trl_negalign.borders import query_ids, response_ids
from trl_negalign.evaluation.evaluate import evaluate
from trl_negalign.evaluation.generation import Sampling, generate_batch
from trl_negalign.evaluation.judges import ChatJudge
from trl_negalign.evaluation.perplexity import response_nlls
from trl_negalign.evaluation.policies import Policy
from trl_negalign.evaluation.queries import load_queries
from trl_negalign.evaluation.rewards import RewardModel


SAMPLING = Sampling(max_new_tokens=8, seed=1)
LETTERS = "tests.helpers.letter_reward"
PRE_TOKENIZER = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def other_model(tokenizer, tmp_path_factory):
    return save(tiny_model(tokenizer, seed=7), tokenizer, tmp_path_factory.mktemp("models") / "other-model")


@pytest.fixture
def make_queries(tmp_path):
    def make(style="string", responses=True, rows=6, **options):
        path = tmp_path / f"{style}-{responses}.jsonl"
        dataset(style, responses=responses, rows=rows).to_json(path)
        return load_queries(str(path), **options)

    return make


def chat(server, tmp_path, **options) -> ChatJudge:
    return ChatJudge(server.url, "small-judge", tmp_path / "out" / "judge.sqlite", backoff=0.01, retries=1, **options)


@pytest.mark.parametrize("style", ["string", "conversation"])
def test_every_metric_of_two_models(style, saved_model, other_model, saved_reward_model, make_queries, tmp_path):
    queries, out = make_queries(style), tmp_path / "out"
    with JudgeServer(shorter) as server:
        returned = evaluate(
            [saved_model, f"other={other_model}"],
            queries,
            out,
            rewards=(LETTERS, saved_reward_model),
            judge=chat(server, tmp_path),
            against_reference=True,
            sampling=SAMPLING,
            batch_size=4,
        )
    results = json.loads((out / "results.json").read_text())
    assert results == json.loads(json.dumps(returned))
    assert list(results["results"]) == ["tiny-model", "other"]
    table = pd.read_parquet(out / "completions.parquet")
    assert len(table) == 12 and table["row"].tolist() == [*range(6), *range(6)]
    for label, rows in table.groupby("model"):
        found, texts = results["results"][label], rows["completion"].tolist()
        assert found["bleu"]["bleu"] == pytest.approx(corpus_bleu(texts, [rows["reference"].tolist()]).score)
        assert found["reward"][LETTERS]["mean"] == pytest.approx(sum(letter_reward(texts)) / 6)
        assert found["reward"][saved_reward_model]["count"] == 6
        assert found["ppl"]["perplexity"] == pytest.approx(
            math.exp(rows["reference_nll"].sum() / rows["reference_tokens"].sum())
        )
        assert found["length"]["tokens"] == rows["tokens"].mean() and 0 <= found["length"]["truncated"] <= 1
        assert set(found["diversity"]) >= {"distinct_1", "distinct_2", "self_bleu", "repetition_4"}
    means = {label: found["reward"][LETTERS]["mean"] for label, found in results["results"].items()}
    [letters, by_model] = results["reward_differences"]
    assert (letters["model"], letters["baseline"], by_model["reward"]) == ("other", "tiny-model", saved_reward_model)
    assert letters["mean"] == pytest.approx(means["other"] - means["tiny-model"])

    judged = pd.read_parquet(out / "judgements.parquet")
    texts = {(line.model, line.row): line.completion for line in table.itertuples()}
    texts |= {("reference", line.row): line.reference for line in table.itertuples()}
    assert len(judged) == 18
    for row in judged.itertuples():
        ours, theirs = len(texts[row.model, row.row]), len(texts[row.against, row.row])
        assert row.outcome == ("win" if ours < theirs else "lose" if ours > theirs else "tie")
    pairs = [(found["model"], found["against"]) for found in results["win_rates"]]
    assert pairs == [("tiny-model", "other"), ("tiny-model", "reference"), ("other", "reference")]
    assert results["win_rates"][0]["win"] == (judged["outcome"][:6] == "win").sum()


def test_it_writes_what_is_needed_to_repeat_it(saved_model, saved_reward_model, make_queries, tmp_path):
    with JudgeServer(shorter) as server:
        judge = chat(server, tmp_path, criteria="Prefer rhymes.")
        options = {"rewards": (saved_reward_model,), "judge": judge, "sampling": SAMPLING}
        results = evaluate([saved_model], make_queries(num_queries=4, seed=3), tmp_path / "out", **options)
    settings, data = results["settings"], results["data"]
    assert settings["sampling"] == {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1}
    assert settings["judge"]["base_url"] == server.url and settings["judge"]["model"] == "small-judge"
    assert "Prefer rhymes." in settings["judge"]["instructions"] and settings["judge"]["options"]["temperature"] == 0
    assert settings["pairs"] == [["tiny-model", "reference"]]  # one model alone
    assert data["queries"] == 4 and data["rows_in_split"] == 6 and data["seed"] == 3
    assert data["fingerprint"] == make_queries(num_queries=4, seed=3).fingerprint
    assert len(results["models"]["tiny-model"]["weights"]) == len(results["rewards"][saved_reward_model]["weights"])
    assert results["results"]["tiny-model"]["bleu"]["signature"].startswith("nrefs:1")
    versions = results["environment"]["versions"]
    assert all(versions[name] for name in ("python", "torch", "transformers", "trl", "sacrebleu", "trl-negalign"))


def test_perplexity_alone_generates_nothing(saved_model, model, tokenizer, make_queries, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "generate_batch", None)
    queries = make_queries()
    found = evaluate([saved_model], queries, tmp_path / "out", metrics=("ppl",))["results"]["tiny-model"]
    rows = zip(queries.prompts, queries.references, strict=True)
    pairs = [(query_ids(tokenizer, x), response_ids(tokenizer, x, y)) for x, y in rows]
    nlls = [response_nlls(model.eval(), [pair])[0] for pair in pairs]
    assert found["ppl"]["tokens"] == sum(len(response) for _, response in pairs)
    assert found["ppl"]["perplexity"] == pytest.approx(math.exp(sum(nlls) / found["ppl"]["tokens"]), rel=1e-5)
    assert list(found) == ["ppl"]


def count_generated(monkeypatch, stop_after=None) -> list:
    rows = []

    def counted(model, tokenizer, ids, batch, sampling):
        if stop_after is not None and len(rows) >= stop_after:
            raise KeyboardInterrupt
        rows.extend(batch)
        return generate_batch(model, tokenizer, ids, batch, sampling)

    monkeypatch.setattr(generation, "generate_batch", counted)
    return rows


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_everywhere(saved_model, other_model, make_queries, tmp_path, monkeypatch):
    models, metrics = [saved_model, other_model], ("ppl", "win_rate", "length")
    options = {"metrics": metrics, "sampling": SAMPLING, "batch_size": 2}

    def run(server, name="out"):
        judge = ChatJudge(server.url, "m", tmp_path / name / "judge.sqlite", backoff=0.01, retries=0, concurrency=1)
        return evaluate(models, make_queries(), tmp_path / name, judge=judge, **options)

    with JudgeServer(shorter) as server:
        whole = run(server, "whole")
        asked = server.requests
    with JudgeServer(*[shorter] * 5, fail(500)) as server:
        first = count_generated(monkeypatch, stop_after=8)  # in the second model
        with pytest.raises(KeyboardInterrupt):
            run(server)
        rest = count_generated(monkeypatch)
        with pytest.raises(OSError, match="run the same command again to go on"):
            run(server)
        assert len(first) == 8 and len(rest) == 4
        assert not (tmp_path / "out" / "results.json").exists()
        server.replies = (shorter,)
        resumed = run(server)
        assert server.requests == asked + 1 and len(rest) == 4  # the failed one is asked twice
        again = run(server)
        assert server.requests == asked + 1
    for part in ("results", "win_rates", "data", "models"):
        assert resumed[part] == again[part] == whole[part]


def test_more_queries_use_the_completions_of_fewer(saved_model, make_queries, tmp_path, monkeypatch):
    options = {"metrics": ("length",), "sampling": SAMPLING}
    evaluate([saved_model], make_queries(num_queries=2), tmp_path / "out", **options)
    generated = count_generated(monkeypatch)
    with pytest.raises(ValueError, match=r"holds the results of another evaluation \(other data: .*queries"):
        evaluate([saved_model], make_queries(num_queries=5), tmp_path / "out", **options)
    assert not generated
    results = evaluate([saved_model], make_queries(num_queries=5), tmp_path / "out", overwrite=True, **options)
    assert len(generated) == 3 and results["data"]["queries"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": Sampling(max_new_tokens=9)}, "other settings: sampling"),
        ({"metrics": ("length", "diversity")}, "other settings: metrics"),
        ({"models": ["again={path}"]}, "other models: again"),
    ],
)
def test_other_settings_do_not_replace_results(change, message, saved_model, make_queries, tmp_path):
    options = {"models": [saved_model], "metrics": ("length",), "sampling": SAMPLING, "out": tmp_path / "out"}
    evaluate(queries=make_queries(), **options)
    before = (tmp_path / "out" / "results.json").read_text()
    if "models" in change:
        change = {"models": [saved_model, change["models"][0].format(path=saved_model)]}
    with pytest.raises(ValueError, match=message):
        evaluate(queries=make_queries(), **(options | change))
    assert (tmp_path / "out" / "results.json").read_text() == before


def test_a_model_in_memory_and_a_reward_as_judge(model, tokenizer, make_model, make_queries, tmp_path):
    models = [
        Policy("one", "in memory", loader=lambda: (model, tokenizer)),
        Policy("two", "in memory", loader=lambda: (make_model(seed=3), tokenizer)),
    ]
    queries = make_queries(responses=False)
    metrics = ("win_rate", "reward")
    results = evaluate(
        models, queries, tmp_path / "out", metrics=metrics, rewards=(LETTERS,), judge=LETTERS, sampling=SAMPLING
    )
    table = pd.read_parquet(tmp_path / "out" / "completions.parquet")
    one, two = (table[table["model"] == label][f"reward/{LETTERS}"].tolist() for label in ("one", "two"))
    [found] = results["win_rates"]
    assert found["win"] == sum(a > b for a, b in zip(one, two, strict=True)) and found["unreadable"] == 0
    assert results["settings"]["judge"] == {"kind": "reward", "reward": LETTERS}


def test_missing_rewards_are_none_in_json_and_unreadable_to_a_judge(saved_model, make_queries, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.helpers.letter_reward", lambda completions, **kwargs: [None] * len(completions))
    options = {"metrics": ("win_rate", "reward"), "rewards": (LETTERS,), "judge": LETTERS, "sampling": SAMPLING}
    evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["results"]["tiny-model"]["reward"][LETTERS] == {
        "mean": None,
        "standard_error": None,
        "count": 0,
        "unscored": 6,
    }
    assert results["win_rates"][0]["unreadable"] == 6 and results["win_rates"][0]["win_minus_lose"] is None


def test_the_judge_is_checked_before_any_model_runs(saved_model, make_queries, tmp_path, monkeypatch):
    generated = count_generated(monkeypatch)
    with JudgeServer(fail(401)) as server:
        with pytest.raises(OSError, match="Is the key in OPENAI_API_KEY"):
            judge = chat(server, tmp_path)
            evaluate([saved_model], make_queries(), tmp_path / "out", metrics=("win_rate",), judge=judge)
    assert server.requests == 1 and not generated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("reward", "accuracy")}, r"metrics \['accuracy'\]: choose out of ppl, reward"),
        ({"metrics": ()}, "metrics is empty"),
        ({"models": []}, "No model is named"),
        ({"models": ["a/same", "b/same"]}, "Two models would be named 'same'"),
        ({"models": ["reference=gpt2"]}, "would be named 'reference'"),
        ({"metrics": ("reward",)}, "metric reward needs a reward"),
        ({"metrics": ("win_rate",)}, "metric win_rate needs a judge"),
        ({"metrics": ("ppl", "bleu")}, "ppl, bleu needs reference responses"),
        ({"metrics": ("win_rate",), "judge": LETTERS}, "win_rate against references needs reference"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"metrics": ("length",), "models": ["no/such"]}, "The model 'such' .* cannot be loaded"),
        ({"metrics": ("reward",), "rewards": ("sentiment",)}, "is no packaged one"),
        ({"metrics": ("length",), "sampling": Sampling(max_new_tokens=600)}, "No query is left .*of tiny-model"),
    ],
)
def test_bad_input_before_anything_runs(options, message, saved_model, make_queries, tmp_path, monkeypatch):
    generated = count_generated(monkeypatch)
    options = {"models": [saved_model], "queries": make_queries(responses=False), "out": tmp_path / "out"} | options
    with pytest.raises(ValueError, match=message):
        evaluate(**options)
    assert not generated and not (tmp_path / "out").exists()


@pytest.fixture
def adapters(saved_model, make_model, tmp_path):
    """Two adapters of the same weights, with another scale."""
    paths = []
    for alpha in (4, 64):
        model = make_model()
        model.name_or_path = saved_model
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, lora_alpha=alpha))
        adapted.save_pretrained(tmp_path / f"alpha{alpha}")
        paths.append(str(tmp_path / f"alpha{alpha}"))
    return paths


def test_adapters_of_another_scale_have_numbers_of_their_own(adapters, make_queries, tmp_path):
    options = {"metrics": ("ppl", "length"), "sampling": SAMPLING}
    together = evaluate(adapters, make_queries(), tmp_path / "out", **options)
    alone = evaluate(adapters[1:], make_queries(), tmp_path / "alone", **options)
    found = together["results"]
    assert found["alpha64"] == alone["results"]["alpha64"]
    assert found["alpha4"]["ppl"]["perplexity"] != pytest.approx(found["alpha64"]["ppl"]["perplexity"], rel=1e-3)
    one, other = together["models"].values()
    assert [part for part in one if one[part] != other[part]] == ["adapter", "adapter_config"]


@pytest.mark.parametrize("change", ["end_tokens", "config", "weights", "tokenizer"])
def test_a_model_that_changed_under_its_name_is_refused_before_anything_runs(
    change, saved_model, tokenizer, make_queries, tmp_path, monkeypatch
):
    path = tmp_path / "model"
    shutil.copytree(saved_model, path)
    options = {"metrics": ("ppl", "length"), "sampling": SAMPLING}
    before = evaluate([str(path)], make_queries(), tmp_path / "out", **options)
    if change == "weights":
        save(tiny_model(tokenizer, seed=5), tokenizer, path)
    else:
        name, settings = {
            "end_tokens": ("generation_config.json", {"eos_token_id": list(range(0, 400, 2))}),
            "config": ("config.json", {"rms_norm_eps": 1.0}),
            "tokenizer": ("tokenizer.json", {"pre_tokenizer": {**PRE_TOKENIZER, "add_prefix_space": True}}),
        }[change]
        (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | settings))
    generated = count_generated(monkeypatch)
    with pytest.raises(ValueError, match=rf"'model' has changed since \({change}") as error:
        evaluate([str(path)], make_queries(), tmp_path / "out", **options)
    assert not generated and "\n" not in str(error.value)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == before
    after = evaluate([str(path)], make_queries(), tmp_path / "out", overwrite=True, **options)
    assert len(generated) == 6
    fresh = evaluate([str(path)], make_queries(), tmp_path / "fresh", **options)
    assert after["results"] == fresh["results"] != before["results"]


def test_a_reward_model_that_changed_under_its_name(
    saved_model, saved_reward_model, make_queries, tmp_path, monkeypatch
):
    path = tmp_path / "reward"
    shutil.copytree(saved_reward_model, path)
    options = {"metrics": ("reward",), "rewards": (str(path),), "sampling": SAMPLING}
    before = evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1.0}))
    generated = count_generated(monkeypatch)
    with pytest.raises(ValueError, match=r"reward' has changed since \(config\)"):
        evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    assert not generated
    after = evaluate([saved_model], make_queries(), tmp_path / "out", overwrite=True, **options)
    assert not generated and after["results"] != before["results"]


def test_the_same_again_computes_nothing(saved_model, saved_reward_model, make_queries, tmp_path, monkeypatch):
    options = {"metrics": ("ppl", "reward"), "rewards": (saved_reward_model,), "sampling": SAMPLING}
    before = evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    generated, scored = count_generated(monkeypatch), []
    score = RewardModel.score
    monkeypatch.setattr(RewardModel, "score", lambda self, texts: scored.extend(texts) or score(self, texts))
    monkeypatch.setattr("trl_negalign.evaluation.perplexity.response_nlls", None)
    after = evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    assert not generated and len(scored) == 1  # the probe
    assert all(before[part] == after[part] for part in ("results", "models", "rewards", "settings"))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (lambda completions: [-math.inf] * len(completions), "returned -inf for the query"),
        (lambda completions: {}["missing"], "failed: KeyError: 'missing'"),
        (lambda completions: ["good"] * len(completions), "returned what is no number"),
        (lambda completions: [], "returned 0 for 1"),
    ],
)
@pytest.mark.parametrize("role", ["reward", "judge"])
def test_a_reward_that_cannot_be_used_is_named_before_anything_runs(
    role, failure, message, saved_model, make_queries, tmp_path, monkeypatch
):
    generated = count_generated(monkeypatch)
    monkeypatch.setattr("tests.helpers.letter_reward", lambda completions, **kwargs: failure(completions))
    options = {"metrics": ("reward",), "rewards": (LETTERS,)}
    if role == "judge":
        options = {"metrics": ("win_rate",), "judge": LETTERS}
    with pytest.raises(ValueError, match=f"The reward {LETTERS} {message}") as error:
        evaluate([saved_model], make_queries(), tmp_path / "out", sampling=SAMPLING, **options)
    assert not generated and not (tmp_path / "out").exists() and "\n" not in str(error.value)


def test_a_reward_may_use_all_that_trl_hands_it(saved_model, make_queries, tmp_path, monkeypatch):
    def reward(completions, completion_ids, trainer_state, log_extra, log_metric, **kwargs):
        log_extra("length", [len(ids) for ids in completion_ids])
        log_metric("length", 1.0)
        return [float(trainer_state.global_step)] * len(completions)

    monkeypatch.setattr("tests.helpers.letter_reward", reward)
    options = {"metrics": ("reward",), "rewards": (LETTERS,), "sampling": SAMPLING}
    results = evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    assert results["results"]["tiny-model"]["reward"][LETTERS]["mean"] == 1.0


@pytest.fixture
def short_reward(tokenizer, tmp_path):
    """A reward model with few learnt positions, at which longer texts fail."""

    def make(positions):
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions, "num_labels": 1}
        model = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), **sizes))
        return save(model, tokenizer, tmp_path / f"positions{positions}")

    return make


def test_no_query_fits_a_reward_models_context(saved_model, short_reward, make_queries, tmp_path, monkeypatch):
    generated = count_generated(monkeypatch)
    options = {"metrics": ("reward",), "rewards": (short_reward(8),), "sampling": SAMPLING}
    with pytest.raises(ValueError, match=r"No query is left \(6: over the context of the reward .*8, 8 tokens\)"):
        evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    assert not generated and not (tmp_path / "out").exists()


def test_queries_that_do_not_fit_a_reward_models_context_are_left_out(
    saved_model, short_reward, tokenizer, tmp_path, caplog
):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("We went", "a" * 60, "A film")))
    options = {"metrics": ("reward", "length"), "rewards": (short_reward(40),), "sampling": SAMPLING}
    results = evaluate([saved_model], load_queries(str(path)), tmp_path / "out", **options)
    [(reason, count)] = results["data"]["dropped"].items()
    assert count == 1 and reason.startswith("over the context of the reward ") and results["data"]["queries"] == 2
    assert "1 of 3 queries are left out for all models" in caplog.text


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("text", ["", '{"settings": {', '{"accuracy": 0.5}'])
def test_results_that_no_evaluation_wrote_stay(text, overwrite, saved_model, make_queries, tmp_path, monkeypatch):
    generated = count_generated(monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(text)
    options = {"metrics": ("length",), "sampling": SAMPLING, "overwrite": overwrite}
    with pytest.raises(ValueError, match="choose another folder, or move the file away") as error:
        evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    assert not generated and "\n" not in str(error.value)
    assert (tmp_path / "out" / "results.json").read_text() == text


def test_a_failure_while_writing_leaves_the_earlier_results(saved_model, make_queries, tmp_path, monkeypatch):
    options = {"metrics": ("length",), "sampling": SAMPLING}
    evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}

    def full(path, text, **kwargs):
        path.write_bytes(text[:40].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate([saved_model], make_queries(), tmp_path / "out", **options)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}


# KL


def test_kl_from_a_named_model(saved_model, other_model, make_queries, tmp_path):
    queries, out = make_queries(), tmp_path / "out"
    options = {"metrics": ("kl", "length"), "kl_reference": saved_model, "sampling": SAMPLING}
    returned = evaluate([saved_model, f"other={other_model}"], queries, out, **options)
    table = pd.read_parquet(out / "completions.parquet").set_index("model")
    assert returned["results"]["tiny-model"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    found = returned["results"]["other"]["kl"]
    assert found["mean"] == pytest.approx(table.loc["other", "kl"].mean()) and found["mean"] > 0.1
    assert found["count"] == len(queries.rows) and found["standard_error"] > 0
    assert returned["kl_reference"]["weights"] == returned["models"]["tiny-model"]["weights"]


def test_kl_that_was_kept_is_not_computed_again(saved_model, other_model, make_queries, tmp_path, monkeypatch):
    options = {"metrics": ("kl",), "kl_reference": saved_model, "sampling": SAMPLING}
    first = evaluate([f"other={other_model}"], make_queries(), tmp_path / "out", **options)
    monkeypatch.setattr("trl_negalign.evaluation.kl.completion_kl", None)
    again = evaluate([f"other={other_model}"], make_queries(), tmp_path / "out", **options)
    assert again["results"] == first["results"]


def test_kl_that_cannot_be_is_refused_before_any_model_runs(
    saved_model, other_model, tokenizer, make_queries, tmp_path, monkeypatch
):
    monkeypatch.setattr(Policy, "load", None)
    queries, out = make_queries(), tmp_path / "out"
    with pytest.raises(ValueError, match="kl needs kl_reference"):
        evaluate([saved_model], queries, out, metrics=("kl",))
    with pytest.raises(ValueError, match="top_p=0.9, top_k=0 are asked for"):
        options = {"metrics": ("kl",), "kl_reference": other_model, "sampling": Sampling(8, top_p=0.9)}
        evaluate([saved_model], queries, out, **options)
    tokenizer = type(tokenizer).from_pretrained(saved_model)
    tokenizer.add_tokens(["<|more|>"])
    other = save(tiny_model(tokenizer), tokenizer, tmp_path / "another")
    with pytest.raises(ValueError, match="compares models of the same tokens"):
        evaluate([saved_model], queries, out, metrics=("kl",), kl_reference=other)
    assert not out.exists()


def test_another_kl_reference_is_another_evaluation(saved_model, other_model, make_queries, tmp_path):
    queries, options = make_queries(), {"metrics": ("kl",), "sampling": SAMPLING}
    evaluate([saved_model], queries, tmp_path / "out", kl_reference=other_model, **options)
    with pytest.raises(ValueError, match="other settings: kl_reference"):
        evaluate([saved_model], queries, tmp_path / "out", kl_reference=saved_model, **options)
