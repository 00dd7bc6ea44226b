"""The only copy of regions: from where they are read into the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np

from shards.schema import Array


def copy_regions(
    target: Array, images: Sequence[Sequence[Array]], addresses: Sequence[Sequence[int]]
) -> None:
    """Copy each image's arrays, one after the other, into (B, longest, F), padded with zeros.

    Compiled if numba is installed, else `copy_regions_reference`.

    Args:
        target: (B, longest, F).
        images: arrays (R, F) of every image, of the target's type; as many for each.
        addresses: the arrays' memory addresses, 0 where unknown.

    Raises:
        ValueError: if an array has another type or width than the target, an image has more regions
            than it has room for, or an array is not contiguous. Nothing is written then.
    """
    _check(images, target)
    compiled = _compiled()
    if compiled is None:
        copy_regions_reference(target, images)
        return
    arrays = list(chain.from_iterable(images))
    known = chain.from_iterable(addresses)
    sources = np.array([at or address(a) for at, a in zip(known, arrays, strict=True)], np.uintp)
    sizes = np.array([array.nbytes for array in arrays], np.uintp).reshape(len(images), -1)
    rows = target.reshape(len(target), -1).view(np.uint8)
    compiled(rows, np.uintp(address(target)), sources, sizes)


def address(array: Array) -> int:
    """The memory address of a contiguous array."""
    return array.__array_interface__["data"][0]


def _check(images: Sequence[Sequence[Array]], target: Array) -> None:
    """Refuse what the compiled copy, which knows addresses only, would write out of bounds."""
    (_, longest, width), dtype = target.shape, target.dtype
    for arrays in images:
        room = longest
        for array in arrays:
            if array.dtype != dtype:
                raise ValueError(f"regions of {array.dtype}, expected {dtype}, as the batch has")
            if array.shape[1:] != (width,) or len(array) > room:
                raise ValueError(
                    f"regions of shape {array.shape}, expected at most ({room}, {width})"
                )
            if not array.flags.c_contiguous:
                raise ValueError(f"array with strides {array.strides}: expected a contiguous one")
            room -= len(array)


def copy_regions_reference(target: Array, images: Sequence[Sequence[Array]]) -> None:
    """The reference implementation of `copy_regions`, in numpy."""
    for row, arrays in zip(target, images, strict=True):
        start = 0
        for array in arrays:
            row[start : start + len(array)] = array
            start += len(array)
        row[start:] = 0


@cache
def _compiled() -> Callable[..., Any] | None:
    if find_spec("numba") is None:
        return None
    from capdist.data.nontemporal_copy import copy_rows

    return copy_rows
