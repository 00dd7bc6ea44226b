"""The boxes that the simulated detector proposes.

Legend: R = 36 regions, N objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.schema import Array

REGIONS = 36


@dataclass(frozen=True)
class Proposals:
    """Boxes around each object and around pairs; random ones complete the R boxes.

    Args:
        spreads: one box for each; its edges are moved by up to this share of width or height.
        cut: share of the object's width or height that the partial box lacks.
        pairs: the largest number of boxes around two objects each.
        random_sides: smallest and largest width and height of random boxes.
    """

    spreads: tuple[float, ...] = (0.08, 0.08, 0.24)
    cut: float = 0.45
    pairs: int = 5
    random_sides: tuple[float, float] = (0.15, 0.6)

    def boxes(self, rng: np.random.Generator, true_boxes: Array) -> Array:
        """R boxes in [0, 1] for the boxes (N, 4) of all objects."""
        single = [_jittered(rng, true_boxes, spread) for spread in self.spreads]
        proposals = [*single, self._partial(rng, true_boxes), self._around_pairs(rng, true_boxes)]
        stacked = np.vstack(proposals)
        corners = rng.uniform(0, 0.75, (REGIONS - len(stacked), 2))
        sizes = rng.uniform(*self.random_sides, corners.shape)
        random_boxes = np.hstack([corners, corners + sizes])
        return np.asarray(np.clip(np.vstack([stacked, random_boxes]), 0, 1))

    def _partial(self, rng: np.random.Generator, true_boxes: Array) -> Array:
        """The boxes, with one of their four sides moved inwards."""
        parts, rows = np.array(true_boxes), np.arange(len(true_boxes))
        side = rng.integers(0, 4, len(true_boxes))
        width_height = (true_boxes[:, 2:] - true_boxes[:, :2])[rows, side % 2]
        parts[rows, side] += np.where(side < 2, self.cut, -self.cut) * width_height
        return parts

    def _around_pairs(self, rng: np.random.Generator, true_boxes: Array) -> Array:
        """Boxes around random pairs of objects."""
        pairs = np.stack(np.triu_indices(len(true_boxes), 1), axis=1)
        pairs = rng.permutation(pairs)[: self.pairs]
        low, high = true_boxes[pairs, :2].min(axis=1), true_boxes[pairs, 2:].max(axis=1)
        return np.hstack([low, high])


def _jittered(rng: np.random.Generator, true_boxes: Array, spread: float) -> Array:
    """The boxes, with each edge moved by up to ``spread`` of their width or height."""
    sides = np.tile(true_boxes[:, 2:] - true_boxes[:, :2], 2)
    return np.asarray(true_boxes + rng.uniform(-spread, spread, true_boxes.shape) * sides)
