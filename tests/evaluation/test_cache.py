import pandas as pd
import pytest

from trl_negalign.evaluation.cache import by_length, cached_table
from trl_negalign.fingerprints import digest


def squares(calls, stop_after=None):
    def compute(missing):
        for number, index in enumerate(missing):
            if number == stop_after:
                raise KeyboardInterrupt
            calls.append(index)
            yield [index], {"square": [index**2]}

    return compute


def test_stopped_work_goes_on_where_it_was(tmp_path):
    keys, calls = [f"key {i}" for i in range(5)], []
    with pytest.raises(KeyboardInterrupt):
        cached_table(tmp_path, keys, squares(calls, stop_after=2), "test")
    assert cached_table(tmp_path, keys, squares(calls), "test")["square"].tolist() == [0, 1, 4, 9, 16]
    assert calls == [0, 1, 2, 3, 4]


def test_rows_come_in_the_order_of_the_keys_and_only_those(tmp_path):
    cached_table(tmp_path, ["a", "b", "c"], lambda missing: [(missing[::-1], {"n": [30, 20, 10]})], "test")
    found = cached_table(tmp_path, ["c", "a"], squares([]), "test")
    assert found["n"].tolist() == [30, 10] and list(found) == ["n"]


def test_a_half_written_file_counts_for_nothing(tmp_path):
    cached_table(tmp_path, ["a"], squares([]), "test")
    (tmp_path / "half.unfinished").write_bytes(b"PAR1")
    calls = []
    assert cached_table(tmp_path, ["a", "b"], squares(calls), "test")["square"].tolist() == [0, 1]
    assert calls == [1]


def test_two_runs_at_once_do_not_double_rows(tmp_path):
    for name in ("one", "two"):
        pd.DataFrame({"key": ["a"], "square": [7]}).to_parquet(tmp_path / f"{name}.parquet")
    assert cached_table(tmp_path, ["a"], squares([]), "test")["square"].tolist() == [7]


def test_digests_depend_on_values_and_their_order():
    assert digest({"a": 1, "b": [2, "ä"]}) == digest({"b": [2, "ä"], "a": 1})
    assert len({digest(1, 2), digest(2, 1), digest([1, 2]), digest("1", 2)}) == 4


def test_batches_of_like_length_the_longest_first():
    assert by_length({3: 5, 4: 9, 8: 1, 9: 9}, 2) == [[4, 9], [3, 8]]


@pytest.mark.parametrize("content", ["empty", "garbage", "cut off", "other columns"])
def test_a_broken_file_is_named_and_its_rows_are_computed_again(content, tmp_path, caplog):
    cached_table(tmp_path, ["a", "b"], squares([]), "test")
    path = sorted(tmp_path.glob("*.parquet"))[0]
    if content == "other columns":
        pd.DataFrame({"x": [1]}).to_parquet(path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "garbage": b"no parquet", "cut off": whole[: len(whole) // 2]}[content])
    calls = []
    assert cached_table(tmp_path, ["a", "b"], squares(calls), "test")["square"].tolist() == [0, 1]
    assert len(calls) == 1
    assert f"{path} cannot be read" in caplog.text and "computed again" in caplog.text
