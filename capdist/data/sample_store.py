"""What a process remembers of the shards that it has read.

A shard's index is read when the shard first is; a sample's line of it is parsed when the sample is
read, and its JSON too: checked, packed, and kept.
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
from capdist.data.rank_plan import Place
from shards.checksum import crc32
from shards.concepts import Concepts
from shards.index import Index, SampleIndex
from shards.manifest import Manifest, Shard
from shards.remote.download import ShardUnavailableError
from shards.schema import MEMBERS, Sample, ShardError, decode

#: Shards that are remembered; those used longest ago are forgotten. More than any job has lanes.
KEPT = 1024

#: Members that are always read; the others' bytes are passed over.
READ = frozenset(MEMBERS) - {"grounding.json", "png"}

REMEDY = "'python -m shards verify' names all damage"


@dataclass(frozen=True, eq=False)
class Opened:
    """A shard whose index is read, and what is known of its samples.

    ``known`` are those that were read and checked before, and ``offsets`` is where the numbers of
    their regions begin in the tar.
    """

    manifest: Manifest
    shard: Shard
    entries: Index
    known: list[EncodedSample | None]
    offsets: array[int]

    @cached_property
    def concepts(self) -> Mapping[str, Concepts] | None:
        """Those beside the tar, where there are some."""
        beside = self.manifest.concepts
        return beside.read(self.shard.name) if beside else None


class SampleStore:
    """The shards of a split as one process knows them; threads may share it.

    Args:
        manifest: of the shards.
        split: its name.
        pack: what packs a sample.
        grounding: whether to read where phrases lie, which takes as long as all the other words.
    """

    def __init__(
        self, manifest: Manifest, split: str, pack: SampleEncoder, *, grounding: bool = False
    ) -> None:
        self.manifest = manifest
        self.shards = manifest.split(split)
        self.pack = pack
        self.dim, self.dtype = manifest.features.dim, np.dtype(manifest.features.stored_dtype)
        # Concepts that lie beside the tars are not read in them.
        beside = {"concepts.json"} if manifest.concepts else set()
        self.members = (READ | {"grounding.json"} if grounding else READ) - beside
        self.open = lru_cache(KEPT)(self._open)
        self._lost: dict[int, ShardUnavailableError] = {}

    def _open(self, number: int) -> Opened:
        """A shard by its number in the split.

        Raises:
            ShardError: if it or its index is missing, or the index is another shard's.
        """
        shard, tar = self.shards[number], self.tar(number)
        entries = self.manifest.index(shard)
        if len(entries) != shard.samples:
            raise ShardError(
                f"{tar}: its index lists {len(entries)} samples, expected {shard.samples}; {REMEDY}"
            )
        return Opened(
            self.manifest,
            shard,
            entries,
            [None] * shard.samples,
            array("q", bytes(8 * shard.samples)),
        )

    def tar(self, number: int) -> Path:
        """Where the tar of a shard lies; open it soon.

        Raises:
            ShardUnavailableError: if its server does not give it; it is not asked again.
            ShardError: if there is no room for its copy.
        """
        if number in self._lost:
            raise self._lost[number]
        try:
            return self.manifest.tar_path(self.shards[number])
        except ShardUnavailableError as error:
            self._lost[number] = error
            raise

    @contextmanager
    def named(self, place: Place) -> Iterator[None]:
        """Name the shard and the sample in what goes wrong with it."""
        try:
            yield
        except (OSError, RuntimeError, TarError, ShardError) as error:
            raise self.wrong(place, error) from error

    def wrong(self, place: Place, error: Exception) -> ShardError:
        """What is wrong with a sample: its whole shard, or itself."""
        return (
            error
            if isinstance(error, ShardUnavailableError)
            else ShardError(self.describe(place, error))
        )

    def describe(self, place: Place, error: Exception) -> str:
        """What is wrong with a sample, in one line; its number where its key can't be known."""
        shard, name = self.shards[place[0]], f"number {place[1]}"
        with suppress(ShardError, OSError):
            name = self.entry(place).key
        tar = shard.remote.url if shard.remote else self.manifest.root / shard.name
        where = f"{tar}: sample {name}"
        return f"{where}: {' '.join(str(error).split())}; {REMEDY}"

    def entry(self, place: Place) -> SampleIndex:
        """Where the members of a sample lie."""
        return self.open(place[0]).entries[place[1]]

    def known(self, place: Place) -> EncodedSample | None:
        """What is known of a sample that this process has read before."""
        return self.open(place[0]).known[place[1]]

    def row(self, place: Place, members: Mapping[str, Any]) -> Row:
        """A sample from its members' bytes; of one that is known, its regions' are enough.

        Raises:
            ShardError: if a member is missing or is not what the format says.
        """
        known, data = self.known(place), members["regions.npy"]
        if known is None:
            return self.learn(place, self.entry(place), members)
        count = known.regions * self.dim
        start = len(data) - count * self.dtype.itemsize
        return Row(known, np.frombuffer(data, self.dtype, count, start).reshape(-1, self.dim))

    def learn(self, place: Place, entry: SampleIndex, members: Mapping[str, bytes]) -> Row:
        """A sample from its members' bytes, which are remembered but for the regions.

        Raises:
            ShardError: if a member is missing or is not what the format says.
        """
        opened = self.open(place[0])
        sample = self._decode(opened, entry.key, members)
        packed = self.pack(sample)
        stored = entry.members["regions.npy"]
        opened.offsets[place[1]] = stored.offset + stored.size - sample.regions.nbytes
        opened.known[place[1]] = packed
        return Row(packed, sample.regions)

    def _decode(self, opened: Opened, key: str, members: Mapping[str, bytes]) -> Sample:
        sample = decode(key, members)
        if sample.regions.dtype != self.dtype:
            raise ShardError(
                f"regions are {sample.regions.dtype}, but the manifest says {self.dtype}"
            )
        if sample.regions.shape[1] != self.dim:
            raise ShardError(
                f"regions are {sample.regions.shape[1]} wide, but the manifest says {self.dim}"
            )
        if opened.concepts is None:
            return sample
        if key not in opened.concepts:
            raise ShardError("not among the concepts beside the tar")
        return replace(sample, concepts=opened.concepts[key])


def check(entry: SampleIndex, members: Mapping[str, bytes]) -> None:
    """Compare what was read with the index, for a flipped bit trains as well as a right one.

    Raises:
        ShardError: naming the sample and the member.
    """
    for name, data in members.items():
        member = entry.members.get(name)
        if member is None or len(data) != member.size or crc32(data) != member.crc32:
            raise ShardError(f"{name} has another checksum than in the index")
