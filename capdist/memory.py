"""What the C library does with the memory that a step frees."""

from __future__ import annotations

import ctypes
import platform

#: Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Keep freed memory for the next step instead of returning it to the system.

    By default glibc maps every tensor of 32 MB or more anew, and the system fills each of its pages
    with zeros when it is first written; every step would pay for the same pages again. It changes
    nothing with other C libraries.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)
