"""Where the members of a shard's samples lie: ``<shard>.index.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from shards.atomic import replacing
from shards.json_types import Count, read_as
from shards.schema import ShardError


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie in its tar (offset and size in bytes) and their CRC-32."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class SampleIndex:
    """A sample's key, the offset of its first tar header, and its members by suffix."""

    key: str
    offset: int
    members: dict[str, Member]


class _EntryJson(TypedDict):
    key: str
    offset: Count
    members: dict[str, tuple[Count, Count, Count]]


_ENTRY = TypeAdapter(_EntryJson)


def index_path(tar: Path) -> Path:
    """The index file that stands beside a shard."""
    return tar.with_suffix(".index.json")


class Index:
    """A shard's index; an entry is parsed when it is asked for, and anew when it is again.

    Of a shard's samples a lane reads one window first: parsing all would be most of the start.

    Args:
        path: of the file, for messages.
        data: what it holds.

    Raises:
        ShardError: if that is no list with a line for every sample.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        if not (data.startswith(b"[\n") and data.endswith(b"\n]\n")):
            raise ShardError(
                f"{path}: not a list with a line for every sample; delete it and build the shards "
                "again, or copy it again"
            )
        self._data = data
        # A list of 10,000 lines takes half as long again, and more memory.
        self._ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends) - 2

    def __iter__(self) -> Iterator[SampleIndex]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> SampleIndex:
        """Where a sample's members lie.

        Raises:
            ShardError: naming the line, if it is not in the format.
        """
        number = range(len(self))[place]
        line = self._data[self._ends[number] + 1 : self._ends[number + 1]]
        try:
            entry = read_as(_ENTRY, line.removesuffix(b","))
        except ValueError as error:
            raise ShardError(
                f"{self._path}: line {number + 2}: {error}; delete it and build the shards again, "
                "or copy it again"
            ) from error
        members = {suffix: Member(*numbers) for suffix, numbers in entry["members"].items()}
        return SampleIndex(entry["key"], entry["offset"], members)


def write_index(tar: Path, index: Iterable[SampleIndex]) -> None:
    """Write the index beside a tar."""
    with replacing(index_path(tar)) as file:
        file.write(index_text(index))


def index_text(index: Iterable[SampleIndex]) -> bytes:
    """What an index file holds."""
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
