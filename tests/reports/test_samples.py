"""Groups from the completion tables, against the rewards computed again from the responses' texts."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers import letter_reward
from tests.reports.conftest import even_reward, write_config, write_state, write_table
from trl_negalign.reports.run_folder import read_run
from trl_negalign.reports.samples import Sample, as_text, group_pattern, whole_groups


PAIRS = ["positive", "positive", "negative", "negative"]


def sample_of(folder, **options) -> Sample:
    return read_run(folder, **options).sample


def rows_of(folder: Path, step: int) -> pd.DataFrame:
    return pd.read_parquet(folder / "completions" / f"completions_{step:05d}.parquet")


def marks(group) -> list[str]:
    return [response.mark for response in group.responses]


@pytest.mark.parametrize("settings", [True, False])
def test_neat_groups_with_two_rewards(settings, neat_run, copy_of):
    folder = copy_of(neat_run)
    if settings:
        write_config(folder, num_generations=6, reward_weights=[1.0, 0.5])
    groups = sample_of(folder).groups
    assert [group.step for group in groups] == [1, 1, 2, 2, 3, 3, 4, 4]
    for group in groups:
        assert [response.kind for response in group.responses] == [
            "plain",
            "positive",
            "positive",
            "negative",
            "chosen",
            "rejected",
        ]
        texts = [response.text for response in group.responses]
        letters, even = letter_reward(texts), even_reward(texts)
        assert [response.rewards["letter_reward"] for response in group.responses] == pytest.approx(letters)
        assert [response.rewards["even_reward"] for response in group.responses] == pytest.approx(even)
        totals = [one + 0.5 * (other or 0.0) for one, other in zip(letters, even, strict=True)]
        shown = [response.total for response in group.responses]
        assert shown == (pytest.approx(totals) if settings else [None] * 6)
        expected = [""] * 6
        expected[totals.index(max(totals))], expected[totals.index(min(totals))] = "best", "worst"
        assert marks(group) == expected and group.tied is False
        assert texts[4].startswith(" a kind w") and texts[5].startswith(" nobody s")


def test_some_responses_have_no_second_reward(neat_run):
    seen = [response.rewards["even_reward"] for group in sample_of(neat_run).groups for response in group.responses]
    assert None in seen and any(seen)


def test_ple_pairs_and_evaluations(ple_run):
    sample = sample_of(ple_run)
    assert set(rows_of(ple_run, 3)["kind"]) == {"plain"}  # the evaluation's responses in the place of the step's
    assert [group.step for group in sample.groups] == [1, 1, 2, 2, 4, 4, 5, 5]
    assert (sample.steps, sample.rows, sample.shown_steps, sample.shown_rows) == (6, 48, 4, 32)
    sentences = set()
    for group in sample.groups:
        scores = letter_reward([response.text for response in group.responses])
        assert group.query.startswith("user: question number ")
        for i, sentence in enumerate(group.pairs):
            gap, threshold = scores[i + 2] - scores[i], 0.2 * 0.9 ** (group.step - 1)
            what = "ranked" if gap > threshold else "imitated by weight"
            assert sentence == f"pair {i + 1}: gap {gap:+.3f}, threshold {threshold:.3f}: {what}"
            sentences.add(what)
        assert len(group.pairs) == 2
    assert len(sentences) == 2


def test_a_generation_of_several_steps_is_taken_once(tmp_path):
    for step in range(1, 9):
        generation = (step - 1) // 4
        texts = [f"{generation}.{i}" for i in range(8)]
        prompts = [f"q{i // 4}" for i in range(8)]
        write_table(tmp_path, step, PAIRS * 2, [0.1, 0.2, 0.3, 0.4] * 2, completion=texts, prompt=prompts)
    groups = sample_of(tmp_path).groups
    assert [(group.step, group.responses[0].text) for group in groups] == [
        (1, "0.0"),
        (1, "0.4"),
        (5, "1.0"),
        (5, "1.4"),
    ]


def test_as_many_steps_and_groups_as_asked_for_with_the_first_and_the_last(tmp_path):
    for step in range(10, 510, 10):
        prompts = [f"{step}, {i // 4}" for i in range(12)]
        write_table(tmp_path, step, PAIRS * 3, [0.1, 0.2, 0.3, 0.4] * 3, prompt=prompts)
    sample = sample_of(tmp_path, steps=5, groups=2)
    assert [group.step for group in sample.groups] == [10, 10, 110, 110, 210, 210, 310, 310, 500, 500]
    assert [group.query for group in sample.groups][:2] == ["10, 0", "10, 1"]
    assert (sample.steps, sample.rows, sample.shown_rows) == (50, 600, 40)


def test_tied_unscored_and_half_scored_groups(tmp_path):
    kinds = PAIRS * 3
    rewards = [0.5] * 4 + [None] * 4 + [None, 0.2, -0.2, 0.2]
    write_table(tmp_path, 1, kinds, rewards, prompt=[f"q{i // 4}" for i in range(12)])
    tied, unscored, half = sample_of(tmp_path).groups
    assert tied.tied and unscored.tied and not half.tied
    assert marks(tied) == marks(unscored) == [""] * 4
    assert marks(half) == ["", "best", "worst", ""]  # the first of two equal ones
    assert [response.total for response in half.responses] == [None, 0.2, -0.2, 0.2]


def test_tied_pairs_teach_nothing(tmp_path):
    write_table(tmp_path, 1, ["plain", "principle"], [0.5, 0.5])
    write_state(tmp_path, [{"step": 1, "ple/threshold": -0.1, "rewards/score/mean": 0.5}])
    assert sample_of(tmp_path).groups[0].pairs == ["pair 1: gap +0.000, tied: teaches nothing"]


def test_a_gap_of_just_the_threshold_is_not_ranked(tmp_path):
    write_table(tmp_path, 1, ["plain", "principle"], [0.25, 0.5])
    write_state(tmp_path, [{"step": 1, "ple/threshold": 0.25, "rewards/score/mean": 0.5}])
    assert sample_of(tmp_path).groups[0].pairs == ["pair 1: gap +0.250, threshold 0.250: imitated by weight"]


def test_an_only_reward_of_negative_weight_without_settings(tmp_path):
    write_table(tmp_path, 1, PAIRS, [0.1, 0.2, 0.3, 0.4], advantage=[2.0, 1.0, -1.0, -2.0])
    group = sample_of(tmp_path).groups[0]
    assert marks(group) == ["best", "", "", "worst"]
    assert [response.total for response in group.responses] == [None] * 4
    write_config(tmp_path, reward_weights=[-1.0])
    assert [response.total for response in sample_of(tmp_path).groups[0].responses] == [-0.1, -0.2, -0.3, -0.4]


def test_numbers_that_a_reward_function_logs_are_no_rewards(tmp_path):
    write_table(tmp_path, 1, PAIRS, [0.1, 0.2, 0.3, 0.4], **{"a measure": [9.0, 0.0, 0.0, 0.0]})
    write_state(tmp_path, [{"step": 1, "rewards/score/mean": 0.25}])
    assert list(sample_of(tmp_path).groups[0].responses[0].rewards) == ["score"]


def test_without_advantages_nothing_is_marked(tmp_path):
    write_table(tmp_path, 1, PAIRS, [0.1, 0.2, 0.3, 0.4], advantage=[None] * 4)
    run = read_run(tmp_path)
    assert marks(run.sample.groups[0]) == [""] * 4 and run.sample.groups[0].tied is None
    assert any("Best and worst are not marked" in note for note in run.notes)


def test_masked_truncated_completions_are_told(tmp_path):
    write_table(tmp_path, 1, PAIRS, [0.1, 0.2, 0.3, 0.4])
    write_config(tmp_path, mask_truncated_completions=True)
    assert any("mask_truncated_completions=True" in note for note in read_run(tmp_path).notes)


def table(*runs: tuple[str, list[str]]) -> dict[str, list]:
    return {"prompt": [q for q, kinds in runs for _ in kinds], "kind": [kind for _, kinds in runs for kind in kinds]}


@pytest.mark.parametrize(
    ("tables", "pattern"),
    [
        ([table(("a", PAIRS), ("b", PAIRS))], PAIRS),
        ([table(("a", PAIRS * 3))], PAIRS),  # a query that stands thrice in a row
        ([table(("a", PAIRS)), table(("b", ["plain"] * 4), ("c", ["plain"] * 4), ("d", ["plain"] * 4))], PAIRS),
        ([table(("a", ["plain"] * 4), ("b", ["plain"] * 8))], ["plain"] * 4),
        ([table(("a", ["positive", "negative", "negative"]), ("b", PAIRS))], PAIRS),  # torn at the head
        ([], []),
    ],
)
def test_what_a_group_looks_like(tables, pattern):
    assert group_pattern(tables) == pattern


def test_settings_tell_plain_groups_of_one_query_apart():
    assert group_pattern([table(("a", ["plain"] * 8))], num_generations=4) == ["plain"] * 4


def test_torn_groups_and_evaluations_are_passed_over():
    mixed = table(("a", ["negative", "negative"]), ("b", PAIRS), ("c", PAIRS), ("d", ["plain"] * 4))
    assert list(whole_groups(mixed, PAIRS)) == [range(2, 6), range(6, 10)]


def test_a_query_that_changes_inside_is_no_group():
    assert list(whole_groups(table(("a", PAIRS[:2]), ("b", PAIRS[2:])), PAIRS)) == []


def test_evaluations_only(tmp_path):
    write_table(tmp_path, 1, ["plain"] * 3, [0.1, 0.2, 0.3], prompt=["a", "b", "c"])
    run = read_run(tmp_path)
    assert not run.sample.groups and any("No whole group was found" in note for note in run.notes)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ([{"role": "assistant", "content": "an answer"}], "an answer"),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "system: s\n\nuser: u"),
        ([{"role": "user", "content": [{"type": "text", "text": "parts"}]}], "user: parts"),
        ([{"role": "assistant", "content": None}], ""),
        (None, "null"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_conversations_as_text(value, text):
    assert as_text(value) == text


def test_a_table_of_another_run_in_the_folder(tmp_path):
    """Its reward has another name: the group is shown, without a reward."""
    write_table(tmp_path, 1, PAIRS, [0.1, 0.2, 0.3, 0.4])
    rows_of(tmp_path, 1).rename(columns={"score": "older"}).assign(completion=list("abcd")).to_parquet(
        tmp_path / "completions" / "completions_00002.parquet"
    )
    second = sample_of(tmp_path).groups[1]
    assert [response.rewards for response in second.responses] == [{"score": None}] * 4
    assert json.dumps([response.total for response in second.responses]) == "[null, null, null, null]"
