"""Sends to a tracker from a thread, so that a slow or lost service never holds up training."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from queue import SimpleQueue
from typing import TypeAlias

from capdist.tracking.base import Tracker, ValidationCaptions

#: Seconds that the end of a run waits for what is still to be sent.
CLOSE_S = 60.0

Record: TypeAlias = Mapping[str, float]
Call: TypeAlias = Callable[[Tracker], None]


class BackgroundTracker:
    """Sends in the order of the calls, which return at once.

    The first failure of the tracker is printed to standard error in one line, and ends tracking;
    nothing raises.

    Args:
        tracker: open.
        name: of the tracker, for messages.
    """

    def __init__(self, tracker: Tracker, name: str) -> None:
        self._tracker, self._name = tracker, name
        self._queue: SimpleQueue[Record | Call | None] = SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def log(self, record: Record) -> None:
        """As `Tracker.log`, of one record."""
        self._queue.put(record)

    def show(self, step: int, captions: ValidationCaptions) -> None:
        """As `Tracker.show`."""
        self._queue.put(lambda tracker: tracker.show(step, captions))

    def scores(self, scores: Mapping[str, float]) -> None:
        """As `Tracker.scores`."""
        self._queue.put(lambda tracker: tracker.scores(scores))

    def close(self, *, done: bool, timeout_s: float = CLOSE_S) -> None:
        """As `Tracker.close`; waits for it, but no longer than ``timeout_s``."""
        self._queue.put(lambda tracker: tracker.close(done=done))
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._warn(f"not all has been sent after {timeout_s:g} s")

    def _work(self) -> None:
        ended = False
        while not ended:
            items = [self._queue.get()]
            while not self._queue.empty():
                items.append(self._queue.get())
            ended = items[-1] is None
            if not self._failed:
                self._send([item for item in items if item is not None])

    def _send(self, items: Sequence[Record | Call]) -> None:
        """Send all of them, neighbouring records in one call."""
        try:
            for is_record, group in groupby(items, lambda item: isinstance(item, Mapping)):
                if is_record:
                    self._tracker.log([item for item in group if isinstance(item, Mapping)])
                for call in filter(callable, group):
                    call(self._tracker)
        except Exception as error:
            self._failed = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self._warn(f"{reason}; nothing more is sent")

    def _warn(self, what: str) -> None:
        print(
            f"warning: tracking by {self._name}: {what}; the run folder has everything",
            file=sys.stderr,
            flush=True,
        )
