"""One shard as a job: a pure function of a source and of one slice of a split's ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.atomic import replacing
from shards.feature_spec import FeatureSpec
from shards.fingerprint import Moments
from shards.index import index_path, index_text, write_index
from shards.manifest import Shard
from shards.schema import Sample, ShardError, decode
from shards.tars import read_tar, write_tar

#: Splits whose images need captions: a model is trained or scored on them.
CAPTIONED_SPLITS = ("train", "val")


class Source(Protocol):
    """What can be written as shards. It is pickled once into every worker process.

    ``features`` names the extractor, its width F, and the scale of int8 regions; the rest is not
    read, for the manifest gets what was written. ``class_names`` may be empty.
    """

    @property
    def name(self) -> str:
        """The data set's name, for the manifest."""

    @property
    def features(self) -> FeatureSpec:
        """Name, width and scale of the region features."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of ``classes.npy`` by id."""

    def fingerprint(self) -> str:
        """Text that differs whenever the samples differ: guards resumption."""

    def splits(self) -> dict[str, Sequence[Any]]:
        """The ids of each split's samples, in the order in which they are written."""

    def load(self, split: str, ids: Sequence[Any]) -> Iterator[Sample]:
        """The samples of these ids, in this order, whatever else was loaded before."""


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: where, of which split, from which ids."""

    path: Path
    split: str
    ids: Sequence[Any]


@dataclass(frozen=True)
class Written:
    """A complete shard, its keys in tar order, the most regions of a sample, and all moments."""

    shard: Shard
    keys: tuple[str, ...]
    max_regions: int
    moments: Moments


def do(source: Source, job: ShardJob) -> Written:
    """Write a shard, or keep it if it is complete; either way, read it back and count it.

    Raises:
        ShardError: if a sample breaks the format or is not fit to be trained on, or a kept
            shard is damaged.
    """
    if not (job.path.is_file() and index_path(job.path).is_file()):
        _write_shard(source, job)
    return _survey(source, job)


def _write_shard(source: Source, job: ShardJob) -> None:
    # The tar gets its name last: where it stands, its index stands too.
    with replacing(job.path) as file:
        loaded = source.load(job.split, job.ids)
        samples = (_checked(sample, job, source.features) for sample in loaded)
        index = write_tar(file, samples)
        _refuse_repeated(job, [entry.key for entry in index])
        if len(index) != len(job.ids):
            raise ShardError(f"{job.path}: {len(index)} samples, but {len(job.ids)} ids to load")
        write_index(job.path, index)


def _refuse_repeated(job: ShardJob, keys: Sequence[str]) -> None:
    if len(set(keys)) < len(keys):
        key = next(key for key in keys if keys.count(key) > 1)
        raise ShardError(f"key {key} is twice in {job.path.name}; keys must be unique")


def _checked(sample: Sample, job: ShardJob, features: FeatureSpec) -> Sample:
    """The sample, if it is fit to be written; types and shapes are `schema.check`'s business."""
    name = f"sample {sample.key} (image {sample.image_id})"
    if sample.split != job.split:
        raise ShardError(f"{name}: says split {sample.split!r} but is listed in {job.split!r}")
    if str(sample.regions.dtype) != features.stored_as:
        raise ShardError(f"{name}: regions are {sample.regions.dtype}, not {features.stored_as}")
    check_fit(name, sample, features.dim)
    return sample


def check_fit(name: str, sample: Sample, dim: int) -> None:
    """Refuse a sample that is not fit to be trained on.

    Args:
        name: of the sample, for the message.
        sample: its types do not matter.
        dim: the feature width.

    Raises:
        ShardError: saying what is wrong.
    """
    if not sample.captions and sample.split in CAPTIONED_SPLITS:
        raise ShardError(f"{name}: an image without captions in split {sample.split}; remove it")
    for caption, tokens in zip(sample.captions, sample.tokens, strict=False):
        if not tokens:
            raise ShardError(f"{name}: caption {caption!r} has no tokens; remove it")
    if sample.regions.shape[1:] != (dim,):
        raise ShardError(f"{name}: regions of shape {sample.regions.shape}, expected (R, {dim})")
    if not np.isfinite(sample.regions).all():
        raise ShardError(f"{name}: regions hold values that are not finite float16 numbers")
    if not ((sample.boxes >= 0) & (sample.boxes <= 1)).all():
        raise ShardError(f"{name}: boxes reach outside 0..1; give them as shares of the image")
    if (sample.boxes[:, :2] > sample.boxes[:, 2:]).any():
        raise ShardError(f"{name}: boxes end before they begin; give them as x1, y1, x2, y2")


def _survey(source: Source, job: ShardJob) -> Written:
    """Count and hash a complete shard; a kept one may have been damaged since."""
    captions, max_regions, index, moments = 0, 0, [], []
    for entry, members in read_tar(job.path):
        sample = decode(entry.key, members)
        index.append(entry)
        captions += len(sample.captions)
        max_regions = max(max_regions, len(sample.regions))
        moments.append(Moments.of(source.features.widen(sample.regions)))
    if index_text(index) != index_path(job.path).read_bytes():
        raise ShardError(f"{job.path}: differs from its index; delete both and build again")
    data = job.path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    shard = Shard(job.path.name, job.split, len(index), captions, len(data), sha256)
    keys = tuple(entry.key for entry in index)
    return Written(shard, keys, max_regions, Moments.total(moments))
