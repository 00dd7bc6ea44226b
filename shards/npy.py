"""Encodes and decodes arrays as npy files in memory, without copying the numbers when decoding."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt


def encode_npy(array: npt.NDArray[Any]) -> bytes:
    """The bytes of an npy file of version 1.0."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def decode_npy(data: bytes) -> npt.NDArray[Any]:
    """The array in an npy file of version 1.0, as a read-only view of its bytes.

    Raises:
        ValueError: if it is not such a file.
    """
    try:
        start = 10 + int.from_bytes(data[8:10], "little")
        shape, dtype = _parse_header(data[:start])
        return np.frombuffer(data, dtype, offset=start).reshape(shape)
    except Exception as error:  # numpy parses headers with Python's own parser
        raise ValueError(f"not a valid npy file ({error})") from error


# A shard has few different headers, and parsing one takes longer than reading an array.
@lru_cache(maxsize=1024)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("expected npy version 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran_order or dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("Fortran order, Python objects or a negative size")
    return shape, dtype
