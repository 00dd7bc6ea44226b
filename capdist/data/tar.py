"""A tar that is read by offsets."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from capdist.data.copy import address
from shards.index import SampleIndex
from shards.schema import Array, ShardError


class Tar:
    """An open tar, closed when nobody refers to it any more.

    Raises:
        OSError: if it can't be opened.
        ShardError: if it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        if not os.lseek(self.fd, 0, os.SEEK_END):
            raise ShardError(CUT)
        self.map = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)
        self.address = address(np.frombuffer(self.map, np.uint8))

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def view(self, offset: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
        """Regions (R, F) at an offset, of a sample that `members` has read: still in the file.

        Copying from the map takes about half as long as a system call. But a map that is read
        behind the end of its file ends the process: `reach` before every use.

        Raises:
            ShardError: if the tar has become shorter.
        """
        end = offset + shape[0] * shape[1] * dtype.itemsize
        self.reach(end)
        if len(self.map) < end:
            raise ShardError(CUT)
        return np.ndarray(shape, dtype, self.map, offset)

    def reach(self, end: int) -> None:
        """Ask for the file's size, which costs next to nothing.

        Raises:
            ShardError: if it is smaller.
        """
        if os.lseek(self.fd, 0, os.SEEK_END) < end:
            raise ShardError(CUT)

    def members(self, entry: SampleIndex, wanted: Iterable[str]) -> dict[str, bytes]:
        """The bytes of those of the wanted members that a sample has, by system calls.

        Raises:
            ShardError: if the tar ends before they do.
            OSError: if the disk does not give them.
        """
        there = {name: member for name, member in entry.members.items() if name in wanted}
        size = os.lseek(self.fd, 0, os.SEEK_END)
        if any(size < member.offset + member.size for member in there.values()):
            raise ShardError(CUT)  # before memory is taken for what an index claims
        found = {
            name: os.pread(self.fd, member.size, member.offset) for name, member in there.items()
        }
        if any(len(data) < entry.members[name].size for name, data in found.items()):
            raise ShardError(CUT)
        return found


CUT = "the tar is cut short: it ends before"
