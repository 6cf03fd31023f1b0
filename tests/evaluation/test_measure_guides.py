"""Guides measured on a policy whose answers to them are known: where it heeds them, and where it does not."""

import json
import math

import pytest
import yaml

from tests.evaluation import guided_policy
from tests.evaluation.guided_policy import GUIDES, HEEDED, policy, queries
from trl_negalign import NEATConfig, PLEConfig
from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.guided import Guide
from trl_negalign.evaluation.guides import measure_guides


REWARD = f"{guided_policy.__name__}.share_of_a"
TOKENS = 8


def measure(tokenizer, out, heeds=True, kinds=GUIDES, asked=None, **options):
    guides = [Guide(kind, GUIDES[kind]) for kind in kinds]
    options = {"placements": ["user"], "sampling": Sampling(max_new_tokens=TOKENS)} | options
    return measure_guides(policy(tokenizer, heeds), asked or queries(24), guides, [REWARD], out, **options)


@pytest.fixture(scope="module")
def heeded(tokenizer, tmp_path_factory):
    return measure(tokenizer, tmp_path_factory.mktemp("heeded"))


def of_kind(results, kind):
    return next(one for one in results["measured"] if one["kind"] == kind)


def test_a_guide_that_is_heeded(heeded):
    # `a` has the odds e^2 behind +: reward 2 p − 1
    for kind, reward in (("positive", 2 * HEEDED - 1), ("negative", 1 - 2 * HEEDED), ("principle", 2 * HEEDED - 1)):
        found = of_kind(heeded, kind)
        assert found["verdict"] == "works"
        assert found["reward"]["value"] == pytest.approx(reward, abs=0.1)
        assert found["difference"]["value"] == pytest.approx(found["reward"]["value"] - plain(heeded), abs=1e-9)
        # Σ p log(p / 0.5)
        nats = HEEDED * math.log(2 * HEEDED) + (1 - HEEDED) * math.log(2 * (1 - HEEDED))
        assert found["distance"]["value"] == pytest.approx(nats, abs=0.06)
        assert found["wins"]["value"] > 0.8 or kind == "negative"
    assert abs(plain(heeded)) < 0.2
    gap = heeded["gaps"]["user"]
    assert gap["low"] > 1 and gap["value"] < 2


def plain(results):
    return results["plain"]["reward"]["value"]


def test_a_group_and_a_place_are_recommended(heeded):
    group = heeded["recommendation"]["neat"]
    assert group["counts"]["positive"] and group["counts"]["negative"] and group["placement"] == "user"
    assert group["over_plain"]["low"] > 0 and group["signal"]["value"] > 0.95
    assert heeded["groups"][0]["spread"]["value"] * 0.9 <= group["spread"]["value"]
    lines = yaml.safe_load(group["yaml"])
    config = NEATConfig(output_dir="out", per_device_train_batch_size=4, bf16=False, use_cpu=True, **lines)
    assert config.counts(0) == tuple(group["counts"].values()) and config.guide_placement == "user"
    place = heeded["recommendation"]["ple"]
    lines = yaml.safe_load(place["yaml"])
    assert lines == {"principle_prompt": "+", "guide_placement": "user", "num_generations": 4}
    PLEConfig(output_dir="out", per_device_train_batch_size=4, bf16=False, use_cpu=True, **lines)
    assert place["gap"]["value"] == of_kind(heeded, "principle")["difference"]["value"]


def test_a_guide_that_is_not_heeded_is_called_out(tokenizer, tmp_path):
    found = measure(tokenizer, tmp_path, heeds=False)
    for kind in GUIDES:
        one = of_kind(found, kind)
        assert one["verdict"] == "does nothing" and one["distance"]["value"] == 0
        assert one["difference"]["low"] < 0 < one["difference"]["high"]
        assert f"{kind} guide, in the user message: DOES NOTHING: reward" in one["sentence"]
        assert "on 24 queries; 0.00 nats per token" in one["sentence"] and "hardly heeds it" in one["sentence"]
    assert found["recommendation"]["neat"]["counts"] == {"plain": 4, "positive": 0, "negative": 0}
    assert "ple" not in found["recommendation"]
    assert any("PLE: not recommended" in note for note in found["notes"])
    assert yaml.safe_load(found["recommendation"]["neat"]["yaml"]) == {
        "num_generations": 4,
        "num_plain": 4,
        "num_positive": 0,
        "num_negative": 0,
    }


def test_without_a_group_that_could_be_recommended(tokenizer, tmp_path):
    # one plain sample makes no group of two, and the guides work nowhere
    found = measure(tokenizer, tmp_path, heeds=False, kinds=["positive"], samples=1, group_size=2)
    assert found["groups"] == [] and found["recommendation"] == {}
    assert any(note.startswith("NEAT: not recommended") for note in found["notes"])


def test_a_guide_that_works_against_its_purpose_takes_no_part(tokenizer, tmp_path):
    guides = [Guide("positive", GUIDES["negative"]), Guide("negative", GUIDES["negative"])]
    found = measure_guides(
        policy(tokenizer, True), queries(24), guides, [REWARD], tmp_path, sampling=Sampling(max_new_tokens=TOKENS)
    )
    assert {one["verdict"] for one in found["measured"] if one["kind"] == "positive"} == {"works against its purpose"}
    assert all(not group["counts"]["positive"] for group in found["groups"])


def test_the_dataset_s_responses_are_counted(tokenizer, tmp_path):
    asked = queries(12, chosen=["x"] * 12, rejected=["y"] * 12)
    found = measure(tokenizer, tmp_path, kinds=["positive"], asked=asked, group_size=2)
    text = found["recommendation"]["neat"]["yaml"]
    assert yaml.safe_load(text)["num_generations"] == 4 and "the dataset's chosen and rejected" in text


def test_what_a_file_holds_is_what_is_returned(heeded, tokenizer, tmp_path):
    found = measure(tokenizer, tmp_path, kinds=["positive"], group_size=2)
    assert json.loads((tmp_path / "guides.json").read_text()) == json.loads(json.dumps(found))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, "group_size 1 must be 2 or more"),
        ({"samples": 0}, "samples 0 must be 1 or more"),
        ({"samples": 1}, "group_size 4 cannot be made of 1 sample.*of each of 3 kinds. Set samples to 2"),
        ({"weights": [1.0, 2.0]}, r"reward_weights has 2 value\(s\) for 1 reward"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"placements": ["top"]}, "placements"),
    ],
)
def test_bad_options(options, message, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        measure(tokenizer, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
