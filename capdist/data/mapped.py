"""The mapped reader: finds members by the index and copies regions once, into the batch.

The first time that this process needs a sample, system calls read it whole and its checksums are
verified. After that, its regions are copied from a memory map of the tar straight into the batch,
while other threads run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from capdist.data.collate import Row
from capdist.data.rank_plan import RankPlan, SampleRef
from capdist.data.sample_store import OpenShard, SampleStore, verify
from capdist.data.tar import Tar
from shards.schema import ShardError

#: Tars kept open at a time: most systems limit a process to 1,024 files.
MAX_OPEN_TARS = 256


@dataclass(frozen=True, eq=False)
class _MappedShard:
    """An open shard; ``rows`` are its verified samples, with where each ends in its tars."""

    shard: OpenShard
    tars: tuple[Tar, ...]
    rows: dict[int, tuple[Row, tuple[tuple[Tar, int], ...]]] = field(default_factory=dict)


class MappedReader:
    """Samples of one split, step by step, for one rank.

    Args:
        store: of the split.
        plan: which samples are read when.
        threads: that prepare batches ahead; 0 prepares a batch when it is asked for.
    """

    def __init__(self, store: SampleStore, plan: RankPlan, threads: int) -> None:
        self.store = store
        self.plan = plan
        self.threads = threads
        self.open = lru_cache(MAX_OPEN_TARS // len(store.tars))(self._open)

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[list[SampleRef]]:
        """References to the rank's samples of every step; nothing is read yet."""
        return self.plan.refs(epoch, consumed)

    def row(self, ref: SampleRef) -> Row:
        """A sample, verified if this process has not read it before.

        Raises:
            ShardError: naming the shard and the sample.
        """
        try:
            number, sample = ref
            mapped = self.open(number)
            cached = mapped.rows.get(sample)
            if cached is None:
                return self._row(mapped, ref)
            row, ends = cached
            for tar, end in ends:
                tar.check_size(end)
            return row
        except (OSError, ShardError) as error:
            raise self.store.error(ref, error) from error

    def _open(self, number: int) -> _MappedShard:
        shard = self.store.open(number)
        tars = range(len(self.store.tars))
        return _MappedShard(shard, tuple(Tar(self.store.tar(number, tar)) for tar in tars))

    def _row(self, mapped: _MappedShard, ref: SampleRef) -> Row:
        shard, number = mapped.shard, ref[1]
        sample = shard.samples[number]
        if sample is None:
            entries = shard.of(number)
            members = [
                tar.members(entry, wanted)
                for tar, entry, wanted in zip(mapped.tars, entries, self.store.wanted, strict=True)
            ]
            for entry, of_tar in zip(entries, members, strict=True):
                verify(entry, of_tar)
            return self.store.decode(ref, entries, members)
        regions, addresses, ends = [], [], []
        for found, count, offsets in zip(
            self.store.sets, sample.counts, shard.offsets, strict=True
        ):
            tar, offset = mapped.tars[found.tar], offsets[number]
            view = tar.view(offset, (count, found.dim), found.dtype)
            regions.append(view)
            addresses.append(tar.address + offset)
            ends.append((tar, offset + view.nbytes))
        row = Row(sample, tuple(regions), tuple(addresses))
        mapped.rows[number] = row, tuple(ends)
        return row
