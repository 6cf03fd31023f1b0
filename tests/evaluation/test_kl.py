import math

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.kl import completion_kl, kl_statistics
from trl_negalign.evaluation.queries import Queries
from trl_negalign.evaluation.samples import sample_queries


PAIRS = [([5, 6, 7], [8, 9, 10, 11]), ([12, 13], [14]), ([20, 21, 22, 23, 24], [25, 26])]


def one_at_a_time(policy, reference, query: list[int], response: list[int]) -> tuple[float, float, float]:
    """KL, log π and log π₀ of one pair, in double precision and token by token."""
    kl, logp, reference_logp = 0.0, 0.0, 0.0
    for place in range(len(response)):
        ids = torch.tensor([query + response[:place]])
        p, q = (torch.log_softmax(model(ids).logits[0, -1].double(), -1) for model in (policy, reference))
        kl += (p.exp() * (p - q)).sum().item()
        logp += p[response[place]].item()
        reference_logp += q[response[place]].item()
    return kl, logp, reference_logp


def test_each_pair_has_its_own_numbers_in_any_batch(make_model):
    policy, reference = make_model(seed=0), make_model(seed=1)
    expected = [one_at_a_time(policy, reference, *pair) for pair in PAIRS]
    for batch_size in (1, 3):
        table = completion_kl(policy, PAIRS, reference, batch_size=batch_size)
        found = table[["kl", "logp", "reference_logp"]].to_numpy()
        assert found == pytest.approx(torch.tensor(expected).numpy(), rel=1e-4, abs=1e-4)
    assert table["tokens"].tolist() == [4, 1, 2]


def test_a_policy_that_is_its_reference_has_none(make_model):
    table = completion_kl(make_model(seed=0), PAIRS, make_model(seed=0))
    assert table["kl"].abs().max() < 1e-6
    assert table["logp"].tolist() == table["reference_logp"].tolist()


def test_a_peft_policy_is_compared_with_its_base(make_model):
    torch.manual_seed(0)
    adapter = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False)
    policy = get_peft_model(make_model(seed=0), adapter)
    found, expected = completion_kl(policy, PAIRS), completion_kl(policy, PAIRS, make_model(seed=0))
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4, abs=1e-5)
    assert found["kl"].min() > 0.01


def test_the_mode_of_both_models_stays(make_model):
    policy, reference = make_model(seed=0).train(), make_model(seed=1).eval()
    completion_kl(policy, PAIRS, reference)
    assert policy.training and not reference.training


def test_both_estimates_agree_on_the_policys_own_samples(make_model, tokenizer):
    policy, reference = make_model(seed=0), make_model(seed=1)
    queries = Queries([0, 1, 2, 3], ["We went", "nobody", "The film", "Put it"], None, {}, {})
    samples = sample_queries(policy, tokenizer, queries, Sampling(max_new_tokens=4), samples=150, batch_size=300)
    pairs = list(zip(samples["query_ids"], samples["token_ids"], strict=True))
    table = completion_kl(policy, pairs, reference, batch_size=100)
    noise = (table["logp"] - table["reference_logp"] - table["kl"]).to_numpy()
    # the same in the mean, within four standard errors, and the sum over the vocabulary has less variance
    assert abs(noise.mean()) < 4 * noise.std(ddof=1) / len(noise) ** 0.5
    assert table["kl"].var() < (table["logp"] - table["reference_logp"]).var()


def test_statistics_by_hand():
    # two queries with two samples each: means 2 and 4, of 2 and 6 tokens
    table = pd.DataFrame({"kl": [1.0, 3.0, 4.0, 4.0], "logp": [-1.0, -1.0, -2.0, -2.0], "tokens": [2, 2, 6, 6]})
    table["reference_logp"] = [-2.0, -6.0, -5.0, -5.0]
    found = kl_statistics(table, [0, 0, 1, 1])
    assert found["mean"] == 3 and found["standard_error"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert found["per_token"] == pytest.approx(6 / 8)
    # residuals (2 − 0.75·2)/4 and (4 − 0.75·6)/4, deviation 0.125·√2, over √2
    assert found["per_token_standard_error"] == pytest.approx(0.125)
    assert found["log_ratio"] == pytest.approx(3.0) and found["count"] == 4


def test_one_query_has_no_standard_error():
    table = pd.DataFrame({"kl": [1.0], "logp": [0.0], "reference_logp": [0.0], "tokens": [2]})
    assert math.isnan(kl_statistics(table, [0])["standard_error"])


def test_a_policy_without_adapter_needs_a_reference(model):
    with pytest.raises(ValueError, match="reference is missing"):
        completion_kl(model, PAIRS)


def test_another_vocabulary_is_refused(make_model):
    with pytest.raises(ValueError, match="needs the same tokens"):
        completion_kl(make_model(), PAIRS, make_model(vocab_size=64))
