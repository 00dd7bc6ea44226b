"""Tars of samples: written alike to the last byte, read back sample by sample."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from shards.checksum import crc32
from shards.index import Member, SampleIndex
from shards.schema import KEY, Sample, ShardError, encode

_SUFFIX = re.compile(r"[A-Za-z0-9_.-]+")


def write_tar(file: IO[bytes], samples: Iterable[Sample]) -> list[SampleIndex]:
    """Write samples as a ustar archive whose bytes depend on the samples alone.

    Returns:
        Where every member lies, in tar order.

    Raises:
        ShardError: if a sample breaks the schema or its key is too long for ustar.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        return [_add_sample(tar, sample) for sample in samples]


def read_tar(path: Path) -> Iterator[tuple[SampleIndex, dict[str, bytes]]]:
    """Every sample of a shard in tar order: where its members lie, and their bytes by suffix.

    Raises:
        ShardError: if the file is no tar, is cut short, or holds what is not a sample's member.
    """
    try:
        with _Bounded(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield from _samples(path, tar, file.size)
            # A header that is none ends the archive for tarfile, as zeros do.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except ShardError:
        raise
    except Exception as error:  # what a number in a header makes of seeking, reading, recursion
        raise ShardError(f"{path}: not a whole tar ({error}); build the shard again") from error


class _Bounded(io.BufferedReader):
    """A file that takes no more memory than it has bytes, however many a header claims."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """As any file's, but that what is too much is never set aside."""
        return super().read(size if size is not None and size < self.size else -1)


def _samples(
    path: Path, tar: tarfile.TarFile, end: int
) -> Iterator[tuple[SampleIndex, dict[str, bytes]]]:
    sample: SampleIndex | None = None
    data: dict[str, bytes] = {}
    for info in tar:
        key, _, suffix = info.name.partition(".")
        # No link, whose file could be another, and no file with holes, whose size is only claimed.
        plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and info.sparse is None
        if not plain or not KEY.fullmatch(key) or not _SUFFIX.fullmatch(suffix):
            raise ShardError(f"{path}: entry {info.name!r} is not a member <key>.<suffix>")
        if not 0 <= info.size <= end - info.offset_data:
            raise tarfile.ReadError(f"{info.name} has {info.size} bytes, more than are left")
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample, data
            sample, data = SampleIndex(key, info.offset, {}), {}
        if suffix in data:
            raise ShardError(f"{path}: member {info.name} is there twice; keys must be unique")
        content = tar.extractfile(info)
        data[suffix] = content.read() if content else b""
        crc = crc32(data[suffix])
        sample.members[suffix] = Member(info.offset_data, info.size, crc)
    if sample is not None:
        yield sample, data


def _add_sample(tar: tarfile.TarFile, sample: Sample) -> SampleIndex:
    start = tar.offset
    members = {
        suffix: _add_member(tar, f"{sample.key}.{suffix}", data)
        for suffix, data in encode(sample).items()
    }
    return SampleIndex(sample.key, start, members)


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> Member:
    # A fresh TarInfo has mtime, uid and gid 0, mode 0644 and no owner's name.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    start = tar.offset + tarfile.BLOCKSIZE
    try:
        tar.addfile(info, io.BytesIO(data))
    except ValueError as error:
        raise ShardError(f"member {name}: {error}; choose a shorter key") from error
    return Member(start, len(data), crc32(data))
