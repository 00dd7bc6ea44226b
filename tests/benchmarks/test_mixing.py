"""The measures of mixing equal their definitions, counted pair by pair."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from benchmarks.mixing import EPOCHS, Epochs
from capdist.data.order import Order

SIZES, BATCH = (7, 5, 9, 8), 4
ORDERS = [Order(SIZES, 1, 4, 2), Order(SIZES, 1, 1, 64), Order(SIZES, 1, 1, 1, shuffle=False)]


def batches(order: Order, epoch: int) -> list[list[tuple[int, int]]]:
    positions = list(order.positions(epoch))
    return [positions[start : start + BATCH] for start in range(0, len(positions), BATCH)]


def pairs(order: Order, epoch: int) -> set[frozenset[tuple[int, int]]]:
    return {frozenset(pair) for b in batches(order, epoch) for pair in combinations(b, 2)}


@pytest.mark.parametrize("order", ORDERS)
def test_neighbours_and_again_equal_counted_pairs(order: Order) -> None:
    epochs = Epochs.of(order, BATCH)
    together = [pairs(order, epoch) for epoch in range(EPOCHS)]
    adjacent = [
        frozenset([(shard, i), (shard, i + 1)])
        for shard, size in enumerate(SIZES)
        for i in range(size - 1)
    ]
    shares = [sum(pair in shared for pair in adjacent) / len(adjacent) for shared in together]
    assert epochs.neighbours == pytest.approx(np.mean(shares))
    again = [len(one & other) / len(one) for one, other in pairwise(together)]
    assert epochs.again == pytest.approx(np.mean(again))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_variance_equals_the_squared_error_of_batch_means(order: Order, steps: int) -> None:
    # D = sum over groups of the squared error for the quantity that is 1 in one group, else 0.
    error = []
    for epoch in range(EPOCHS):
        positions = list(order.positions(epoch))
        for start in range(0, 29 - steps * BATCH + 1, steps * BATCH):
            part = [shard for shard, _ in positions[start : start + steps * BATCH]]
            means = [part.count(shard) / len(part) - SIZES[shard] / 29 for shard in range(4)]
            error.append(sum(mean**2 for mean in means))
    rng = np.random.default_rng(0)
    stored = np.repeat(np.arange(4), SIZES)
    drawn = np.array([rng.choice(stored, steps * BATCH, replace=False) for _ in range(20_000)])
    share = np.stack([(drawn == shard).mean(1) - SIZES[shard] / 29 for shard in range(4)])
    chance = (share**2).sum(0).mean()
    epochs = Epochs.of(order, BATCH)
    assert epochs.variance(epochs.shard, steps) == pytest.approx(np.mean(error) / chance, rel=0.02)


def test_a_permutation_has_variance_one() -> None:
    epochs = Epochs.permuted(Order((50,) * 100, 1), 10)
    assert epochs.variance(epochs.shard, 1) == pytest.approx(1, abs=0.05)
    assert epochs.neighbours == pytest.approx(epochs.together, rel=0.2)
    assert epochs.again == pytest.approx(epochs.together, rel=0.2)


def test_the_default_order_mixes_well() -> None:
    epochs = Epochs.of(Order((256,) * 100, 1), 80)
    assert epochs.neighbours < 0.01
    assert epochs.variance(epochs.shard, 1) < 1.3
    # More lanes with as many samples in memory make successive batches less similar.
    wide = Epochs.of(Order((256,) * 100, 1, lanes=256, window=16), 80)
    assert wide.variance(wide.shard, 16) < epochs.variance(epochs.shard, 16) / 5
