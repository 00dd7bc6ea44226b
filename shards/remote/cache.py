"""The folder on a node's own disk that holds copies of remote files, shared by all processes.

A copy's name begins with the SHA-256 that the manifest gives: copies of an older version of a set
are never mistaken for the new, and a file that two sets have is stored once. `RemoteFile` fills
the cache.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shards.remote.download import RetryPolicy
from shards.remote.locks import remove_unless_locked
from shards.schema import ShardError

#: Files that count towards the cache's size; an index is removed with its tar.
_COPY = re.compile(r"[0-9a-f]{32}-.*(?<!\.index\.json)")


def default_folder() -> Path:
    """``$TMPDIR/capdist-<user id>``, or ``capdist`` in the user's cache folder without TMPDIR."""
    if "TMPDIR" in os.environ:
        return Path(tempfile.gettempdir()) / f"capdist-{os.getuid()}"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capdist"


@dataclass(frozen=True)
class Cache:
    """A cache with least-recently-used eviction.

    Args:
        folder: on the node's own disk; made if it does not exist.
        size: bytes that the copies may take.
        retry: how often and how long servers are asked.
    """

    folder: Path = field(default_factory=default_folder)
    size: int = 64 * 2**30
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @contextmanager
    def open_for_writing(self) -> Iterator[None]:
        """Make the folder, and turn a failure to write there into a message of one line.

        Raises:
            ShardError: in place of an OSError, and if the default folder is another user's.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder == default_folder() and self.folder.lstat().st_uid != os.getuid():
                raise ShardError(
                    f"{self.folder}: belongs to another user, who could change what is read "
                    "there; set data.cache_dir to a folder of your own"
                )
            yield
        except OSError as error:
            existing = next(p for p in (self.folder, *self.folder.parents) if p.exists())
            disk = os.statvfs(existing)
            raise ShardError(
                f"{self.folder}: can't write a copy, with {disk.f_bavail * disk.f_frsize // 2**20} "
                f"MB free on its disk: {error}; free some space, set data.cache_dir to a folder on "
                "a larger disk, or lower data.cache_bytes"
            ) from error

    def make_room(self, size: int) -> None:
        """Evict copies until ``size`` more bytes fit, the least recently used first.

        Copies that are locked and files that are being downloaded stay.
        """
        copies = []
        for entry in os.scandir(self.folder):
            if _COPY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                stat = entry.stat(follow_symlinks=False)
                copies.append((stat.st_mtime_ns, stat.st_size, Path(entry)))
        total = sum(copy_size for _, copy_size, _ in copies)
        for _, copy_size, path in sorted(copies):
            if total + size <= self.size:
                return
            total -= copy_size if remove_unless_locked(path) else 0
