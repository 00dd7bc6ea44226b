"""Signals that ask a run to save its state and exit."""

from __future__ import annotations

import signal
from types import FrameType

#: Sent by schedulers before they stop a job.
STOP = (signal.SIGTERM, signal.SIGUSR1)
#: Exit status of a run that was stopped and has saved its state: neither finished nor failed.
#: It is EX_TEMPFAIL of sysexits.h, "try again later".
STOPPED = 75


class StopSignal:
    """Records whether a stop signal has arrived since it was constructed.

    A signal that arrived earlier counts if the parent process had blocked it.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in STOP:
            signal.signal(number, self._remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def ignore_stop(worker: int) -> None:
    """Make a reader process ignore stop signals: its rank still finishes the step."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
