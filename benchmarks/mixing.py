"""How well an order mixes: three measures, each with its value for a full permutation.

An order puts N samples of S shards into batches of B. With b(i) the batch of sample i:

- **neighbours**: of the pairs of samples that are adjacent in a shard, the share with
  b(i) = b(i + 1). Adjacent samples are often similar. A permutation: (B − 1) / (N − 1).
- **again**: of the pairs that share a batch in one epoch, the share that does so in the next one.
  A permutation: (B − 1) / (N − 1).
- **variance over h batches**: samples belong to groups (their shards, or the sources that a set
  is sorted by), and a quantity is constant in each group and independent between groups. The mean
  over h successive batches estimates its mean over the set; the expected squared error, in units
  of the quantity's variance, is

      D_h = E Σ_g (n_g / hB − p_g)²

  with n_g the samples of group g in these batches and p_g its share of the set. It is reported as
  a multiple of that of a permutation, Σ_g p_g (1 − p_g) / hB · (N − hB) / (N − 1), the variance of
  a mean of hB draws without replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from capdist.data.order import Ints, Order

#: Number of consecutive epochs to average over.
EPOCHS = 4


@dataclass(frozen=True)
class Epochs:
    """Orders of one set; samples are numbered in stored order.

    Args:
        rows: (E, N) permutations of 0..N-1, one per epoch.
        shard: (N,) the shard of every sample.
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
        positions = np.array([list(order.positions(epoch)) for epoch in range(EPOCHS)])
        shard = np.repeat(np.arange(len(sizes)), sizes)
        return cls(firsts[positions[..., 0]] + positions[..., 1], shard, batch)

    @classmethod
    def permuted(cls, order: Order, batch: int) -> Epochs:
        """The same number of epochs with a random permutation of the set in each."""
        rng = np.random.default_rng(order.seed)
        rows = np.stack([rng.permutation(order.samples) for _ in range(EPOCHS)])
        return cls(rows, np.repeat(np.arange(len(order.sizes)), order.sizes), batch)

    @property
    def together(self) -> float:
        """The share of pairs in the same batch, for a permutation."""
        return (self.batch - 1) / (self.rows.shape[1] - 1)

    @property
    def neighbours(self) -> float:
        """The share of adjacent pairs in a shard that share a batch."""
        adjacent = self.shard[:-1] == self.shard[1:]
        batches = np.argsort(self.rows, 1) // self.batch
        return float((batches[:, :-1] == batches[:, 1:])[:, adjacent].mean())

    @property
    def again(self) -> float:
        """The share of pairs in a batch of one epoch that share a batch in the next one."""
        batches = np.argsort(self.rows, 1) // self.batch
        shares = [_pairs(a * len(a) + b) / _pairs(a) for a, b in pairwise(batches)]
        return float(np.mean(shares))

    def variance(self, group: Ints, steps: int) -> float:
        """D_h over h = ``steps`` batches as a multiple of a permutation's; ``group``: (N,)."""
        (epochs, samples), drawn = self.rows.shape, steps * self.batch
        p = np.bincount(group) / samples
        chunks = samples // drawn  # without the last, smaller one
        groups = group[self.rows[:, : chunks * drawn]].reshape(epochs * chunks, drawn)
        number = np.arange(len(groups))[:, None] * len(p) + groups
        counts = np.bincount(number.ravel(), minlength=len(groups) * len(p))
        error = (counts.reshape(-1, len(p)) / drawn - p) ** 2
        permutation = (p * (1 - p)).sum() / drawn * (samples - drawn) / (samples - 1)
        return float(error.sum(1).mean() / permutation)


def _pairs(labels: Ints) -> float:
    """Number of pairs of samples with the same label."""
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1) / 2).sum())
