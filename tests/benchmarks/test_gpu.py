"""What is measured on a GPU can be walked through without one."""

from __future__ import annotations

import torch

from benchmarks.gpu import QUICK, walk


def test_the_page_has_a_row_for_each_setting() -> None:
    text = walk("glied", QUICK, torch.device("cpu")).page("command")
    rows = [line for line in text.splitlines() if line.startswith("| ") and " images" in line]
    assert len([row for row in rows if row[2].isdigit()]) == 2
    assert text.endswith("command\n```\n")
