"""What forms push up and down, by hand on a group of two; and the whole command on the tiny model."""

import math
import sys

import pytest
import torch


@pytest.fixture
def pressure(module):
    return module("pressure")


def test_scores_of_a_completion(module):
    """The flattening of a token is the derivative of its place's entropy along the gradient of its log-probability."""
    model, _ = module("start").start_model("tiny")
    query, response = [5, 9, 12], [40, 7]
    shorter = ([5, 9], [7])
    scores = module("pressure_samples").score(model.eval(), [(query, response), shorter], batch_size=2)
    logits = model(torch.tensor([query + response])).logits[0, 2:4].double().detach()
    for place, token in enumerate(response):
        probabilities = logits[place].softmax(-1)
        step = torch.nn.functional.one_hot(torch.tensor(token), len(probabilities)) - probabilities

        def entropy(size, place=place, step=step):
            moved = (logits[place] + size * step).softmax(-1)
            return -(moved * moved.log()).sum().item()

        assert scores[0]["logp"][place].item() == pytest.approx(math.log(probabilities[token]), rel=1e-5)
        assert scores[0]["entropy"][place].item() == pytest.approx(entropy(0.0), rel=1e-5)
        slope = (entropy(1e-4) - entropy(-1e-4)) / 2e-4
        assert scores[0]["flattening"][place].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert [len(one["logp"]) for one in scores] == [2, 1]


# the better one is the less likely one; one token against two
BATCH = {
    "logp": torch.tensor([[[-3.0, 0.0], [-1.0, -2.0]]]),
    "entropy": torch.tensor([[[1.0, 9.0], [2.0, 4.0]]]),
    "flattening": torch.tensor([[[0.5, 9.0], [-0.1, -0.3]]]),
    "guided_logp": torch.tensor([[[-3.0 + math.log(2), 0.0], [-torch.inf, -torch.inf]]]),
    "mask": torch.tensor([[[1, 0], [1, 1]]]),
    "rewards": torch.tensor([[1.0, 0.0]]),
}


def test_the_hinge_by_hand(pressure):
    found = pressure.pressure(BATCH, pressure.FORMS["ranking, hinge"], tapered=False)
    found = {name: numbers["value"] for name, numbers in found.items()}
    # the first is pushed up by 1, each token of the second down by a half
    assert found == pytest.approx(
        {
            "balance": 0.0,
            "flattening": (0.5 + 0.1 / 2 + 0.3 / 2) / 2,
            "logp up": -3.0,
            "entropy up": 1.0,
            "logp down": -1.5,
            "entropy down": 3.0,
            "logp up - down": -1.5,
        }
    )


def test_tapered_by_hand(pressure):
    """The first one's token was twice as likely under its guide."""
    found = pressure.pressure(BATCH, pressure.FORMS["ranking, linear"], tapered=True)
    assert found["balance"]["value"] == pytest.approx((0.5 - 1.0) / 1.5)
    assert found["logp down"]["value"] == pytest.approx(-1.5)


def test_a_form_that_pushes_one_way(pressure):
    imitation = pressure.pressure(BATCH, pressure.FORMS["imitation"], tapered=False)
    assert imitation["balance"]["value"] == 1.0 and "logp down" not in imitation
    assert pressure.pressure(BATCH, pressure.FORMS["penalty, logprob"], tapered=False)["balance"]["value"] == -1.0


def test_advantages_balance_by_hand(pressure):
    found = pressure.pressure(BATCH, pressure.FORMS["advantages (GRPO)"], tapered=False)
    assert found["balance"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert found["logp up - down"]["value"] == pytest.approx(-1.5)


def test_the_command(module, pressure, tmp_path, monkeypatch):
    module("judges").main(["--task", "smoke", "--cache", str(tmp_path), "--results", str(tmp_path / "results")])
    page = tmp_path / "page.md"
    options = ["--task", "smoke", "--queries", "3", "--cache", str(tmp_path), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["pressure.py", *options])
    pressure.main()
    text = page.read_text()
    assert text.count("\n## Groups of ") == 4 and text.count("| ranking, hinge, tapered |") == 3
    assert "nan" not in text
    # from the samples that are kept
    monkeypatch.setattr(pressure, "sample_kinds", None)
    pressure.main()
    assert page.read_text() == text
