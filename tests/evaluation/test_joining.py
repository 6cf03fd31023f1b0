import json
import math

import pandas as pd
import pytest

from trl_negalign.evaluation.joining import join, read_results


CHAT = {"kind": "chat", "model": "j"}


def write(
    folder,
    label,
    rewards,
    rows=(0, 1, 2),
    fingerprint="same",
    reward="r",
    weights="w",
    judge=None,
    function=None,
    **sampling,
):
    """A small evaluation on disk; its path."""
    folder.mkdir()
    results = {
        "settings": {"sampling": {"temperature": 1.0, "seed": 0} | sampling, "judge": judge or CHAT},
        "data": {"fingerprint": fingerprint},
        "models": {label: {"weights": "w"}},
        "rewards": {reward: {"name": reward, "weights": weights} | (function or {})},
        "results": {label: {"reward": {reward: {"mean": sum(rewards) / len(rewards), "standard_error": 0.1}}}},
        "reward_differences": [],
        "win_rates": [{"model": label, "against": "reference", "win": 1}],
    }
    (folder / "results.json").write_text(json.dumps(results))
    prompts = [f"question {row}" for row in rows]
    table = pd.DataFrame({"model": label, "row": rows, "prompt": prompts, f"reward/{reward}": rewards})
    table.to_parquet(folder / "completions.parquet")
    return folder


def test_models_of_two_folders_are_paired_on_common_queries(tmp_path):
    new = write(tmp_path / "new", "neat", [1.0, 2.0, 5.0])
    old = write(tmp_path / "old", "base", [9.0, 0.0, 4.0], rows=(7, 1, 2), fingerprint="other")
    joined = join([new, old / "results.json"])
    assert list(joined["results"]) == ["neat", "base"]
    [found] = joined["reward_differences"]
    # rows 1 and 2 alone: 2 − 0 and 5 − 4
    assert (found["model"], found["baseline"], found["mean"], found["count"]) == ("neat", "base", 1.5, 2)
    assert ["other queries" in note for note in joined["notes"]] == [True]
    assert [found["judge"]["model"] for found in joined["win_rates"]] == ["j", "j"]


def test_the_same_row_of_other_data_is_another_query(tmp_path):
    new, old = write(tmp_path / "new", "neat", [1.0, 2.0, 5.0]), write(tmp_path / "old", "base", [9.0, 0.0, 4.0])
    table = pd.read_parquet(old / "completions.parquet").assign(prompt="something else")
    table.to_parquet(old / "completions.parquet")
    assert join([new, old])["reward_differences"] == []


def test_two_models_of_one_name_are_told_apart(tmp_path):
    first, second = write(tmp_path / "a", "neat", [1.0, 2.0, 3.0]), write(tmp_path / "b", "neat", [2.0, 3.0, 4.0])
    joined = join([first, second])
    assert list(joined["results"]) == [f"neat ({first})", f"neat ({second})"]
    assert [found["model"] for found in joined["win_rates"]] == [f"neat ({first})", f"neat ({second})"]
    [found] = joined["reward_differences"]
    assert (found["model"], found["baseline"], found["mean"]) == (f"neat ({first})", f"neat ({second})", -1.0)


def test_reward_models_of_one_path_and_other_weights_are_kept_apart(tmp_path):
    judge = {"kind": "reward", "reward": "r"}
    one = write(tmp_path / "a", "x", [1.0] * 3, weights="early", judge=judge)
    two = write(tmp_path / "b", "y", [2.0] * 3, weights="late", judge=judge)
    third = write(tmp_path / "c", "z", [5.0] * 3, weights="late")
    joined = join([one, two, third])
    early, late, again = (list(found["reward"])[0] for found in joined["results"].values())
    assert early != late == again and early.startswith("r (") and late.startswith("r (")
    assert [found["judge"].get("reward") for found in joined["win_rates"]] == [early, late, None]
    [found] = joined["reward_differences"]
    assert (found["model"], found["baseline"], found["reward"], found["mean"]) == ("y", "z", late, -3.0)
    note = joined["notes"][0]
    assert note.startswith("r is not one reward but 2, which are not subtracted: ")
    assert f"{early} in {one}" in note and f"{late} in {two}" in note


def test_a_reward_model_that_was_moved_is_the_same(tmp_path):
    one = write(tmp_path / "a", "x", [1.0] * 3, reward="here/rm")
    two = write(tmp_path / "b", "y", [2.0] * 3, reward="there/rm")
    joined = join([one, two])
    assert [list(found["reward"]) for found in joined["results"].values()] == [["here/rm"], ["here/rm"]]
    assert [(found["reward"], found["mean"]) for found in joined["reward_differences"]] == [("here/rm", -1.0)]
    assert joined["notes"] == []


