"""Checks a folder of shards against its manifest and its indices; names each damaged member."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from shards.caption_counts import CaptionCounts, shards_digest
from shards.checksum import crc32
from shards.class_names import check_class_ids
from shards.concept_predictor import parse_predictor
from shards.feature_sets import FeatureSet, check_stored, decode_set
from shards.index import SampleIndex
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.members.relations import check_predicates
from shards.progress import tracked
from shards.schema import Sample, ShardError, decode
from shards.shard import Shard
from shards.tar import read_tar


@dataclass(frozen=True)
class _ShardReport:
    """The problems of a shard, one line each; of its samples the keys, ids, and class names needed.

    ``images`` has the key by image id.
    """

    problems: list[str]
    keys: list[str]
    images: dict[ImageId, str] = field(default_factory=dict)


def verify(manifest: Manifest, *, workers: int | None = None) -> list[str]:
    """All problems of a folder of shards, one line each, in the order of the manifest.

    Args:
        manifest: the folder's.
        workers: threads, one per CPU by default; hashing releases the interpreter's lock.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        results = pool.map(lambda shard: _check_shard(manifest, shard), manifest.shards)
        count = len(manifest.shards)
        reports = list(tracked(results, count, title="verifying", unit="shard"))
    problems = [problem for report in reports for problem in report.problems]
    problems += _duplicates(manifest, reports)
    problems += _check_predictor(manifest)
    problems += _check_caption_counts(manifest)
    return problems + list(_unlisted_tars(manifest))


def _check_predictor(manifest: Manifest) -> Iterator[str]:
    """Whether the file of the concept predictor, if the set lists one, can be read."""
    try:
        if data := manifest.read_predictor():
            parse_predictor(f"{manifest.location}: the concept predictor", data)
    except ShardError as error:
        yield str(error)


def _check_caption_counts(manifest: Manifest) -> Iterator[str]:
    """Whether the counts of the training captions, if the set lists some, are of its shards."""
    try:
        if manifest.counts:
            manifest.counts.read(manifest.root)
            counts = CaptionCounts.load(manifest.counts.path(manifest.root))
            if counts.shards != shards_digest(manifest, "train"):
                yield f"{counts.path}: of other shards; remove it, and training counts them again"
    except ShardError as error:
        yield str(error)


def _check_shard(manifest: Manifest, shard: Shard) -> _ShardReport:
    try:
        index = list(manifest.index(shard))
    except ShardError as error:
        return _ShardReport([str(error)], [])
    data = manifest.tar_path(shard).read_bytes()
    problems = [
        *_check_tar(manifest, shard, index, data),
        *_check_concepts(manifest, shard, index),
        *(line for found in manifest.further for line in _check_set(manifest, found, shard, index)),
    ]
    captions, images = 0, dict[ImageId, str]()
    for entry in index:
        try:
            sample = _decode_sample(manifest, entry, data)
        except ShardError as error:
            problems.append(_line(shard, str(error)))
            continue
        captions += len(sample.captions)
        if images.setdefault(sample.image_id, entry.key) != entry.key:
            first = images[sample.image_id]
            problems.append(
                _line(shard, f"sample {entry.key}: image {sample.image_id} is also sample {first}")
            )
    if not problems:
        problems += _check_counts(shard, len(index), captions)
    return _ShardReport(problems, [entry.key for entry in index], images)


def _check_tar(
    manifest: Manifest, shard: Shard, index: list[SampleIndex], data: bytes
) -> Iterator[str]:
    """Size and SHA-256 of a tar, and whether its headers match the index."""
    if len(data) != shard.bytes:
        truncated = "truncated: " if len(data) < shard.bytes else ""
        yield _line(shard, f"{truncated}{len(data)} bytes, expected {shard.bytes}; copy it again")
    elif hashlib.sha256(data).hexdigest() != shard.sha256:
        yield _line(shard, "SHA-256 mismatch with the manifest: it has changed; copy it again")
    else:
        try:
            matches = [entry for entry, _ in read_tar(manifest.tar_path(shard))] == index
        except ShardError as error:
            yield str(error)
        else:
            if not matches:
                yield _line(shard, "does not match its index; build the shard again")


