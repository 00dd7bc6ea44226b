"""Captions as token ids in flat arrays, for compiled code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capdist.metrics.coco import ScoreError

Int32s = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Image id to the token ids of its captions.
ReferenceIds = Mapping[int, Sequence[Sequence[int]]]

#: Token ids are less than this.
ID_LIMIT = 2**31


class Captions(NamedTuple):
    """C captions; caption c is ``tokens[starts[c] : starts[c + 1]]``.

    ``tokens`` (T,) int32 ids, ``starts`` (C + 1,) int64.
    """

    tokens: Int32s
    starts: Ints

    @classmethod
    def of(cls, captions: Sequence[Sequence[int]], images: Sequence[int] | Ints) -> Captions:
        """Captions from lists of ids.

        Args:
            captions: C lists, which may be empty.
            images: (C,) ids of their images, for the error message.

        Raises:
            ScoreError: if a token id is negative or not less than `ID_LIMIT`.
        """
        starts = _starts(captions)
        try:
            tokens = np.fromiter(chain.from_iterable(captions), np.int64, int(starts[-1]))
        except OverflowError:
            raise ScoreError(
                f"a token id has 64 bits or more; expected 0 to {ID_LIMIT - 1}"
            ) from None
        wrong = np.flatnonzero((tokens < 0) | (tokens >= ID_LIMIT))
        if len(wrong):
            caption = np.searchsorted(starts, wrong[0], "right") - 1
            raise ScoreError(
                f"image {images[caption]}: token id {tokens[wrong[0]]} in a caption; "
                f"expected 0 to {ID_LIMIT - 1}"
            )
        return cls(tokens.astype(np.int32), starts)

    @property
    def lengths(self) -> Ints:
        """(C,) number of tokens."""
        return np.diff(self.starts)


class References(NamedTuple):
    """The reference captions of M images, ``first[m]`` to ``first[m + 1] - 1`` those of image m.

    ``images`` (M,) int64 ids in rising order, ``first`` (M + 1,) int64.
    """

    captions: Captions
    images: Ints
    first: Ints

    @classmethod
    def of(cls, references: ReferenceIds | References) -> References:
        """References from lists of ids; `References` are returned unchanged.

        Raises:
            ScoreError: if there is no image, an image has no caption, or a token id is outside
                0..2**31 - 1.
        """
        if isinstance(references, References):
            return references
        if not references:
            raise ScoreError("no image has references; expected at least one")
        images = np.array(sorted(references), np.int64)
        groups = [references[image] for image in images.tolist()]
        first = _starts(groups)
        if not np.diff(first).all():
            empty = images[np.diff(first).argmin()]
            raise ScoreError(f"image {empty} has no reference caption; expected at least one")
        captions = list(chain.from_iterable(groups))
        return cls(Captions.of(captions, np.repeat(images, np.diff(first))), images, first)

    @classmethod
    def of_packed(cls, packed: Ints) -> References:
        """References from rows (M, 1 + L): image id, token ids, then -1.

        Raises:
            ScoreError: if the array has another shape or type, or a token id is too large.
        """
        if packed.ndim != 2 or not packed.shape[1] or packed.dtype != np.int64:
            raise ScoreError(
                f"packed references are {packed.dtype} {packed.shape}; expected int64 (M, 1 + L), "
                "image id first"
            )
        rows = packed[np.argsort(packed[:, 0], kind="stable")]
        images, first = np.unique(rows[:, 0], return_index=True)
        tokens, written = rows[:, 1:], rows[:, 1:] >= 0
        if (largest := tokens.max(initial=0)) >= ID_LIMIT:
            raise ScoreError(f"a reference has token id {largest}; expected 0 to {ID_LIMIT - 1}")
        starts = np.append(0, written.sum(1).cumsum())
        captions = Captions(tokens[written].astype(np.int32), starts)
        return cls(captions, images, np.append(first, len(rows)))

    def indices(self, image_ids: Sequence[int] | Ints) -> Ints:
        """(N,) indices of images into ``images``.

        Raises:
            ScoreError: if an image has no references here.
        """
        wanted = np.asarray(image_ids, np.int64)
        unknown = wanted[~np.isin(wanted, self.images)]
        if len(unknown):
            raise ScoreError(
                f"image {unknown[0]} has no references among the {len(self.images)} images that "
                "have some; give the references of all images to score"
            )
        return np.searchsorted(self.images, wanted)


def _starts(parts: Sequence[Sequence[object]]) -> Ints:
    """Where each sequence begins in their concatenation, and where the last one ends."""
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)
