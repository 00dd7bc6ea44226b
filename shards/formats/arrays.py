"""One image's features from named arrays, for the formats that keep them so.

Legend: R regions, F feature width, C classes with the background, T classes kept. Names, where an
archive has several arrays; those in brackets are other writers' for the same:

=====================================  =====================================================
``features`` [``feat``, ``z``, ``x``]  (R, F), or (rows, columns, F) of a grid
``boxes`` [``bbox``]                   (R, 4) x1 y1 x2 y2 in pixels; optional
``cls_prob``                           (R, C) probabilities, column 0 the background; optional
``image_w``, ``image_h``               pixels; optional
``num_boxes`` [``num_bbox``]           how many regions are meant, where more rows pad them
=====================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from shards.formats import DIGITS, RegionFeatures
from shards.schema import CLASS_DTYPE, Array, ShardError

_FEATURES = ("features", "feat", "z", "x")
_CLASSES_KEPT = 5

#: Bytes that the arrays of one image take at most: a small archive may hold any number of zeros.
MOST = 2**30


def read_archive(where: str, file: Path | IO[bytes]) -> RegionFeatures:
    """An image's features from a npy file, or a npz file of the arrays above or of a single one.

    Raises:
        ShardError: naming the place, ``where``, if it is none or its arrays do not fit.
    """
    with whole(where):
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return from_arrays(where, {"features": found})
        with found as archive:
            if (size := sum(info.file_size for info in archive.zip.infolist())) > MOST:
                raise ShardError(f"{where}: {size} bytes, expected one image's, {MOST} at most")
            single = {"features": archive[archive.files[0]]} if len(archive.files) == 1 else archive
            return from_arrays(where, single)


@contextmanager
def whole(where: str) -> Iterator[None]:
    """Turns what reading a damaged npy or npz file raises into a ShardError that names it."""
    try:
        yield
    except ShardError:
        raise
    except Exception as error:  # zipfile, numpy and Python's parser of headers have many
        raise ShardError(
            f"{where}: not a whole npy or npz file ({error}); copy it again"
        ) from error


def from_arrays(where: str, arrays: Mapping[str, Array]) -> RegionFeatures:
    """An image's features from arrays by name.

    Raises:
        ShardError: naming the place, ``where``, if there are no features or arrays do not fit.
    """
    name = next((name for name in _FEATURES if name in arrays), None)
    if name is None:
        raise ShardError(f"{where}: none of the arrays {', '.join(_FEATURES)}")
    regions, boxes = arrays[name], _optional(arrays, "boxes", "bbox")
    probabilities = _optional(arrays, "cls_prob")
    for array in (regions, boxes, probabilities):
        if array is not None and array.dtype.kind not in "biuf":
            raise ShardError(f"{where}: an array of {array.dtype}, expected numbers")
    pixels = boxes is not None
    if regions.ndim == 3:
        boxes = grid(*regions.shape[:2]) if boxes is None else boxes
        regions = regions.reshape(-1, regions.shape[-1])
    count = _optional(arrays, "num_boxes", "num_bbox")
    kept = slice(None if count is None else _number(where, count, len(regions)))
    return RegionFeatures(
        regions[kept],
        None if boxes is None else boxes[kept],
        None if probabilities is None else likeliest(probabilities[kept]),
        width=_size(arrays, "image_w"),
        height=_size(arrays, "image_h"),
        pixels=pixels,
    )


def grid(rows: int, columns: int) -> Array:
    """Boxes (rows × columns, 4), shares, of the cells of a grid over the image, row by row."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    cells = np.stack([column, row, column + 1, row + 1], axis=1)
    return (cells / [columns, rows, columns, rows]).astype(np.float32)


def likeliest(probabilities: Array) -> Array:
    """Classes (R, T) of CLASS_DTYPE from probabilities (R, C); class 0 is the first in column 1."""
    foreground = probabilities[:, 1:]
    order = np.argsort(-foreground, axis=1, kind="stable")[:, :_CLASSES_KEPT]
    classes = np.empty(order.shape, CLASS_DTYPE)
    classes["id"] = order
    classes["prob"] = np.take_along_axis(foreground, order, axis=1)
    return classes


def image_id(name: str) -> int | None:
    """The image id in a name: digits, or those behind the last ``_`` as in COCO's file names."""
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() and len(digits) <= DIGITS else None


def _optional(arrays: Mapping[str, Array], *names: str) -> Array | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _number(where: str, count: Array, rows: int) -> int:
    number = int(count.reshape(-1)[0])
    if not 0 < number <= rows:
        raise ShardError(f"{where}: num_boxes is {number}, but there are {rows} regions")
    return number


def _size(arrays: Mapping[str, Array], name: str) -> int:
    return int(arrays[name].reshape(-1)[0]) if name in arrays else 0
