"""The shards of a split, with what this process has already read of them.

A shard's index is read when the shard is first used. A sample's index line and its JSON are parsed
when the sample is first read, and its encoded form is kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np

from capdist.data.collate import Row
from capdist.data.encoded_sample import EncodedSample, SampleEncoder
from capdist.data.rank_plan import SampleRef
from shards.checksum import crc32
from shards.concepts import Concepts
from shards.feature_sets import MISSING, check_stored, decode_set
from shards.feature_spec import FeatureSpec
from shards.index import Index, SampleIndex
from shards.manifest import Manifest
from shards.members import BOXES, MEMBERS, REGIONS
from shards.remote.download import ShardUnavailableError
from shards.schema import Array, Sample, ShardError, decode
from shards.shard import Shard

#: Shards kept open, least recently used ones closed first. More than any run has lanes.
MAX_OPEN_SHARDS = 1024

#: Members that are always read; the bytes of others are skipped.
ALWAYS_READ = frozenset(member.suffix for member in MEMBERS if not member.on_request)

#: Those of a feature set, and those that belong to the regions of the folder's own.
SET_MEMBERS = frozenset({REGIONS.suffix, BOXES.suffix, MISSING})
OF_REGIONS = frozenset({"classes.npy", "relations.npy"})

REMEDY = "list all damage with 'python -m shards verify DIR'"


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A shard with its indices, and the samples read from it so far.

    ``entries`` are the indices of its tars, see `SampleStore.tars`. ``samples`` are None until they
    are read and verified; ``offsets`` are, of each feature set that is read, the positions in its
    tar at which the numbers of regions begin.
    """

    manifest: Manifest
    shard: Shard
    entries: tuple[Index, ...]
    samples: list[EncodedSample | None]
    offsets: tuple[array[int], ...]

    @cached_property
    def concepts(self) -> Mapping[str, Concepts] | None:
        """Those of the concept file, None where concepts are in the tar."""
        files = self.manifest.concepts
        return files.read(self.shard.name) if files else None

    def of(self, number: int) -> tuple[SampleIndex, ...]:
        """The index entries of a sample in all tars."""
        return tuple(entries[number] for entries in self.entries)


@dataclass(frozen=True)
class StoredSet:
    """A feature set that is read: the number of its tar, its width and its stored type."""

    tar: int
    dim: int
    dtype: np.dtype[Any]
    spec: FeatureSpec


