"""The mapped reader: members found by the index, their bytes copied once, into the batch.

A sample is read whole, by system calls, and checked the first time that this process meets it.
From then on its regions are copied from a map of the tar straight into the batch's memory, while
other threads run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from capdist.data.collate import Row
from capdist.data.places import Place, Plan
from capdist.data.shelf import Known, Shelf, check
from capdist.data.tar import Tar
from capdist.data.texts import Text
from shards.schema import Array, ShardError

#: Tars that stay open; a process may have a thousand files.
OPEN = 256


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
    def boxes(self) -> Array:
        """(R, 4)."""
        return self.known.boxes

    @property
    def classes(self) -> Array | None:
        """(R, T) of CLASS_DTYPE."""
        return self.known.classes

    def fill_regions(self, slot: Any) -> None:
        """One copy, from the page cache into the batch."""
        try:
            self.tar.copy(self.known.offset, slot)
        except ShardError as error:
            raise ShardError(self.shelf.describe(self.place, error)) from error


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
            tar, opened = self.tar(number), self.shelf.open(number)
            known = opened.known[sample]
            if known:
                return Lying(self.shelf, read, known, tar)
            members = tar.members(opened.entries[sample], self.shelf.members)
            check(opened.entries[sample], members)
            return self.shelf.learn(read, members)
        except (OSError, ShardError) as error:
            raise ShardError(self.shelf.describe(read, error)) from error

    def _tar(self, number: int) -> Tar:
        return Tar(self.shelf.open(number).tar)
