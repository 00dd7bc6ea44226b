"""Tells the features of different extractors apart, by the statistics of their dimensions.

Name and width of features may be wrong; means and standard deviations come from the numbers. Two
sets are compared by the Fréchet distance of diagonal normal distributions, divided by their mean
variance:

    d = Σ_j [(μ_j − μ'_j)² + (σ_j − σ'_j)²] / ½ Σ_j (σ_j² + σ'_j²)

On Flickr8k, two samples of N images of one extractor have distance 0.3 / N, fifty images of one
topic have distance 0.1 from the whole set, and the same features with their dimensions permuted or
rotated have distance 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, reduce

import numpy as np

from shards.schema import Array

#: Dimensions that are compared, evenly spaced: enough to distinguish, few enough for a manifest.
DIMENSIONS = 64

_MAX_DISTANCE = 0.25
_EXTRA_FOR_ONE_IMAGE = 2.0


@dataclass(frozen=True)
class Fingerprint:
    """Mean and standard deviation of some dimensions, over all regions of ``images`` images.

    ``images`` is 0 if they are unknown.
    """

    images: int = 0
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def distance(self, other: Fingerprint) -> float:
        """The distance d; both must have the same width."""
        (mean, deviation), (mean_, deviation_) = (
            (np.array(one.mean), np.array(one.deviation)) for one in (self, other)
        )
        squared = ((mean - mean_) ** 2 + (deviation - deviation_) ** 2).sum()
        variance = (deviation**2 + deviation_**2).sum() / 2
        if variance == 0:
            return math.inf if squared else 0.0
        return float(squared / variance)

    def max_distance(self, other: Fingerprint) -> float:
        """The largest distance that one extractor explains; larger for few images (chance)."""
        if 0 in (self.images, other.images):
            return math.inf
        return _MAX_DISTANCE + _EXTRA_FOR_ONE_IMAGE * (1 / self.images + 1 / other.images)

    def difference(self, other: Fingerprint) -> str:
        """How they differ, in words, to be followed by "than"; empty for one extractor's features.

        "are distributed differently (...)" fits a message of the form "features ... than those in
        ...".
        """
        limit = self.max_distance(other)
        if limit == math.inf or (distance := self.distance(other)) <= limit:
            return ""
        return (
            f"are distributed differently (distance {distance:.2f}, at most {limit:.2f} expected "
            "for one extractor)"
        )


#: Of features without statistics: it differs from no other.
UNKNOWN = Fingerprint()


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums and sums of squares (float64) of some dimensions over all regions of some images."""

    images: int
    regions: int
    sums: Array
    squares: Array

    @classmethod
    def of(cls, regions: Array) -> Moments:
        """The moments of one image's regions (R, F)."""
        values = regions[:, _compared_dimensions(regions.shape[1])].astype(np.float64)
        return cls(1, len(values), values.sum(axis=0), (values**2).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.images + other.images,
            self.regions + other.regions,
            self.sums + other.sums,
            self.squares + other.squares,
        )

    @classmethod
    def total(cls, parts: list[Moments]) -> Moments:
        """The moments of all images of ``parts``, which must not be empty."""
        return reduce(cls.__add__, parts)

    def fingerprint(self) -> Fingerprint:
        """Mean and deviation, rounded to five digits for the manifest."""
        mean = self.sums / self.regions
        variance = np.maximum(self.squares / self.regions - mean**2, 0)
        return Fingerprint(self.images, _rounded(mean), _rounded(np.sqrt(variance)))


@cache
def _compared_dimensions(width: int) -> Array:
    return np.linspace(0, width - 1, min(width, DIMENSIONS)).round().astype(int)


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
