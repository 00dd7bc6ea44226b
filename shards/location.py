"""Where a set's files lie: in a folder, or behind a URL. Both say the same of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shards.remote.cache import Cache, Source, check_name
from shards.remote.download import is_url, read


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk; ``place`` is its name for people."""

    root: Path
    url: ClassVar[None] = None

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """A small file, or None if there is none."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def source(self, name: str, sha256: str, size: int | None = None) -> None:
        """Nothing: the file is there already.

        Raises:
            ShardError: if that is no name of a file in this folder.
        """
        check_name(self.place, name)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder on a server: its URL, and where copies of its files are kept."""

    url: str
    cache: Cache

    @property
    def place(self) -> str:
        """The URL."""
        return self.url

    @property
    def root(self) -> Path:
        """What its files are named by, so that those of several sets differ; not on the disk."""
        return self.cache.folder / self.url.replace("://", "/")

    def read(self, name: str) -> bytes | None:
        """A small file as it is on the server now, or None if there is none.

        Raises:
            ShardUnavailableError: if the server does not say.
        """
        return read(f"{self.url}/{name}", self.cache.patience)

    def source(self, name: str, sha256: str, size: int | None = None) -> Source:
        """Where the bytes of a file come from.

        Raises:
            ShardError: if that is no name of a file in this folder.
        """
        return Source(self.url, name, sha256, size, self.cache)


def folder_at(place: Path | str, cache: Cache | None = None) -> LocalFolder | RemoteFolder:
    """The folder at a path or a URL; copies of remote files are kept in ``cache``."""
    if is_url(place):
        return RemoteFolder(str(place).rstrip("/"), cache or Cache())
    return LocalFolder(Path(place))
