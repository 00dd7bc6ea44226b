"""Which rank reads which samples at which step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from capdist.config.section import ConfigError
from capdist.data.order import Order

#: A sample: the number of its shard in the split, and its own in the shard.
Place = tuple[int, int]


@dataclass(frozen=True)
class Ranks:
    """The place of this process in the job."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Plan:
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
        start = self.first_step(consumed)
        skipped = start * self.images
        lanes = {lane: lane_places(self.order, epoch, lane, skipped) for lane in self.lanes}
        for step in range(start, self.steps):
            yield [next(lanes[p % self.order.lanes]) for p in self.positions(step)]


def lane_places(order: Order, epoch: int, lane: int, start: int) -> Iterator[Place]:
    """Samples of a lane whose positions are ``start`` or later."""
    skip = len(range(lane, start, order.lanes))
    first, skip = divmod(skip, order.window)
    spans = order.lane_spans(epoch, lane)
    read = ((span.shard, i) for span in spans for i in range(span.start, span.stop))
    # A block is mixed as a whole, so reading starts at the first block still in use.
    next(islice(read, first * order.window, first * order.window), None)
    for number in range(first, -(-order.lane_length(lane) // order.window)):
        block = list(islice(read, order.window))
        yield from (block[j] for j in order.block(epoch, lane, number)[skip:].tolist())
        skip = 0
