"""Old groups are kept without padding and come back as they were."""

import io

import pytest
import torch

from trl_negalign.trainer.rounds.replay import ReplayStore, pack


def make_batch(groups, seed=0, size=2, prompt=7, length=9, reference=False):
    """Random groups of random lengths; the last candidate of the first group has no tokens, as if truncated."""
    generator = torch.Generator().manual_seed(seed)

    def random(high, *shape):
        return torch.randint(1, high, shape, generator=generator)

    prompt_lengths, lengths = random(prompt + 1, groups), random(length + 1, groups, size)
    lengths[0, -1] = 0
    prompt_mask = (torch.arange(prompt) >= prompt - prompt_lengths[:, None]).long()
    mask = (torch.arange(length) < lengths[..., None]).int()
    rewards = torch.rand(groups, size, generator=generator)
    rewards[0, -1] = torch.nan
    batch = {
        "prompt_ids": random(150_000, groups, prompt) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": random(150_000, groups, size, length) * mask,
        "completion_mask": mask,
        "rewards": rewards,
    }
    if reference:
        batch["ref_per_token_logps"] = -torch.rand(groups, size, length, generator=generator) * mask
    return batch


def without_padding(batch, group):
    """A group's numbers by name, without the padding around them."""
    prompt, masks = batch["prompt_mask"][group].bool(), batch["completion_mask"][group].bool()
    found = {"prompt_ids": batch["prompt_ids"][group][prompt].tolist(), "rewards": str(batch["rewards"][group])}
    for name in ("completion_ids", "ref_per_token_logps"):
        if name in batch:
            found[name] = [values[mask].tolist() for values, mask in zip(batch[name][group], masks, strict=True)]
    return found


@pytest.mark.parametrize("reference", [False, True])
def test_groups_come_back_as_they_were_whatever_blocks_they_are_in(reference):
    rounds = [
        make_batch(groups, seed, prompt=5 + seed, length=12 - seed, reference=reference)
        for seed, groups in enumerate([1, 4, 3, 3, 2, 8, 1])
    ]
    kept = [without_padding(batch, group) for batch in rounds for group in range(len(batch["rewards"]))]
    store = ReplayStore([])
    for batch in rounds:
        store = store.extended([pack(batch)])
    assert len(store) == len(kept) == 22
    fresh = make_batch(2, seed=99, reference=reference)
    numbers = torch.tensor([21, 0, 8, 3, 13, 5, 4])
    joined = store.join(fresh, numbers)
    assert {name: tensor.dtype for name, tensor in joined.items()} == {n: t.dtype for n, t in fresh.items()}
    assert [without_padding(joined, group) for group in range(2)] == [without_padding(fresh, g) for g in range(2)]
    assert [without_padding(joined, 2 + i) for i in range(7)] == [kept[number] for number in numbers.tolist()]
    # queries end and completions begin at the border
    assert joined["prompt_mask"][:, -1].all()
    assert torch.equal(joined["completion_mask"].sort(-1, descending=True).values, joined["completion_mask"])


def test_nothing_to_join():
    fresh = make_batch(2)
    assert ReplayStore([]).join(fresh, torch.arange(0)) is fresh


def test_a_draw_takes_none_twice():
    store = ReplayStore([pack(make_batch(50))])
    drawn = store.draw(20, seed=3)
    assert len(set(drawn.tolist())) == 20
    assert torch.equal(drawn, store.draw(20, seed=3)) and not torch.equal(drawn, store.draw(20, seed=4))
    assert sorted(store.draw(80, seed=3).tolist()) == list(range(50))


def test_a_store_that_was_handed_out_does_not_change():
    before = ReplayStore([pack(make_batch(4))])
    kept = [{name: tensor.clone() for name, tensor in block.items()} for block in before.blocks]
    after = before.extended([pack(make_batch(4, seed=1))])
    assert (len(before), len(after)) == (4, 8)
    for block, was in zip(before.blocks, kept, strict=True):
        assert all(torch.equal(block[name].nan_to_num(), was[name].nan_to_num()) for name in was)


def test_four_bytes_a_token_in_few_tensors():
    rounds = [make_batch(4, seed) for seed in range(250)]
    store = ReplayStore([])
    for batch in rounds:
        store = store.extended([pack(batch)])
    tokens = sum(int(batch["prompt_mask"].sum() + batch["completion_mask"].sum()) for batch in rounds)
    # of each pair besides its tokens: three lengths and two rewards
    assert store.nbytes == 4 * tokens + 4 * 5 * 1000
    tensors = [tensor for block in store.blocks for tensor in block.values()]
    assert len(tensors) <= 5 * 10
    file = io.BytesIO()
    torch.save(store.blocks, file)
    assert file.tell() < store.nbytes + 1000 * len(tensors)


def test_a_checkpoint_of_another_format_is_refused():
    with pytest.raises(ValueError, match=r"another version of trl-negalign.*'completion_mask'.*start a new run from"):
        ReplayStore([make_batch(1)])
