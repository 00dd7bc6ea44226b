"""A rank that stops is reported by the others, and the resumed run equals an uninterrupted one.

``python -m tests.faults`` injects all faults, several times each.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.faults import TORCH, stop_rank
from tests.faults.scenario import ReferenceRuns, Scenario


def test_a_stopped_rank_is_reported_and_the_run_resumes_exactly(tmp_path: Path) -> None:
    references = ReferenceRuns(tmp_path)
    outcome = stop_rank(Scenario(references, TORCH, tmp_path / "scenario", random.Random(1)))
    assert "(timeout_s)" in outcome.message
