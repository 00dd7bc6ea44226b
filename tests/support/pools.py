"""Helpers of the tests of worker pools."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from capdist.config.reward import RewardConfig
from capdist.config.run_config import RayConfig
from capdist.data.rank_plan import Ranks
from capdist.errors import CapdistError, OtherRankError
from capdist.workers.base import PackedCaptions, RewardPool, Scores
from capdist.workers.reward_pool import open_pool
from tests.support import toy_reward
from tests.support.toy_reward import SLOW, captions, references

T = TypeVar("T")

#: Time limit of what must succeed, however busy the machine is.
PATIENT_S = 60.0


def at(address: str, timeout_s: float = PATIENT_S) -> RayConfig:
    return RayConfig(address=address, timeout_s=timeout_s)


class FileGroup:
    """Ranks that exchange values through the files of an empty folder: a group without torch."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.ranks, self._folder, self._numbers = ranks, folder, count()

    def gather(self, value: T) -> list[T]:
        number = next(self._numbers)
        files = [self._folder / f"{number}-{rank}" for rank in range(self.ranks.world)]
        mine = files[self.ranks.rank]
        written = mine.with_suffix(".part")
        written.write_bytes(pickle.dumps(value))
        written.rename(mine)
        until(lambda: all(file.exists() for file in files))
        return [pickle.loads(file.read_bytes()) for file in files]

    def agree(self, check: Callable[[], T]) -> T:
        reason = None
        try:
            result = check()
        except CapdistError as error:
            reason = error
        failed = any(self.gather(reason is not None))
        if reason:
            raise reason
        if failed:
            raise OtherRankError("another rank reports the reason")
        return result


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
