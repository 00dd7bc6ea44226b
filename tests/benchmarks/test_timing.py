"""What is made of measured times."""

from __future__ import annotations

from benchmarks.timing import Timing


def test_a_round_in_which_all_were_slow_does_not_count() -> None:
    ours, theirs = Timing((1.0, 10.0, 1.2)), Timing((2.0, 20.0, 1.8))
    assert ours.times_as_fast(theirs) == 2.0
    assert theirs.median / ours.median < 1.7
