"""The GPU benchmark runs on a CPU with small sizes."""

from __future__ import annotations

import torch

from benchmarks.gpu import QUICK, measure_on


def test_the_page_has_a_row_for_each_size() -> None:
    text = measure_on("glied", QUICK, torch.device("cpu")).page("command")
    rows = [line for line in text.splitlines() if line.startswith("| ") and " images" in line]
    assert len([row for row in rows if row[2].isdigit()]) == 2
    assert text.endswith("command\n```\n")
