"""What a member of a sample is: how it is stored, checked, packed and batched.

Legend: B images, S captions per image, L length, R regions, A concepts, T classes of a region, G
grounded boxes. Readers keep a sample **packed**: each member's numbers as bytes, and their sizes in
one header. A batch joins the bytes of its samples at once; an array per member and sample would be
allocations that the regions of an epoch evict from the processor's caches.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from shards.sample import Array, Sample, ShardError

#: Word ids, and numbers of captions.
ID = np.dtype(np.int32)
#: The size in a header of what a sample lacks.
MISSING = -1
Sizes = tuple[int, ...]


class Encoding(Protocol):
    """The numbers of words and classes for one model."""

    @property
    def pad(self) -> int:
        """Of places without a word."""

    @property
    def classes(self) -> int:
        """Class names of the detector; 0 leaves the regions' classes out."""

    def caption(self, words: Sequence[str]) -> list[int]: ...

    def concepts(self, words: Iterable[str]) -> list[int]:
        """Of the first words that the model knows."""

    def class_id(self, name: str) -> int:
        """-1 for a class that the detector does not have."""


@dataclass(frozen=True)
class PackedBatch:
    """One member of B samples.

    Args:
        keys: of the samples.
        pieces: its bytes in each.
        headers: (B,), with the sizes of all members by name.
        region_mask: (B, R), of the regions of all feature sets that are read.
        own_mask: (B, R), of those of the first, which classes and relations are of.
        encoding: of the model.
    """

    keys: Sequence[str]
    pieces: Sequence[bytes]
    headers: Array
    region_mask: Array
    own_mask: Array
    encoding: Encoding

    def sizes(self, name: str) -> Array:
        return np.asarray(self.headers[name])

    def refuse_some(self, name: str, suffix: str) -> None:
        """Refuse a batch in which only some samples have a member.

        Raises:
            SampleError: naming the first that lacks it.
        """
        lacking = self.sizes(name) == MISSING
        if lacking.any() and not lacking.all():
            row = int(lacking.argmax())
            raise SampleError(
                row,
                f"sample {self.keys[row]}: {suffix} is missing, but other samples of the batch "
                "have it; rebuild the shards with it for all samples or for none",
            )

    def padded(self, dtype: np.dtype[Any], mask: Array, pad: int = 0) -> Array:
        """As `padded`, of this member's bytes."""
        return padded(self.pieces, dtype, mask, pad)


class SampleError(ShardError):
    """A sample that can't be in a batch; ``row`` is its index there."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class Member(ABC):
    """One file of a sample in a tar, ``<key>.<suffix>``; by default it is in no batch.

    ``required``: every sample has it. ``on_request``: read only where a model or a loss asks for
    it. ``sizes`` are the names of its numbers in a sample's header. ``fields`` are those of
    `capdist.batch.Batch` that it fills, and what their second axis counts: "regions", "concepts",
    or None for what belongs to captions, or has no second axis.
    """

    suffix: ClassVar[str]
    required: ClassVar[bool] = False
    on_request: ClassVar[bool] = False
    sizes: ClassVar[tuple[str, ...]] = ()
    fields: ClassVar[tuple[tuple[str, str | None], ...]] = ()

    @abstractmethod
    def encode(self, sample: Sample) -> bytes | None:
        """Its bytes in a tar; None if the sample lacks it."""

    @abstractmethod
    def decode(self, data: bytes) -> dict[str, Any]:
        """The fields of `Sample` that it holds.

        Raises:
            ValueError: if the bytes are not valid.
        """

    @abstractmethod
    def check(self, sample: Sample) -> None:
        """Compare it with the rest of the sample.

        Raises:
            ShardError: naming sample and member, what was found and what was expected.
        """

    def pack(self, sample: Sample, encoding: Encoding) -> tuple[bytes, Sizes]:
        """Its numbers as bytes, and their sizes, `MISSING` for what the sample lacks."""
        return b"", ()

    def collate(self, packed: PackedBatch) -> dict[str, Array]:
        """The fields of a batch, padded.

        Raises:
            SampleError: naming a sample that doesn't belong with the others.
        """
        return {}

    def empty(self, pad: int) -> dict[str, Array]:
        """The fields of a batch of one image that lacks it; ``pad`` as `Encoding.pad`."""
        return {}


def mask_of(sizes: Array, least: int = 0) -> Array:
    """(B, N) True at the first ``sizes[b]`` places; N is the largest size, ``least`` or more."""
    return np.arange(max(least, int(sizes.max()))) < sizes[:, None]


def padded(pieces: Iterable[bytes], dtype: np.dtype[Any], mask: Array, pad: int = 0) -> Array:
    """An array shaped as ``mask``: the pieces' numbers where it is True, ``pad`` elsewhere."""
    numbers = np.frombuffer(bytearray().join(pieces), dtype)
    if numbers.size == mask.size:
        return numbers.reshape(mask.shape)
    filled = np.full(mask.shape, pad, dtype)
    filled[mask] = numbers
    return filled


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> npt.NDArray[np.int32]:
    """(N, L) of N rows of ids, L the length of the longest."""
    padded_rows = np.full((len(rows), max(map(len, rows), default=0)), pad, ID)
    for slot, row in zip(padded_rows, rows, strict=True):
        slot[: len(row)] = row
    return padded_rows


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def check_array(
    sample: Sample, member: str, array: Array, dtype: str, shape: tuple[int | None, ...]
) -> None:
    """Check dtype and shape; None stands for any size.

    Raises:
        ShardError: naming the sample and the member.
    """
    shape_matches = array.ndim == len(shape) and all(
        expected in (None, actual) for expected, actual in zip(shape, array.shape, strict=True)
    )
    if not shape_matches or str(array.dtype) != dtype:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShardError(
            f"sample {sample.key}: {member} is {array.dtype} {array.shape}, "
            f"expected {dtype} ({sizes})"
        )


def region_count(sample: Sample) -> int | None:
    """R; None if the regions are no array of rows."""
    return len(sample.regions) if sample.regions.ndim else None
