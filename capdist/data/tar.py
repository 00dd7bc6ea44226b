"""A tar that is read by offsets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from shards.index import SampleIndex
from shards.schema import Array, ShardError

#: Tars that stay open; a process may have a thousand files.
OPEN = 256


class Tar:
    """An open tar, closed when nobody refers to it any more; OSError if it can't be opened."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def read(self, offset: int, array: Array) -> Array:
        """Fill an array (contiguous) with the bytes at an offset.

        Raises:
            ShardError: if the tar ends before.
        """
        done, wanted = 0, array.reshape(-1).view(np.uint8).data
        while done < len(wanted):
            read = os.preadv(self.fd, [wanted[done:]], offset + done)
            if read == 0:
                raise ShardError("the tar is cut short: it ends before")
            done += read
        return array

    def members(self, entry: SampleIndex, wanted: Iterable[str]) -> dict[str, bytes]:
        """The bytes of those of the wanted members that a sample has.

        Raises:
            ShardError: if the tar ends before.
        """
        return {
            name: self.read(member.offset, np.empty(member.size, np.uint8)).tobytes()
            for name, member in entry.members.items()
            if name in wanted
        }


#: Threads may share what they read from.
open_tar = lru_cache(OPEN)(Tar)
