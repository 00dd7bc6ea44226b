"""Timing of several programs in turn, so that the state of the machine affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from shards.progress import tracked

#: Calls of `seconds` that are not timed.
WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of one program."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest round."""
        return min(self.rounds), max(self.rounds)

    def per_call(self, calls: int) -> Timing:
        """The timing of one call, if a round had ``calls`` of them."""
        return Timing(tuple(seconds / calls for seconds in self.rounds))

    def speedup(self, other: Timing) -> float:
        """How many times as fast as the other: the median of the rounds' own ratios.

        A machine that slows down for a while affects both times of a ratio.
        """
        return median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))


def interleave(programs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Run every program once per round, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in tracked(range(rounds + 1), rounds + 1, title="measuring", unit="round"):
        for name, run in programs.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


def seconds(run: Callable[[], Any], device: torch.device, rounds: int = 30) -> float:
    """The median time of ``rounds`` calls, after three warm-up calls."""
    times = []
    for number in range(rounds + WARM_UP):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= WARM_UP:
            times.append(time.perf_counter() - started)
    return median(times)
