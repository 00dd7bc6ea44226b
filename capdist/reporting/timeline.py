"""The time of each part of a training step, from a run's metrics log."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

#: Parts of a step and their keys in the metrics log; the rest is the gradient and the update.
PARTS = {
    "wait for data": ("data_s",),
    "encode": ("encode_s",),
    "sample": ("sample_s",),
    "greedy baseline": ("greedy_s",),
    "copy to the host": ("copy_s",),
    "submit and wait for rewards": ("submit_s", "wait_s"),
    "loss, forward": ("loss_s",),
}
REWARDS, REST = "submit and wait for rewards", "gradient and update"
#: Steps to leave out: they compile and warm up.
WARM_UP = 5

Rows = dict[str, dict[str, float]]


def timeline(records: Sequence[dict[str, Any]]) -> Rows:
    """Mean milliseconds and share of each part of a self-critical step; {} if there is none."""
    steps = [record for record in records if "sample_s" in record][WARM_UP:]
    if not steps:
        return {}
    whole = mean(step["step_s"] for step in steps)
    parts = {
        name: mean(sum(step[key] for key in keys) for step in steps) for name, keys in PARTS.items()
    }
    parts[REST] = whole - sum(parts.values())
    parts["step"] = whole
    return {
        name: {"ms": 1000 * seconds, "share %": 100 * seconds / whole}
        for name, seconds in parts.items()
    }


def data_wait(steps: Sequence[dict[str, Any]]) -> float:
    """Share of the steps' time that the first rank waited for data, in percent."""
    return 100 * sum(step["data_s"] for step in steps) / sum(step["step_s"] for step in steps)
