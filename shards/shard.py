"""A tar of a folder of shards."""

from __future__ import annotations

from dataclasses import dataclass

from shards.remote.remote_file import RemoteFile


@dataclass(frozen=True)
class Shard:
    """A tar: its name in the folder, its split, its counts, size in bytes and SHA-256.

    ``remote``, which ``manifest.json`` does not hold, is set for a shard of a remote set.
    """

    name: str
    split: str
    samples: int
    captions: int
    bytes: int
    sha256: str
    remote: RemoteFile | None = None
