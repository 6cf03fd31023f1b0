"""The benchmark of speed: what its clock counts, what its tables say, and one small run of it."""

import importlib
import json
import types
from pathlib import Path

import pytest
import torch


BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import one of the benchmarks' files, which find each other by their folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


# The clock


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Passing(torch.nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self):
        self.clock.now += self.seconds


class Generating:
    """In the place of transformers' `GenerationMixin`."""

    def generate(self, model):
        model()
        model.clock.now += 2


class FakeTrainer:
    """
    Tokenizes for 1 s, generates for 3 s, decodes for 1 s, has a reference pass of 2 s, a reward that takes 0.5 s and
    trains for 5 s, two steps long. With `early`, its own pass comes before the rewards.
    """

    def __init__(self, clock, fails_at=None, early=False):
        self.accelerator = types.SimpleNamespace(device=torch.device("cpu"))
        self.model, self.ref_model = Passing(clock, 1), Passing(clock, 2)
        self.reward_funcs = [self.reward]
        self.clock, self.fails_at, self.early, self.steps = clock, fails_at, early, 0

    def reward(self, completions):
        self.clock.now += 0.5
        return completions

    def add_callback(self, callback):
        self.callback = callback

    def train(self):
        if self.fails_at == 0:
            raise RuntimeError("before the first step")
        for step in (1, 2):
            self.callback.on_step_begin(None, None, None)
            self.clock.now += 1  # tokenizing
            with torch.no_grad():
                Generating().generate(self.model)
                self.clock.now += 1  # decoding
            if self.fails_at == step:
                raise RuntimeError(f"step {step}")
            if self.early:
                self.model()
            with torch.no_grad():
                self.ref_model()
            assert self.reward_funcs[0]([1]) == [1]
            if not self.early:
                self.model()
            self.clock.now += 4  # backward and optimizer
            self.steps += 1
            self.callback.on_step_end(None, None, None)
            self.clock.now += 100  # logging is no part of a step


@pytest.fixture
def timing(module, monkeypatch):
    timing = module("timing")
    monkeypatch.setattr(timing, "time", Clock())
    monkeypatch.setattr(timing, "GenerationMixin", Generating)
    return timing


@pytest.mark.parametrize("early", [False, True])
def test_each_part_of_a_step_is_timed(timing, early):
    watch = timing.Stopwatch(FakeTrainer(timing.time, early=early))
    watch.step()
    watch.step()
    # decoding comes before the rewards; what follows a pass that is trained belongs to the update
    assert watch.times == [{"generate": 4.0, "score": 1.5, "passes": 2.0, "update": 5.0}] * 2


def test_a_trainer_takes_one_step_at_a_time(timing):
    trainers = [FakeTrainer(timing.time) for _ in range(2)]
    watches = [timing.Stopwatch(trainer) for trainer in trainers]
    seen = []
    for watch in (watches[0], watches[1], watches[1], watches[0]):
        watch.step()
        seen.append([trainer.steps for trainer in trainers])
    assert seen == [[1, 0], [1, 1], [1, 2], [2, 2]]


@pytest.mark.parametrize("fails_at, message", [(0, "before the first step"), (1, "step 1"), (2, "step 2")])
def test_what_a_trainer_raises_is_raised_where_it_is_stepped(timing, fails_at, message):
    watch = timing.Stopwatch(FakeTrainer(timing.time, fails_at))
    with pytest.raises(RuntimeError, match=message):
        for _ in range(2):
            watch.step()
    assert len(watch.times) == max(fails_at - 1, 0)


def test_memory_on_a_cpu_is_the_most_that_was_held_at_once(module):
    timing = module("timing")
    before = torch.zeros(1000)
    with timing.profile(activities=[timing.ProfilerActivity.CPU], profile_memory=True) as profiler:
        first = torch.zeros(2000)
        second = torch.zeros(1000)
        del first, before
        third = torch.zeros(500)
        del second, third
    assert timing.largest_allocation(profiler) == 3000 * 4


# The work


