"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_TEMPORARY = "*.tmp"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write under a temporary name; it gets its own name once it is on the disk."""
    # The process number keeps a worker that outlives its build apart from the next build's.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync(folder: Path) -> None:
    """Bring everything in a folder onto the disk, so that a rename makes it all appear."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file."""
    with replacing(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def remove_temporaries(root: Path) -> None:
    """Remove what writers that were killed left in a folder."""
    for stray in root.glob(_TEMPORARY):
        stray.unlink()
