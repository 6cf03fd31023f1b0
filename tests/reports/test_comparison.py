import matplotlib.axes
import pytest

from trl_negalign.reports.comparison import comparison_table, plot_win_rates


RUN = {
    "folder": "out",
    "data": {"data": "hh", "split": "test", "queries": 10, "seed": 0, "dropped": {"query over 9 tokens": 2}},
    "settings": {"sampling": {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 64, "seed": 1}},
}
WIN_RATES = [
    {
        "model": "neat",
        "against": "sft",
        "win": 6,
        "tie": 3,
        "lose": 1,
        "unreadable": 2,
        "disagreement": 0.25,
        "first_place": 0.6,
        "win_minus_lose": 0.5,
        "low": 0.1,
        "high": 0.9,
        "judge": {"kind": "chat", "model": "judge-1"},
    }
]


def joined(**changes) -> dict:
    neat = {
        "ppl": {"perplexity": 12.345},
        "reward": {"a/reward": {"mean": -3.4321, "standard_error": 0.0512, "count": 10, "unscored": 0}},
        "bleu": {"bleu": 7.891, "signature": "nrefs:1|tok:13a"},
        "length": {"tokens": 33.26, "truncated": 0.125},
    }
    sft = {
        "ppl": {"perplexity": None},
        "reward": {"a/reward": {"mean": 1.0, "standard_error": None, "count": 1, "unscored": 9}},
    }
    difference = {"reward": "a/reward", "model": "neat", "baseline": "sft", "mean": 0.25, "low": -0.1, "high": 0.6}
    return {
        "results": {"neat": neat, "sft": sft},
        "win_rates": WIN_RATES,
        "reward_differences": [difference | {"count": 10}],
        "runs": [RUN],
        "notes": ["a note."],
    } | changes


def test_a_row_for_each_model_in_the_papers_columns():
    lines = comparison_table(joined()).splitlines()
    assert lines[0] == "| Model | Reference PPL ↓ | reward ↑ | BLEU ↑ | Tokens | Truncated |"
    assert lines[2] == "| neat | 12.35 | -3.432 ± 0.051 | 7.89 | 33.3 | 0.125 |"
    assert lines[3] == "| sft | – | 1.000 (n < 10; 9 unscored) | – | – | – |"


def test_wins_in_percent_of_readable_pairs():
    text = comparison_table(joined())
    assert "| neat | sft | 60.0 | 30.0 | 10.0 | +50.0 [+10.0, +90.0] | 10 | 2 | 25.0 | 60.0 |" in text
    assert "Judged by judge-1, each pair in both orders" in text


def test_differences_and_notes():
    text = comparison_table(joined())
    assert "| reward | neat | sft | +0.250 [-0.100, +0.600] | 10 |" in text
    assert "- 10 queries of hh (split test, seed 0); sampled at temperature 1, top-p 0.9" in text
    assert "- left out: 2 (query over 9 tokens)." in text and "- a note." in text
    assert "- BLEU: nrefs:1|tok:13a." in text


def test_only_what_was_measured():
    text = comparison_table(joined(results={"x|y": {"reward": {}}}, win_rates=[], reward_differences=[]))
    assert text.startswith("| Model |\n|---|\n| x\\|y |\n") and "Judged" not in text and "BLEU" not in text


def test_nothing_readable_has_no_share():
    none = WIN_RATES[0] | {"win": 0, "tie": 0, "lose": 0, "win_minus_lose": None, "low": None, "high": None}
    assert "| neat | sft | – | – | – | – | 0 | 2 |" in comparison_table(joined(win_rates=[none]))


def score(mean, error, count, unscored=0) -> dict:
    return {"reward": {"r": {"mean": mean, "standard_error": error, "count": count, "unscored": unscored}}}


@pytest.mark.parametrize(
    ("numbers", "cell"),
    [
        ((0.52, 0.03, 10), "0.520 ± 0.030"),
        ((0.52, 0.03, 97, 3), "0.520 ± 0.030 (3 unscored)"),
        ((0.52, 0.03, 9), "0.520 (n < 10)"),
        ((0.52, None, 1, 2), "0.520 (n < 10; 2 unscored)"),
        ((None, None, 0, 12), "– (12 unscored)"),
    ],
)
def test_missing_scores_stand_beside_the_mean_and_few_have_no_error(numbers, cell):
    assert f"| x | {cell} |" in comparison_table(joined(results={"x": score(*numbers)}))


