"""The order beside lists that are made, laid out and cut by hand."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capdist.data.order import MixtureSet, Order

Place = tuple[int, int]


@st.composite
def orders(draw: st.DrawFn) -> Order:
    """Of one to three sets with one to six shards each."""
    shards = draw(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), max_size=3))
    sets = tuple(
        MixtureSet(len(sizes), draw(st.one_of(st.integers(1, 100), st.just(sum(sizes)))))
        for sizes in shards
    )
    return Order(
        sizes=tuple(chain(*shards)) or tuple(draw(st.lists(st.integers(1, 30), min_size=1))),
        seed=draw(st.integers(0, 3)),
        lanes=draw(st.sampled_from([1, 2, 3, 8, 64])),
        window=draw(st.sampled_from([1, 3, 64])),
        sets=sets,
    )


many = settings(deadline=None, max_examples=60, derandomize=True)


def sets_of(order: Order) -> Iterator[tuple[MixtureSet, list[list[Place]]]]:
    """Every set with the samples of its shards."""
    shards = [[(shard, i) for i in range(size)] for shard, size in enumerate(order.sizes)]
    for part in order.sets or (MixtureSet(len(shards), sum(order.sizes)),):
        yield part, shards[: part.shards]
        shards = shards[part.shards :]


def images_of_sets(order: Order, epoch: int) -> list[list[Place]]:
    """The pieces that all sets bring into an epoch."""
    pieces = []
    for number, (part, shards) in enumerate(sets_of(order)):
        count = sum(map(len, shards))
        whole, rest = divmod(part.samples, count)
        pieces += shards * whole
        mixed = np.random.default_rng([order.seed, number, 0, 0, 1]).permutation(len(shards))
        ring = [place for shard in mixed for place in shards[shard]] * 2
        start = epoch * rest % count
        if rest:
            pieces += cut_at_shards(ring[start : start + rest], shards)
    return pieces


def cut_at_shards(places: list[Place], shards: list[list[Place]]) -> list[list[Place]]:
    """Places as pieces of one shard each; where the ring closes within a shard, it is cut, too."""
    firsts = {shard[0] for shard in shards}
    pieces: list[list[Place]] = [[]]
    for place in places:
        if place in firsts:
            pieces.append([])
        pieces[-1].append(place)
    return [piece for piece in pieces if piece]


def by_hand(order: Order, epoch: int) -> list[Place]:
    pieces = images_of_sets(order, epoch)
    rng = np.random.default_rng([order.seed, epoch])
    sequence = list(chain(*(pieces[number] for number in rng.permutation(len(pieces)))))
    offset = int(rng.integers(len(sequence)))
    rest = sequence[offset:] + sequence[:offset]
    lanes = []
    for lane in range(order.lanes):
        length = len(sequence[lane :: order.lanes])
        read, rest = rest[:length], rest[length:]
        mixed: list[Place] = []
        for number, start in enumerate(range(0, length, order.window)):
            block = read[start : start + order.window]
            draw = np.random.default_rng([order.seed, epoch, lane, number])
            mixed += [block[place] for place in draw.permutation(len(block))]
        lanes.append(mixed)
    return [lanes[p % order.lanes][p // order.lanes] for p in range(len(sequence))]


@many
@given(orders(), st.integers(0, 5))
def test_the_order_equals_the_one_by_hand(order: Order, epoch: int) -> None:
    expected = by_hand(order, epoch)
    assert list(order.positions(epoch)) == expected
    assert order.samples == len(expected)


def test_the_order_of_recorded_runs_is_unchanged() -> None:
    positions = [(int(shard), int(i)) for shard, i in Order((256,) * 30 + (77,), 1).positions(3)]
    digest = hashlib.sha256(repr(positions).encode()).hexdigest()
    assert digest == "e0909ea65b4152adc5326b9b755052d26a5fc7ec8a1feeab1416aeeabb9bcb9b"


@many
@given(orders(), st.integers(1, 7))
def test_over_epochs_all_samples_of_a_set_are_seen_equally_often(order: Order, epochs: int) -> None:
    seen = Counter(chain(*(order.positions(epoch) for epoch in range(epochs))))
    assert sum(seen.values()) == epochs * order.samples
    for part, shards in sets_of(order):
        places = list(chain(*shards))
        counts = [seen[place] for place in places]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == epochs * part.samples


@many
@given(orders(), st.integers(0, 400), st.integers(0, 3))
def test_resuming_reads_one_block_of_each_lane_again(
    order: Order, consumed: int, epoch: int
) -> None:
    expected, touched, found = by_hand(order, epoch), 0, {}
    for lane in range(order.lanes):
        done = len(range(lane, min(consumed, order.samples), order.lanes))
        number = done // order.window
        spans = order.lane_spans(epoch, lane)
        read = [(span.shard, i) for span in spans for i in range(span.start, span.stop)]
        while number * order.window < len(read):
            start = number * order.window
            places = order.block(epoch, lane, number)
            touched += len(places)
            for j, place in enumerate(places):
                found[lane + (start + j) * order.lanes] = read[start + place]
            number += 1
    rest = range(min(consumed, order.samples), order.samples)
    assert [found[position] for position in rest] == expected[rest.start :]
    assert touched - len(rest) <= order.lanes * (order.window - 1)


@pytest.mark.parametrize("sets", [(), ((600, 2.5), (400, 0.3))])
def test_memory_grows_with_shards_not_samples(sets: tuple[tuple[int, float], ...]) -> None:
    def peak(samples: int) -> int:
        tracemalloc.start()
        parts = tuple(MixtureSet(shards, int(times * shards * samples)) for shards, times in sets)
        order = Order((samples,) * 1000, 1, sets=parts)
        for lane in range(order.lanes):
            order.lane_spans(3, lane)
            order.block(3, lane, 0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is loaded and kept at the first call
    few, many = peak(1000), peak(100_000)
    assert many < 1.1 * few
    assert many < 1000 * 1000


def test_evaluation_has_no_offset() -> None:
    order = Order((2, 3), seed=9, lanes=2, shuffle=False)
    assert list(order.positions(7)) == [(0, 0), (1, 1), (0, 1), (1, 2), (1, 0)]
