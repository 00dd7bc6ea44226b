"""The compiled `copy_regions`: a copy by nontemporal stores, which bypass the processor's caches.

A batch is larger than the caches, and a GPU or another core reads it next. Nontemporal stores
write whole cache lines without reading them first, so that fewer bytes move; and what the
interpreter needs for the next batch stays in the caches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types, uintp
from numba.extending import intrinsic
from numpy.typing import NDArray

#: Bytes of a nontemporal store: one vector register of a processor with AVX, two of an older one.
WIDTH = 32


def _copy_intrinsic(size: int, *, nontemporal: bool) -> Any:
    """Copies ``size`` bytes between two addresses; a nontemporal target must be aligned to them."""

    def generate(context: Any, builder: Any, signature: Any, addresses: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), size).as_pointer()
        target, source = (builder.inttoptr(address, vector) for address in addresses)
        loaded = builder.load(source)
        stored = builder.store(loaded, target)
        loaded.align, stored.align = 1, size
        if nontemporal:
            one = ir.Constant(ir.IntType(32), 1)
            stored.set_metadata("nontemporal", builder.module.add_metadata([one]))
        return context.get_dummy_value()

    def copy(context: Any, target: Any, source: Any) -> Any:
        return types.void(types.uintp, types.uintp), generate

    return intrinsic(copy)


def _fence_intrinsic() -> Any:
    """A memory fence: no thread sees later stores before the nontemporal ones."""

    def generate(context: Any, builder: Any, signature: Any, nothing: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    def fence(context: Any) -> Any:
        return types.void(), generate

    return intrinsic(fence)


_copy_byte = _copy_intrinsic(1, nontemporal=False)
_copy_vector = _copy_intrinsic(WIDTH, nontemporal=True)
_fence = _fence_intrinsic()


@njit(cache=True, nogil=True)
def copy_rows(
    target: NDArray[np.uint8],
    base: np.uintp,
    sources: NDArray[np.uintp],
    sizes: NDArray[np.uintp],
) -> None:
    """Fill each row of ``target`` (B, N) with P pieces, one after the other, then zeros.

    ``base`` is the target's address; ``sources`` (B·P,) are those of the pieces, and ``sizes``
    (B, P) their bytes.
    """
    width, one = uintp(WIDTH), uintp(1)
    pieces = sizes.shape[1]
    for row in range(len(sizes)):
        to = base + uintp(row * target.shape[1])
        end = to
        for piece in range(pieces):
            begin, size, done = sources[row * pieces + piece], sizes[row, piece], uintp(0)
            while done < size and (end + done) % width:
                _copy_byte(end + done, begin + done)
                done += one
            while done + width <= size:
                _copy_vector(end + done, begin + done)
                done += width
            while done < size:
                _copy_byte(end + done, begin + done)
                done += one
            end += size
        target[row, end - to :] = 0
    _fence()
