"""Contestants timed in turn, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from tqdm import tqdm


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant's rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest round."""
        return min(self.rounds), max(self.rounds)

    def over(self, times: int) -> Timing:
        """Of one, where a round was so many."""
        return Timing(tuple(seconds / times for seconds in self.rounds))

    def times_as_fast(self, other: Timing) -> float:
        """As the other, by the median over rounds: a machine that slows down meets both."""
        return median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))


@dataclass(frozen=True)
class Contestant:
    """One that deals with so many items in a round."""

    items: int
    run: Callable[[], Any]


def interleave(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Every contestant once a round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in tqdm(range(rounds + 1), desc="measuring", unit="round"):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


def seconds(run: Callable[[], Any], device: torch.device, rounds: int = 30) -> float:
    """The median time of a call, after three that do not count."""
    times = []
    for number in range(rounds + 3):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 3:
            times.append(time.perf_counter() - started)
    return median(times)
