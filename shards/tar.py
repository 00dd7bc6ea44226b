"""Reads and writes tars of samples; the same samples give the same bytes."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from shards.checksum import crc32
from shards.index import Member, SampleIndex
from shards.schema import KEY_PATTERN, Sample, ShardError, encode

_SUFFIX_PATTERN = re.compile(r"[A-Za-z0-9_.-]+")


def write_tar(file: IO[bytes], samples: Iterable[Sample]) -> list[SampleIndex]:
    """Write samples as a ustar archive, whose bytes depend only on the samples.

    Returns:
        The index, in tar order.

    Raises:
        ShardError: if a sample is not valid or its key is too long for ustar.
    """
    return write_members(file, ((sample.key, encode(sample)) for sample in samples))


def write_members(
    file: IO[bytes], samples: Iterable[tuple[str, Mapping[str, bytes]]]
) -> list[SampleIndex]:
    """As `write_tar`, of each sample's key and the bytes of its members by suffix."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        return [_add_sample(tar, key, members) for key, members in samples]


def read_tar(path: Path) -> Iterator[tuple[SampleIndex, dict[str, bytes]]]:
    """Every sample of a shard, in tar order: its index entry, and its members' bytes by suffix.

    Raises:
        ShardError: if the file is not a tar, is truncated, or has an entry that is not a member.
    """
    try:
        with _BoundedReader(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield from _samples(path, tar, file.size)
            # tarfile stops at an invalid header as it does at the zeros after the end.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no valid header at byte {tar.offset}")
    except ShardError:
        raise
    except Exception as error:  # seeking and reading by wrong numbers in a header, recursion
        raise ShardError(
            f"{path}: damaged, or not a tar ({error}); copy it again, or build the shard again"
        ) from error


class _BoundedReader(io.BufferedReader):
    """A file of which a read allocates no more memory than it has bytes.

    A header may claim any number.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size if size is not None and size < self.size else -1)


def _samples(
    path: Path, tar: tarfile.TarFile, end: int
) -> Iterator[tuple[SampleIndex, dict[str, bytes]]]:
    sample: SampleIndex | None = None
    members: dict[str, bytes] = {}
    for info in tar:
        key, suffix = _parse_name(path, info)
        if not 0 <= info.size <= end - info.offset_data:
            raise tarfile.ReadError(f"{info.name} has {info.size} bytes, more than the file")
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample, members
            sample, members = SampleIndex(key, info.offset, {}), {}
        if suffix in members:
            raise ShardError(
                f"{path}: member {info.name} occurs twice, expected unique keys; build the shard "
                "again"
            )
        content = tar.extractfile(info)
        members[suffix] = content.read() if content else b""
        crc = crc32(members[suffix])
        sample.members[suffix] = Member(info.offset_data, info.size, crc)
    if sample is not None:
        yield sample, members


def _parse_name(path: Path, info: tarfile.TarInfo) -> tuple[str, str]:
    """Key and suffix of an entry.

    Raises:
        ShardError: if it is not a sample's member.
    """
    key, _, suffix = info.name.partition(".")
    # No links, which lead to other files, and no sparse files, whose size is only claimed.
    is_regular = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and info.sparse is None
    if not (is_regular and KEY_PATTERN.fullmatch(key) and _SUFFIX_PATTERN.fullmatch(suffix)):
        raise ShardError(
            f"{path}: entry {info.name!r} is not a sample's member, expected a regular file "
            "<key>.<suffix>; build the shard again"
        )
    return key, suffix


def _add_sample(tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]) -> SampleIndex:
    start = tar.offset
    index = {suffix: _add_member(tar, f"{key}.{suffix}", data) for suffix, data in members.items()}
    return SampleIndex(key, start, index)


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> Member:
    # By default a TarInfo has mtime, uid and gid 0, mode 0644 and no owner's name.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    start = tar.offset + tarfile.BLOCKSIZE
    try:
        tar.addfile(info, io.BytesIO(data))
    except ValueError as error:
        raise ShardError(f"member {name}: {error}; choose a shorter key") from error
    return Member(start, len(data), crc32(data))
