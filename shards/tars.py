"""Tars of samples: written alike to the last byte, read back sample by sample."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from shards.checksum import crc32
from shards.index import Member, SampleIndex
from shards.schema import Sample, ShardError, encode


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
        with tarfile.open(path, mode="r:") as tar:
            yield from _samples(path, tar)
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{path}: not a whole tar ({error}); build the shard again") from error


def _samples(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[SampleIndex, dict[str, bytes]]]:
    sample: SampleIndex | None = None
    data: dict[str, bytes] = {}
    for info in tar:
        key, _, suffix = info.name.partition(".")
        content = tar.extractfile(info)
        if content is None or not suffix:
            raise ShardError(f"{path}: entry {info.name!r} is not a member <key>.<suffix>")
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample, data
            sample, data = SampleIndex(key, info.offset, {}), {}
        if suffix in data:
            raise ShardError(f"{path}: member {info.name} is there twice; keys must be unique")
        data[suffix] = content.read()
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
