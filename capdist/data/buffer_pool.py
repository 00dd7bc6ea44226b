"""Memory of batches, which is used again when nobody refers to a batch any more.

A batch's memory is given back to the system when it is freed, and new pages must be cleared and
mapped before they are written: that takes longer than the copy of the bytes that fill them.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.schema import Array

#: Free pieces that are kept; more would be what somebody who held many batches let go.
KEPT = 8

_free: list[Array] = []


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """A tensor for a batch, with anything in it; pinned where a GPU will fetch it."""
    if torch.cuda.is_available():
        # Torch itself uses pinned memory again.
        like = torch.from_numpy(np.empty(0, dtype))
        return torch.empty(shape, dtype=like.dtype, pin_memory=True)
    size = math.prod(shape) * dtype.itemsize
    piece = _free.pop() if _free else None
    if piece is None or piece.nbytes < size:
        piece = np.empty(size, np.uint8)
    array = piece[:size].view(dtype).reshape(shape)
    # A tensor keeps the array that it was made of, as do all that share the tensor's memory.
    weakref.finalize(array, _give_back, piece).atexit = False
    return torch.from_numpy(array)


def _give_back(piece: Array) -> None:
    if len(_free) < KEPT:
        _free.append(piece)
