"""Where a set of shards is: in a local folder, or behind a URL. Both have the same interface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shards.remote.cache import Cache
from shards.remote.download import is_url, read_url
from shards.remote.remote_file import RemoteFile, check_file_name


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk."""

    root: Path
    url: ClassVar[None] = None

    @property
    def location(self) -> str:
        """The folder, for messages."""
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file, or None if there is none."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def remote_file(self, name: str, sha256: str, size: int | None = None) -> None:
        """None: the file need not be downloaded.

        Raises:
            ShardError: if ``name`` is not the plain name of a file in this folder.
        """
        check_file_name(self.location, name)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder on a server: its URL, and the cache for copies of its files."""

    url: str
    cache: Cache

    @property
    def location(self) -> str:
        """The URL, for messages."""
        return self.url

    @property
    def root(self) -> Path:
        """A path that identifies the set, as different sets have files of the same name.

        Nothing is stored there.
        """
        return self.cache.folder / self.url.replace("://", "/")

    def read(self, name: str) -> bytes | None:
        """The bytes that a small file has on the server now, or None if there is none.

        Raises:
            ShardUnavailableError: if the server does not answer.
        """
        return read_url(f"{self.url}/{name}", self.cache.retry)

    def remote_file(self, name: str, sha256: str, size: int | None = None) -> RemoteFile:
        """The file, to download when it is needed.

        Raises:
            ShardError: if ``name`` is not the plain name of a file in this folder.
        """
        return RemoteFile(self.url, name, sha256, size, self.cache)


def folder_at(location: Path | str, cache: Cache | None = None) -> LocalFolder | RemoteFolder:
    """The folder at a path or a URL; copies of remote files are kept in ``cache``."""
    if is_url(location):
        return RemoteFolder(str(location).rstrip("/"), cache or Cache())
    return LocalFolder(Path(location))
