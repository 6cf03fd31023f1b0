import math

import numpy as np
import pytest
import yaml


@pytest.fixture
def verdicts(module):
    return module("verdicts")


@pytest.fixture
def seeds(module, task, finish, tmp_path):
    """Runs with three seeds of some methods, whose training reward is shifted up and whose gold reward down."""

    def make(shifts: dict, histories: dict | None = None, only: dict | None = None) -> dict:
        plan, found = module("plan"), {}
        selection = {}
        for name, shift in shifts.items():
            setting = {} if name == "start" else {"learning_rate": 1e-3}
            selection[name] = {"chosen": setting}
            for run in plan.seed_runs(task, plan.read_method(name), setting)[: (only or {}).get(name)]:
                finish(run, shift=shift, history=(histories or {}).get(name))
        found = module("summaries").chosen_seeds(task, selection, tmp_path)
        assert list(found) == list(shifts)
        return found

    return make


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.4, "shown"), (-0.1, 0.4, "not shown"), (-0.4, -0.1, "contradicted"), (0.0, 0.0, "not shown")],
)
def test_a_verdict_is_where_the_interval_lies(verdicts, low, high, said):
    assert verdicts.verdict(low, high) == said
    assert verdicts.below(-high, -low) == said


def test_a_ratio_lies_below_its_bound(verdicts):
    assert verdicts.below(1.01, 1.09, 1.1) == "shown"
    assert verdicts.below(1.05, 1.2, 1.1) == "not shown"
    assert verdicts.below(1.2, 1.3, 1.1) == "contradicted"


def test_a_nan_is_no_verdict(verdicts):
    assert verdicts.verdict(math.nan, 1.0) == "no number"


def claim(kind="difference", **more):
    return {"id": "X1", "says": "better", "kind": kind, "method": "ple", "rivals": ["grpo"]} | more


def test_a_difference_is_judged_by_metric(verdicts, seeds):
    rows = verdicts.judge(claim(metrics=["training", "gold"]), seeds({"ple": 0.5, "grpo": 0.0}), 3)
    assert [row["verdict"] for row in rows] == ["shown", "contradicted"]
    # one noise for both methods, so that every paired difference is the shift
    assert rows[0]["statistic"]["value"] == pytest.approx(0.5)
    assert rows[0]["statistic"]["low"] == pytest.approx(0.5) and rows[0]["statistic"]["agree"] == 3


def test_a_missing_rival_is_a_hole_with_its_name(verdicts, seeds):
    rows = verdicts.judge(claim(rivals=["grpo", "raft"], metrics=["training"]), seeds({"ple": 0.5, "grpo": 0.0}), 3)
    assert [row["verdict"] for row in rows] == ["shown", "no run of raft"]


def test_verdicts_of_too_few_seeds(verdicts, seeds):
    found = seeds({"ple": 0.5, "grpo": 0.0}, only={"grpo": 2})
    assert verdicts.judge(claim(metrics=["training"]), found, 3)[0]["verdict"] == "too few seeds"


def test_fewer_seeds_than_planned_are_preliminary(verdicts, seeds):
    found = seeds({"ple": 0.5, "grpo": 0.0})
    assert verdicts.judge(claim(metrics=["training"]), found, 5)[0]["verdict"] == "preliminary: shown"


def test_perplexity_of_references_as_a_ratio(verdicts, seeds):
    # (10 + 1) / 5 against 10 / 5 nats a token
    row = verdicts.judge(claim("ratio", bound=1.1), seeds({"ple": 1.0, "grpo": 0.0}), 3)[0]
    assert row["statistic"]["value"] == pytest.approx(math.exp(0.2)) and row["verdict"] == "contradicted"


def test_fluency_is_the_distance_from_the_start_on_either_side(verdicts, seeds):
    # log-perplexities 20/6, (20 − 3)/6 and (20 + 1.2)/6: distances 0.5 and 0.2
    found = seeds({"start": 0.0, "ple": 1.2, "grpo": -3.0})
    row = verdicts.judge(claim(metrics=["fluency"]), found, 3)[0]
    assert row["statistic"]["value"] == pytest.approx(0.5 - 0.2) and row["verdict"] == "shown"


@pytest.mark.parametrize(("change", "said"), [(-0.1, "shown"), (0.1, "contradicted")])
def test_the_gaps_slope(verdicts, seeds, change, said):
    history = [{"reward/plain": 0.0, "reward/principle": 2 + change * step} for step in range(6)] + [{"train_loss": 1}]
    found = seeds({"ple": 0.0}, {"ple": history})
    row = verdicts.judge({"id": "P4", "says": "closes", "kind": "slope", "method": "ple"}, found, 3)[0]
    assert row["statistic"]["value"] == pytest.approx(change) and row["verdict"] == said


def test_a_log_without_the_two_rewards_gives_no_slope(verdicts, seeds):
    row = verdicts.judge({"id": "P4", "says": "", "kind": "slope", "method": "ple"}, seeds({"ple": 0.0}), 3)[0]
    assert row["verdict"] == "no number"


def test_shipped_claims_name_methods_and_kinds_that_there_are(module, verdicts):
    methods = {path.stem for path in (module("plan").HERE / "methods").glob("*.yaml")}
    claims = verdicts.read_claims()
    assert {"P1", "P2", "P3", "P4", "P5", "N1", "N2", "N3", "N4"} <= {one["id"] for one in claims}
    assert {"L1", "L2", "L3", "L4"} <= {one["id"] for one in claims}
    for one in claims:
        if "method" in one:  # Likra's are of its own runs
            assert {one["method"], *one.get("rivals", [])} <= methods


def test_a_claim_of_no_known_kind(module, verdicts, tmp_path):
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([claim("ranking")]))
    with pytest.raises(module("plan").PlanError, match="X1 is of kind 'ranking'"):
        verdicts.read_claims(tmp_path / "claims.yaml")


def test_methods_are_paired_by_seed_not_by_place(module, seeds):
    found = seeds({"ple": 0.0, "grpo": 0.0})
    summaries = module("summaries")
    # grpo without its first seed: with pairs by place the differences would be noise
    fewer = summaries.Seeds("grpo", found["grpo"].records[1:])
    both = summaries.difference(found["ple"], fewer, "reward/training")
    assert both["seeds"] == 2 and np.allclose([both["low"], both["high"]], 0.0)


def test_the_claim_about_the_datasets_responses(verdicts, seeds):
    found = seeds({"neat": 0.0, "neat_responses": 0.5})
    n4 = next(claim for claim in verdicts.read_claims() if claim["id"] == "N4")
    assert n4["tasks"] == ["dialogue"]
    rows = verdicts.judge(n4, found, 3)
    assert [(row["against"], row["metric"], row["verdict"]) for row in rows] == [
        ("neat", "training", "shown"),
        ("neat", "gold", "contradicted"),
    ]
