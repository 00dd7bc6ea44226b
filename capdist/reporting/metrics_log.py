"""The metrics log of a run: ``metrics.jsonl``, and the same numbers in services that show them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from capdist.errors import CapdistError
from capdist.reporting.tensorboard_events import TensorBoardEvents
from capdist.tracking.background import BackgroundTracker
from capdist.tracking.base import ValidationCaptions
from shards.atomic import atomic_write

METRICS_LOG = "metrics.jsonl"


class MetricsLogError(CapdistError):
    """A metrics log cannot be parsed or written."""


class MetricsLog:
    """Appends one JSON object per line to ``metrics.jsonl``.

    TensorBoard, and the tracker if there is one, get the same numbers and the validation captions.

    Args:
        folder: the run folder; created if missing.
        enabled: whether to write anything; true on the first rank only.
        tracker: open; closed together with the log.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        enabled: bool = True,
        tracker: BackgroundTracker | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._path = self._folder / METRICS_LOG
        self._enabled, self._tracker = enabled, tracker
        self._events = TensorBoardEvents(self._folder / "tensorboard")
        if enabled:
            self._folder.mkdir(parents=True, exist_ok=True)
            _drop_partial_line(self._path)
            self._file = self._path.open("a", encoding="utf-8")

    def truncate_after(self, step: int, *, evaluated: bool) -> None:
        """Remove the records after ``step``, which a run resumed from there writes again.

        Args:
            step: the last step to keep.
            evaluated: whether to keep the evaluation after that step.

        Raises:
            MetricsLogError: if a line is not a record.
        """
        if self._enabled:
            kept = [
                record
                for record in read_records(self._path)
                if record["step"] < step
                or (record["step"] == step and (evaluated or "loss" in record))
            ]
            self._file.close()
            with atomic_write(self._path) as file:
                file.write("".join(_line(record) for record in kept).encode())
            self._file = self._path.open("a", encoding="utf-8")
            self._events.purge_after(step)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record with an integer ``step``; other processes can read it on return.

        Raises:
            MetricsLogError: if the write fails, for example because the disk is full.
        """
        if self._enabled:
            try:
                self._file.write(_line(record))
                self._file.flush()
            except OSError as error:
                raise MetricsLogError(
                    f"{self._path}: {error.strerror}; free disk space, then continue with "
                    "--resume auto"
                ) from error
            numbers = {k: value for k, value in record.items() if isinstance(value, int | float)}
            self._events.log(numbers)
            if self._tracker:
                self._tracker.log(numbers)

    def show(self, step: int, captions: ValidationCaptions) -> None:
        """Pass the captions of the validation after a step to TensorBoard and the tracker."""
        if self._enabled:
            self._events.show(step, captions)
            if self._tracker:
                self._tracker.show(step, captions)

    def scores(self, scores: Mapping[str, float]) -> None:
        """Pass final scores to the tracker."""
        if self._tracker:
            self._tracker.scores(scores)

    def close(self, *, done: bool = True) -> None:
        """Close all; ``done``: whether the run is complete."""
        if self._enabled:
            self._file.close()
            self._events.close()
            if self._tracker:
                self._tracker.close(done=done)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(done=kind is None)


def read_records(path: Path | str) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, without a partial last line left by a killed run.

    Raises:
        MetricsLogError: if another line is not a JSON object with an integer ``step``.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    return [_record(path, number, line) for number, line in enumerate(lines, 1)]


def _record(path: Path | str, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise MetricsLogError(f"{path}: line {number} is not JSON ({error}); remove it") from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise MetricsLogError(
            f"{path}: line {number} is not an object with an integer step; remove it"
        )
    return record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _drop_partial_line(path: Path) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
