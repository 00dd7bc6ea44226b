"""Which sample comes when: a pure function of (seed, epoch).

The shards of a split, in a seeded permutation and rotated by a seeded offset, make one long
sequence; it is cut into ``lanes`` contiguous pieces whose lengths differ by at most one. Samples
of a lane are shuffled within blocks of ``window``. Position p of the epoch is sample p // lanes of
lane p % lanes.

Two properties follow. With W ranks, W dividing the lanes, rank k gets the positions p with
p % W = k: whole lanes, read sequentially, and the same global batches for every W. And the state of
an epoch is one number, the samples consumed: to resume, a reader reads again at most the current
block of each lane.

In a mixture, a set of n samples of which every epoch sees m contributes all of its shards m // n
times, and a part of m % n samples. For these parts its shards form a ring, in a seeded permutation
that all epochs share; every epoch's part starts where the last one's ended. So after any number of
epochs, the samples of a set have been seen equally often, give or take one. The pieces of all sets
together are permuted, rotated and cut.

Memory and start-up time grow with the number of shards, never with the number of samples.
docs/results/order.md measures both, and how well this shuffles compared with a permutation of all
samples.
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
class MixtureSet:
    """One set of a mixture: its number of shards, and of samples that an epoch sees of it."""

    shards: int
    samples: int


@dataclass(frozen=True)
class Order:
    """The order of a split's samples.

    Args:
        sizes: samples of each shard.
        seed: of the run.
        lanes: number of interleaved pieces; a property of the order, not of the number of ranks.
        window: samples of a lane that are shuffled together.
        shuffle: False keeps the shards' own order, for evaluation.
        sets: of a mixture, in the order of their shards; empty: one set, seen once per epoch.
    """

    sizes: tuple[int, ...]
    seed: int
    lanes: int = 64
    window: int = 64
    shuffle: bool = True
    sets: tuple[MixtureSet, ...] = ()

    @cached_property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(mixed.samples for mixed, _ in self._sets)

    def lane_length(self, lane: int) -> int:
        """Samples of a lane: positions lane, lane + lanes, ... below `samples`."""
        return len(range(lane, self.samples, self.lanes))

    def lane_spans(self, epoch: int, lane: int) -> list[Span]:
        """The pieces of shards that make up a lane, in reading order."""
        shorter, longer = divmod(self.samples, self.lanes)
        start = lane * shorter + min(lane, longer)
        stop = start + self.lane_length(lane)
        if start == stop:
            return []
        pieces, ends = _sequence(self, epoch)
        # A lane covers few of the pieces: those from its first sample's to its last sample's.
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        mine = pieces[first : last + 1].copy()
        mine[0, 1] = mine[0, 2] - (ends[first] - start)
        mine[-1, 2] -= ends[last] - stop
        return [Span(*piece) for piece in mine.tolist()]

    def block(self, epoch: int, lane: int, number: int) -> Ints:
        """The permutation of block ``number`` of a lane: output j is input ``block[j]``."""
        size = min(self.window, self.lane_length(lane) - number * self.window)
        if not self.shuffle:
            return np.arange(size)
        return np.random.default_rng([self.seed, epoch, lane, number]).permutation(size)

    def positions(self, epoch: int) -> Iterator[tuple[int, int]]:
        """(shard, sample in it) of every position: the slow reference implementation."""
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
        """The pieces of an epoch, set by set: rows of shard, start and stop."""
        return np.concatenate([self._part(epoch, number) for number in range(len(self._sets))])

    @cached_property
    def _sets(self) -> list[tuple[MixtureSet, Ints]]:
        """Every set with its whole shards as pieces."""
        sizes = np.array(self.sizes, np.int64)
        pieces = np.stack([np.arange(len(sizes)), np.zeros_like(sizes), sizes], 1)
        sets = self.sets or (MixtureSet(len(sizes), int(sizes.sum())),)
        cuts = np.cumsum([mixed.shards for mixed in sets])[:-1]
        return list(zip(sets, np.split(pieces, cuts), strict=True))

    def _part(self, epoch: int, number: int) -> Ints:
        """One set's pieces of an epoch."""
        mixed, shards = self._sets[number]
        count = _count(shards)
        whole, rest = divmod(mixed.samples, count)
        pieces = [shards] * whole
        if rest:
            # Longer than the keys of epochs and blocks: numpy pads keys with zeros.
            rng = np.random.default_rng([self.seed, number, 0, 0, 1])
            ring = shards[rng.permutation(len(shards))]
            pieces.append(_cut(ring, epoch * rest % count, rest))
        return np.concatenate(pieces)


@lru_cache(maxsize=1)
def _sequence(order: Order, epoch: int) -> tuple[Ints, Ints]:
    """The shuffled pieces of an epoch, and the position at which each ends."""
    pieces = order.pieces(epoch)
    if order.shuffle:
        rng = np.random.default_rng([order.seed, epoch])
        shuffled = pieces[rng.permutation(len(pieces))]
        # The rotation moves the cuts between lanes, so that every epoch groups other samples.
        pieces = _cut(shuffled, int(rng.integers(order.samples)), order.samples)
    return pieces, np.cumsum(pieces[:, 2] - pieces[:, 1])


def _count(pieces: Ints) -> int:
    return int((pieces[:, 2] - pieces[:, 1]).sum())


def _cut(pieces: Ints, start: int, length: int) -> Ints:
    """``length`` samples of a ring of pieces from ``start`` on, at most one turn."""
    sizes = pieces[:, 2] - pieces[:, 1]
    starts = np.cumsum(sizes) - sizes
    turn = int(sizes.sum())
    cuts = []
    for first in (start, start - turn):  # up to the end of the ring, then from its beginning
        low = np.clip(first - starts, 0, sizes)
        high = np.clip(first + length - starts, 0, sizes)
        cut = np.stack([pieces[:, 0], pieces[:, 1] + low, pieces[:, 1] + high], 1)
        cuts.append(cut[high > low])
    return np.concatenate(cuts)