def _check_set(
    manifest: Manifest, found: FeatureSet, shard: Shard, samples: list[SampleIndex]
) -> Iterator[str]:
    """The problems of the tar with a further feature set of a shard's samples."""
    tar = found.tar_of(shard)
    try:
        index = list(manifest.index(tar))
    except ShardError as error:
        yield str(error)
        return
    data = manifest.tar_path(tar).read_bytes()
    problems = list(_check_tar(manifest, tar, index, data))
    if [entry.key for entry in index] != [entry.key for entry in samples]:
        problems.append(_line(tar, f"has other samples than {shard.name}; add the set again"))
    images = 0
    for entry in index:
        try:
            members = dict(_members(entry, data))
            images += decode_set(entry.key, members, found.spec) is not None
        except ShardError as error:
            problems.append(_line(tar, str(error)))
    if not problems and images != shard.samples - found.lacking(shard):
        said = shard.samples - found.lacking(shard)
        problems.append(_line(tar, f"{images} images, but the manifest says {said}"))
    yield from problems


def _check_concepts(manifest: Manifest, shard: Shard, index: list[SampleIndex]) -> Iterator[str]:
    """Whether the concept file of a shard is complete and its scores are valid."""
    if manifest.concepts is None:
        return
    try:
        concepts = manifest.concepts.read(shard.name)
    except ShardError as error:
        yield str(error)
        return
    if list(concepts) != [entry.key for entry in index]:
        yield _line(shard, "its concept file lists other samples; predict the concepts again")
    for key, pairs in concepts.items():
        scores = [score for _, score in pairs]
        if scores != sorted(scores, reverse=True) or not all(0 <= s <= 1 for s in scores):
            yield _line(
                shard,
                f"sample {key}: concept scores are not in [0, 1] in descending order; predict the "
                "concepts again",
            )


def _decode_sample(manifest: Manifest, entry: SampleIndex, data: bytes) -> Sample:
    """The sample of an index entry.

    Raises:
        ShardError: if a member is truncated or damaged, or differs from the manifest.
    """
    sample = decode(entry.key, dict(_members(entry, data)))
    check_stored(entry.key, sample.regions, manifest.features)
    check_class_ids(f"sample {entry.key}", sample.classes, manifest.class_names)
    check_predicates(f"sample {entry.key}", sample.relations, manifest.predicates)
    return sample


def _members(entry: SampleIndex, data: bytes) -> Iterator[tuple[str, bytes]]:
    for suffix, member in entry.members.items():
        content = data[member.offset : member.offset + member.size]
        if len(content) < member.size:
            raise ShardError(f"sample {entry.key}: member {entry.key}.{suffix} is truncated")
        if crc32(content) != member.crc32:
            raise ShardError(
                f"sample {entry.key}: member {entry.key}.{suffix} is damaged (CRC-32 mismatch)"
            )
        yield suffix, content


def _check_counts(shard: Shard, samples: int, captions: int) -> Iterator[str]:
    if samples != shard.samples:
        yield _line(shard, f"{samples} samples, but the manifest says {shard.samples}")
    if captions != shard.captions:
        yield _line(shard, f"{captions} captions, but the manifest says {shard.captions}")


def _duplicates(manifest: Manifest, reports: list[_ShardReport]) -> Iterator[str]:
    """Keys that two shards have, and image ids that they have under different keys."""
    shard_of_key: dict[str, Shard] = {}
    key_of_image: dict[ImageId, str] = {}
    for shard, report in zip(manifest.shards, reports, strict=True):
        for key in report.keys:
            if key in shard_of_key:
                yield _line(shard, f"key {key} is also in {shard_of_key[key].name}")
            shard_of_key[key] = shard
        for image, key in report.images.items():
            if (first := key_of_image.setdefault(image, key)) != key:
                other = shard_of_key[first].name
                yield _line(shard, f"sample {key}: image {image} is also sample {first} of {other}")


def _unlisted_tars(manifest: Manifest) -> Iterator[str]:
    listed = {
        found.tar_of(shard).name for found in manifest.feature_sets for shard in manifest.shards
    }
    for tar in sorted(manifest.root.glob("*.tar")):
        if tar.name not in listed:
            yield f"{tar.name}: not in the manifest; remove it"


def _line(shard: Shard, problem: str) -> str:
    return f"{shard.name}: {problem}"
