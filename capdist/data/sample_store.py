"""The shards of a split, with what this process has already read of them.

A shard's index is read when the shard is first used. A sample's index line and its JSON are parsed
when the sample is first read, and its encoded form is kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
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
from shards.index import Index, SampleIndex
from shards.manifest import Manifest
from shards.members import MEMBERS
from shards.remote.download import ShardUnavailableError
from shards.schema import Sample, ShardError, decode
from shards.shard import Shard

#: Shards kept open, least recently used ones closed first. More than any run has lanes.
MAX_OPEN_SHARDS = 1024

#: Members that are always read; the bytes of others are skipped.
ALWAYS_READ = frozenset(member.suffix for member in MEMBERS if not member.on_request)

REMEDY = "list all damage with 'python -m shards verify DIR'"


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A shard with its index, and the samples read from it so far.

    ``samples`` are None until they are read and verified; ``offsets`` are the positions in the tar
    at which the numbers of their regions begin.
    """

    manifest: Manifest
    shard: Shard
    entries: Index
    samples: list[EncodedSample | None]
    offsets: array[int]

    @cached_property
    def concepts(self) -> Mapping[str, Concepts] | None:
        """Those of the concept file, None where concepts are in the tar."""
        files = self.manifest.concepts
        return files.read(self.shard.name) if files else None


class SampleStore:
    """The shards of a split, opened when needed; threads may share it.

    Args:
        manifest: of the shards.
        split: its name.
        encoder: encodes samples.
        grounding: whether to read the boxes of phrases, which takes as long as all other text.
    """

    def __init__(
        self, manifest: Manifest, split: str, encoder: SampleEncoder, *, grounding: bool = False
    ) -> None:
        self.manifest = manifest
        self.shards = manifest.split(split)
        self.encoder = encoder
        self.dim, self.dtype = manifest.features.dim, np.dtype(manifest.features.stored_dtype)
        # Concept files replace the concepts in the tars.
        replaced = {"concepts.json"} if manifest.concepts else set()
        self.members = (ALWAYS_READ | {"grounding.json"} if grounding else ALWAYS_READ) - replaced
        self.open = lru_cache(MAX_OPEN_SHARDS)(self._open)
        self._unavailable: dict[int, ShardUnavailableError] = {}

    def _open(self, number: int) -> OpenShard:
        """A shard by its number in the split.

        Raises:
            ShardError: if it or its index is missing, or the index belongs to another shard.
        """
        shard, tar = self.shards[number], self.tar(number)
        entries = self.manifest.index(shard)
        if len(entries) != shard.samples:
            raise ShardError(
                f"{tar}: its index lists {len(entries)} samples, expected {shard.samples}; {REMEDY}"
            )
        offsets = array("q", bytes(8 * shard.samples))
        return OpenShard(self.manifest, shard, entries, [None] * shard.samples, offsets)

    def tar(self, number: int) -> Path:
        """The path of a shard's tar, downloaded if it is remote; open it at once.

        Raises:
            ShardUnavailableError: if the download fails; it is not tried again.
            ShardError: if the disk has no room for the copy.
        """
        if number in self._unavailable:
            raise self._unavailable[number]
        try:
            return self.manifest.tar_path(self.shards[number])
        except ShardUnavailableError as error:
            self._unavailable[number] = error
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
        """The index entry of a sample: its key, and where its members are."""
        return self.open(ref[0]).entries[ref[1]]

    def cached(self, ref: SampleRef) -> EncodedSample | None:
        """A sample that this process has read before, else None."""
        return self.open(ref[0]).samples[ref[1]]

    def row(self, ref: SampleRef, members: Mapping[str, Any]) -> Row:
        """A sample from its members' bytes; of a cached one, regions.npy is enough.

        Raises:
            ShardError: if a member is missing or breaks the format.
        """
        sample, data = self.cached(ref), members["regions.npy"]
        if sample is None:
            return self.decode(ref, self.entry(ref), members)
        count = sample.regions * self.dim
        start = len(data) - count * self.dtype.itemsize
        return Row(sample, np.frombuffer(data, self.dtype, count, start).reshape(-1, self.dim))

    def decode(self, ref: SampleRef, entry: SampleIndex, members: Mapping[str, bytes]) -> Row:
        """A sample from its members' bytes; all but its regions are cached.

        Raises:
            ShardError: if a member is missing or breaks the format.
        """
        shard = self.open(ref[0])
        sample = self._decode(shard, entry.key, members)
        encoded = self.encoder(sample)
        stored = entry.members["regions.npy"]
        shard.offsets[ref[1]] = stored.offset + stored.size - sample.regions.nbytes
        shard.samples[ref[1]] = encoded
        return Row(encoded, sample.regions)

    def _decode(self, shard: OpenShard, key: str, members: Mapping[str, bytes]) -> Sample:
        sample = decode(key, members)
        if sample.regions.dtype != self.dtype:
            raise ShardError(
                f"regions are {sample.regions.dtype}, expected {self.dtype} as in the manifest"
            )
        if sample.regions.shape[1] != self.dim:
            raise ShardError(
                f"regions are {sample.regions.shape[1]} wide, expected {self.dim} as in the "
                "manifest"
            )
        if shard.concepts is None:
            return sample
        if key not in shard.concepts:
            raise ShardError("the concept file of its tar does not list it")
        return replace(sample, concepts=shard.concepts[key])


def verify(entry: SampleIndex, members: Mapping[str, bytes]) -> None:
    """Compare members with the index: training on a flipped bit would go unnoticed.

    Raises:
        ShardError: naming the first member that differs.
    """
    for name, data in members.items():
        member = entry.members.get(name)
        if member is None or len(data) != member.size or crc32(data) != member.crc32:
            raise ShardError(f"{name}: checksum mismatch: size or CRC32 differs from the index")
