"""A second feature set of the scenes: a grid of 6 × 6 cells of the drawn picture.

A cell's feature is the output of a small, fixed random network for the pixels around it: unlike
the simulated detector's regions, it knows nothing but the picture. Pixels, weights and the hidden
layer are multiples of 2⁻¹⁰, so that sums are exact and features the same on every machine.

Legend: X = 6 cells in a row, P pixels of a window, F feature width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from shards.feature_spec import FeatureSpec
from shards.scenes import SceneSource
from shards.scenes.draw import paint
from shards.schema import Array, RegionSet
from shards.write_set import SetSample

CELLS, HIDDEN, WIDTH = 6, 256, 128
#: Pixels of a cell's edge in the reduced picture, and of the margin around it that it sees.
EDGE, MARGIN = 10, 5
SEED = 61


@dataclass(frozen=True)
class GridSource:
    """The grid of a corpus's scenes, a `shards.write_set.SetSource`."""

    scenes: SceneSource
    name: str = "grid"

    @property
    def features(self) -> FeatureSpec:
        return FeatureSpec("scenes_grid", WIDTH, CELLS**2)

    def fingerprint(self) -> str:
        """Of the scenes: the network is fixed."""
        return self.scenes.fingerprint()

    def load(self, samples: Sequence[SetSample]) -> Iterator[RegionSet]:
        for sample in samples:
            scene = self.scenes.scene(int(sample.image_id))
            size = (CELLS * EDGE,) * 2
            pixels = np.asarray(paint(scene).resize(size), np.float64) / 256
            yield RegionSet(describe(pixels).astype(np.float16), _boxes())


def describe(pixels: Array) -> Array:
    """The features (X², F) of a picture (X · EDGE, X · EDGE, 3) with values in [0, 1)."""
    first, second = _weights()
    padded = np.pad(pixels - 0.5, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
    seen = EDGE + 2 * MARGIN
    windows = [
        padded[row : row + seen, column : column + seen].ravel()
        for row in range(0, CELLS * EDGE, EDGE)
        for column in range(0, CELLS * EDGE, EDGE)
    ]
    hidden = _rounded(np.maximum(np.stack(windows) @ first, 0))
    features: Array = hidden @ second
    return features


@cache
def _weights() -> tuple[Array, Array]:
    """(P, HIDDEN) and (HIDDEN, F)."""
    rng = np.random.default_rng(SEED)
    size = 3 * (EDGE + 2 * MARGIN) ** 2
    first = rng.standard_normal((size, HIDDEN)) * 2 / np.sqrt(size)
    second = rng.standard_normal((HIDDEN, WIDTH)) * 2 / np.sqrt(HIDDEN)
    return _rounded(first), _rounded(second)


def _rounded(values: Array) -> Array:
    rounded: Array = np.rint(values * 1024) / 1024
    return rounded


@cache
def _boxes() -> Array:
    """(X², 4), row by row."""
    starts = np.arange(CELLS) / CELLS
    y, x = (grid.ravel() for grid in np.meshgrid(starts, starts, indexing="ij"))
    return np.stack([x, y, x + 1 / CELLS, y + 1 / CELLS], 1).clip(0, 1).astype(np.float32)
