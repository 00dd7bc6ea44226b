"""The mapped reader: members found by the index, their bytes copied once, into the batch.

A sample is read whole and checked the first time that this process meets it. From then on its
regions go from the file straight into the batch's memory, by one system call that leaves the
interpreter's lock. That is as fast as copying from a memory map, and a tar that is cut
short while it is read is an error with a name, where a map would kill the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from capdist.data.collate import Row
from capdist.data.places import Place, Plan
from capdist.data.shelf import Known, Shelf, check
from capdist.data.tar import Tar, open_tar
from capdist.data.texts import Text
from shards.schema import Array, ShardError


@dataclass(frozen=True, eq=False)
class Lying:
    """A row whose numbers lie in a tar."""

    shelf: Shelf
    place: Place
    known: Known
    tar: Tar

    @property
    def text(self) -> Text:
        """Its words."""
        return self.known.text

    @property
    def shape(self) -> tuple[int, ...]:
        """(R, F)."""
        return self.known.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.known.dtype

    @property
    def classes(self) -> Array | None:
        """(R, T) of CLASS_DTYPE."""
        return self.known.classes

    def fill_regions(self, slot: Any) -> None:
        """One copy, from the page cache into the batch."""
        try:
            self.tar.read(self.known.offset, slot)
        except (OSError, ShardError) as error:
            raise ShardError(self.shelf.describe(self.place, error)) from error

    def fill_boxes(self, slot: Array) -> None:
        """One copy."""
        slot[:] = self.known.boxes


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

    def steps(self, epoch: int, consumed: int = 0) -> Iterator[list[Place]]:
        """The places of the rank's samples; nothing is read yet."""
        return self.plan.places(epoch, consumed)

    def row(self, read: Place) -> Row:
        """A sample, checked if this process has not met it before.

        Raises:
            ShardError: naming the shard and the sample.
        """
        with self.shelf.named(read):
            tar, known = open_tar(self.shelf.open(read[0]).tar), self.shelf.known(read)
            if known:
                return Lying(self.shelf, read, known, tar)
            entry = self.shelf.entry(read)
            members = tar.members(entry, self.shelf.members)
            check(entry, members)
            return self.shelf.learn(read, members)