def test_functions_of_one_name_and_other_sources_are_kept_apart(tmp_path):
    early, late = ({"function": "mine.f", "source": source} for source in ("early", "late"))
    one = write(tmp_path / "a", "x", [1.0] * 3, reward="mine.f", weights=None, function=early)
    two = write(tmp_path / "b", "y", [2.0] * 3, reward="mine.f", weights=None, function=late)
    third = write(tmp_path / "c", "z", [5.0] * 3, reward="mine.f", weights=None, function=late)
    joined = join([one, two, third])
    names = [list(found["reward"])[0] for found in joined["results"].values()]
    assert names[0] != names[1] == names[2] and all(name.startswith("mine.f (") for name in names)
    assert [(found["model"], found["baseline"]) for found in joined["reward_differences"]] == [("y", "z")]
    assert joined["notes"][0].startswith("mine.f is not one reward but 2, which are not subtracted: ")


def test_two_functions_of_one_source_go_by_their_names(tmp_path):
    """As two that a factory made, with other numbers."""
    made = {"function": "mine.make.<locals>.reward", "source": "same"}
    one = write(tmp_path / "a", "x", [1.0] * 3, reward="mine.short", weights=None, function=made)
    two = write(tmp_path / "b", "y", [2.0] * 3, reward="mine.long", weights=None, function=made)
    joined = join([one, two])
    assert [list(found["reward"]) for found in joined["results"].values()] == [["mine.short"], ["mine.long"]]
    assert joined["reward_differences"] == []


def test_functions_without_a_source_are_the_same_by_name_alone(tmp_path):
    one = write(tmp_path / "a", "x", [1.0] * 3, reward="mine.f", weights=None)
    two = write(tmp_path / "b", "y", [2.0] * 3, reward="mine.g", weights=None)
    third = write(tmp_path / "c", "z", [3.0] * 3, reward="mine.g", weights=None)
    assert [(found["reward"], found["mean"]) for found in join([one, two, third])["reward_differences"]] == [
        ("mine.g", -1.0)
    ]


def test_missing_rewards_are_no_part_of_a_difference_of_folders(tmp_path):
    one = write(tmp_path / "a", "x", [1.0, math.nan, 4.0])
    two = write(tmp_path / "b", "y", [0.0, 1.0, math.nan])
    [found] = join([one, two])["reward_differences"]
    assert (found["mean"], found["count"]) == (1.0, 1)
    third = write(tmp_path / "c", "z", [math.nan] * 3)
    [found] = join([one, third])["reward_differences"]
    assert (found["mean"], found["low"], found["count"]) == (None, None, 0)


def test_another_judge_is_noted(tmp_path):
    one = write(tmp_path / "a", "x", [1.0] * 3)
    two = write(tmp_path / "b", "y", [1.0] * 3, judge=CHAT | {"instructions": "Prefer rhymes."})
    [note] = join([one, two])["notes"]
    assert note.startswith(f"{two} was judged otherwise than {one} (other instructions)")


def test_sampling_that_one_version_has_and_the_other_has_not(tmp_path):
    one, two = write(tmp_path / "a", "x", [1.0] * 3), write(tmp_path / "b", "y", [1.0] * 3, min_p=0.1)
    assert "min_p 0.1, not None" in join([one, two])["notes"][0] and "min_p None" in join([two, one])["notes"][0]


def test_other_sampling_is_noted(tmp_path):
    one, two = write(tmp_path / "a", "x", [1.0] * 3), write(tmp_path / "b", "y", [1.0] * 3, temperature=0.5)
    assert join([one, two])["notes"] == [f"{two} sampled otherwise than {one}: temperature 0.5, not 1.0."]
    assert join([one])["notes"] == []


def test_other_rendering_is_noted(tmp_path):
    one, two = write(tmp_path / "a", "x", [1.0] * 3), write(tmp_path / "b", "y", [1.0] * 3)
    results = json.loads((two / "results.json").read_text())
    results["settings"]["chat_template_kwargs"] = {"enable_thinking": False}
    (two / "results.json").write_text(json.dumps(results))
    [note] = join([one, two])["notes"]
    assert note == (
        f"{two} rendered conversations otherwise than {one}: chat_template_kwargs {{'enable_thinking': False}}, "
        "not None."
    )


def test_without_completions_there_are_no_differences(tmp_path):
    one, two = write(tmp_path / "a", "x", [1.0] * 3), write(tmp_path / "b", "y", [1.0] * 3)
    (two / "completions.parquet").unlink()
    assert join([one, two])["reward_differences"] == []


def test_what_is_no_evaluation(tmp_path):
    (tmp_path / "results.json").write_text('{"method": "neat"}')
    (tmp_path / "broken.json").write_text("{")
    for path, message in [
        (tmp_path, "was not written by `negalign evaluate`"),
        (tmp_path / "broken.json", "holds no results"),
        (tmp_path / "nowhere", "holds no results"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_results(path)
    folder = write(tmp_path / "a", "x", [1.0] * 3)
    with pytest.raises(ValueError, match="is named twice"):
        join([folder, folder / "results.json"])
