"""Atomic writes: a file is on the disk whole, under its own name, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_TEMPORARY = "*.tmp"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing; flush it to the disk and rename it to ``path`` at the end.

    After an error the temporary file stays, for `remove_temporary_files`, and ``path`` is as it
    was. A device or a pipe, such as /dev/stdout, is written to directly.
    """
    if path.exists() and not path.is_file():
        with _naming(path), path.open("wb") as file:
            yield file
        return
    # With the process number: a worker that outlives its build can't write into the next build's.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _naming(path):
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let system errors name the file: a failed write names none, others the temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".tmp"):
            error.filename = str(path)
        raise


def fsync_folder(folder: Path) -> None:
    """Flush a folder and everything in it to the disk, so that it can be renamed atomically."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for path in folder.glob(_TEMPORARY):
        path.unlink()
