"""Checks a folder of shards against its manifest and its indices, down to the damaged member."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from shards.checksum import crc32
from shards.index import SampleIndex
from shards.manifest import Manifest, Shard
from shards.schema import Sample, ShardError, decode
from shards.tars import read_tar


@dataclass(frozen=True)
class _Report:
    """What was found in one shard: problems, one line each, and the keys its index lists."""

    problems: list[str]
    keys: list[str]


def verify(manifest: Manifest, *, workers: int | None = None) -> list[str]:
    """All problems of a folder of shards, one line each, in the order of the manifest.

    Args:
        manifest: the folder's.
        workers: threads, one for each CPU by default; hashing leaves the interpreter's lock.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        reports = pool.map(lambda shard: _check_shard(manifest, shard), manifest.shards)
        progress = tqdm(reports, total=len(manifest.shards), desc="verifying", unit="shard")
        found = list(progress)
    problems = [problem for report in found for problem in report.problems]
    return problems + list(_duplicates(manifest, found)) + list(_unlisted(manifest))


def _check_shard(manifest: Manifest, shard: Shard) -> _Report:
    try:
        index = list(manifest.index(shard))
    except ShardError as error:
        return _Report([str(error)], [])
    data = manifest.tar(shard).read_bytes()
    problems = [*_whole(manifest, shard, index, data), *_concepts(manifest, shard, index)]
    captions = 0
    for entry in index:
        try:
            captions += len(_sample(manifest, entry, data).captions)
        except ShardError as error:
            problems.append(_line(shard, str(error)))
    if not problems:
        problems += _counts(shard, len(index), captions)
    return _Report(problems, [entry.key for entry in index])


def _whole(
    manifest: Manifest, shard: Shard, index: list[SampleIndex], data: bytes
) -> Iterator[str]:
    """Size, hash, and that the tar's own headers agree with the index."""
    if len(data) != shard.bytes:
        cut = "cut short: " if len(data) < shard.bytes else ""
        yield _line(shard, f"{cut}{len(data)} bytes, expected {shard.bytes}; copy it again")
    elif hashlib.sha256(data).hexdigest() != shard.sha256:
        yield _line(shard, "SHA-256 is not the manifest's: its bytes have changed; copy it again")
    else:
        try:
            agrees = [entry for entry, _ in read_tar(manifest.tar(shard))] == index
        except ShardError as error:
            yield str(error)
        else:
            if not agrees:
                yield _line(shard, "its index does not describe this tar; build the shard again")


def _concepts(manifest: Manifest, shard: Shard, index: list[SampleIndex]) -> Iterator[str]:
    """That the concepts beside a shard are whole, one list for each of its samples."""
    if manifest.concepts is None:
        return
    try:
        found = manifest.concepts.read(shard.name)
    except ShardError as error:
        yield str(error)
        return
    if list(found) != [entry.key for entry in index]:
        yield _line(shard, "its concepts are of other samples; predict them anew")
    for key, pairs in found.items():
        scores = [score for _, score in pairs]
        if scores != sorted(scores, reverse=True) or not all(0 <= s <= 1 for s in scores):
            yield _line(shard, f"sample {key}: its concepts are not in 0..1, best first")


def _sample(manifest: Manifest, entry: SampleIndex, data: bytes) -> Sample:
    """The sample at an index entry.

    Raises:
        ShardError: if a member is cut off or damaged, or the sample is not what it should be.
    """
    sample = decode(entry.key, dict(_members(entry, data)))
    dim = manifest.features.dim
    if sample.regions.shape[1] != dim:
        raise ShardError(
            f"sample {entry.key}: regions of width {sample.regions.shape[1]}, "
            f"but the manifest says {dim}"
        )
    if str(sample.regions.dtype) != manifest.features.stored_as:
        raise ShardError(
            f"sample {entry.key}: regions are {sample.regions.dtype}, "
            f"but the manifest says {manifest.features.stored_as}"
        )
    return sample


def _members(entry: SampleIndex, data: bytes) -> Iterator[tuple[str, bytes]]:
    for suffix, member in entry.members.items():
        content = data[member.offset : member.offset + member.size]
        if len(content) < member.size:
            raise ShardError(f"sample {entry.key}: member {entry.key}.{suffix} is cut off")
        if crc32(content) != member.crc32:
            raise ShardError(
                f"sample {entry.key}: member {entry.key}.{suffix} is damaged (CRC-32 differs)"
            )
        yield suffix, content


def _counts(shard: Shard, samples: int, captions: int) -> Iterator[str]:
    if samples != shard.samples:
        yield _line(shard, f"{samples} samples, but the manifest says {shard.samples}")
    if captions != shard.captions:
        yield _line(shard, f"{captions} captions, but the manifest says {shard.captions}")


def _duplicates(manifest: Manifest, found: list[_Report]) -> Iterator[str]:
    seen: dict[str, Shard] = {}
    for shard, report in zip(manifest.shards, found, strict=True):
        for key in report.keys:
            if key in seen:
                yield _line(shard, f"key {key} is in {seen[key].name} too")
            seen[key] = shard


def _unlisted(manifest: Manifest) -> Iterator[str]:
    listed = {shard.name for shard in manifest.shards}
    for tar in sorted(manifest.root.glob("*.tar")):
        if tar.name not in listed:
            yield f"{tar.name}: not in the manifest; remove it"


def _line(shard: Shard, problem: str) -> str:
    return f"{shard.name}: {problem}"
