"""Further feature sets of the images of a folder of shards, each in tars next to the samples'.

train-00000.tar         the samples, with the regions of the folder's own set
train-00000.grid.tar    the set "grid": for the same samples, in the same order, ``regions.npy`` and
                        ``boxes.npy``, or ``missing``, which is empty, for an image without it

So a set is added without writing the samples again, and nobody who doesn't read it reads its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from shards.feature_spec import FeatureSpec
from shards.location import LocalFolder, RemoteFolder
from shards.manifest_json import FeaturesJson, FurtherSetJson, ManifestJson, SetTarJson
from shards.members import BOXES, REGIONS
from shards.sample import Array, RegionSet, Sample, ShardError
from shards.schema import decode_member
from shards.shard import Shard

#: The name of a folder's own set, unless its manifest has another.
OWN = "regions"
#: The member of a sample without the set.
MISSING = "missing"
_MEMBERS = (REGIONS, BOXES)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class FeatureSet:
    """A named feature set of a folder.

    Args:
        name: see `check_name`.
        spec: extractor and storage.
        tars: the tar of each tar of samples, by its name; None for the folder's own set.
        images: of each tar of samples, by its name, the images that have the set.
    """

    name: str
    spec: FeatureSpec
    tars: Mapping[str, Shard] | None = None
    images: Mapping[str, int] | None = None

    def tar_of(self, shard: Shard) -> Shard:
        """The tar that holds the set of a tar's samples."""
        return shard if self.tars is None else self.tars[shard.name]

    def lacking(self, shard: Shard) -> int:
        """How many samples of a tar lack the set."""
        return 0 if self.images is None else shard.samples - self.images[shard.name]


def check_name(name: str) -> str:
    """The name of a set.

    Raises:
        ShardError: if file names and configs can't have it.
    """
    if not _NAME.fullmatch(name):
        raise ShardError(
            f"feature set {name!r}: expected a name of lower-case letters, digits and '_', such as "
            "grid"
        )
    return name


def listed_set(
    folder: LocalFolder | RemoteFolder, manifest: ManifestJson, row: FurtherSetJson
) -> FeatureSet:
    """A further set of a folder, as its manifest describes it.

    Raises:
        ShardError: if a name is not that of a file in the folder, or not that of a set.
    """
    tars, images = {}, {}
    for tar, shard in zip(row["tars"], manifest["shards"], strict=True):
        name, sha256, size = tar["name"], tar["sha256"], tar["bytes"]
        remote = folder.remote_file(name, sha256, size)
        tars[shard["name"]] = Shard(name, shard["split"], shard["samples"], 0, size, sha256, remote)
        images[shard["name"]] = tar["images"]
    spec = FeatureSpec.from_json(row["features"])
    return FeatureSet(check_name(row["name"]), spec, tars, images)


def set_json(found: FeatureSet, shards: Sequence[Shard]) -> FurtherSetJson:
    """How a manifest with these tars of samples describes a further set."""
    assert found.tars is not None
    assert found.images is not None
    tars: list[SetTarJson] = []
    for shard in shards:
        tar = found.tars[shard.name]
        images = found.images[shard.name]
        row: SetTarJson = {
            "name": tar.name,
            "images": images,
            "bytes": tar.bytes,
            "sha256": tar.sha256,
        }
        tars.append(row)
    features = cast(FeaturesJson, found.spec.to_json())
    return {"name": found.name, "features": features, "tars": tuple(tars)}


def as_sample(key: str, features: RegionSet) -> Sample:
    """A sample that has only the features, for checks."""
    return Sample(
        key=key,
        image_id=0,
        width=0,
        height=0,
        split="",
        captions=(),
        tokens=(),
        regions=features.regions,
        boxes=features.boxes,
    )


def encode_set(key: str, features: RegionSet | None) -> dict[str, bytes]:
    """The members of a sample in the tar of a set, by suffix.

    Raises:
        ShardError: if they are not valid.
    """
    if features is None:
        return {MISSING: b""}
    sample = as_sample(key, features)
    for member in _MEMBERS:
        member.check(sample)
    return {member.suffix: member.encode(sample) for member in _MEMBERS}


def decode_set(key: str, members: Mapping[str, bytes], spec: FeatureSpec) -> RegionSet | None:
    """Inverse of `encode_set`, of a set with this width and storage.

    Raises:
        ShardError: naming a member that is missing or not valid.
    """
    if MISSING in members:
        return None
    fields: dict[str, Array] = {}
    for member in _MEMBERS:
        fields |= decode_member(key, member, members)
    sample = as_sample(key, features := RegionSet(**fields))
    for member in _MEMBERS:
        member.check(sample)
    check_stored(key, features.regions, spec)
    return features


def check_stored(key: str, regions: Array, spec: FeatureSpec) -> None:
    """Check type and width of stored regions.

    Raises:
        ShardError: naming the sample.
    """
    if str(regions.dtype) != spec.stored_dtype:
        raise ShardError(
            f"sample {key}: regions are {regions.dtype}, but the manifest says {spec.stored_dtype}"
        )
    if regions.shape[1] != spec.dim:
        raise ShardError(
            f"sample {key}: regions of width {regions.shape[1]}, but the manifest says {spec.dim}"
        )


def select(
    sets: tuple[FeatureSet, ...], names: tuple[str, ...], where: str
) -> tuple[FeatureSet, ...]:
    """The sets of these names, in their order.

    Raises:
        ShardError: naming one that there is not.
    """
    by_name = {found.name: found for found in sets}
    for name in names:
        if name not in by_name:
            raise ShardError(
                f"{where}: no feature set {name!r}, expected one of {', '.join(by_name)}; choose "
                "one with model.features, or add it with 'python -m shards features'"
            )
    return tuple(by_name[name] for name in names)
