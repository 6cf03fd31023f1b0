import json

import pytest

from trl_negalign.evaluation.files import read_results, whole_file, write_whole


def test_an_error_while_writing_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "results.json", "old")
    with pytest.raises(KeyboardInterrupt):
        with whole_file(tmp_path / "results.json") as path:
            path.write_text("ne")
            raise KeyboardInterrupt
    assert (tmp_path / "results.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    write_whole(tmp_path / "results.json", "old")
    with whole_file(tmp_path / "results.json") as path:
        path.write_text("new")
        assert (tmp_path / "results.json").read_text() == "old"
    assert (tmp_path / "results.json").read_text() == "new"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no results of an evaluation"),
        ('{"settings": {"met', "holds no results of an evaluation"),
        (json.dumps({"accuracy": 1.0}), "was not written by `negalign evaluate`"),
        ("[1]", "was not written by `negalign evaluate`"),
    ],
)
def test_what_is_no_evaluations_results(text, message, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)
