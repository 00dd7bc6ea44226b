"""Stand-ins for a split that workers can import without torch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from shards.schema import ShardError

#: Batches that kill the worker that decodes them, and that cannot be read.
DEADLY, DAMAGED = 100, 101


@dataclass(frozen=True)
class ToySplit:
    """Batches that take 0.1 s each; a process that decodes one creates a file named by its id."""

    folder: Path
    kinds: tuple[int, ...]

    @property
    def without_readers(self) -> ToySplit:
        return self

    @property
    def batches(self) -> Any:
        return SimpleNamespace(plan=SimpleNamespace(steps=len(self.kinds)))

    def decode(self, start: int = 0) -> Iterator[list[tuple[int, str]]]:
        for kind in self.kinds[start:]:
            (self.folder / str(os.getpid())).touch()
            if kind == DEADLY:
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == DAMAGED:
                raise ShardError("a.tar: damaged")
            time.sleep(0.1)
            yield [(kind, f"caption {kind}")]


@dataclass(frozen=True)
class Several:
    """Tasks with the same number of batches, decoded in lockstep."""

    tasks: tuple[Any, ...]

    @property
    def without_readers(self) -> Several:
        return Several(tuple(task.without_readers for task in self.tasks))

    @property
    def batches(self) -> Any:
        return self.tasks[0].batches

    def decode(self, start: int = 0) -> Iterator[list[Any]]:
        for parts in zip(*(task.decode(start) for task in self.tasks), strict=True):
            yield list(parts)
