"""What a folder of shards holds: ``manifest.json``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from shards.checksum import crc32
from shards.concept_files import ConceptSet
from shards.feature_spec import FeatureSpec
from shards.index import Index, index_path, write_index
from shards.json_types import Count, T, read_as
from shards.location import folder_at
from shards.remote.cache import AHEAD, Cache, Source, fetch_ahead
from shards.schema import SCHEMA_VERSION, ShardError
from shards.tars import read_tar

MANIFEST = "manifest.json"

#: Bytes of the smallest sample in a tar: three members, each with its header.
LEAST = 3 * 1024


@dataclass(frozen=True)
class Shard:
    """One tar file: its name in the folder, its split, counts, size in bytes and SHA-256.

    ``source``, no part of ``manifest.json``, is where a shard of a remote set comes from.
    """

    name: str
    split: str
    samples: int
    captions: int
    bytes: int
    sha256: str
    source: Source | None = None


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds; ``shards`` are in the order in which they were cut.

    ``left_out`` says of each image that was not fit to be written what is wrong. ``concepts``,
    where there are some, stand for those in the tars. A remote set has a ``url``; its ``root`` is
    then only a name, and no folder.
    """

    root: Path
    name: str
    features: FeatureSpec
    shards: tuple[Shard, ...]
    class_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    concepts: ConceptSet | None = None
    url: str | None = None

    @classmethod
    def load(cls, root: Path | str, cache: Cache | None = None) -> Manifest:
        """Read ``manifest.json`` of a folder, and ``concepts.json`` where it has one.

        Args:
            root: the folder, or its URL.
            cache: where copies of remote shards are kept, when they are asked for.

        Raises:
            ShardError: if there is no manifest, one of the two is of another schema version, the
                concepts are those of other shards, or a server does not answer.
        """
        folder = folder_at(root, cache)
        path = f"{folder.place}/{MANIFEST}"
        found = folder.read(MANIFEST)
        if found is None:
            raise ShardError(
                f"{path}: no manifest; make the shards with 'python -m shards build' or 'scenes', "
                "or give the folder that holds them as data.shards"
            )
        if (version := _parse(_ANY, path, found).get("schema_version")) != SCHEMA_VERSION:
            raise ShardError(
                f"{path}: schema version {version}, expected {SCHEMA_VERSION}; "
                "build the shards again with this version"
            )
        data = _parse(_MANIFEST, path, found)
        manifest = cls(
            root=folder.root,
            name=data["name"],
            features=FeatureSpec.from_json(data["features"]),
            shards=tuple(
                Shard(**row, source=folder.source(row["name"], row["sha256"], row["bytes"]))
                for row in data["shards"]
            ),
            class_names=data["class_names"],
            left_out=data["left_out"],
            url=folder.url,
        )
        _check(path, manifest)
        concepts = ConceptSet.find(folder)
        return manifest.with_concepts(concepts) if concepts else manifest

    def with_concepts(self, concepts: ConceptSet) -> Manifest:
        """The same shards with these concepts.

        Raises:
            ShardError: if they are those of other shards.
        """
        concepts.check(self.tars)
        return replace(self, concepts=concepts)

    @property
    def place(self) -> str:
        """The folder or the URL, for people."""
        return self.url or str(self.root)

    @property
    def folder(self) -> Path:
        """The folder, to write beside the shards.

        Raises:
            ShardError: if they are on a server.
        """
        if self.url:
            raise ShardError(f"{self.url}: nothing is written there; copy the set to a folder")
        return self.root

    @property
    def tars(self) -> dict[str, str]:
        """SHA-256 of every shard by name."""
        return {shard.name: shard.sha256 for shard in self.shards}

    def to_json(self) -> dict[str, Any]:
        """The manifest as `load` reads it."""
        data = asdict(self)
        del data["root"], data["concepts"], data["url"]
        for shard in data["shards"]:
            del shard["source"]
        return {"schema_version": SCHEMA_VERSION, **data}

    def split(self, name: str) -> tuple[Shard, ...]:
        """The shards of one split.

        Raises:
            ShardError: if the set has no such split.
        """
        if name not in self._splits:
            known = ", ".join(sorted(self._splits))
            raise ShardError(f"{self.place}/{MANIFEST}: no split {name!r}; it has {known}")
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, tuple[Shard, ...]]:
        """Readers ask for a split at every piece of a shard: with many shards a search is dear."""
        splits: dict[str, list[Shard]] = {}
        for shard in self.shards:
            splits.setdefault(shard.split, []).append(shard)
        return {name: tuple(shards) for name, shards in splits.items()}

    def tar(self, shard: Shard) -> Path:
        """Where the bytes of a shard lie, on this node's disk; open it soon (`Source.fetch`).

        Raises:
            ShardUnavailableError: if the shard is remote and its server does not give it.
            ShardError: if there is no room for its copy.
        """
        return shard.source.fetch() if shard.source else self.root / shard.name

    def fetch_ahead(self, shards: Iterable[Shard]) -> None:
        """Begin to download shards that will be read next, a few at a time, beside the caller."""
        fetch_ahead(shard.source for shard in shards if shard.source)

    def index(self, shard: Shard) -> Index:
        """The offsets of one shard's samples, in tar order.

        Raises:
            ShardError: if the shard or its index is missing, or the index is none.
        """
        tar = self.tar(shard)
        path = index_path(tar)
        if shard.source and not path.exists():
            _make_index(tar, shard.source.cache)
        for needed in (tar, path):
            if not needed.is_file():
                raise ShardError(
                    f"{needed}: missing, though {MANIFEST} lists {shard.name}; "
                    "restore the file or build the shards again"
                )
        return Index(path, path.read_bytes())

    def read(self, split: str, suffix: str) -> Iterator[tuple[str, bytes]]:
        """Key and bytes of one member of every sample of a split, as the tars have it.

        Samples that lack the member are passed over: only optional members may be lacking.

        Raises:
            ShardError: naming a member whose bytes are not those that were written.
        """
        shards = self.split(split)
        for number, shard in enumerate(shards):
            self.fetch_ahead(shards[number + 1 : number + 1 + AHEAD])
            entries = self.index(shard)
            with self.tar(shard).open("rb") as tar:
                size = tar.seek(0, os.SEEK_END)
                for entry in entries:
                    if member := entry.members.get(suffix):
                        tar.seek(min(member.offset, size))
                        data = tar.read(min(member.size, size))
                        if crc32(data) != member.crc32:
                            raise ShardError(
                                f"{self.tar(shard)}: member {entry.key}.{suffix} is cut "
                                "short or damaged; 'python -m shards verify' names all damage"
                            )
                        yield entry.key, data


