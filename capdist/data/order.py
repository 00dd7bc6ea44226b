"""Which sample comes when: a pure function of (seed, epoch).

The shards of a split, in a seeded permutation and rotated by a seeded offset, make one long
sequence; it is cut into ``lanes`` contiguous pieces whose lengths differ by at most one. Samples
of a lane are mixed within blocks of ``window``. Position p of the epoch is sample p // lanes of
lane p % lanes.

Two facts follow. A job with W ranks, W dividing the lanes, gives rank k the positions p with
p % W = k: whole lanes, read front to back, and the same global batches for every W. And the
state of an epoch is one number, the samples consumed: whoever goes on reads, of each lane, at most
the block that is in use once more.

Where several sets are mixed, one of n samples that brings m samples into every epoch brings m // n
times all of its shards, and a part of m % n. For these parts its shards are laid in a ring, in a
seeded permutation that all epochs share; every epoch's part begins where the last one's ended. So
after any number of epochs no sample was seen more than once more often than another of its set.
Pieces of all sets together are what is permuted, rotated and cut.

Memory and time to start grow with the number of shards, never with that of samples. They are in
docs/results/order.md, with how well this mixes beside a permutation of all samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """Samples start..stop-1 of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """One of several sets: its number of shards, and the samples that it brings into an epoch."""

    shards: int
    samples: int


@dataclass(frozen=True)
class Order:
    """The order of a split's samples.

    Args:
        sizes: samples of each shard.
        seed: of the run.
        lanes: pieces read side by side; a property of the order, not of the job.
        window: samples of a lane that are mixed with each other.
        shuffle: False for evaluation: the shards as they stand.
        sets: whose the shards are, in turn; none: all are of one, seen once.
    """

    sizes: tuple[int, ...]
    seed: int
    lanes: int = 64
    window: int = 64
    shuffle: bool = True
    sets: tuple[Part, ...] = ()

    @cached_property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(part.samples for part, _ in self._sets)

    def lane_length(self, lane: int) -> int:
        """Samples of a lane: positions lane, lane + lanes, ... below `samples`."""
        return len(range(lane, self.samples, self.lanes))

    def lane_spans(self, epoch: int, lane: int) -> list[Span]:
        """The pieces of shards that make a lane, in reading order."""
        shorter, longer = divmod(self.samples, self.lanes)
        start = lane * shorter + min(lane, longer)
        stop = start + self.lane_length(lane)
        if start == stop:
            return []
        pieces, ends = _sequence(self, epoch)
        # Of many pieces a lane has few: from that of its first sample to that of its last one.
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        mine = pieces[first : last + 1].copy()
        mine[0, 1] = mine[0, 2] - (ends[first] - start)
        mine[-1, 2] -= ends[last] - stop
        return [Span(*piece) for piece in mine.tolist()]

    def block(self, epoch: int, lane: int, number: int) -> Ints:
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

    def pieces(self, epoch: int) -> Ints:
        """What all sets bring into an epoch, set by set: rows of shard, start and stop."""
        return np.concatenate([self._part(epoch, number) for number in range(len(self._sets))])

    @cached_property
    def _sets(self) -> list[tuple[Part, Ints]]:
        """Every set and its whole shards as such pieces."""
        sizes = np.array(self.sizes, np.int64)
        pieces = np.stack([np.arange(len(sizes)), np.zeros_like(sizes), sizes], 1)
        sets = self.sets or (Part(len(sizes), int(sizes.sum())),)
        cuts = np.cumsum([part.shards for part in sets])[:-1]
        return list(zip(sets, np.split(pieces, cuts), strict=True))

    def _part(self, epoch: int, number: int) -> Ints:
        """What a set brings into an epoch."""
        part, shards = self._sets[number]
        count = _count(shards)
        whole, rest = divmod(part.samples, count)
        pieces = [shards] * whole
        if rest:
            # Longer than keys of epochs and blocks, which numpy takes as if filled up by zeros.
            rng = np.random.default_rng([self.seed, number, 0, 0, 1])
            ring = shards[rng.permutation(len(shards))]
            pieces.append(_cut(ring, epoch * rest % count, rest))
        return np.concatenate(pieces)


@lru_cache(maxsize=1)
def _sequence(order: Order, epoch: int) -> tuple[Ints, Ints]:
    """The pieces of an epoch as lanes are cut from them, one after another, and where each ends."""
    pieces = order.pieces(epoch)
    if order.shuffle:
        rng = np.random.default_rng([order.seed, epoch])
        mixed = pieces[rng.permutation(len(pieces))]
        # The rotation moves the cuts between lanes, so that other samples meet every epoch.
        pieces = _cut(mixed, int(rng.integers(order.samples)), order.samples)
    return pieces, np.cumsum(pieces[:, 2] - pieces[:, 1])


def _count(pieces: Ints) -> int:
    return int((pieces[:, 2] - pieces[:, 1]).sum())


def _cut(pieces: Ints, start: int, length: int) -> Ints:
    """So many samples of a ring of pieces from ``start`` on, at most once around."""
    sizes = pieces[:, 2] - pieces[:, 1]
    begins = np.cumsum(sizes) - sizes
    turn = int(sizes.sum())
    cuts = []
    for first in (start, start - turn):  # the ring laid out from its begin, and once more
        low = np.clip(first - begins, 0, sizes)
        high = np.clip(first + length - begins, 0, sizes)
        cut = np.stack([pieces[:, 0], pieces[:, 1] + low, pieces[:, 1] + high], 1)
        cuts.append(cut[high > low])
    return np.concatenate(cuts)
