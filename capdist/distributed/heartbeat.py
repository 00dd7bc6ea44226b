"""Whether the other ranks are still there.

A rank that was killed is told by its closed connections. One that is stopped, or whose machine or
network is gone, closes nothing: the others would wait in Gloo or NCCL for many minutes, and then
not know for whom.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from threading import Event, Thread
from typing import NoReturn

from torch.distributed.distributed_c10d import Store

from capdist.data.rank_plan import Ranks

#: Looks at the others, and signs of life, within the limit.
LOOKS = 20


class Heartbeat:
    """Ends this process, in one line, once another rank was silent for ``limit_s``.

    A thread of every rank counts up a key of its own in the store where they met, so a rank that
    computes alone, however long, is not silent. Silence is counted in looks, which a process takes
    only while it runs: a job that is suspended as a whole goes on.

    Args:
        store: where the ranks met. The first rank serves it, or its launcher.
        ranks: of this process; it waits until all of them are here.
        limit_s: seconds.

    Raises:
        RuntimeError: if they are not within the store's own time.
    """

    def __init__(self, store: Store, ranks: Ranks, limit_s: float) -> None:
        self._store, self._ranks, self._limit_s = store, ranks, limit_s
        self._keys = [f"seen/{rank}" for rank in range(ranks.world)]
        self._unanswered, self._left = 0, Event()
        store.set(self._keys[ranks.rank], "")
        store.wait(self._keys)
        for task in (self._meet, self._count):
            Thread(target=task, daemon=True).start()

    def leave(self) -> None:
        """Look no longer: the others are about to go."""
        self._left.set()

    def _meet(self) -> None:
        """Give signs of life and take those of the others; blocks where the store is silent."""
        heard, silent, own = [b""] * self._ranks.world, [0] * self._ranks.world, 0
        while not self._pause():
            own += 1
            try:
                self._store.set(self._keys[self._ranks.rank], str(own))
                now = self._store.multi_get(self._keys)
            except RuntimeError:
                return  # the connection is closed: `_count` gives the main thread time to say why
            self._unanswered = 0
            silent = [0 if a != b else n + 1 for a, b, n in zip(now, heard, silent, strict=True)]
            heard = now
            if missing := [rank for rank, looks in enumerate(silent) if looks > LOOKS]:
                self._end(missing)

    def _count(self) -> None:
        """Where the store does not answer, it is the rank that serves it."""
        while not self._pause():
            self._unanswered += 1
            if self._unanswered > LOOKS:
                self._end([0])

    def _pause(self) -> bool:
        return self._left.wait(self._limit_s / LOOKS)

    def _end(self, missing: Sequence[int]) -> NoReturn:
        """The main thread waits in a collective, from which nothing can call it back."""
        who = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        print(
            f"error: nothing was heard of {who} for {self._limit_s:g} s (timeout_s): stopped, or "
            "the machine or its network is gone; end what is left of it, then go on by "
            "--resume auto",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)
