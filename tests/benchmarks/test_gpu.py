"""What is measured on a GPU can be walked through without one."""

from __future__ import annotations

import torch

from capdist.benchmarks.gpu import QUICK, page


def test_the_page_has_a_row_for_each_setting() -> None:
    text = page("glied", "command", QUICK, torch.device("cpu"))
    rows = [line for line in text.splitlines() if line.startswith("| ") and " images" in line]
    assert len([row for row in rows if row[2].isdigit()]) == 2
    assert text.endswith("command\n```\n")
