"""Which settings of DeepSpeed its engine chooses."""

from __future__ import annotations

from typing import Any

import pytest

from capdist.engines.deepspeed_copies import without_bucket


@pytest.mark.parametrize("others", [{}, {"bf16": {"enabled": False}}, {"torch_autocast": {}}])
def test_zero_1_in_fp32_sums_gradients_without_a_bucket(others: dict[str, Any]) -> None:
    assert without_bucket({"zero_optimization": {"stage": 1}, **others}) == {
        "zero_optimization": {"stage": 1, "contiguous_gradients": False},
        **others,
    }


@pytest.mark.parametrize(
    "section",
    [
        {"zero_optimization": {"stage": 1, "contiguous_gradients": True}},
        {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}},
        {"zero_optimization": {"stage": 2}},
        {},
    ],
)
def test_other_sections_and_what_they_say_remain(section: dict[str, Any]) -> None:
    assert without_bucket(section) == section
