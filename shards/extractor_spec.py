"""What made region features from pictures: the backbone, its weights and all that follows it.

A set of shards and the models trained on it have this record, so that new pictures get features of
the same kind. Legend: R regions, D width of the backbone, F width of the features.

    f = (x - mean) @ components,  then  scale * clip(round(f / scale), ±127)

Projection and scale are optional.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from shards.json_types import Count, parse_json
from shards.schema import Array, ShardError
from shards.storage import quantize_int8

if TYPE_CHECKING:
    from PIL import Image

#: The record next to extracted features.
EXTRACTOR = "extractor.json"

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Channels = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


@dataclass(frozen=True)
class Preprocessing:
    """A picture's way to the backbone: squeezed to a size, then (pixel - mean) / deviation.

    The whole picture is squeezed, so that its cells cover all of it. ``mean`` and ``deviation``
    are those of red, green and blue, for pixels from 0 to 255.
    """

    width: int
    height: int
    resample: Resample
    mean: Channels
    deviation: Channels

    def resize(self, picture: Image.Image) -> Array:
        """The pixels (height, width, 3) of an RGB picture, uint8."""
        from PIL import Image

        size, resample = (self.width, self.height), Image.Resampling[self.resample.upper()]
        return np.asarray(picture if picture.size == size else picture.resize(size, resample))

    def normalise(self, pixels: Array) -> Array:
        """Pixels (B, height, width, 3) as the network's input (B, 3, height, width), float32."""
        mean, deviation = (np.array(c, np.float32) for c in (self.mean, self.deviation))
        scaled = (pixels.astype(np.float32) - mean) / deviation
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Projection:
    """A linear map of region features, such as PCA; float32 numbers in base64, for JSON.

    Raises:
        ValueError: if the numbers do not fit each other, or are not finite.
    """

    mean: str
    components: str

    @classmethod
    def of(cls, mean: Array, components: Array) -> Projection:
        """The projection by ``mean`` (D,) and ``components`` (D, F)."""
        return cls(_encode(mean), _encode(components))

    @classmethod
    def load(cls, path: Path) -> Projection:
        """Read an npz file with the arrays ``mean`` (D,) and ``components`` (D, F).

        Raises:
            ShardError: if it is not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls.of(arrays["mean"], arrays["components"])
        except Exception as error:  # zipfile, numpy and Python's parser raise many kinds
            raise ShardError(
                f"{path}: not a projection ({error}); expected an npz file with arrays mean (D,) "
                "and components (D, F)"
            ) from error

    @cached_property
    def arrays(self) -> tuple[Array, Array]:
        """``mean`` (D,) and ``components`` (D, F)."""
        mean, components = (
            np.frombuffer(b64decode(text, validate=True), "<f4")
            for text in (self.mean, self.components)
        )
        return mean, components.reshape(len(mean), -1)

    def __post_init__(self) -> None:
        mean, components = self.arrays
        if not components.size or not all(np.isfinite(array).all() for array in (mean, components)):
            raise ValueError("no numbers, or numbers that are not finite")

    def __call__(self, regions: Array) -> Array:
        """Regions (R, D) as (R, F)."""
        mean, components = self.arrays
        return (regions - mean) @ components


@dataclass(frozen=True)
class ExtractorSpec:
    """What made region features.

    Args:
        backbone: its name in `shards.extractors`.
        weights: SHA-256 of its weights.
        width: D, of its regions.
        preprocessing: of pictures.
        projection: of its regions; None leaves them as they are.
        scale: F numbers, of features whose files are in 8 bits: new features are rounded and
            clipped as they are; empty for others.

    Raises:
        ValueError: if projection or scale do not fit.
    """

    backbone: str
    weights: str
    width: Count
    preprocessing: Preprocessing
    projection: Projection | None = None
    scale: tuple[FiniteFloat, ...] = ()

    def __post_init__(self) -> None:
        if self.projection and len(self.projection.arrays[0]) != self.width:
            raise ValueError(
                f"a projection from width {len(self.projection.arrays[0])}, but backbone "
                f"{self.backbone!r} has width {self.width}"
            )
        if self.scale and len(self.scale) != self.dim:
            raise ValueError(f"{len(self.scale)} scales of features of width {self.dim}")

    @classmethod
    def load(cls, path: Path) -> ExtractorSpec:
        """Read the record next to extracted features.

        Raises:
            ShardError: if it is damaged.
        """
        try:
            return parse_json(_JSON, path.read_bytes())
        except ValueError as error:
            raise ShardError(f"{path}: {error}; extract the features again") from error

    @classmethod
    def from_json(cls, data: Any) -> ExtractorSpec | None:
        """The extractor in a set's description of its features, None if it is not known.

        Raises:
            ShardError: if it is damaged.
        """
        try:
            return None if data is None else _JSON.validate_python(data)
        except ValidationError as error:
            raise ShardError(
                f"the extractor of features is damaged ({error.errors()[0]['msg']}); copy it again"
            ) from error

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def dim(self) -> int:
        """F, the width of the features."""
        return self.projection.arrays[1].shape[1] if self.projection else self.width

    @property
    def feature_name(self) -> str:
        """A name for the features: the backbone's, without the folders of its path."""
        kind, colon, source = self.backbone.partition(":")
        name = f"{kind}{colon}{source.rpartition('/')[2]}"
        return f"{name}_projected{self.dim}" if self.projection else name

    def finish(self, regions: Array) -> Array:
        """The features (R, F) from the backbone's regions (R, D)."""
        if self.projection:
            regions = self.projection(regions)
        if self.scale:
            regions = quantize_int8(regions, self.scale) * np.array(self.scale, np.float32)
        return regions


_JSON = TypeAdapter(ExtractorSpec)


def _encode(array: Array) -> str:
    return b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
