"""Statistics of measured times."""

from __future__ import annotations

from benchmarks.timing import Timing


def test_a_slow_round_of_both_programs_does_not_change_the_speedup() -> None:
    ours, theirs = Timing((1.0, 10.0, 1.2)), Timing((2.0, 20.0, 1.8))
    assert ours.speedup(theirs) == 2.0
    assert theirs.median / ours.median < 1.7
