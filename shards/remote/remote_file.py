"""Files of a remote set, each downloaded once per node into the cache.

Bytes arrive in ``<name>.part``, which has the SHA-256 and the plain name of the file in its name;
other processes wait for its lock. Once the bytes have the right SHA-256 the file is renamed. A
download that was interrupted continues from the bytes that have arrived, which is why this does
not use `shards.atomic`.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from shards.remote.cache import Cache
from shards.remote.download import ShardUnavailableError, read_url
from shards.remote.locks import is_same_file, lock_copy, write_lock
from shards.schema import ShardError

#: Bytes of one request, and the most that an interrupted download loses.
REQUEST_BYTES = 16 * 2**20
#: Files that a process downloads ahead of its readers at a time.
PREFETCH_THREADS = 2

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(tar|json|npz)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote set.

    Args:
        folder: the URL of the set.
        name: of the file in it.
        sha256: of its bytes.
        size: in bytes; None accepts any size.
        cache: where its copy is kept.

    Raises:
        ShardError: if the name is not plain, or hash or size are impossible.
    """

    folder: str
    name: str
    sha256: str
    size: int | None
    cache: Cache

    def __post_init__(self) -> None:
        check_file_name(self.folder, self.name)
        if not _SHA256.fullmatch(self.sha256) or (self.size or 0) < 0:
            raise ShardError(
                f"{self.folder}: names a file {self.name!r} with SHA-256 {self.sha256!r} and "
                f"{self.size} bytes, which no file has; use only sets from makers you know"
            )

    @property
    def url(self) -> str:
        """The URL of the file."""
        return f"{self.folder}/{self.name}"

    @property
    def copy(self) -> Path:
        """Path of the copy in the cache; it exists once it is complete."""
        return self.cache.folder / f"{self.sha256[:32]}-{self.name}"

    def fetch(self) -> Path:
        """The path of the copy, which is downloaded unless it exists.

        The copy is not evicted before this thread has fetched four others. Once open, it can be
        read to its end even if it is evicted.

        Raises:
            ShardUnavailableError: if the server does not deliver these bytes.
            ShardError: if the copy can't be written.
        """
        with self.cache.open_for_writing():
            while not lock_copy(self.copy):
                self._download_or_wait()
        return self.copy

    def _download_or_wait(self) -> None:
        if (self.size or 0) > self.cache.size:
            raise ShardError(
                f"{self.url}: {self.size} bytes, but the whole cache may take {self.cache.size}; "
                "raise data.cache_bytes"
            )
        part = self.copy.with_name(f"{self.copy.name}.part")
        with write_lock(part, 2 * self.cache.retry.limit_s) as file:
            if not is_same_file(file, part):
                return  # another process has completed it
            if self.copy.exists():
                part.unlink()
                return
            try:
                self._download(file)
            except OSError:
                file.truncate(0)  # most likely the disk is full
                raise
            part.rename(self.copy)

    def _download(self, file: FileIO) -> None:
        """Download into ``file`` and check the SHA-256; start over if it differs."""
        for _ in self.cache.retry.attempts():
            size, sha256 = self._download_rest(file)
            if sha256 == self.sha256:
                os.fsync(file.fileno())
                return
            file.truncate(0)
        raise ShardUnavailableError(
            f"{self.url}: {size} bytes with SHA-256 {sha256}, but the manifest that this run read "
            f"says {'' if self.size is None else f'{self.size} bytes with '}{self.sha256}; the set "
            "was changed or is incomplete: restore it, or start again to read it as it is now"
        )

    def _download_rest(self, file: FileIO) -> tuple[int, str]:
        """Append what the server has after the end of ``file``; its final size and SHA-256."""
        digest, position = _hash_to_end(file)
        size = self.size
        self.cache.make_room((size or 0) - position)
        while size is None or position < size:
            start = None if size is None else position
            end = None if size is None else min(position + REQUEST_BYTES, size)
            data = self._read(start, end)
            if end is None or len(data) > end - position:  # the whole file: no range requests
                digest, position = hashlib.sha256(), 0
                file.seek(0)
                file.truncate()
                size = end = len(data)
            _write_all(file, data)
            digest.update(data)
            position += len(data)
            if position != end:
                break  # the file on the server is shorter than the manifest says
        return position, digest.hexdigest()

    def _read(self, start: int | None, end: int | None) -> bytes:
        data = read_url(self.url, self.cache.retry, start, end)
        if data is None:
            raise ShardUnavailableError(
                f"{self.url}: no such file, though the set lists it; restore it"
            )
        return data


def check_file_name(folder: str, name: str) -> None:
    """Refuse a name in a set that is not the plain name of a file in its folder.

    Raises:
        ShardError: naming both.
    """
    if not _FILE_NAME.fullmatch(name):
        raise ShardError(
            f"{folder}: names a file {name!r}; expected a plain name, without folders, that ends "
            "in .tar, .json or .npz; use only sets from makers you know"
        )


def prefetch(files: Iterable[RemoteFile]) -> None:
    """Download files in background threads, a few at a time.

    Errors are not reported: whoever needs the file fetches it again, and gets the error then.
    """
    for file in files:
        # Counted by the threads' names: a counter would be wrong in a forked process.
        running = [t.name for t in threading.enumerate() if t.name.startswith("prefetch ")]
        name = f"prefetch {file.sha256}"
        if len(running) < PREFETCH_THREADS and name not in running and not file.copy.exists():
            threading.Thread(target=_fetch_quietly, args=(file,), name=name, daemon=True).start()


def _fetch_quietly(file: RemoteFile) -> None:
    try:
        file.fetch()
    except ShardError:
        return


def _hash_to_end(file: FileIO) -> tuple[hashlib._Hash, int]:
    """SHA-256 of a file from its start, and its size; leaves it at its end."""
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while chunk := file.read(2**20):
        digest.update(chunk)
        size += len(chunk)
    return digest, size


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
