"""The one copy of regions: from where they are read into a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from shards.schema import Array


def gather(target: Array, arrays: Sequence[Array], addresses: Sequence[int]) -> None:
    """Regions (R, F) of every image into (B, longest, F) of the same type, zeros behind them.

    Compiled where numba is installed; `plain` is its twin. ``addresses`` are the arrays', 0 where
    they are to be asked for.

    Raises:
        ValueError: if an array is not of the target's type, or not in one piece.
    """
    compiled = _compiled()
    if compiled is None:
        plain(target, arrays)
        return
    if any(array.dtype != target.dtype for array in arrays):
        raise ValueError(f"expected arrays of {target.dtype}, as the batch has")
    rows = target.reshape(len(target), -1).view(np.uint8)
    places = address(target) + np.arange(len(rows), dtype=np.uintp) * np.uintp(rows.shape[1])
    pairs = zip(addresses, arrays, strict=True)
    sources = np.array([known or address(array) for known, array in pairs], np.uintp)
    compiled(rows, places, sources, np.array([array.nbytes for array in arrays], np.uintp))


def address(array: Array) -> int:
    """Where its first number is in memory.

    Raises:
        ValueError: if the others do not follow it one by one.
    """
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of strides {array.strides} is not in one piece")
    return array.__array_interface__["data"][0]


def plain(target: Array, arrays: Sequence[Array]) -> None:
    """The same by numpy."""
    for slot, array in zip(target, arrays, strict=True):
        slot[: len(array)] = array
        slot[len(array) :] = 0


@cache
def _compiled() -> Callable[..., Any] | None:
    if find_spec("numba") is None:
        return None
    from capdist.data.nontemporal_copy import gather

    return gather
