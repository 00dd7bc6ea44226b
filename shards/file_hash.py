"""Hashes the contents of many files, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shards.folder_lock import LOCK, OWNER
from shards.progress import BYTES, Progress

_READ_BYTES = 1 << 20


class Digest(Protocol):
    """As `hashlib` makes them."""

    def update(self, data: bytes, /) -> None: ...


def update_with_files(digest: Digest, paths: Sequence[Path]) -> None:
    """Add names and contents of files, and of all files in folders, to a digest.

    The lock of a folder is not content.
    """
    files = [
        (file, file.relative_to(path).as_posix() if path.is_dir() else file.name)
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file() and file.name not in (LOCK, OWNER)
    ]
    size = sum(file.stat().st_size for file, _ in files)
    with Progress(size, title="hashing files", unit=BYTES) as bar:
        for file, name in files:
            digest.update(name.encode())
            with file.open("rb") as content:
                while chunk := content.read(_READ_BYTES):
                    digest.update(chunk)
                    bar.advance(len(chunk))
