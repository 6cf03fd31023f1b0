from trl_negalign.evaluation.held_out import HeldOut
from trl_negalign.reports.summary import held_out_summary


def test_numbers_by_hand():
    before = HeldOut(["a", "b", "c"], ["x", "y", "z"], [0.0, 0.0, 0.0], 1, 20.0)
    after = HeldOut(["a", "b", "c"], ["X", "Y", "Z"], [1.0, 2.0, 3.0], 1, 30.0)
    text = held_out_summary(before, after, shown=2)
    assert "a …\n  before (+0.00): 'x'\n  after  (+1.00): 'X'\n" in text and "'Y'" in text and "'Z'" not in text
    assert "3 queries x 1 samples" in text
    assert "gain    +2.000 ± 0.577, 3.5 standard errors, paired by query" in text
    assert "20.0 before, 30.0 after: 1.50x" in text


def test_no_spread_is_no_division_by_zero():
    same = HeldOut(["a", "b"], ["x", "y"], [0.0, 0.0], 1, 20.0)
    assert "gain    +0.000 ± 0.000, paired by query" in held_out_summary(same, same, shown=1)
