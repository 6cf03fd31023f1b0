import pytest
import torch

from trl_negalign.groups import pack_groups, pack_pairs, pad_and_stack, split_counts


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((4, 0, None, None, 0), (2, 2)),
        ((5, 0, None, None, 0), (3, 2)),  # the positive guide takes the odd one
        ((4, 0, None, None, 2), (1, 1)),
        ((6, 1, None, None, 2), (2, 1)),
        ((4, 0, 3, None, 0), (3, 1)),
        ((4, 0, None, 0, 0), (4, 0)),
        ((4, 4, None, None, 0), (0, 0)),
        ((4, 1, 1, 1, 1), (1, 1)),
    ],
)
def test_split_counts(counts, expected):
    assert split_counts(*counts) == expected


def test_counts_that_do_not_add_up_say_how_to_mend_it():
    with pytest.raises(ValueError, match=r"make 6\. Set num_generations=6, change the counts"):
        split_counts(4, 0, 3, 3, 0)
    with pytest.raises(ValueError, match="make 5"):
        split_counts(4, 5, None, None, 0)


def test_a_group_of_dataset_responses_alone_is_refused():
    with pytest.raises(ValueError, match="leaves nothing to sample"):
        split_counts(2, 0, None, None, 2)


def test_pack_groups_keeps_the_order_of_rows():
    rows = torch.arange(12).view(6, 2)
    assert pack_groups(rows, 3).tolist() == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]


def test_pack_pairs_pairs_the_halves_in_order():
    groups = torch.tensor([[0, 1, 10, 11], [2, 3, 12, 13]])
    assert pack_pairs(groups).tolist() == [[0, 10], [1, 11], [2, 12], [3, 13]]


def test_pad_and_stack_pads_the_side_asked_for():
    parts = [torch.ones(1, 2), torch.full((2, 3), 2.0)]
    assert pad_and_stack(parts).tolist() == [[1, 1, 0], [2, 2, 2], [2, 2, 2]]
    assert pad_and_stack(parts, "left")[0].tolist() == [0, 1, 1]
