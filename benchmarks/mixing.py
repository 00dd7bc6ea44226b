"""How well an order mixes: three measures, each with a full permutation's value.

An order puts N samples of S shards into batches of B. With b(i) the batch of sample i:

- **neighbours**: of the pairs of samples that stand side by side in a shard, the share with
  b(i) = b(i + 1). What is stored together often is alike. A permutation: (B − 1) / (N − 1).
- **again**: of the pairs that share a batch in one epoch, the share that does so in the next. A
  permutation: (B − 1) / (N − 1).
- **variance over h batches**: samples belong to groups (their shards, or the sources that a set
  was sorted by), and some quantity is constant in each group and independent between groups. The
  mean over h successive batches estimates its mean over the set; the expected squared error, in
  units of the quantity's variance, is

      D_h = E Σ_g (n_g / hB − p_g)²

  with n_g the samples of group g in these batches and p_g its share of the set. It is measured as
  a multiple of a permutation's, Σ_g p_g (1 − p_g) / hB · (N − hB) / (N − 1), the variance of a
  mean of hB draws without replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from capdist.data.order import Ints, Order

#: Consecutive epochs that measures are averaged over.
EPOCHS = 4


@dataclass(frozen=True)
class Epochs:
    """Orders of one set: rows are epochs, entries the numbers of samples as they are stored.

    Args:
        rows: (E, N) permutations of 0..N-1.
        shard: (N,) of every sample.
        batch: B.
    """

    rows: Ints
    shard: Ints
    batch: int

    @classmethod
    def of(cls, order: Order, batch: int) -> Epochs:
        """The first epochs of an order."""
        sizes = np.array(order.sizes)
        firsts = np.cumsum(sizes) - sizes
        places = np.array([list(order.positions(epoch)) for epoch in range(EPOCHS)])
        shard = np.repeat(np.arange(len(sizes)), sizes)
        return cls(firsts[places[..., 0]] + places[..., 1], shard, batch)

    @classmethod
    def permuted(cls, order: Order, batch: int) -> Epochs:
        """Permutations of all samples of the same set."""
        rng = np.random.default_rng(order.seed)
        rows = np.stack([rng.permutation(order.samples) for _ in range(EPOCHS)])
        return cls(rows, np.repeat(np.arange(len(order.sizes)), order.sizes), batch)

    @property
    def together(self) -> float:
        """The share of pairs that share a batch in a permutation."""
        return (self.batch - 1) / (self.rows.shape[1] - 1)

    @property
    def neighbours(self) -> float:
        """The share of pairs side by side in a shard that share a batch."""
        beside = self.shard[:-1] == self.shard[1:]
        batches = np.argsort(self.rows, 1) // self.batch
        return float((batches[:, :-1] == batches[:, 1:])[:, beside].mean())

    @property
    def again(self) -> float:
        """The share of pairs of one epoch's batches that share a batch in the next."""
        batches = np.argsort(self.rows, 1) // self.batch
        shares = [_pairs(a * len(a) + b) / _pairs(a) for a, b in pairwise(batches)]
        return float(np.mean(shares))

    def variance(self, group: Ints, steps: int) -> float:
        """D_h over h = ``steps`` batches, as a multiple of a permutation's; ``group`` is (N,)."""
        (epochs, samples), drawn = self.rows.shape, steps * self.batch
        p = np.bincount(group) / samples
        chunks = samples // drawn  # the last, smaller one is left out
        found = group[self.rows[:, : chunks * drawn]].reshape(epochs * chunks, drawn)
        number = np.arange(len(found))[:, None] * len(p) + found
        counts = np.bincount(number.ravel(), minlength=len(found) * len(p))
        error = (counts.reshape(-1, len(p)) / drawn - p) ** 2
        chance = (p * (1 - p)).sum() / drawn * (samples - drawn) / (samples - 1)
        return float(error.sum(1).mean() / chance)


def _pairs(labels: Ints) -> float:
    """Pairs of samples with the same label."""
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1) / 2).sum())
