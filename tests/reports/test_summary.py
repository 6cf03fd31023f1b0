from trl_negalign.evaluation.held_out import HeldOut
from trl_negalign.reports.summary import held_out_summary


def states(queries: int) -> tuple[HeldOut, HeldOut]:
    """Rewards of 0 before; after, 1, 2 and 3 in turns."""
    names, gains = [f"query {i}" for i in range(queries)], [float(i % 3 + 1) for i in range(queries)]
    before = HeldOut(names, ["x", "y", "z"] * (queries // 3), [0.0] * queries, 1, 20.0)
    return before, HeldOut(names, ["X", "Y", "Z"] * (queries // 3), gains, 1, 30.0)


def test_numbers_by_hand():
    text = held_out_summary(*states(12), shown=2)
    assert "query 0 …\n  before (+0.00): 'x'\n  after  (+1.00): 'X'\n" in text and "'Y'" in text and "'Z'" not in text
    assert "12 queries x 1 samples (± standard error):" in text
    # four each of 1, 2 and 3: a deviation of √(8/11), an error of √(8/11/12)
    assert "gain    +2.000 ± 0.246, 8.1 standard errors, paired by query" in text
    assert "20.0 before, 30.0 after: 1.50x" in text


def test_no_error_of_a_few_queries():
    text = held_out_summary(*states(9), shown=1)
    assert "9 queries x 1 samples (no errors: n < 10):\n  before  +0.000\n  after   +2.000\n" in text
    assert "  gain    +2.000, paired by query\n" in text and "±" not in text


def test_no_spread_is_no_division_by_zero():
    same, _ = states(12)
    assert "gain    +0.000 ± 0.000, paired by query" in held_out_summary(same, same, shown=1)
