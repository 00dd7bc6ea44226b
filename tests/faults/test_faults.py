"""A rank that is stopped is named by the others, and the run goes on as if nothing had happened.

``python -m tests.faults`` tries all that may happen, more than once.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.faults import PLAIN, stopped
from tests.faults.trial import Trial, Workshop


def test_a_stopped_rank_is_named(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    found = stopped(Trial(workshop, PLAIN, tmp_path / "trial", random.Random(1)))
    assert "for 3 s (timeout_s): stopped, or the machine or its network is gone" in found.line
