"""The order of samples is a pure function of (seed, epoch)."""

from __future__ import annotations

from itertools import chain

import pytest

from capdist.data.order import Order

SIZES = [(8, 8, 8, 5), (1,), (3, 1, 40), (100, 100, 100, 17)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("lanes", [1, 2, 8, 64])
@pytest.mark.parametrize("window", [1, 3, 64])
def test_an_epoch_has_every_sample_once(sizes: tuple[int, ...], lanes: int, window: int) -> None:
    order = Order(sizes, seed=3, lanes=lanes, window=window)
    expected = [(shard, i) for shard, size in enumerate(sizes) for i in range(size)]
    for epoch in range(3):
        assert sorted(order.positions(epoch)) == expected


@pytest.mark.parametrize("sizes", SIZES)
def test_lanes_are_contiguous_and_even(sizes: tuple[int, ...]) -> None:
    order = Order(sizes, seed=5, lanes=8)
    spans = [order.lane_spans(2, lane) for lane in range(8)]
    lengths = [sum(span.stop - span.start for span in lane) for lane in spans]
    assert max(lengths) - min(lengths) <= 1
    # A shard is read by as few lanes as cutting allows: at most one cut for each lane border,
    # and one for the rotation.
    assert len(list(chain(*spans))) <= len(sizes) + 8 + 1


def test_the_order_depends_on_seed_and_epoch() -> None:
    order = Order((20, 20, 20), seed=1)
    assert list(order.positions(4)) == list(Order((20, 20, 20), seed=1).positions(4))
    assert list(order.positions(4)) != list(order.positions(5))
    assert list(order.positions(4)) != list(Order((20, 20, 20), seed=2).positions(4))


def test_evaluation_keeps_the_shards_order() -> None:
    order = Order((2, 3), seed=9, lanes=1, shuffle=False)
    assert list(order.positions(7)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_batches_mix_samples_of_many_shards() -> None:
    order = Order((100,) * 10, seed=1)
    first = list(order.positions(0))[:64]
    assert len({shard for shard, _ in first}) == 10


def test_neighbours_change_between_epochs() -> None:
    order = Order((100,) * 10, seed=1)
    epochs = [list(order.positions(epoch)) for epoch in range(2)]
    batches = [[frozenset(places[i : i + 20]) for i in range(0, 1000, 20)] for places in epochs]
    shared = max(len(a & b) for a in batches[0] for b in batches[1])
    assert shared <= 8
