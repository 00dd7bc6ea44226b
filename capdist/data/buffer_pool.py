"""Buffers for batches, reused once no tensor refers to them.

A freed batch's memory goes back to the operating system, and new pages must be zeroed and mapped
before they are written to. That takes longer than copying a batch's bytes.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.schema import Array

#: Most free buffers that are kept, so that a caller who held many batches does not fill memory.
MAX_FREE = 8

_free: list[Array] = []


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """An uninitialised tensor; in pinned memory if there is a GPU."""
    if torch.cuda.is_available():
        # Torch reuses pinned memory itself.
        example = torch.from_numpy(np.empty(0, dtype))
        return torch.empty(shape, dtype=example.dtype, pin_memory=True)
    size = math.prod(shape) * dtype.itemsize
    buffer = _free.pop() if _free else None
    if buffer is None or buffer.nbytes < size:
        buffer = np.empty(size, np.uint8)
    array = buffer[:size].view(dtype).reshape(shape)
    # The tensor, and every tensor that shares its memory, keeps the array alive.
    weakref.finalize(array, _release, buffer).atexit = False
    return torch.from_numpy(array)


def _release(buffer: Array) -> None:
    if len(_free) < MAX_FREE:
        _free.append(buffer)
