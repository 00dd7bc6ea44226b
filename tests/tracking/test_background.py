"""What is sent to a tracker from the background, and what happens when it fails."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from typing_extensions import Self

from capdist.tracking.background import BackgroundTracker
from capdist.tracking.base import TrackedRun, Tracker, ValidationCaptions

CAPTIONS = ValidationCaptions("val", {1: "a dog"}, ())


@dataclass
class ToyTracker(Tracker):
    """Keeps what it gets; with ``breaks``, its service is lost at that step.

    It goes on after ``answers`` is set.
    """

    breaks: int | None = None
    answers: threading.Event = field(default_factory=threading.Event)
    got: list[object] = field(default_factory=list)

    package: ClassVar[str] = "json"
    run_id = "1"

    @classmethod
    def open(cls, run: TrackedRun) -> Self:
        return cls()

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        self.answers.wait()
        for record in records:
            if record["step"] == self.breaks:
                raise ConnectionError("the service is\nlost")
            self.got.append(dict(record))

    def show(self, step: int, captions: ValidationCaptions) -> None:
        self.got.append((step, captions))

    def scores(self, scores: Mapping[str, float]) -> None:
        self.got.append(dict(scores))

    def close(self, *, done: bool) -> None:
        self.got.append(done)


def test_all_is_sent_in_order_and_no_call_waits() -> None:
    tracker = ToyTracker()
    sending = BackgroundTracker(tracker, "toy")
    for step in (1, 2):
        sending.log({"step": step, "loss": 0.5})
    sending.show(2, CAPTIONS)
    sending.log({"step": 3, "loss": 0.25})
    sending.scores({"CIDEr": 50.0})
    assert tracker.got == []  # the service has not answered yet
    tracker.answers.set()
    sending.close(done=True)
    assert tracker.got == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.5},
        (2, CAPTIONS),
        {"step": 3, "loss": 0.25},
        {"CIDEr": 50.0},
        True,
    ]


def test_a_lost_service_is_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    tracker = ToyTracker(breaks=2)
    tracker.answers.set()
    sending = BackgroundTracker(tracker, "toy")
    for step in range(1, 6):
        sending.log({"step": step})
        sending.show(step, CAPTIONS)
    sending.close(done=False)
    assert {"step": 3} not in tracker.got
    assert False not in tracker.got
    assert capfd.readouterr() == (
        "",
        "warning: tracking by toy: ConnectionError: the service is; nothing more is sent; the run "
        "folder has everything\n",
    )


def test_the_end_of_a_run_does_not_wait_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    tracker = ToyTracker()
    sending = BackgroundTracker(tracker, "toy")
    sending.log({"step": 1})
    sending.close(done=True, timeout_s=0.01)
    assert "not all has been sent after 0.01 s" in capfd.readouterr().err
    tracker.answers.set()
