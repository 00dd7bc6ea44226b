"""The metrics_log of a run: ``metrics.jsonl``, and the same figures as TensorBoard events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capdist.errors import CapdistError

METRICS_LOG = "metrics.jsonl"


class MetricsLogError(CapdistError):
    """A metrics_log that does not read or write; names the file and the line."""


class MetricsLog:
    """Appends one JSON object a line to ``metrics.jsonl``, and mirrors it in ``tensorboard/``.

    Args:
        folder: of the run; made if it is not there.
        enabled: whether to write anything; true on the first rank only.
    """

    def __init__(self, folder: Path | str, *, enabled: bool = True) -> None:
        self._folder = Path(folder)
        self._path = self._folder / METRICS_LOG
        self._enabled = enabled
        self._purge_step: int | None = None
        self._events: Any = None
        if enabled:
            self._folder.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self._path)
            self._file = self._path.open("a", encoding="utf-8")

    def truncate_after(self, step: int, *, evaluated: bool) -> None:
        """Forget the records that a run going on from ``step`` makes again.

        Args:
            step: the last that is kept.
            evaluated: whether the evaluation behind it is kept too.

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
            part = self._path.with_name(f"{METRICS_LOG}.part")
            part.write_text("".join(_line(record) for record in kept), encoding="utf-8")
            os.replace(part, self._path)
            self._file = self._path.open("a", encoding="utf-8")
            self._purge_step = step + 1

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record, which has at least an integer ``step``; it is on disk on return.

        Raises:
            MetricsLogError: if the disk does not take it.
        """
        if self._enabled:
            try:
                self._file.write(_line(record))
                self._file.flush()
            except OSError as error:
                raise MetricsLogError(
                    f"{self._path}: {error.strerror}; make room, then go on by --resume auto"
                ) from error
            self._mirror(record)

    def close(self) -> None:
        """Close both files."""
        if self._enabled:
            self._file.close()
            if self._events:
                self._events.close()

    def _mirror(self, record: Mapping[str, Any]) -> None:
        if self._events is None:
            self._events = _open_events(self._folder / "tensorboard", self._purge_step)
        for name, value in record.items():
            if self._events and name != "step" and isinstance(value, int | float):
                self._events.add_scalar(name, value, record["step"])


def read_records(path: Path | str) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, without the line that a killed run left half written.

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
        raise MetricsLogError(f"{path}: line {number} is not an object with a step; remove it")
    return record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _open_events(folder: Path, purge_step: int | None) -> Any:
    """A TensorBoard writer, or False where TensorBoard is not installed, which is said."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        print(f"no TensorBoard events ({error}); metrics.jsonl has the same figures", flush=True)
        return False
    return SummaryWriter(str(folder), purge_step=purge_step)
