"""The mapped reader: members found by the index, their bytes copied once, into the batch.

A sample is read whole, by system calls, and checked the first time that this process meets it.
From then on its regions are copied from a map of the tar straight into the batch's memory, while
other threads run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from capdist.data.collate import Row
from capdist.data.rank_plan import Place, RankPlan
from capdist.data.sample_store import Opened, SampleStore, check
from capdist.data.tar import Tar
from shards.schema import ShardError

#: Tars that stay open; a process may have a thousand files.
OPEN = 256


@dataclass(frozen=True, eq=False)
class _Shard:
    """An open one, and the rows of its samples, once made, with where they end in the tar."""

    opened: Opened
    tar: Tar
    rows: dict[int, tuple[Row, int]] = field(default_factory=dict)


class Mapped:
    """Samples of one split, step by step, for one rank.

    Args:
        shelf: of the split.
        plan: which samples are read when.
        threads: that make batches ahead; 0 makes one when it is asked for.
    """

    def __init__(self, shelf: SampleStore, plan: RankPlan, threads: int) -> None:
        self.shelf = shelf
        self.plan = plan
        self.threads = threads
        self.open = lru_cache(OPEN)(self._open)

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[list[Place]]:
        """The places of the rank's samples; nothing is read yet."""
        return self.plan.places(epoch, consumed)

    def row(self, read: Place) -> Row:
        """A sample, checked if this process has not met it before.

        Raises:
            ShardError: naming the shard and the sample.
        """
        try:
            number, sample = read
            shard = self.open(number)
            made = shard.rows.get(sample)
            if made is None:
                return self._row(shard, read)
            row, end = made
            shard.tar.reach(end)
            return row
        except (OSError, ShardError) as error:
            raise self.shelf.wrong(read, error) from error

    def _open(self, number: int) -> _Shard:
        return _Shard(self.shelf.open(number), Tar(self.shelf.tar(number)))

    def _row(self, shard: _Shard, read: Place) -> Row:
        opened, tar, sample = shard.opened, shard.tar, read[1]
        known = opened.known[sample]
        if known is None:
            entry = opened.entries[sample]
            members = tar.members(entry, self.shelf.members)
            check(entry, members)
            return self.shelf.learn(read, entry, members)
        offset = opened.offsets[sample]
        regions = tar.view(offset, (known.regions, self.shelf.dim), self.shelf.dtype)
        row = Row(known, regions, tar.address + offset)
        shard.rows[sample] = row, offset + regions.nbytes
        return row