def _make_index(tar: Path, cache: Cache) -> None:
    """Write the index of a copy from its bytes: those are checked, a server's index is not."""
    with cache.writing():
        write_index(tar, [entry for entry, _ in read_tar(tar)])


class _FingerprintJson(TypedDict):
    images: Count
    mean: tuple[FiniteFloat, ...]
    deviation: tuple[FiniteFloat, ...]


class _FeaturesJson(TypedDict):
    name: str
    dim: Count
    max_regions: Count
    fingerprint: _FingerprintJson
    scale: tuple[FiniteFloat, ...]


class _ShardJson(TypedDict):
    name: str
    split: str
    samples: Count
    captions: Count
    bytes: Count
    sha256: str


class _ManifestJson(TypedDict):
    name: str
    features: _FeaturesJson
    shards: tuple[_ShardJson, ...]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...]


_ANY, _MANIFEST = TypeAdapter(dict[str, Any]), TypeAdapter(_ManifestJson)


def _check(path: str, manifest: Manifest) -> None:
    """Refuse numbers that can't be, before memory is taken for them.

    Raises:
        ShardError: naming what does not fit.
    """
    features, found = manifest.features, manifest.features.fingerprint
    if len(features.scale) not in (0, features.dim) or len(found.mean) != len(found.deviation):
        raise ShardError(
            f"{path}: features of width {features.dim} have {len(features.scale)} scales, "
            f"{len(found.mean)} means and {len(found.deviation)} deviations; copy it again"
        )
    for shard in manifest.shards:
        if shard.samples * LEAST > shard.bytes:
            raise ShardError(
                f"{path}: {shard.name} is to have {shard.samples} samples in {shard.bytes} bytes; "
                "copy it again"
            )


def _parse(form: TypeAdapter[T], path: str, data: bytes) -> T:
    try:
        return read_as(form, data)
    except ValueError as error:
        raise ShardError(f"{path}: {error}; build the shards again, or copy it again") from error
