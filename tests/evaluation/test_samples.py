import torch

from trl_negalign.evaluation.generation import Sampling, generate_batch
from trl_negalign.evaluation.queries import Queries
from trl_negalign.evaluation.samples import sample_queries


QUERIES = Queries([3, 8, 11], ["We went", "How do I boil an egg?", "nobody"], None, {}, {})
SAMPLING = Sampling(max_new_tokens=5, seed=4)


def test_all_samples_of_a_query_stand_together_and_differ(model, tokenizer):
    table = sample_queries(model, tokenizer, QUERIES, SAMPLING, samples=3)
    assert table["query"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert table["sample"].tolist() == [0, 1, 2] * 3
    for _, group in table.groupby("query"):
        assert len({tuple(ids) for ids in group["token_ids"]}) == 3


def test_the_first_sample_is_the_one_that_a_single_sample_has(model, tokenizer):
    several = sample_queries(model, tokenizer, QUERIES, SAMPLING, samples=2)
    single = [
        generate_batch(model, tokenizer, [ids], [row], SAMPLING)[0][0]
        for ids, row in zip(several["query_ids"][::2], QUERIES.rows, strict=True)
    ]
    assert several["token_ids"][::2].tolist() == single


def test_batches_change_nothing(model, tokenizer):
    one, all_at_once = (
        sample_queries(model, tokenizer, QUERIES, SAMPLING, samples=2, batch_size=size) for size in (1, 6)
    )
    assert one["token_ids"].tolist() == all_at_once["token_ids"].tolist()
    assert one["truncated"].tolist() == all_at_once["truncated"].tolist()


def test_torchs_random_state_and_the_models_mode_stay(model, tokenizer):
    model.train()
    state = torch.random.get_rng_state()
    sample_queries(model, tokenizer, QUERIES, SAMPLING)
    assert torch.equal(state, torch.random.get_rng_state()) and model.training


def test_another_seed_gives_other_samples(model, tokenizer):
    one, other = (sample_queries(model, tokenizer, QUERIES, Sampling(5, seed=seed)) for seed in (4, 5))
    assert one["token_ids"].tolist() != other["token_ids"].tolist()
