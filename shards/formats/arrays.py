"""One image's features from named arrays: what several formats have in common.

Legend: R regions, F feature width, C classes with the background. Names of the arrays in an
archive; those in brackets are other writers' names of the same:

=====================================  =====================================================
``features`` [``feat``, ``z``, ``x``]  (R, F), or (rows, columns, F) of a grid; or the layout
                                       that `layout.arrange` is given
``boxes`` [``bbox``]                   (R, 4) x1 y1 x2 y2 in pixels; optional
``cls_prob``                           (R, C) probabilities, column 0 the background; optional
``image_w``, ``image_h``               pixels; optional
``num_boxes`` [``num_bbox``]           number of regions; further rows are padding; optional
``classes``                            (R, T) of CLASS_DTYPE instead of ``cls_prob``; optional
=====================================  =====================================================
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from shards.formats import RegionFeatures
from shards.schema import CLASS_DTYPE, Array, ShardError

_FEATURE_NAMES = ("features", "feat", "z", "x")
_NAMES_SHOWN = 5

#: Limit of the arrays of one image, in bytes: a small archive can expand to any size.
MAX_IMAGE_BYTES = 2**30


def read_archive(where: str, file: Path | IO[bytes]) -> RegionFeatures:
    """An image's features from an npy file, or an npz file of the arrays above or of a single one.

    Args:
        where: prefix of messages.
        file: path or open file.

    Raises:
        ShardError: if it is not such a file or the shapes do not match.
    """
    with wrap_read_errors(where):
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return from_arrays(where, {"features": loaded})
        with loaded as archive:
            if (size := sum(info.file_size for info in archive.zip.infolist())) > MAX_IMAGE_BYTES:
                raise ShardError(
                    f"{where}: {size} bytes, expected one image's arrays of at most "
                    f"{MAX_IMAGE_BYTES} bytes"
                )
            single = {"features": archive[archive.files[0]]} if len(archive.files) == 1 else archive
            return from_arrays(where, single)


@contextmanager
def wrap_read_errors(where: str) -> Iterator[None]:
    """Turn any error of reading a damaged npy or npz file into a ShardError that names it."""
    try:
        yield
    except ShardError:
        raise
    except Exception as error:  # zipfile, numpy and Python's parser raise many kinds
        raise ShardError(
            f"{where}: damaged, or not an npy or npz file ({error}); copy it again"
        ) from error


def from_arrays(where: str, arrays: Mapping[str, Array]) -> RegionFeatures:
    """An image's features from arrays by name.

    Args:
        where: prefix of messages.
        arrays: named as above.

    Raises:
        ShardError: if there are no features or the shapes do not match.
    """
    name = next((name for name in _FEATURE_NAMES if name in arrays), None)
    if name is None:
        seen = ", ".join(map(repr, list(arrays)[:_NAMES_SHOWN])) or "none"
        raise ShardError(
            f"{where}: no features, expected an array {' or '.join(_FEATURE_NAMES)}, got {seen}"
        )
    regions, boxes = arrays[name], _first_of(arrays, "boxes", "bbox")
    probabilities = _first_of(arrays, "cls_prob")
    for array in (regions, boxes, probabilities):
        if array is not None and array.dtype.kind not in "biuf":
            raise ShardError(f"{where}: an array of dtype {array.dtype}, expected numbers")
    count = _first_of(arrays, "num_boxes", "num_bbox")
    return RegionFeatures(
        regions,
        boxes,
        _classes(where, arrays),
        width=_pixels(arrays, "image_w"),
        height=_pixels(arrays, "image_h"),
        pixels=boxes is not None,
        arranged=False,
        count=None if count is None else int(count.reshape(-1)[0]),
        class_count=0 if probabilities is None else probabilities.shape[1] - 1,
    )


def _classes(where: str, arrays: Mapping[str, Array]) -> Array | None:
    """The classes (R, T) of the regions; None if there are none."""
    if "cls_prob" in arrays:
        return ranked_classes(arrays["cls_prob"])
    if "classes" not in arrays:
        return None
    classes = arrays["classes"]
    if classes.dtype != CLASS_DTYPE or classes.ndim != 2:
        raise ShardError(
            f"{where}: classes are {classes.dtype} {classes.shape}, expected (R, T) of "
            f"{CLASS_DTYPE}"
        )
    return classes


def ranked_classes(probabilities: Array) -> Array:
    """All classes (R, C) of CLASS_DTYPE, likeliest first, from probabilities (R, C).

    Column 0 is the background, class -1; class n is column n + 1.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    classes = np.empty(order.shape, CLASS_DTYPE)
    classes["id"] = order - 1
    classes["prob"] = np.take_along_axis(probabilities, order, axis=1)
    return classes


def archive_names(path: Path) -> list[str] | None:
    """The names of the arrays of an npz file; None if it is not one, or damaged."""
    if not path.is_file() or path.suffix != ".npz":
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return None


def _first_of(arrays: Mapping[str, Array], *names: str) -> Array | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _pixels(arrays: Mapping[str, Array], name: str) -> int:
    return int(arrays[name].reshape(-1)[0]) if name in arrays else 0
