"""Writes a further feature set next to the tars of a folder: in parallel, resumable.

A `SetSource` loads the features of any samples. Complete tars of an addition that was stopped are
kept, and the manifest, without which nobody reads the set, is written last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from shards.atomic import atomic_write, remove_temporary_files, write_json
from shards.build_settings import load_build_settings
from shards.feature_sets import FeatureSet, as_sample, check_name, decode_set, encode_set
from shards.feature_spec import FeatureSpec
from shards.fingerprint import Moments
from shards.folder_lock import folder_lock
from shards.index import encode_index, index_path, write_index
from shards.jobs import check_features
from shards.json_types import ImageId
from shards.manifest import MANIFEST, Manifest
from shards.parallel import parallel_map
from shards.schema import SCHEMA_VERSION, RegionSet, ShardError, decode_sample_json
from shards.shard import Shard
from shards.tar import read_tar, write_members


class SetSample(NamedTuple):
    """A sample that gets the set."""

    key: str
    image_id: ImageId


class SetSource(Protocol):
    """The features of a set. It is pickled once for each worker process."""

    @property
    def name(self) -> str:
        """The set's name."""

    @property
    def features(self) -> FeatureSpec:
        """Name, width, scale and extractor; the other fields are not read."""

    def fingerprint(self) -> str:
        """A text that changes whenever the features change."""

    def load(self, samples: Sequence[SetSample]) -> Iterator[RegionSet | None]:
        """The features of these samples as they are stored, None for an image without them."""


@dataclass(frozen=True)
class _WrittenTar:
    tar: Shard
    images: int
    max_regions: int
    moments: tuple[Moments, ...]


def write_set(root: Path, source: SetSource, *, workers: int | None = None) -> Manifest:
    """Add a feature set to a folder of shards.

    Args:
        root: the folder.
        source: of the features.
        workers: processes, one per CPU by default; with 1, everything runs in this process.

    Raises:
        ShardError: if the folder has another set of this name, or began to get one, or features are
            not valid.
        CapdistError: if another process writes to the folder.
    """
    Manifest.load(root)  # no lock file in a folder without shards
    with folder_lock(root, "writing to", "stop it"):
        return _write_locked(root, source, workers)


def _write_locked(root: Path, source: SetSource, workers: int | None) -> Manifest:
    manifest, name = Manifest.load(root), check_name(source.name)
    _prepare(manifest, source, root / f"{name}.build.json")
    job = partial(_write_tar, source, root)
    written = parallel_map(job, manifest.shards, workers, f"writing {name}", "shard")
    moments = [moments for tar in written for moments in tar.moments]
    if not moments:
        raise ShardError(f"{root}: no image has the features of set {name!r}; check their files")
    spec = replace(
        source.features,
        max_regions=max(tar.max_regions for tar in written),
        fingerprint=Moments.total(moments).fingerprint(),
    )
    pairs = list(zip(manifest.shards, written, strict=True))
    added = FeatureSet(
        name,
        spec,
        {shard.name: tar.tar for shard, tar in pairs},
        {shard.name: tar.images for shard, tar in pairs},
    )
    others = (found for found in manifest.further if found.name != name)
    manifest = replace(manifest, further=(*others, added))
    write_json(root / MANIFEST, manifest.to_json())
    return manifest


def check_new(manifest: Manifest, name: str) -> None:
    """Refuse the name of a feature set that a folder has.

    Raises:
        ShardError: naming it.
    """
    if name in (names := [found.name for found in manifest.feature_sets]):
        raise ShardError(
            f"{manifest.location}: has feature sets {', '.join(names)} already; choose another "
            "name than " + name
        )


def _prepare(manifest: Manifest, source: SetSource, path: Path) -> None:
    """Continue an addition that was stopped, or repeat one; refuse what is left of another."""
    settings: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "feature_name": source.features.name,
        "feature_dim": source.features.dim,
        "fingerprint": source.fingerprint(),
        "tars": hashlib.sha256("".join(manifest.sha256_by_shard.values()).encode()).hexdigest(),
    }
    tars = [manifest.root / _tar_name(shard, source.name) for shard in manifest.shards]
    if load_build_settings(path) == settings:
        remove_temporary_files(manifest.root)
        return
    check_new(manifest, source.name)
    if left := [tar for tar in tars if tar.exists()]:
        raise ShardError(
            f"{left[0]}: is of other features, which were not added completely; add those again, "
            f"or remove *.{source.name}.tar and choose the new ones"
        )
    remove_temporary_files(manifest.root)
    write_json(path, settings)


def _tar_name(shard: Shard, name: str) -> str:
    return f"{Path(shard.name).stem}.{name}.tar"


def _write_tar(source: SetSource, root: Path, shard: Shard) -> _WrittenTar:
    """Write the tar that goes with a tar of samples, unless it is complete; then read it back."""
    path = root / _tar_name(shard, source.name)
    if not (path.is_file() and index_path(path).is_file()):
        samples = [
            SetSample(entry.key, decode_sample_json(entry.key, members["json"])["image_id"])
            for entry, members in read_tar(root / shard.name)
        ]
        with atomic_write(path) as file:
            loaded = zip(samples, source.load(samples), strict=True)
            encoded = ((sample.key, _encoded(source, sample, f)) for sample, f in loaded)
            write_index(path, write_members(file, encoded))
    return _read_back(source, path, shard)


def _encoded(source: SetSource, sample: SetSample, features: RegionSet | None) -> dict[str, bytes]:
    if features:
        name = f"sample {sample.key} (image {sample.image_id})"
        check_features(name, as_sample(sample.key, features), source.features.dim)
    return encode_set(sample.key, features)


def _read_back(source: SetSource, path: Path, shard: Shard) -> _WrittenTar:
    """Count and hash a complete tar; one of a stopped addition may have been damaged since."""
    index, moments, most = [], list[Moments](), 0
    for entry, members in read_tar(path):
        index.append(entry)
        if features := decode_set(entry.key, members, source.features):
            most = max(most, len(features.regions))
            moments.append(Moments.of(source.features.dequantize(features.regions)))
    if encode_index(index) != index_path(path).read_bytes() or len(index) != shard.samples:
        raise ShardError(f"{path}: does not match its index; delete both and add the set again")
    data = path.read_bytes()
    tar = Shard(
        path.name, shard.split, shard.samples, 0, len(data), hashlib.sha256(data).hexdigest()
    )
    total = (Moments.total(moments),) if moments else ()
    return _WrittenTar(tar, len(moments), most, total)