def test_the_compact_head_scores_as_trls_own(module, make_model):
    from trl.trainer.utils import add_fused_lm_head

    def scored(compact):
        model = make_model().train()
        add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
        if compact:
            module("compact_head").CompactHead(model)
        ids = torch.arange(12).view(2, 6)
        labels = ids.masked_fill(torch.arange(6) < 3, -100)
        output = model(input_ids=ids, labels=labels, fused_lm_head=True)
        (output.log_probs.sum() + output.entropy.sum()).backward()
        return output, [parameter.grad for parameter in model.parameters()]

    (plain, plain_gradients), (compact, gradients) = scored(False), scored(True)
    torch.testing.assert_close(compact.log_probs, plain.log_probs)
    torch.testing.assert_close(compact.entropy, plain.entropy)
    torch.testing.assert_close(gradients, plain_gradients)
    assert plain.label_mask.numel() == 10 and compact.label_mask.numel() == 6  # three predicted tokens a row


def test_a_guide_has_the_tokens_it_is_said_to_have(module):
    from trl_negalign.guides import apply_guide, resolve_guide

    trainers, tokenizer = module("trainers"), module("shapes").byte_tokenizer()
    for tokens in (10, 45, 200):
        guide = resolve_guide(trainers.guide(tokens), "positive_prompt", "positive")
        assert len(tokenizer(apply_guide("", guide))["input_ids"]) == tokens


@pytest.mark.parametrize(
    "completion_ids", [[[5, 6, 7]], [[5, 6, 7], [5, 6]], [[5, 6, 7], [5, 6, 7, 8]], [[5, 6, 7], [5, 1, 0]]]
)
def test_completions_of_other_numbers_or_lengths_stop_the_benchmark(module, completion_ids):
    reward = module("trainers").length_checking_reward(rows=2, completion=3, eos_token_id=1)
    assert reward(completions=None, completion_ids=[[5, 6, 7], [5, 6, 8]]) == [18.0, 19.0]
    with pytest.raises(RuntimeError, match="should be 2 of 3 tokens"):
        reward(completions=None, completion_ids=completion_ids)


# The tables


def method(generate, update, memory, passes=0.0):
    parts = {"generate": generate, "score": [0.5] * 2, "passes": [passes] * 2, "update": update}
    return parts | {"memory": memory * 2**20}


@pytest.fixture
def results():
    methods = {
        "GRPO": method([1.0, 2.0], [2.5, 1.5], memory=100),
        "NEAT": method([2.0, 2.0], [1.0, 0.75], memory=50),
        "Online DPO": method([1.0, 2.0], [3.0, 3.0], memory=150, passes=0.25),
    }
    cell = {"query": 64, "completion": 8, "group": 4, "methods": methods}
    return {"machine": {"cpu": "fast", "cores": 2}, "options": {"queries": 3}, "cells": [cell]}


def rows(text, query):
    return [line for line in text.splitlines() if line.startswith(f"| {query} |")]


def test_the_table_has_seconds_of_the_baseline_and_ratios_of_the_others(module, results):
    baseline, neat, online_dpo = rows(module("tables").tables(results), 64)
    # generate, score, update, total, MiB, 3 * 4 * 8 tokens in 4 s
    assert baseline == ("| 64 | 8 | 4 | 1.500 (1.000–2.000) | 0.500 | 2.000 (1.500–2.500) | 4.000 | 100 | 24 |")
    # step by step: generate 2/1 and 2/2, update 1/2.5 and 0.75/1.5, total 3.5/4 and 3.25/4
    assert neat == ("| 64 | 8 | 4 | **1.50 (1.00–2.00)** | 0.45 (0.40–0.50) | 0.84 (0.81–0.88) | 0.50 | 0.500 | 28 |")
    # update 3/2.5 and 3/1.5, total 4.75/4 and 5.75/4, scoring with a reference pass
    assert online_dpo == (
        "| 64 | 8 | 4 | 1.00 | **1.60 (1.20–2.00)** | **1.31 (1.19–1.44)** | **1.50** | 0.750 | 18 |"
    )


def test_cells_are_in_order_however_they_were_measured(module, results):
    cell = results["cells"][0]
    results["cells"] = [cell | {"query": 512}, cell | {"group": 8}, cell]
    found = [line.split("|")[1:4] for line in module("tables").tables(results).splitlines() if "| 8 |" in line]
    assert [tuple(map(int, row)) for row in found[:3]] == [(64, 8, 4), (64, 8, 8), (512, 8, 4)]


def test_a_table_needs_the_baseline(module, results):
    del results["cells"][0]["methods"]["GRPO"]
    with pytest.raises(ValueError, match="lack GRPO"):
        module("tables").tables(results)


