"""Writes one shard: a pure function of a source and of a slice of a split's ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.atomic import atomic_write
from shards.class_names import check_class_ids
from shards.feature_spec import FeatureSpec
from shards.fingerprint import Moments
from shards.index import encode_index, index_path, write_index
from shards.members.relations import check_predicates
from shards.schema import Sample, ShardError, decode
from shards.shard import Shard
from shards.tar import read_tar, write_tar

#: Splits whose images need captions, because models are trained or validated on them.
CAPTIONED_SPLITS = ("train", "val")


class SampleSource(Protocol):
    """A data set that can be written as shards. It is pickled once for each worker process."""

    @property
    def name(self) -> str:
        """The data set's name, for the manifest."""

    @property
    def features(self) -> FeatureSpec:
        """Name, width and scale of the region features; the other fields are not read."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of ``classes.npy`` by id; may be empty."""

    def fingerprint(self) -> str:
        """A text that changes whenever the samples change; a build continues if it is equal."""

    def splits(self) -> dict[str, Sequence[Any]]:
        """The ids of each split's samples, in the order in which they are written."""

    def load(self, split: str, ids: Sequence[Any]) -> Iterator[Sample]:
        """The samples of these ids, in this order; must not depend on earlier calls."""


def predicates_of(source: SampleSource) -> tuple[str, ...]:
    """The names of a source's predicates, ``predicates``, which few sources have."""
    names: tuple[str, ...] = getattr(source, "predicates", ())
    return names


@dataclass(frozen=True)
class ShardJob:
    """A shard to write: its path, its split and the ids of its samples."""

    path: Path
    split: str
    ids: Sequence[Any]


@dataclass(frozen=True)
class WrittenShard:
    """A complete shard.

    Args:
        shard: its row in the manifest.
        keys: in tar order.
        max_regions: the largest number of regions of a sample.
        moments: of all its regions.
    """

    shard: Shard
    keys: tuple[str, ...]
    max_regions: int
    moments: Moments


def write_shard(source: SampleSource, job: ShardJob) -> WrittenShard:
    """Write a shard unless it is complete already; then read it back.

    Raises:
        ShardError: if a sample is not valid or can't be trained on, or an existing shard is
            damaged.
    """
    if not (job.path.is_file() and index_path(job.path).is_file()):
        _write_tar_and_index(source, job)
    return _read_back(source, job)


def _write_tar_and_index(source: SampleSource, job: ShardJob) -> None:
    # The tar is renamed last: if it exists, so does its index.
    with atomic_write(job.path) as file:
        loaded = source.load(job.split, job.ids)
        samples = (_checked(sample, job, source) for sample in loaded)
        index = write_tar(file, samples)
        _check_unique(job, [entry.key for entry in index])
        if len(index) != len(job.ids):
            raise ShardError(
                f"{job.path}: the source gave {len(index)} samples for {len(job.ids)} ids; correct "
                "its load()"
            )
        write_index(job.path, index)


def _check_unique(job: ShardJob, keys: Sequence[str]) -> None:
    if len(set(keys)) < len(keys):
        key = next(key for key in keys if keys.count(key) > 1)
        raise ShardError(
            f"{job.path.name}: key {key} occurs twice; give each image an id of its own"
        )


def _checked(sample: Sample, job: ShardJob, source: SampleSource) -> Sample:
    """The sample, checked; `schema.check_sample` checks shapes and dtypes when it is encoded."""
    name = f"sample {sample.key} (image {sample.image_id})"
    if sample.split != job.split:
        raise ShardError(
            f"{name}: has split {sample.split!r} but was loaded for split {job.split!r}; correct "
            "the source"
        )
    if str(sample.regions.dtype) != source.features.stored_dtype:
        raise ShardError(
            f"{name}: regions are {sample.regions.dtype}, expected {source.features.stored_dtype}"
        )
    check_captions(name, sample)
    check_features(name, sample, source.features.dim)
    check_class_ids(name, sample.classes, source.class_names)
    check_predicates(name, sample.relations, predicates_of(source))
    return sample


def check_captions(name: str, sample: Sample) -> None:
    """Check that a sample has captions, if its split needs them, and that each has tokens.

    Args:
        name: of the sample, for the message.
        sample: its split, captions and tokens are read.

    Raises:
        ShardError: saying what is wrong.
    """
    if not sample.captions and sample.split in CAPTIONED_SPLITS:
        raise ShardError(
            f"{name}: no captions, which images of split {sample.split} need; add some or remove "
            "the image"
        )
    for caption, tokens in zip(sample.captions, sample.tokens, strict=False):
        if not tokens:
            raise ShardError(f"{name}: caption {caption!r} has no tokens; remove it")


def check_features(name: str, sample: Sample, dim: int) -> None:
    """Check what models need of a sample's features: their width, finite numbers, valid boxes.

    Args:
        name: of the sample, for the message.
        sample: with arrays of any dtype.
        dim: feature width F.

    Raises:
        ShardError: saying what is wrong.
    """
    if sample.regions.shape[1:] != (dim,):
        raise ShardError(f"{name}: regions of shape {sample.regions.shape}, expected (R, {dim})")
    if not np.isfinite(sample.regions).all():
        raise ShardError(
            f"{name}: regions have values that are not finite float16 numbers; remove NaN, and "
            "normalise the features or store them as int8"
        )
    if not ((sample.boxes >= 0) & (sample.boxes <= 1)).all():
        raise ShardError(
            f"{name}: boxes exceed [0, 1]; divide them by width and height of the image"
        )
    if (sample.boxes[:, :2] > sample.boxes[:, 2:]).any():
        raise ShardError(f"{name}: boxes with x2 < x1 or y2 < y1; convert them to x1, y1, x2, y2")


def _read_back(source: SampleSource, job: ShardJob) -> WrittenShard:
    """Count and hash a complete shard; one of a stopped build may have been damaged since."""
    captions, max_regions, index, moments = 0, 0, [], []
    for entry, members in read_tar(job.path):
        sample = decode(entry.key, members)
        index.append(entry)
        captions += len(sample.captions)
        max_regions = max(max_regions, len(sample.regions))
        moments.append(Moments.of(source.features.dequantize(sample.regions)))
    if encode_index(index) != index_path(job.path).read_bytes():
        raise ShardError(f"{job.path}: does not match its index; delete both and build again")
    data = job.path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    shard = Shard(job.path.name, job.split, len(index), captions, len(data), sha256)
    keys = tuple(entry.key for entry in index)
    return WrittenShard(shard, keys, max_regions, Moments.total(moments))
