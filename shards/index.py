"""The index of a shard, ``<shard>.index.json``: offsets of all members."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from shards.atomic import atomic_write
from shards.json_types import Count, parse_json
from shards.schema import ShardError


@dataclass(frozen=True)
class Member:
    """Offset and size of a member's bytes in its tar, and their CRC-32."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class SampleIndex:
    """A sample's key, the offset of its first tar header in bytes, and its members by suffix."""

    key: str
    offset: int
    members: dict[str, Member]


class _EntryJson(TypedDict):
    key: str
    offset: Count
    members: dict[str, tuple[Count, Count, Count]]


_ENTRY_JSON = TypeAdapter(_EntryJson)


def index_path(tar: Path) -> Path:
    """The index file of a shard, in the same folder."""
    return tar.with_suffix(".index.json")


class Index:
    """A sequence of `SampleIndex`; an entry is parsed each time it is accessed.

    Readers begin with a small part of each shard: parsing all entries would take most of the time
    until the first batch.

    Args:
        path: of the file, for messages.
        data: its bytes.

    Raises:
        ShardError: if the file is not a list with one line per sample.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        if not (data.startswith(b"[\n") and data.endswith(b"\n]\n")):
            raise ShardError(
                f"{path}: not an index, expected a list with one line per sample; delete it and "
                "build the shards again, or copy it again"
            )
        self._data = data
        # Splitting 10,000 lines into a list would be half as slow again, and take more memory.
        self._line_ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._line_ends) - 2

    def __iter__(self) -> Iterator[SampleIndex]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> SampleIndex:
        """The entry of a sample; negative positions count from the end.

        Raises:
            ShardError: naming the line, if it is not valid.
        """
        number = range(len(self))[position]
        line = self._data[self._line_ends[number] + 1 : self._line_ends[number + 1]]
        try:
            entry = parse_json(_ENTRY_JSON, line.removesuffix(b","))
        except ValueError as error:
            raise ShardError(
                f"{self._path}: line {number + 2}: {error}; delete it and build the shards again, "
                "or copy it again"
            ) from error
        members = {suffix: Member(*numbers) for suffix, numbers in entry["members"].items()}
        return SampleIndex(entry["key"], entry["offset"], members)


def write_index(tar: Path, index: Iterable[SampleIndex]) -> None:
    """Write the index of a tar, atomically."""
    with atomic_write(index_path(tar)) as file:
        file.write(encode_index(index))


def encode_index(index: Iterable[SampleIndex]) -> bytes:
    """The bytes of an index file."""
    entries = (
        {
            "key": entry.key,
            "offset": entry.offset,
            "members": {s: [m.offset, m.size, m.crc32] for s, m in entry.members.items()},
        }
        for entry in index
    )
    lines = (f"\n{json.dumps(e, ensure_ascii=False, separators=(',', ':'))}" for e in entries)
    return f"[{','.join(lines)}\n]\n".encode()
