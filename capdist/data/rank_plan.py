"""Which samples each rank reads at each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from capdist.config.base import ConfigError
from capdist.data.order import Ints, Order

#: A sample: the number of its shard in the split, and its number in the shard.
SampleRef = tuple[int, int]


@dataclass(frozen=True)
class Ranks:
    """Rank of the process, and the number of ranks."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class RankPlan:
    """The samples of every step of an epoch that one rank reads.

    Args:
        order: of the split's samples.
        ranks: this process's; ``world`` must divide ``order.lanes``.
        images: samples of a step, over all ranks; ``world`` must divide them.

    Raises:
        ConfigError: if the number of ranks does not divide both.
    """

    order: Order
    ranks: Ranks
    images: int

    def __post_init__(self) -> None:
        if self.order.lanes % self.ranks.world:
            raise ConfigError(
                f"{self.ranks.world} ranks do not divide {self.order.lanes} lanes; set data.lanes "
                "to a multiple of the number of ranks"
            )
        if self.images % self.ranks.world:
            raise ConfigError(
                f"{self.ranks.world} ranks do not divide a batch of {self.images} images; set "
                "stages.N.batch.images to a multiple of the number of ranks"
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
        """The first step after ``consumed`` samples; an uneven last step counts as whole."""
        return -(-consumed // self.images)

    def positions(self, step: int) -> range:
        """The rank's positions of a step."""
        first = step * self.images
        last = min(first + self.images, self.order.samples)
        return range(first + self.ranks.rank, last, self.ranks.world)

    def refs(self, epoch: int, consumed: int = 0) -> Iterator[list[SampleRef]]:
        """The rank's samples of every step after ``consumed`` samples, in order of position.

        Only in the last step a rank may get fewer samples than others, or none.
        """
        start, size = self.first_step(consumed), self.images // self.ranks.world
        refs = self._refs(epoch, start * size)
        for _ in range(start, self.steps):
            yield list(islice(refs, size))

    def _refs(self, epoch: int, skip: int) -> Iterator[SampleRef]:
        """The rank's samples in order of position, without the first ``skip``.

        The lanes take turns sample by sample, and all are in the same block at a time: a table of
        the block, one column per lane, is read row by row.
        """
        order, lanes = self.order, [Lane(self.order, epoch, lane) for lane in self.lanes]
        # A block is shuffled as a whole, so reading starts at the beginning of the current block.
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
    """Samples of a lane in an epoch, computed for whole blocks at once."""

    def __init__(self, order: Order, epoch: int, lane: int) -> None:
        self.order, self.epoch, self.lane = order, epoch, lane
        spans = [(span.shard, span.start, span.stop) for span in order.lane_spans(epoch, lane)]
        self.shards, starts, self.stops = np.array(spans, np.int64).reshape(-1, 3).T
        self.ends = np.cumsum(self.stops - starts)

    def block(self, number: int) -> Ints:
        """(n, 2) references to a block's samples, in shuffled order."""
        index = number * self.order.window + self.order.block(self.epoch, self.lane, number)
        span = np.searchsorted(self.ends, index, side="right")
        return np.stack([self.shards[span], self.stops[span] - self.ends[span] + index], 1)
