"""A chunk of an extraction that kills its process once."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tests.support.photographs  # noqa: F401  # registers the backbone in a worker
from shards.extract import ExtractChunk


@dataclass(frozen=True)
class DyingChunk(ExtractChunk):
    """Dies after its first picture, unless a process died before and left the file ``place``."""

    place: Path

    def __call__(self, pictures: dict[str, Path]) -> list[str]:
        if not self.place.exists():
            super().__call__(dict(islice(pictures.items(), 1)))
            self.place.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(pictures)
