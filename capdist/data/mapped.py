"""The mapped reader: members found by the index, their bytes copied once, into the batch.

A sample is read whole, by system calls, and checked the first time that this process meets it.
From then on its regions are copied from a map of the tar straight into the batch's memory, while
other threads run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from capdist.data.collate import Row
from capdist.data.places import Place, Plan
from capdist.data.shelf import Shelf, check
from capdist.data.tar import Tar
from shards.schema import ShardError

#: Tars that stay open; a process may have a thousand files.
OPEN = 256


class Mapped:
    """Samples of one split, step by step, for one rank.

    Args:
        shelf: of the split.
        plan: which samples are read when.
        threads: that make batches ahead; 0 makes one when it is asked for.
    """

    def __init__(self, shelf: Shelf, plan: Plan, threads: int) -> None:
        self.shelf = shelf
        self.plan = plan
        self.threads = threads
        self.tar = lru_cache(OPEN)(self._tar)

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
            opened, tar = self.shelf.open(number), self.tar(number)
            known = opened.known[sample]
            if known:
                shape = (known.regions, self.shelf.dim)
                offset = opened.offsets[sample]
                regions = tar.view(offset, shape, self.shelf.dtype)
                return Row(known, regions, tar.address + offset)
            entry = opened.entries[sample]
            members = tar.members(entry, self.shelf.members)
            check(entry, members)
            return self.shelf.learn(read, entry, members)
        except (OSError, ShardError) as error:
            raise self.shelf.wrong(read, error) from error

    def _tar(self, number: int) -> Tar:
        return Tar(self.shelf.tar(number))
