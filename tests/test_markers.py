"""Which tests may see a GPU."""

import pytest

from tests.conftest import asks_for_a_gpu


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ("gpu", True),
        ("gpu and not slow", True),
        ("not slow or gpu", True),
        ("", False),
        ("not slow", False),
        ("not slow and not gpu", False),
        ("not gpu", False),
    ],
)
def test_a_gpu_is_seen_where_it_was_asked_for(marks, expected):
    assert asks_for_a_gpu(marks) is expected
