"""What one sample is, and how its members are written.

Legend: R regions, F feature width, T likeliest classes kept per region. A sample is one image
with all its captions; shards/README.md is the normative text.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from capdist.errors import CapdistError
from shards.json_types import Count, Id, Pairs, T, read_as

SCHEMA_VERSION = 2

#: A sample's key: no folder, no ending, nothing that a terminal would obey.
KEY = re.compile(r"[^./\x00-\x1f\x7f-\x9f\ud800-\udfff]+")

#: One entry of ``classes.npy``: a class and its probability.
CLASS_DTYPE = np.dtype([("id", "<i2"), ("prob", "<f2")])

#: Members every sample has; the others are optional.
REQUIRED_MEMBERS = ("json", "regions.npy", "boxes.npy")
MEMBERS = (*REQUIRED_MEMBERS, "classes.npy", "concepts.json", "grounding.json", "png")

Array = npt.NDArray[Any]


class ShardError(CapdistError):
    """Bad shards or bad input: names the file, what was expected, what to do."""


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption and where it lies in the picture.

    ``start`` and ``end`` are token positions, end exclusive; ``head`` is the position of the
    word that names the object; ``boxes`` are x1, y1, x2, y2 in 0..1.
    """

    caption: int
    start: int
    end: int
    head: int
    class_name: str
    boxes: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its features, captions and whatever else its source knows.

    ``regions`` (R, F) float16, or int8 that `FeatureSpec.widen` reads; ``boxes`` (R, 4)
    float32, x1 y1 x2 y2 in 0..1; ``classes`` (R, T) of CLASS_DTYPE, likeliest first; ``concepts``
    (word, score) pairs, highest score first; ``tokens`` runs parallel to ``captions``;
    ``picture`` is a PNG file's bytes.
    """

    key: str
    image_id: int
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


class Described(TypedDict):
    """The member ``json``, as in `Sample`."""

    image_id: Id
    width: Count
    height: Count
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]


_DESCRIBED, _PAIRS = TypeAdapter(Described), TypeAdapter(Pairs)
_GROUNDING = TypeAdapter(tuple[Phrase, ...])


def encode(sample: Sample) -> dict[str, bytes]:
    """The members of a sample, suffix to bytes, in the order in which a tar holds them.

    Raises:
        ShardError: if an array's shape or type is not the schema's.
    """
    check(sample)
    annotation = {
        "image_id": sample.image_id,
        "width": sample.width,
        "height": sample.height,
        "split": sample.split,
        "captions": sample.captions,
        "tokens": sample.tokens,
    }
    members = {
        "json": _to_json(annotation),
        "regions.npy": _to_npy(sample.regions),
        "boxes.npy": _to_npy(sample.boxes),
    }
    if sample.classes is not None:
        members["classes.npy"] = _to_npy(sample.classes)
    if sample.concepts is not None:
        members["concepts.json"] = _to_json(sample.concepts)
    if sample.grounding is not None:
        members["grounding.json"] = _to_json([vars(phrase) for phrase in sample.grounding])
    if sample.picture is not None:
        members["png"] = sample.picture
    return members


def decode(key: str, members: Mapping[str, bytes]) -> Sample:
    """The sample that `encode` wrote.

    Raises:
        ShardError: if a required member is missing or does not parse; the message names it.
    """
    for suffix in REQUIRED_MEMBERS:
        if suffix not in members:
            raise ShardError(
                f"sample {key}: member {key}.{suffix} is missing; build the shard again"
            )
    concepts = grounding = None
    if "concepts.json" in members:
        concepts = _from_json(_PAIRS, key, "concepts.json", members["concepts.json"])
    if "grounding.json" in members:
        grounding = decode_grounding(key, members["grounding.json"])
    sample = Sample(
        key=key,
        **decode_described(key, members["json"]),
        regions=_from_npy(key, "regions.npy", members["regions.npy"]),
        boxes=_from_npy(key, "boxes.npy", members["boxes.npy"]),
        classes=_from_npy(key, "classes.npy", members["classes.npy"])
        if "classes.npy" in members
        else None,
        concepts=concepts,
        grounding=grounding,
        picture=members.get("png"),
    )
    check(sample)
    return sample


def decode_described(key: str, data: bytes) -> Described:
    """The member ``json``.

    Raises:
        ShardError: if it is not in the format.
    """
    return _from_json(_DESCRIBED, key, "json", data)


def decode_grounding(key: str, data: bytes) -> tuple[Phrase, ...]:
    """The phrases of a ``grounding.json`` member."""
    return _from_json(_GROUNDING, key, "grounding.json", data)


def check(sample: Sample) -> None:
    """Refuse a sample that the format does not allow.

    Raises:
        ShardError: naming the sample and the member, what was expected and what was found.
    """
    count = len(sample.regions) if sample.regions.ndim else None
    stored = "int8" if sample.regions.dtype == np.int8 else "float16"
    _expect(sample, "regions.npy", sample.regions, stored, (count, None))
    _expect(sample, "boxes.npy", sample.boxes, "float32", (count, 4))
    if count == 0:
        raise ShardError(f"sample {sample.key}: no regions; an image needs at least one")
    if sample.classes is not None:
        _expect(sample, "classes.npy", sample.classes, str(CLASS_DTYPE), (count, None))
    if len(sample.captions) != len(sample.tokens):
        raise ShardError(
            f"sample {sample.key}: {len(sample.captions)} captions but {len(sample.tokens)} "
            "token lists; they must run in parallel"
        )
    for phrase in sample.grounding or ():
        _check_phrase(sample, phrase)
    if not KEY.fullmatch(sample.key):
        raise ShardError(
            f"sample key {sample.key!r}: a key is not empty and has no '.', no '/' and no control "
            "character"
        )


def _check_phrase(sample: Sample, phrase: Phrase) -> None:
    known = 0 <= phrase.caption < len(sample.tokens)
    length = len(sample.tokens[phrase.caption]) if known else 0
    if not 0 <= phrase.start <= phrase.head < phrase.end <= length:
        raise ShardError(
            f"sample {sample.key}: grounding.json: tokens {phrase.start} to {phrase.end} with head "
            f"{phrase.head} are no phrase of caption {phrase.caption}, which has {length} tokens"
        )


def _expect(
    sample: Sample, member: str, array: Array, dtype: str, shape: tuple[int | None, ...]
) -> None:
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or str(array.dtype) != dtype:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ShardError(
            f"sample {sample.key}: {member} is {array.dtype} {array.shape}, "
            f"expected {dtype} ({wanted})"
        )


def _to_npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _from_npy(key: str, suffix: str, data: bytes) -> Array:
    """The array of a npy file, a read-only view of its bytes."""
    try:
        start = 10 + int.from_bytes(data[8:10], "little")
        shape, dtype = _npy_header(data[:start])
        return np.frombuffer(data, dtype, offset=start).reshape(shape)
    except Exception as error:  # Python's own parser, which reads headers, has many
        raise ShardError(
            f"sample {key}: member {key}.{suffix} is not a npy file ({error})"
        ) from error


# The members of a shard share a few headers, and parsing one costs more than reading an array.
@lru_cache(maxsize=1024)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not of npy version 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran_order or dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("in Fortran order, of Python objects, or of a negative size")
    return shape, dtype


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _from_json(form: TypeAdapter[T], key: str, suffix: str, data: bytes) -> T:
    try:
        return read_as(form, data)
    except ValueError as error:
        raise ShardError(f"sample {key}: member {key}.{suffix} is {error}") from error
