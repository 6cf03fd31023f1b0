import json

import pandas as pd
import pytest

from trl_negalign.evaluation.joining import join, read_results


def write(folder, label, rewards, rows=(0, 1, 2), fingerprint="same", **sampling):
    """A small evaluation on disk; its path."""
    folder.mkdir()
    results = {
        "settings": {"sampling": {"temperature": 1.0, "seed": 0} | sampling, "judge": {"kind": "chat", "model": "j"}},
        "data": {"fingerprint": fingerprint},
        "models": {label: {"weights": "w"}},
        "results": {label: {"reward": {"r": {"mean": sum(rewards) / len(rewards), "standard_error": 0.1}}}},
        "reward_differences": [],
        "win_rates": [{"model": label, "against": "reference", "win": 1}],
    }
    (folder / "results.json").write_text(json.dumps(results))
    prompts = [f"question {row}" for row in rows]
    table = pd.DataFrame({"model": label, "row": rows, "prompt": prompts, "reward/r": rewards})
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


def test_other_sampling_is_noted(tmp_path):
    one, two = write(tmp_path / "a", "x", [1.0] * 3), write(tmp_path / "b", "y", [1.0] * 3, temperature=0.5)
    assert join([one, two])["notes"] == [f"{two} sampled otherwise than {one}: temperature 0.5, not 1.0."]
    assert join([one])["notes"] == []


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
