"""The only copy of regions: from where they are read into the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from shards.schema import Array


def copy_regions(target: Array, arrays: Sequence[Array], addresses: Sequence[int]) -> None:
    """Copy each image's (R, F) regions into (B, longest, F) of the same type, padded with zeros.

    Compiled if numba is installed, else `copy_regions_reference`.

    Args:
        target: (B, longest, F).
        arrays: (R, F) of every image.
        addresses: the arrays' memory addresses, 0 where unknown.

    Raises:
        ValueError: if an array has another type or width than the target, more regions than it has
            room for, or is not contiguous. Nothing is written then.
    """
    for array in arrays:
        _check(array, target)
    compiled = _compiled()
    if compiled is None:
        copy_regions_reference(target, arrays)
        return
    rows = target.reshape(len(target), -1).view(np.uint8)
    targets = address(target) + np.arange(len(rows), dtype=np.uintp) * np.uintp(rows.shape[1])
    pairs = zip(addresses, arrays, strict=True)
    sources = np.array([known or address(array) for known, array in pairs], np.uintp)
    compiled(rows, targets, sources, np.array([array.nbytes for array in arrays], np.uintp))


def address(array: Array) -> int:
    """The memory address of a contiguous array."""
    return array.__array_interface__["data"][0]


def _check(array: Array, target: Array) -> None:
    """Refuse what the compiled copy, which knows addresses only, would write out of bounds."""
    longest, width = target.shape[1:]
    if array.dtype != target.dtype:
        raise ValueError(f"regions of {array.dtype}, expected {target.dtype}, as the batch has")
    if array.shape[1:] != (width,) or len(array) > longest:
        raise ValueError(f"regions of shape {array.shape}, expected at most ({longest}, {width})")
    if not array.flags.c_contiguous:
        raise ValueError(f"array with strides {array.strides}: expected a contiguous one")


def copy_regions_reference(target: Array, arrays: Sequence[Array]) -> None:
    """The reference implementation of `copy_regions`, in numpy."""
    for row, array in zip(target, arrays, strict=True):
        row[: len(array)] = array
        row[len(array) :] = 0


@cache
def _compiled() -> Callable[..., Any] | None:
    if find_spec("numba") is None:
        return None
    from capdist.data.nontemporal_copy import copy_rows

    return copy_rows
