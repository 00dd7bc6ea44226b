"""Signals that ask a run to save its state and end."""

from __future__ import annotations

import signal
from types import FrameType

#: What a scheduler sends before it takes the machine.
STOP = (signal.SIGTERM, signal.SIGUSR1)
#: The exit status of a run that was stopped with all saved: neither done nor failed. It is
#: EX_TEMPFAIL of sysexits.h, "try again later".
STOPPED = 75


class StopSignal:
    """Remembers that a signal asked for a stop, from when it is made on.

    One that came earlier counts, if whoever started the process had it blocked.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in STOP:
            signal.signal(number, self._remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def ignore_stop(worker: int) -> None:
    """Let a reader process outlive the signal: its rank still finishes the step."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
