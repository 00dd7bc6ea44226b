"""The manifest of a data set and the offsets of every member in its shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shards.checksum import crc32
from shards.schema import SCHEMA_VERSION, ShardError
from shards.sidecars import CONCEPTS, ConceptSet

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Features:
    """Which extractor made the region features: its name, F, and the most regions of an image."""

    name: str
    dim: int
    max_regions: int


@dataclass(frozen=True)
class Shard:
    """One tar file: its name in the folder, its split, counts, size in bytes and SHA-256."""

    name: str
    split: str
    samples: int
    captions: int
    bytes: int
    sha256: str


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


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds; ``shards`` are in the order in which they were cut.

    ``concepts``, where there are some, stand for those in the tars.
    """

    root: Path
    name: str
    features: Features
    shards: tuple[Shard, ...]
    class_names: tuple[str, ...] = ()
    concepts: ConceptSet | None = None

    @classmethod
    def load(cls, root: Path | str) -> Manifest:
        """Read ``manifest.json`` of a folder, and ``concepts.json`` where it has one.

        Raises:
            ShardError: if there is no manifest, one of the two is of another schema version, or
                the concepts are those of other shards.
        """
        root = Path(root)
        path = root / MANIFEST
        if not path.is_file():
            raise ShardError(
                f"{path}: no manifest; make the shards with 'python -m shards build' or 'scenes', "
                "or give the folder that holds them as data.shards"
            )
        data = _read_json(path)
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ShardError(
                f"{path}: schema version {data.get('schema_version')}, expected {SCHEMA_VERSION}; "
                "build the shards again with this version"
            )
        manifest = cls(
            root=root,
            name=data["name"],
            features=Features(**data["features"]),
            shards=tuple(Shard(**shard) for shard in data["shards"]),
            class_names=tuple(data["class_names"]),
        )
        if not (root / CONCEPTS).is_file():
            return manifest
        return manifest.with_concepts(ConceptSet.load(root))

    def with_concepts(self, concepts: ConceptSet) -> Manifest:
        """The same shards with these concepts.

        Raises:
            ShardError: if they are those of other shards.
        """
        concepts.check(self.tars)
        return replace(self, concepts=concepts)

    @property
    def tars(self) -> dict[str, str]:
        """SHA-256 of every shard by name."""
        return {shard.name: shard.sha256 for shard in self.shards}

    def to_json(self) -> dict[str, Any]:
        """The manifest as `load` reads it."""
        data = asdict(self)
        del data["root"], data["concepts"]
        return {"schema_version": SCHEMA_VERSION, **data}

    def split(self, name: str) -> tuple[Shard, ...]:
        """The shards of one split.

        Raises:
            ShardError: if the set has no such split.
        """
        chosen = tuple(shard for shard in self.shards if shard.split == name)
        if not chosen:
            known = ", ".join(sorted({shard.split for shard in self.shards}))
            raise ShardError(f"{self.root / MANIFEST}: no split {name!r}; it has {known}")
        return chosen

    def tar(self, shard: Shard) -> Path:
        """Where the bytes of a shard lie."""
        return self.root / shard.name

    def index(self, shard: Shard) -> list[SampleIndex]:
        """The offsets of one shard's samples, in tar order.

        Raises:
            ShardError: if the shard or its index is missing.
        """
        tar = self.tar(shard)
        path = index_path(tar)
        for needed in (tar, path):
            if not needed.is_file():
                raise ShardError(
                    f"{needed}: missing, though {MANIFEST} lists {shard.name}; "
                    "restore the file or build the shards again"
                )
        return [
            SampleIndex(
                entry["key"],
                entry["offset"],
                {suffix: Member(*numbers) for suffix, numbers in entry["members"].items()},
            )
            for entry in _read_json(path)
        ]

    def read(self, split: str, suffix: str) -> Iterator[tuple[str, bytes]]:
        """Key and bytes of one member of every sample of a split, as the tars have it.

        Samples that lack the member are passed over: only optional members may be lacking.

        Raises:
            ShardError: naming a member whose bytes are not those that were written.
        """
        for shard in self.split(split):
            entries = self.index(shard)
            with self.tar(shard).open("rb") as tar:
                for entry in entries:
                    if member := entry.members.get(suffix):
                        tar.seek(member.offset)
                        data = tar.read(member.size)
                        if crc32(data) != member.crc32:
                            raise ShardError(
                                f"{self.tar(shard)}: member {entry.key}.{suffix} is cut "
                                "short or damaged; 'python -m shards verify' names all damage"
                            )
                        yield entry.key, data


def index_path(tar: Path) -> Path:
    """The index file that stands beside a shard."""
    return tar.with_suffix(".index.json")


def index_to_json(index: list[SampleIndex]) -> list[dict[str, Any]]:
    """A shard's index as `Manifest.index` reads it."""
    return [
        {
            "key": entry.key,
            "offset": entry.offset,
            "members": {s: [m.offset, m.size, m.crc32] for s, m in entry.members.items()},
        }
        for entry in index
    ]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ShardError(f"{path}: not JSON ({error}); build the shards again") from error
