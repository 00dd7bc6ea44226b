"""A tar that is read by byte offsets."""

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

TRUNCATED = "the tar is truncated: it ends before this sample does"


class Tar:
    """An open tar, closed once nothing refers to it.

    Raises:
        OSError: if it can't be opened.
        ShardError: if it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        if not os.lseek(self.fd, 0, os.SEEK_END):
            raise ShardError(TRUNCATED)
        self.map = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)
        self.address = address(np.frombuffer(self.map, np.uint8))

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def view(self, offset: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
        """Regions (R, F) at an offset, mapped from the file, of a sample already checked.

        Copying from the map takes about half as long as a system call. But reading a map after
        the end of its file kills the process: call `check_size` before every use.

        Raises:
            ShardError: if the tar has become shorter.
        """
        end = offset + shape[0] * shape[1] * dtype.itemsize
        self.check_size(end)
        if len(self.map) < end:
            raise ShardError(TRUNCATED)
        return np.ndarray(shape, dtype, self.map, offset)

    def check_size(self, end: int) -> None:
        """Check that the file has ``end`` bytes or more.

        Raises:
            ShardError: if it has fewer.
        """
        if os.lseek(self.fd, 0, os.SEEK_END) < end:
            raise ShardError(TRUNCATED)

    def members(self, entry: SampleIndex, wanted: Iterable[str]) -> dict[str, bytes]:
        """The bytes of a sample's members among those wanted, read by system calls.

        Raises:
            ShardError: if the tar ends before they do.
            OSError: if the disk can't read them.
        """
        listed = {name: member for name, member in entry.members.items() if name in wanted}
        size = os.lseek(self.fd, 0, os.SEEK_END)
        if any(size < member.offset + member.size for member in listed.values()):
            raise ShardError(TRUNCATED)  # before allocating the sizes that the index claims
        data = {name: os.pread(self.fd, m.size, m.offset) for name, m in listed.items()}
        if any(len(data[name]) < member.size for name, member in listed.items()):
            raise ShardError(TRUNCATED)
        return data
