"""Which sample comes when: a pure function of (seed, epoch).

The shards of a split, in a seeded permutation and rotated by a seeded offset, make one long
sequence; it is cut into ``lanes`` contiguous pieces whose lengths differ by at most one. Samples
of a lane are mixed within blocks of ``window``. Position p of the epoch is sample p // lanes of
lane p % lanes.

Two facts follow. A job with W ranks, W dividing the lanes, gives rank k the positions p with
p % W = k: whole lanes, read front to back, and the same global batches for every W. And the
state of an epoch is one number, the samples consumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Span:
    """Samples start..stop-1 of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Order:
    """The order of a split's samples.

    Args:
        sizes: samples of each shard.
        seed: of the run.
        lanes: pieces read side by side; a property of the order, not of the job.
        window: samples of a lane that are mixed with each other.
        shuffle: False for evaluation: the shards as they stand.
    """

    sizes: tuple[int, ...]
    seed: int
    lanes: int = 64
    window: int = 64
    shuffle: bool = True

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(self.sizes)

    def lane_length(self, lane: int) -> int:
        """Samples of a lane: positions lane, lane + lanes, ... below `samples`."""
        return len(range(lane, self.samples, self.lanes))

    def lane_spans(self, epoch: int, lane: int) -> list[Span]:
        """The pieces of shards that make a lane, in reading order."""
        sequence = self._sequence(epoch)
        before = sum(self.lane_length(other) for other in range(lane))
        return _cut(sequence, before, before + self.lane_length(lane))

    def block(self, epoch: int, lane: int, number: int) -> npt.NDArray[np.int64]:
        """The order within block ``number`` of a lane: its j-th sample out is entry j's in."""
        size = min(self.window, self.lane_length(lane) - number * self.window)
        if not self.shuffle:
            return np.arange(size)
        return np.random.default_rng([self.seed, epoch, lane, number]).permutation(size)

    def positions(self, epoch: int) -> Iterator[tuple[int, int]]:
        """(shard, sample in it) of every position: the specification, and slow."""
        lanes = [self._lane(epoch, lane) for lane in range(self.lanes)]
        for position in range(self.samples):
            yield lanes[position % self.lanes][position // self.lanes]

    def _lane(self, epoch: int, lane: int) -> list[tuple[int, int]]:
        spans = self.lane_spans(epoch, lane)
        read = [(span.shard, i) for span in spans for i in range(span.start, span.stop)]
        return [
            read[start + j]
            for number, start in enumerate(range(0, len(read), self.window))
            for j in self.block(epoch, lane, number)
        ]

    def _sequence(self, epoch: int) -> list[Span]:
        whole = [Span(shard, 0, size) for shard, size in enumerate(self.sizes)]
        if not self.shuffle:
            return whole
        rng = np.random.default_rng([self.seed, epoch])
        mixed = [whole[shard] for shard in rng.permutation(len(whole))]
        # The rotation moves the cuts between lanes, so that other samples meet every epoch.
        offset = int(rng.integers(self.samples))
        return _cut(mixed, offset, self.samples) + _cut(mixed, 0, offset)


def _cut(spans: Sequence[Span], start: int, stop: int) -> list[Span]:
    """Samples start..stop-1 of a sequence of spans."""
    pieces = []
    for span in spans:
        size = span.stop - span.start
        first, last = max(start, 0), min(stop, size)
        if first < last:
            pieces.append(Span(span.shard, span.start + first, span.start + last))
        start, stop = start - size, stop - size
    return pieces