class SampleStore:
    """The shards of a split, opened when needed; threads may share it.

    Args:
        manifest: of the shards.
        split: its name.
        encoder: encodes samples.
        grounding: whether to read the boxes of phrases, which takes as long as all other text.

    Attributes:
        sets: the feature sets that are read.
        tars: of each tar of a shard, the feature set that it is there for: first the tar of the
            samples, then those of further feature sets that are read.
        wanted: of each of these tars, the members that are read; the bytes of others are skipped.
    """

    def __init__(
        self, manifest: Manifest, split: str, encoder: SampleEncoder, *, grounding: bool = False
    ) -> None:
        self.manifest = manifest
        self.shards = manifest.split(split)
        self.encoder = encoder
        chosen = manifest.chosen_sets
        self.tars = (None, *(found for found in chosen if found.tars is not None))
        numbers = [0 if found.tars is None else self.tars.index(found) for found in chosen]
        self.sets = tuple(
            StoredSet(tar, found.spec.dim, np.dtype(found.spec.stored_dtype), found.spec)
            for tar, found in zip(numbers, chosen, strict=True)
        )
        # Concept files replace the concepts in the tars.
        unread = {"concepts.json"} if manifest.concepts else set()
        if 0 not in numbers:
            unread |= SET_MEMBERS
        if numbers[0]:
            unread |= OF_REGIONS
        mine = (ALWAYS_READ | {"grounding.json"} if grounding else ALWAYS_READ) - unread
        self.wanted = (mine, *(SET_MEMBERS for _ in self.tars[1:]))
        self.open = lru_cache(MAX_OPEN_SHARDS)(self._open)
        self._unavailable: dict[tuple[int, int], ShardUnavailableError] = {}

    @property
    def width(self) -> int:
        """The largest width of the feature sets that are read."""
        return max(found.dim for found in self.sets)

    def _open(self, number: int) -> OpenShard:
        """A shard by its number in the split.

        Raises:
            ShardError: if it or an index is missing, or an index belongs to another shard.
        """
        shard, indices = self.shards[number], []
        for tar in range(len(self.tars)):
            path = self.tar(number, tar)
            entries = self.manifest.index(self.file(number, tar))
            if len(entries) != shard.samples:
                raise ShardError(
                    f"{path}: its index lists {len(entries)} samples, expected {shard.samples}; "
                    f"{REMEDY}"
                )
            indices.append(entries)
        offsets = tuple(array("q", bytes(8 * shard.samples)) for _ in self.sets)
        return OpenShard(self.manifest, shard, tuple(indices), [None] * shard.samples, offsets)

    def file(self, number: int, tar: int = 0) -> Shard:
        """A tar of a shard."""
        found = self.tars[tar]
        return found.tar_of(self.shards[number]) if found else self.shards[number]

    def tar(self, number: int, tar: int = 0) -> Path:
        """The path of a tar of a shard, downloaded if it is remote; open it at once.

        Raises:
            ShardUnavailableError: if the download fails; it is not tried again.
            ShardError: if the disk has no room for the copy.
        """
        if (number, tar) in self._unavailable:
            raise self._unavailable[number, tar]
        try:
            return self.manifest.tar_path(self.file(number, tar))
        except ShardUnavailableError as error:
            self._unavailable[number, tar] = error
            raise

    @contextmanager
    def errors_of(self, ref: SampleRef) -> Iterator[None]:
        """Raise errors of reading a sample as `error` describes them."""
        try:
            yield
        except (OSError, RuntimeError, TarError, ShardError) as error:
            raise self.error(ref, error) from error

    def error(self, ref: SampleRef, cause: Exception) -> ShardError:
        """The error that names shard and sample, unless the whole shard is unavailable."""
        if isinstance(cause, ShardUnavailableError):
            return cause
        return ShardError(self._describe(ref, cause))

    def _describe(self, ref: SampleRef, cause: Exception) -> str:
        """One line on a damaged sample; with its number if its key can't be read."""
        shard, name = self.shards[ref[0]], f"number {ref[1]}"
        with suppress(ShardError, OSError):
            name = self.entry(ref).key
        tar = shard.remote.url if shard.remote else self.manifest.root / shard.name
        return f"{tar}: sample {name}: {' '.join(str(cause).split())}; {REMEDY}"

    def entry(self, ref: SampleRef) -> SampleIndex:
        """The index entry of a sample in the tar of samples: its key, and its members."""
        return self.open(ref[0]).entries[0][ref[1]]

    def cached(self, ref: SampleRef) -> EncodedSample | None:
        """A sample that this process has read before, else None."""
        return self.open(ref[0]).samples[ref[1]]

    def row(self, ref: SampleRef, members: Sequence[Mapping[str, Any]]) -> Row:
        """A sample from the bytes of its members in each tar; of a cached one, regions are enough.

        Raises:
            ShardError: if a member is missing or breaks the format.
        """
        sample = self.cached(ref)
        if sample is None:
            return self.decode(ref, self.open(ref[0]).of(ref[1]), members)
        pairs = zip(self.sets, sample.counts, strict=True)
        regions = tuple(_stored(found, count, members[found.tar]) for found, count in pairs)
        return Row(sample, regions, (0,) * len(regions))

    def decode(
        self,
        ref: SampleRef,
        entries: Sequence[SampleIndex],
        members: Sequence[Mapping[str, bytes]],
    ) -> Row:
        """A sample from the bytes of its members in each tar; all but its regions are cached.

        Raises:
            ShardError: if a member is missing or breaks the format.
        """
        shard, key = self.open(ref[0]), entries[0].key
        for tar, entry in enumerate(entries):
            if entry.key != key:
                raise ShardError(
                    f"{self.file(ref[0], tar).name} has sample {entry.key} in its place"
                )
        sample = self._decode(shard, key, members)
        encoded = self.encoder(sample)
        further = (more.regions if more else None for more in sample.further)
        regions = []
        for found, offsets, array_ in zip(
            self.sets, shard.offsets, (sample.regions, *further), strict=True
        ):
            if array_ is not None:
                stored = entries[found.tar].members[REGIONS.suffix]
                offsets[ref[1]] = stored.offset + stored.size - array_.nbytes
            regions.append(np.empty((0, found.dim), found.dtype) if array_ is None else array_)
        shard.samples[ref[1]] = encoded
        return Row(encoded, tuple(regions), (0,) * len(regions))

    def _decode(self, shard: OpenShard, key: str, members: Sequence[Mapping[str, bytes]]) -> Sample:
        first, *others = self.sets
        of_first = members[first.tar]
        if MISSING in of_first:
            raise ShardError(f"has no feature set {self.manifest.chosen_sets[0].name!r}")
        sample = decode(key, {**members[0], **of_first} if first.tar else members[0])
        check_stored(key, sample.regions, first.spec)
        if others:
            further = tuple(decode_set(key, members[more.tar], more.spec) for more in others)
            sample = replace(sample, further=further)
        if shard.concepts is None:
            return sample
        if key not in shard.concepts:
            raise ShardError("the concept file of its tar does not list it")
        return replace(sample, concepts=shard.concepts[key])


def _stored(found: StoredSet, count: int, members: Mapping[str, Any]) -> Array:
    """The regions (count, F) at the end of the bytes of ``regions.npy``."""
    if not count:
        return np.empty((0, found.dim), found.dtype)
    data = members[REGIONS.suffix]
    start = len(data) - count * found.dim * found.dtype.itemsize
    return np.frombuffer(data, found.dtype, count * found.dim, start).reshape(-1, found.dim)


def verify(entry: SampleIndex, members: Mapping[str, bytes]) -> None:
    """Compare members with the index: training on a flipped bit would go unnoticed.

    Raises:
        ShardError: naming the first member that differs.
    """
    for name, data in members.items():
        member = entry.members.get(name)
        if member is None or len(data) != member.size or crc32(data) != member.crc32:
            raise ShardError(f"{name}: checksum mismatch: size or CRC32 differs from the index")
