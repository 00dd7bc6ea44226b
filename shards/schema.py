"""What a sample holds, and how its members are encoded.

Legend: R regions, F feature width, T likeliest classes of a region. A sample is one image with all
its captions; shards/README.md is the normative text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from capdist.errors import CapdistError
from shards.json_types import Count, ImageId, T, WordScores, parse_json
from shards.npy import decode_npy, encode_npy

SCHEMA_VERSION = 2

#: A sample's key: without '.', '/', control characters (terminals obey them) and surrogates.
KEY_PATTERN = re.compile(r"[^./\x00-\x1f\x7f-\x9f\ud800-\udfff]+")

#: One entry of ``classes.npy``: a class and its probability.
CLASS_DTYPE = np.dtype([("id", "<i2"), ("prob", "<f2")])

#: Members that every sample has; the others are optional.
REQUIRED_MEMBERS = ("json", "regions.npy", "boxes.npy")
MEMBERS = (*REQUIRED_MEMBERS, "classes.npy", "concepts.json", "grounding.json", "png")

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


class SampleJson(TypedDict):
    """The member ``json``; fields as in `Sample`."""

    image_id: ImageId
    width: Count
    height: Count
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]


_SAMPLE_JSON, _CONCEPTS_JSON = TypeAdapter(SampleJson), TypeAdapter(WordScores)
_GROUNDING_JSON = TypeAdapter(tuple[Phrase, ...])


def encode(sample: Sample) -> dict[str, bytes]:
    """The bytes of a sample's members by suffix, in their order in a tar.

    Raises:
        ShardError: if the sample is not valid, see `check_sample`.
    """
    check_sample(sample)
    description = {
        "image_id": sample.image_id,
        "width": sample.width,
        "height": sample.height,
        "split": sample.split,
        "captions": sample.captions,
        "tokens": sample.tokens,
    }
    members = {
        "json": _to_json(description),
        "regions.npy": encode_npy(sample.regions),
        "boxes.npy": encode_npy(sample.boxes),
    }
    if sample.classes is not None:
        members["classes.npy"] = encode_npy(sample.classes)
    if sample.concepts is not None:
        members["concepts.json"] = _to_json(sample.concepts)
    if sample.grounding is not None:
        members["grounding.json"] = _to_json([vars(phrase) for phrase in sample.grounding])
    if sample.picture is not None:
        members["png"] = sample.picture
    return members


def decode(key: str, members: Mapping[str, bytes]) -> Sample:
    """Inverse of `encode`.

    Raises:
        ShardError: naming a required member that is missing, or a member that is not valid.
    """
    for suffix in REQUIRED_MEMBERS:
        if suffix not in members:
            raise ShardError(
                f"sample {key}: member {key}.{suffix} is missing; build the shard again"
            )
    concepts = grounding = None
    if "concepts.json" in members:
        concepts = _from_json(_CONCEPTS_JSON, key, "concepts.json", members["concepts.json"])
    if "grounding.json" in members:
        grounding = decode_grounding(key, members["grounding.json"])
    sample = Sample(
        key=key,
        **decode_sample_json(key, members["json"]),
        regions=_from_npy(key, "regions.npy", members["regions.npy"]),
        boxes=_from_npy(key, "boxes.npy", members["boxes.npy"]),
        classes=_from_npy(key, "classes.npy", members["classes.npy"])
        if "classes.npy" in members
        else None,
        concepts=concepts,
        grounding=grounding,
        picture=members.get("png"),
    )
    check_sample(sample)
    return sample


def decode_sample_json(key: str, data: bytes) -> SampleJson:
    """The content of the member ``json``.

    Raises:
        ShardError: if it is not valid.
    """
    return _from_json(_SAMPLE_JSON, key, "json", data)


def decode_grounding(key: str, data: bytes) -> tuple[Phrase, ...]:
    """The phrases of the member ``grounding.json``.

    Raises:
        ShardError: if it is not valid.
    """
    return _from_json(_GROUNDING_JSON, key, "grounding.json", data)


def check_sample(sample: Sample) -> None:
    """Check shapes, dtypes, phrases and key of a sample.

    Raises:
        ShardError: naming the sample and the member, what was found and what was expected.
    """
    count = len(sample.regions) if sample.regions.ndim else None
    dtype = "int8" if sample.regions.dtype == np.int8 else "float16"
    _check_array(sample, "regions.npy", sample.regions, dtype, (count, None))
    _check_array(sample, "boxes.npy", sample.boxes, "float32", (count, 4))
    if count == 0:
        raise ShardError(f"sample {sample.key}: no regions, expected at least one")
    if sample.classes is not None:
        _check_array(sample, "classes.npy", sample.classes, str(CLASS_DTYPE), (count, None))
    if len(sample.captions) != len(sample.tokens):
        raise ShardError(
            f"sample {sample.key}: {len(sample.captions)} captions but {len(sample.tokens)} "
            "token lists, expected one list per caption"
        )
    for phrase in sample.grounding or ():
        _check_phrase(sample, phrase)
    if not KEY_PATTERN.fullmatch(sample.key):
        raise ShardError(
            f"sample key {sample.key!r}: expected one that is not empty and has no '.', no '/' and "
            "no control character"
        )


def _check_phrase(sample: Sample, phrase: Phrase) -> None:
    exists = 0 <= phrase.caption < len(sample.tokens)
    length = len(sample.tokens[phrase.caption]) if exists else 0
    if not 0 <= phrase.start <= phrase.head < phrase.end <= length:
        raise ShardError(
            f"sample {sample.key}: grounding.json: tokens {phrase.start} to {phrase.end} with head "
            f"{phrase.head} are not a phrase of caption {phrase.caption}, which has {length} tokens"
        )


def _check_array(
    sample: Sample, member: str, array: Array, dtype: str, shape: tuple[int | None, ...]
) -> None:
    shape_matches = array.ndim == len(shape) and all(
        expected in (None, actual) for expected, actual in zip(shape, array.shape, strict=True)
    )
    if not shape_matches or str(array.dtype) != dtype:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShardError(
            f"sample {sample.key}: {member} is {array.dtype} {array.shape}, "
            f"expected {dtype} ({sizes})"
        )


def _from_npy(key: str, suffix: str, data: bytes) -> Array:
    try:
        return decode_npy(data)
    except ValueError as error:
        raise ShardError(f"sample {key}: member {key}.{suffix} is {error}") from error


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _from_json(adapter: TypeAdapter[T], key: str, suffix: str, data: bytes) -> T:
    try:
        return parse_json(adapter, data)
    except ValueError as error:
        raise ShardError(f"sample {key}: member {key}.{suffix} is {error}") from error
