"""Which extractor made a set's region features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from shards.fingerprint import UNKNOWN, Fingerprint
from shards.schema import Array, ShardError


@dataclass(frozen=True)
class FeatureSpec:
    """Which extractor made the region features: its name, F, and the most regions of an image.

    ``fingerprint`` is how they are distributed. ``scale``, F numbers, is that of int8 regions;
    empty: regions are float16.
    """

    name: str
    dim: int
    max_regions: int
    fingerprint: Fingerprint = UNKNOWN
    scale: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """What `asdict` made of it.

        Raises:
            ShardError: if an older version did, which knew no fingerprints.
        """
        if "fingerprint" not in data:
            raise ShardError(
                f"features {data['name']!r} have no fingerprint: an older version wrote them down; "
                "train again, on shards built with this version"
            )
        found = data["fingerprint"]
        fingerprint = Fingerprint(found["images"], tuple(found["mean"]), tuple(found["deviation"]))
        return cls(**{**data, "fingerprint": fingerprint, "scale": tuple(data["scale"])})

    def same_extractor(self, other: FeatureSpec) -> bool:
        """Whether a model trained on the one may be given the other."""
        named = (self.name, self.dim) == (other.name, other.dim)
        return named and not self.fingerprint.difference(other.fingerprint)

    def without_scale(self) -> FeatureSpec:
        """The features themselves, however they are stored."""
        return replace(self, scale=())

    @cached_property
    def _scale(self) -> Array:
        return np.array(self.scale, np.float32)

    def widen(self, regions: Array) -> Array:
        """Regions (R, F) as stored to floats: int8 ones to float32, float16 ones as they are."""
        return regions * self._scale if self.scale else regions

    @property
    def stored_as(self) -> str:
        """The type of ``regions.npy``."""
        return "int8" if self.scale else "float16"
