"""Helpers of the tests of worker pools."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.workers.base import PackedCaptions, RewardPool, Scores
from capdist.workers.reward_pool import open_pool
from tests.support import toy_reward
from tests.support.toy_reward import SLOW, captions, references

#: Time limit of what must succeed, however busy the machine is.
PATIENT_S = 60.0


def at(address: str, timeout_s: float = PATIENT_S) -> RayConfig:
    return RayConfig(address=address, timeout_s=timeout_s)


def in_process(packed: PackedCaptions, folder: Path = Path()) -> Scores:
    """The scores of the in-process pool, without the artificial delay."""
    with open_pool(
        toy_reward.toy(folder, seconds=0), RewardConfig(actors=0), RayConfig(), print
    ) as pool:
        return pool.submit(packed, references(packed)).result()


def until(happened: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENT_S
    while not happened():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def slow(rows: int) -> PackedCaptions:
    """Captions that take 0.4 s each."""
    packed = captions(rows)
    packed[:, 3:5] = SLOW
    return packed


def compare(pool: RewardPool) -> None:
    """The pool's scores equal in-process ones bit for bit, for any rows and order of results."""
    calls = [captions(rows) for rows in (0, 1, 2, 3, 4, 7, 50, 6000)]
    pending = [pool.submit(call, references(call)) for call in calls]
    for call, one in reversed(list(zip(calls, pending, strict=True))):
        assert one.result().tobytes() == in_process(call).tobytes()
        assert one.result().dtype == np.float64