def test_few_queries_have_no_interval():
    difference = joined()["reward_differences"][0]
    few = joined(reward_differences=[difference | {"count": 9}], win_rates=[WIN_RATES[0] | {"tie": 2}])
    text = comparison_table(few)
    assert "| reward | neat | sft | +0.250 (n < 10) | 9 |" in text and "+50.0 (n < 10) | 9 | 2 |" in text
    none = difference | {"mean": None, "low": None, "high": None, "count": 0}
    assert "| reward | neat | sft | – | 0 |" in comparison_table(joined(reward_differences=[none]))


@pytest.mark.parametrize(
    ("names", "headings"),
    [
        (["rm/reward", "rm2/reward"], ["rm/reward", "rm2/reward"]),
        (["/runs/a/rm/reward", "/runs/b/rm/reward", "vader_reward"], ["a/rm/reward", "b/rm/reward", "vader_reward"]),
        (["reward", "rm/reward"], ["reward", "rm/reward"]),
        (["rm", "rm/"], ["rm", "rm/"]),
        (["rm/reward (1a)", "rm/reward (2b)"], ["reward (1a)", "reward (2b)"]),
    ],
)
def test_rewards_are_told_apart(names, headings):
    scores = {name: score(1.0, 0.1, 10)["reward"]["r"] for name in names}
    difference = joined()["reward_differences"][0]
    differences = [difference | {"reward": name} for name in names]
    text = comparison_table(joined(results={"x": {"reward": scores}}, reward_differences=differences))
    assert text.splitlines()[0] == f"| Model | {' | '.join(f'{heading} ↑' for heading in headings)} |"
    assert all(f"| {heading} | neat | sft |" in text for heading in headings)


def test_a_judge_that_goes_by_the_place_shows():
    biased = {"win": 0, "tie": 10, "lose": 0, "disagreement": 1.0, "first_place": 1.0, "win_minus_lose": 0.0}
    text = comparison_table(joined(win_rates=[WIN_RATES[0] | biased]))
    assert "| 10 | 2 | 100.0 | 100.0 |" in text
    assert "- Warning: on neat against sft, the judge disagrees with itself" in text
    assert "Warning" not in comparison_table(joined())


def test_win_rates_of_an_earlier_version_have_no_places():
    old = {key: value for key, value in WIN_RATES[0].items() if key not in ("disagreement", "first_place")}
    assert "| 10 | 2 | – | – |" in comparison_table(joined(win_rates=[old]))


def test_the_perplexity_says_of_what():
    assert "Reference PPL: perplexity of the dataset's references given their queries" in comparison_table(joined())


def test_several_judges_have_a_column():
    other = WIN_RATES[0] | {"judge": {"kind": "reward", "reward": "a/reward"}}
    text = comparison_table(joined(win_rates=[*WIN_RATES, other]))
    assert "| neat | sft | judge-1 | 60.0 |" in text and "| neat | sft | the reward a/reward | 60.0 |" in text


@pytest.mark.parametrize("count", [1, 6])
def test_bars_are_shares_that_add_up(count, tmp_path, monkeypatch):
    drawn, original = {}, matplotlib.axes.Axes.barh

    def barh(self, y, width, left, label, **kwargs):
        drawn[label] = (list(left), list(width))
        return original(self, y, width, left=left, label=label, **kwargs)

    monkeypatch.setattr(matplotlib.axes.Axes, "barh", barh)
    path = plot_win_rates(WIN_RATES * count, tmp_path / "bars.png", "title")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000
    assert drawn == {
        "win": ([0.0] * count, [60.0] * count),
        "tie": ([60.0] * count, [30.0] * count),
        "lose": ([90.0] * count, [10.0] * count),
    }


def test_bars_of_nothing_readable(tmp_path):
    none = WIN_RATES[0] | {"win": 0, "tie": 0, "lose": 0}
    assert plot_win_rates([none], tmp_path / "bars.png").is_file()
