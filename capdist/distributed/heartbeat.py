"""Detects ranks that no longer run.

The connections of a rank that was killed are closed, and the others notice. A rank that is
suspended, or whose machine or network failed, closes nothing: the others would wait in Gloo or
NCCL for many minutes, and then not know for which rank.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from threading import Event, Thread
from typing import NoReturn

from torch.distributed.distributed_c10d import Store

from capdist.data.rank_plan import Ranks

#: Heartbeats, and checks of the others', within the limit.
CHECKS = 20


class Heartbeat:
    """Ends this process with one line when another rank has been silent for ``limit_s``.

    A thread of every rank increments a key of its own in the store that the ranks share, so a rank
    that computes for long is not silent. Silence is counted in checks, which a process makes only
    while it runs: a job that is suspended as a whole continues later.

    Args:
        store: shared by the ranks; the first rank serves it, or its launcher.
        ranks: of this process; it waits until all of them are here.
        limit_s: seconds.

    Raises:
        RuntimeError: if they are not here within the store's own time limit.
    """

    def __init__(self, store: Store, ranks: Ranks, limit_s: float) -> None:
        self._store, self._ranks, self._limit_s = store, ranks, limit_s
        self._keys = [f"seen/{rank}" for rank in range(ranks.world)]
        self._unanswered, self._stopped = 0, Event()
        store.set(self._keys[ranks.rank], "")
        store.wait(self._keys)
        for task in (self._check_ranks, self._check_store):
            Thread(target=task, daemon=True).start()

    def stop(self) -> None:
        """Stop checking: the others are about to exit."""
        self._stopped.set()

    def _check_ranks(self) -> None:
        """Send heartbeats and read those of the others; blocks while the store is silent."""
        previous, silent, own = [b""] * self._ranks.world, [0] * self._ranks.world, 0
        while not self._pause():
            own += 1
            try:
                self._store.set(self._keys[self._ranks.rank], str(own))
                beats = self._store.multi_get(self._keys)
            except RuntimeError:
                return  # connection closed: `_check_store` gives the main thread time to report it
            self._unanswered = 0
            silent = [
                0 if beat != before else checks + 1
                for beat, before, checks in zip(beats, previous, silent, strict=True)
            ]
            previous = beats
            if missing := [rank for rank, checks in enumerate(silent) if checks > CHECKS]:
                self._exit(missing)

    def _check_store(self) -> None:
        """If the store does not answer, the rank that serves it is missing."""
        while not self._pause():
            self._unanswered += 1
            if self._unanswered > CHECKS:
                self._exit([0])

    def _pause(self) -> bool:
        return self._stopped.wait(self._limit_s / CHECKS)

    def _exit(self, missing: Sequence[int]) -> NoReturn:
        """The main thread waits in a collective operation, which nothing can interrupt."""
        which = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        print(
            f"error: no heartbeat from {which} for {self._limit_s:g} s (timeout_s): suspended, or "
            "its machine or network failed. End what is left of it, then continue with "
            "--resume auto",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)