def test_only_what_stands_between_the_markers_is_replaced(module):
    put_between = module("tables").put_between
    page = "head\n<!-- a:begin -->\nold\n<!-- a:end -->\n<!-- b:begin -->\nkept\n<!-- b:end -->\n"
    once = put_between(page, "a", "new")
    assert once == page.replace("\nold\n", "\n\nnew\n\n")
    assert put_between(once, "a", "new") == once
    with pytest.raises(ValueError, match="c:begin"):
        put_between(page, "c", "new")


def test_table_and_plot_are_made_from_the_json(module, results, tmp_path):
    from matplotlib.image import imread

    (tmp_path / "data").mkdir()
    file, page = tmp_path / "data/fast.json", tmp_path / "README.md"
    cell = results["cells"][0]
    results["cells"] += [cell | {"query": 512}, cell | {"group": 8}]  # not every combination has been measured yet
    file.write_text(json.dumps(results))
    page.write_text("<!-- fast:begin --><!-- fast:end -->")
    module("tables").main([str(file), "--readme", str(page)])
    assert "0.45 (0.40–0.50)" in page.read_text()
    assert "(data/fast.png)" in page.read_text()
    assert imread(tmp_path / "data/fast.png").std() > 0


def test_the_readme_has_the_markers_of_the_commands_it_gives():
    text = (BENCHMARKS / "README.md").read_text()
    names = {word.removesuffix(".json").rpartition("/")[2] for word in text.split() if word.endswith(".json")}
    speed = {name for name in names if name.startswith("speed-")}
    assert speed
    for name in speed:
        assert f"<!-- {name}:begin -->" in text
        assert f"<!-- {name}:end -->" in text


# The runner

TINY = ["--shape", "tiny", "--query", "24", "--completion", "3", "--repeats", "1", "--guide", "10", "--threads", "1"]


@pytest.fixture
def run(module, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("KINETO_LOG_LEVEL", "5")
    file = tmp_path / "speed.json"

    def run(*options):
        module("speed").main([*TINY, "--out", str(file), *options])
        return json.loads(file.read_text())

    return run


def test_a_run_times_every_method_and_goes_on_where_it_stopped(run):
    first = run("--group", "2", "--profile")
    methods = first["cells"][0]["methods"]
    assert list(methods) == ["NEAT", "PLE", "GRPO", "Online DPO"]
    for name, measured in methods.items():
        assert measured["memory"] > 2**18  # the gradients alone
        assert min(measured["generate"] + measured["update"] + measured["score"]) > 0
        # only Online DPO looks at a reference model
        assert (measured["passes"][0] > 0) == (name == "Online DPO")
    second = run("--group", "2", "4")
    assert second["cells"][0] == first["cells"][0]
    assert [cell["group"] for cell in second["cells"]] == [2, 4]
    with pytest.raises(SystemExit, match="another seed"):
        run("--group", "2", "--seed", "1")


def test_queries_of_spread_lengths(module):
    shapes = module("shapes")
    tokenizer = shapes.byte_tokenizer()
    for spread in (False, True):
        lengths = [len(tokenizer(text)["input_ids"]) for text in shapes.queries(64, 24, spread=spread)["prompt"]]
        assert set(lengths) == (set(range(12, 25)) if spread else {24})


def test_a_run_with_spread_queries(run, module, monkeypatch):
    """Each method gets the same two queries, which are not equally long."""
    trainers, seen = module("trainers"), []
    checking = trainers.length_checking_reward

    def keeping(*args):
        reward = checking(*args)

        def kept(prompts, **kwargs):
            seen.append(sorted({len(prompt) for prompt in prompts}))
            return reward(**kwargs)

        return kept

    monkeypatch.setattr(trainers, "length_checking_reward", keeping)
    options = run("--group", "2", "--queries", "2", "--spread_queries")["options"]
    assert options["spread_queries"] and len(seen) >= 4
    assert len(seen[0]) == 2 and all(lengths == seen[0] for lengths in seen)


def test_one_query_has_no_spread(run, capsys):
    with pytest.raises(SystemExit):
        run("--group", "2", "--spread_queries")
    assert "cannot be longer than another" in capsys.readouterr().err


def test_half_of_an_odd_group_cannot_be_guided(run, capsys):
    with pytest.raises(SystemExit):
        run("--group", "3")
    assert "even sizes" in capsys.readouterr().err
