"""A file in a folder of shards that the folder's JSON lists by its name and SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self, TypedDict

from shards.location import LocalFolder, RemoteFolder
from shards.remote.remote_file import RemoteFile
from shards.schema import ShardError


class ListedFileJson(TypedDict):
    """How the JSON of a set lists a file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class ListedFile:
    """The name of a file, and its SHA-256.

    ``remote``, which no JSON file holds, is set for a file of a remote set.
    """

    name: str
    sha256: str
    remote: RemoteFile | None = None

    @classmethod
    def listed(cls, folder: LocalFolder | RemoteFolder, data: ListedFileJson | None) -> Self | None:
        """The file that the JSON of a set lists, if it lists one.

        Raises:
            ShardError: if its name is not the plain name of a file in the folder.
        """
        if data is None:
            return None
        return cls(**data, remote=folder.remote_file(data["name"], data["sha256"]))

    def to_json(self) -> ListedFileJson:
        return {"name": self.name, "sha256": self.sha256}

    def path(self, root: Path) -> Path:
        """Its path, or that of its copy if it is remote, in the folder ``root``."""
        return self.remote.fetch() if self.remote else root / self.name

    def read(self, root: Path) -> bytes:
        """Its bytes, from the folder ``root``.

        Raises:
            ShardError: if it is missing, or another file.
        """
        path = self.path(root)
        if not path.is_file():
            raise ShardError(
                f"{path}: missing, though its set lists it; copy it, or run the build again"
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ShardError(
                f"{path}: SHA-256 mismatch with the one listed; copy it, or run the build again"
            )
        return data
