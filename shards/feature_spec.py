"""Identity and storage of a set's region features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from shards.extractor_spec import ExtractorSpec
from shards.fingerprint import UNKNOWN, Fingerprint
from shards.schema import Array, ShardError


@dataclass(frozen=True)
class FeatureSpec:
    """Region features: which extractor made them, and how they are stored.

    Args:
        name: of the extractor.
        dim: feature width F.
        max_regions: the largest number of regions of an image.
        fingerprint: statistics of the features, which tell extractors apart.
        scale: F numbers, by which stored int8 regions are multiplied; empty if regions are stored
            as float16.
        extractor: that makes these features from pictures; None if it is not known.
    """

    name: str
    dim: int
    max_regions: int
    fingerprint: Fingerprint = UNKNOWN
    scale: tuple[float, ...] = ()
    extractor: ExtractorSpec | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """Inverse of `to_json`.

        Raises:
            ShardError: if an older version wrote it, without a fingerprint.
        """
        if "fingerprint" not in data:
            raise ShardError(
                f"features {data['name']!r} have no fingerprint: an older version wrote this; "
                "build the shards again with this version, and train again on them"
            )
        stored = data["fingerprint"]
        mean, deviation = tuple(stored["mean"]), tuple(stored["deviation"])
        fingerprint = Fingerprint(stored["images"], mean, deviation)
        return cls(
            data["name"],
            data["dim"],
            data["max_regions"],
            fingerprint,
            tuple(data["scale"]),
            ExtractorSpec.from_json(data.get("extractor")),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields; an extractor only if it is known."""
        fields = asdict(self)
        return fields if self.extractor else {k: v for k, v in fields.items() if k != "extractor"}

    def same_name(self, other: FeatureSpec) -> bool:
        """Whether name and width are equal; the fingerprint tells whether the numbers are, too."""
        return (self.name, self.dim) == (other.name, other.dim)

    def without_scale(self) -> FeatureSpec:
        """The same features, as if stored as float16."""
        return replace(self, scale=())

    @cached_property
    def _scale_array(self) -> Array:
        return np.array(self.scale, np.float32)

    def dequantize(self, regions: Array) -> Array:
        """Stored regions (R, F) as floats: int8 becomes float32, float16 stays as it is."""
        return regions * self._scale_array if self.scale else regions

    @property
    def stored_dtype(self) -> str:
        """The dtype of ``regions.npy``."""
        return "int8" if self.scale else "float16"
