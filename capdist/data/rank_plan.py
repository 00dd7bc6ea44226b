"""Which rank reads which samples at which step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from capdist.config.base import ConfigError
from capdist.data.order import Ints, Order

#: A sample: the number of its shard in the split, and its own in the shard.
Place = tuple[int, int]


@dataclass(frozen=True)
class Ranks:
    """The place of this process in the job."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class RankPlan:
    """The steps of an epoch, and what of them is this rank's.

    Args:
        order: which sample comes when.
        ranks: this process's place; ``world`` must divide ``order.lanes``.
        images: samples of a step, over all ranks; ``world`` must divide them.
    """

    order: Order
    ranks: Ranks
    images: int

    def __post_init__(self) -> None:
        if self.order.lanes % self.ranks.world:
            raise ConfigError(
                f"{self.ranks.world} ranks do not divide {self.order.lanes} lanes: "
                "set data.lanes to a multiple of the ranks"
            )
        if self.images % self.ranks.world:
            raise ConfigError(
                f"{self.ranks.world} ranks do not divide a batch of {self.images} images: "
                "set stages.N.batch.images to a multiple of the ranks"
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on every rank; the last may be uneven."""
        return -(-self.order.samples // self.images)

    @property
    def lanes(self) -> range:
        """The lanes of this rank."""
        return range(self.ranks.rank, self.order.lanes, self.ranks.world)

    def first_step(self, consumed: int) -> int:
        """The step behind so many samples; the last one of an epoch may be uneven."""
        return -(-consumed // self.images)

    def positions(self, step: int) -> range:
        """The rank's positions of a step."""
        first = step * self.images
        last = min(first + self.images, self.order.samples)
        return range(first + self.ranks.rank, last, self.ranks.world)

    def places(self, epoch: int, consumed: int = 0) -> Iterator[list[Place]]:
        """The rank's samples of every step from ``consumed`` samples on, in order of position.

        A rank may get fewer samples than others, or none, in the last step only.
        """
        start, size = self.first_step(consumed), self.images // self.ranks.world
        places = self._places(epoch, start * size)
        for _ in range(start, self.steps):
            yield list(islice(places, size))

    def _places(self, epoch: int, skip: int) -> Iterator[Place]:
        """The rank's samples in order of position, without the first ``skip``.

        All its lanes are in the same block at a time, and their samples come in turn: a table of
        the block, a column for each lane, is read row by row.
        """
        order, lanes = self.order, [Lane(self.order, epoch, lane) for lane in self.lanes]
        # A block is mixed as a whole, so reading starts at the first block still in use.
        first, skip = divmod(skip, order.window * len(lanes))
        for number in range(first, -(-order.lane_length(lanes[0].lane) // order.window)):
            table = np.full((order.window, len(lanes), 2), -1)
            for column, lane in enumerate(lanes):
                block = lane.block(number)
                table[: len(block), column] = block
            shards, samples = table[table[..., 0] >= 0][skip:].T.tolist()
            yield from zip(shards, samples, strict=True)
            skip = 0


class Lane:
    """Samples of a lane in an epoch, found by arithmetic on whole blocks."""

    def __init__(self, order: Order, epoch: int, lane: int) -> None:
        self.order, self.epoch, self.lane = order, epoch, lane
        spans = [(span.shard, span.start, span.stop) for span in order.lane_spans(epoch, lane)]
        self.shards, starts, self.stops = np.array(spans, np.int64).reshape(-1, 3).T
        self.ends = np.cumsum(self.stops - starts)

    def block(self, number: int) -> Ints:
        """The places (n, 2) of a block's samples in the order in which they come out."""
        reads = number * self.order.window + self.order.block(self.epoch, self.lane, number)
        span = np.searchsorted(self.ends, reads, side="right")
        return np.stack([self.shards[span], self.stops[span] - self.ends[span] + reads], 1)
