"""A sample: one image with all its captions, and the types of what it holds.

Legend: R regions, F feature width, T likeliest classes of a region.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import FiniteFloat

from capdist.errors import CapdistError
from shards.json_types import ImageId

#: A sample's key: without '.', '/', control characters (terminals obey them) and surrogates.
KEY_PATTERN = re.compile(r"[^./\x00-\x1f\x7f-\x9f\ud800-\udfff]+")

#: One entry of ``classes.npy``: a class and its probability.
CLASS_DTYPE = np.dtype([("id", "<i2"), ("prob", "<f2")])

Array = npt.NDArray[Any]


class ShardError(CapdistError):
    """Damaged shards or unusable input: the message names the file and says what to do."""


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption and its boxes in the image.

    Args:
        caption: number of the caption in its sample.
        start, end: token positions, end exclusive.
        head: position of the token that names the object.
        class_name: class of the object.
        boxes: x1, y1, x2, y2 in [0, 1].
    """

    caption: int
    start: int
    end: int
    head: int
    class_name: str
    boxes: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat], ...]


@dataclass(frozen=True, eq=False)
class RegionSet:
    """One feature set of an image: regions (R, F) as stored, and their boxes (R, 4)."""

    regions: Array
    boxes: Array


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its features and captions; None for what its source does not have.

    Args:
        key: unique in a folder of shards, see KEY_PATTERN.
        image_id: as in the data set.
        width: of the image in pixels, 0 if unknown.
        height: the same.
        split: train, val or test.
        captions: texts.
        tokens: the words of each caption.
        regions: (R, F) float16, or int8 for `FeatureSpec.dequantize`.
        boxes: (R, 4) float32, x1 y1 x2 y2 in [0, 1].
        classes: (R, T) of CLASS_DTYPE, likeliest first.
        concepts: (word, score) pairs, highest score first.
        grounding: phrases with their boxes.
        picture: the bytes of a PNG file.
        relations: (E, 3) int16, numbers of two regions and of the predicate between them.
        further: the further feature sets that are read, None for one that the image lacks.
    """

    key: str
    image_id: ImageId
    width: int
    height: int
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    regions: Array
    boxes: Array
    classes: Array | None = None
    concepts: tuple[tuple[str, float], ...] | None = None
    grounding: tuple[Phrase, ...] | None = None
    picture: bytes | None = None
    relations: Array | None = None
    further: tuple[RegionSet | None, ...] = ()
