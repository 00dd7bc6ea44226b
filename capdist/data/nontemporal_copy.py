"""`gather`, compiled: bytes copied past the processor's caches.

A batch is larger than the caches, and read next by a GPU or another core. Streaming stores write
whole lines without reading them first, so the copy moves fewer bytes; and what the interpreter
needs for the next batch stays in the caches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types, uintp
from numba.extending import intrinsic
from numpy.typing import NDArray

#: Bytes of a streaming store: a vector of any processor, or two of an old one.
WIDTH = 32


def _mover(size: int, *, streaming: bool) -> Any:
    """What copies so many bytes between addresses; a streaming one's target is divided by them."""

    def generate(context: Any, builder: Any, signature: Any, addresses: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), size).as_pointer()
        target, source = (builder.inttoptr(address, vector) for address in addresses)
        loaded = builder.load(source)
        stored = builder.store(loaded, target)
        loaded.align, stored.align = 1, size
        if streaming:
            one = ir.Constant(ir.IntType(32), 1)
            stored.set_metadata("nontemporal", builder.module.add_metadata([one]))
        return context.get_dummy_value()

    def move(context: Any, target: Any, source: Any) -> Any:
        return types.void(types.uintp, types.uintp), generate

    return intrinsic(move)


def _fencer() -> Any:
    """What lets nobody see later stores before the streaming ones."""

    def generate(context: Any, builder: Any, signature: Any, nothing: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    def fence(context: Any) -> Any:
        return types.void(), generate

    return intrinsic(fence)


_byte, _stream, _fence = _mover(1, streaming=False), _mover(WIDTH, streaming=True), _fencer()


@njit(cache=True, nogil=True)
def gather(
    target: NDArray[np.uint8],
    places: NDArray[np.uintp],
    sources: NDArray[np.uintp],
    sizes: NDArray[np.uintp],
) -> None:
    """Bytes (B, N) from addresses (B,), so many (B,) of each row, and zeros behind them.

    ``places`` (B,) are the addresses of the target's rows.
    """
    width, one = uintp(WIDTH), uintp(1)
    for row in range(len(sources)):
        to, begin, size, done = places[row], sources[row], sizes[row], uintp(0)
        while done < size and (to + done) % width:
            _byte(to + done, begin + done)
            done += one
        while done + width <= size:
            _stream(to + done, begin + done)
            done += width
        while done < size:
            _byte(to + done, begin + done)
            done += one
        target[row, size:] = 0
    _fence()
