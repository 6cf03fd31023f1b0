"""Which rows and columns of a micro-batch go through the model, and which groups share one, by hand."""

import pytest
import torch

from trl_negalign.trainer.sharing.micro_batches import by_length, columns_multiple, group_lengths, select


# three groups of two: queries of 2, 3 and 1 tokens in 4 columns, completions in 5 columns
BATCH = {
    "prompt_ids": torch.tensor([[0, 0, 11, 12], [0, 21, 22, 23], [0, 0, 0, 31]]),
    "prompt_mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]]),
    "completion_ids": torch.arange(100, 130).view(3, 2, 5),
    "completion_mask": (torch.arange(5) < torch.tensor([[[2], [4]], [[0], [3]], [[1], [3]]])).long(),
}
ALL = torch.ones(3, 2, dtype=torch.bool)


def only(*candidates):
    run = torch.zeros(3, 2, dtype=torch.bool)
    for candidate in candidates:
        run[candidate] = True
    return run


def test_padding_that_no_row_needs_is_cut():
    ids, mask = select(BATCH, ALL).as_rows()
    assert ids.tolist() == [
        [0, 11, 12, 100, 101, 102, 103],
        [0, 11, 12, 105, 106, 107, 108],
        [21, 22, 23, 115, 116, 117, 118],  # the candidate before it has no tokens
        [0, 0, 31, 120, 121, 122, 123],
        [0, 0, 31, 125, 126, 127, 128],
    ]
    assert mask.sum(1).tolist() == [4, 6, 6, 2, 4]
    assert mask[0].tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_only_the_candidates_that_are_run():
    part = select(BATCH, only((0, 0), (2, 1)))
    ids, mask = part.as_rows()
    assert ids.tolist() == [[11, 12, 100, 101, 102], [0, 31, 125, 126, 127]]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert part.completion_mask.sum(-1).tolist() == [[2, 0], [0, 3]]  # as the packed pass reads it


def test_columns_in_multiples():
    ids, _ = select(BATCH, only((0, 0)), multiple=2).as_rows()
    assert ids.tolist() == [[11, 12, 100, 101]]
    ids, _ = select(BATCH, only((2, 1)), multiple=2).as_rows()
    assert ids.tolist() == [[0, 31, 125, 126, 127, 128]]


def test_columns_beyond_those_of_the_batch():
    part = select(BATCH, ALL, multiple=8)
    ids, mask = part.as_rows()
    assert ids.shape == mask.shape == (5, 8 + 8)
    assert ids[2].tolist() == [0, 0, 0, 0, 0, 21, 22, 23, 115, 116, 117, 118, 119, 0, 0, 0]
    assert mask[2].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    values = part.from_rows(torch.arange(5 * 8).view(5, 8).float())
    found = part.spread(values)
    assert found.shape == (3, 2, 5) and found[1].tolist() == [[0.0] * 5, [16.0, 17.0, 18.0, 19.0, 20.0]]


@pytest.mark.parametrize(
    ("asked", "device", "multiple"),
    [(None, "cpu", 1), (None, "cuda", 64), (None, "npu", 64), (8, "cuda", 8), (8, "cpu", 8)],
)
def test_shapes_repeat_on_accelerators(asked, device, multiple):
    assert columns_multiple(asked, device) == multiple


@pytest.mark.parametrize("run", [only(), only((1, 0))])
def test_one_row_always_goes_through(run):
    part = select(BATCH, run)
    ids, mask = part.as_rows()
    assert ids.tolist() == [[31, 120]]
    assert mask.tolist() == [[1, 0]]
    assert part.completion_mask.sum() == 0


def test_values_return_to_their_places():
    part = select(BATCH, only((0, 1), (2, 0)))
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], requires_grad=True)
    found = part.spread(part.from_rows(values))
    expected = torch.zeros(3, 2, 5)
    expected[0, 1, :4] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected[2, 0, :4] = torch.tensor([5.0, 6.0, 7.0, 8.0])
    assert torch.equal(found, expected)
    found.sum().backward()
    assert torch.equal(values.grad, torch.ones(2, 4))


def test_lengths_of_groups():
    assert group_lengths(BATCH, ALL, packed=False).tolist() == [2 + 4, 3 + 3, 1 + 3]
    assert group_lengths(BATCH, ALL, packed=True).tolist() == [2 + 6, 3 + 3, 1 + 4]
    assert group_lengths(BATCH, only((0, 0), (1, 0)), packed=True).tolist() == [2 + 2, 0, 0]


def numbers(*values):
    return {"number": torch.tensor(values), "half": torch.tensor(values)[:, None] / 2}


def test_the_longest_groups_of_a_step_come_first_and_together():
    batches = [numbers(1, 9), numbers(4, 9), numbers(8, 2), numbers(3, 7)]
    found = by_length(batches, lambda batch: batch["number"], together=2)
    assert [batch["number"].tolist() for batch in found] == [[9, 9], [4, 1], [8, 7], [3, 2]]
    for batch in found:
        assert torch.equal(batch["half"], batch["number"][:, None] / 2)
    found = by_length(batches, lambda batch: batch["number"], together=4)
    assert [batch["number"].tolist() for batch in found] == [[9, 9], [8, 7], [4, 3], [2, 1]]


def test_a_step_of_one_micro_batch_keeps_its_groups():
    batches = [numbers(1, 9), numbers(4, 9)]
    found = by_length(batches, lambda batch: batch["number"], together=1)
    assert [sorted(batch["number"].tolist()) for batch in found] == [[1, 9], [4, 9]]
