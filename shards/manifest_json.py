"""Parses and validates ``manifest.json``."""

from __future__ import annotations

from typing import Any

from pydantic import FiniteFloat, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from shards.extractor_spec import ExtractorSpec
from shards.json_types import Count, T, parse_json
from shards.listed_file import ListedFileJson
from shards.schema import READABLE_VERSIONS, SCHEMA_VERSION, ShardError

#: Bytes of the smallest possible sample in a tar: three members, each with its header.
MIN_SAMPLE_BYTES = 3 * 1024


class _FingerprintJson(TypedDict):
    images: Count
    mean: tuple[FiniteFloat, ...]
    deviation: tuple[FiniteFloat, ...]


class FeaturesJson(TypedDict):
    """Fields as in `shards.feature_spec.FeatureSpec`."""

    name: str
    dim: Count
    max_regions: Count
    fingerprint: _FingerprintJson
    scale: tuple[FiniteFloat, ...]
    extractor: NotRequired[ExtractorSpec]


class ShardJson(TypedDict):
    """Fields as in `shards.shard.Shard`."""

    name: str
    split: str
    samples: Count
    captions: Count
    bytes: Count
    sha256: str


class SetTarJson(TypedDict):
    """A tar of a further set; ``images`` of its samples have the set."""

    name: str
    images: Count
    bytes: Count
    sha256: str


class FurtherSetJson(TypedDict):
    """A further feature set, with a tar for each of ``shards``, in their order."""

    name: str
    features: FeaturesJson
    tars: tuple[SetTarJson, ...]


class ManifestJson(TypedDict):
    """The content of ``manifest.json``; fields as in `shards.manifest.Manifest`."""

    name: str
    features: FeaturesJson
    shards: tuple[ShardJson, ...]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...]
    tokeniser: NotRequired[str]
    language: NotRequired[str]
    concept_predictor: NotRequired[ListedFileJson | None]
    caption_counts: NotRequired[ListedFileJson | None]
    predicates: NotRequired[tuple[str, ...]]
    feature_set: NotRequired[str]
    further_sets: NotRequired[tuple[FurtherSetJson, ...]]


_ANY_JSON, _MANIFEST_JSON = TypeAdapter(dict[str, Any]), TypeAdapter(ManifestJson)


def parse_manifest(path: str, text: bytes) -> ManifestJson:
    """The content of ``manifest.json``.

    Args:
        path: of the file, for messages.
        text: its bytes.

    Raises:
        ShardError: if it has another schema version, is not valid, or has impossible numbers.
    """
    version = _parse(_ANY_JSON, path, text).get("schema_version")
    if version not in READABLE_VERSIONS:
        raise ShardError(
            f"{path}: schema version {version}, expected {SCHEMA_VERSION}; "
            "build the shards again with this version"
        )
    data = _parse(_MANIFEST_JSON, path, text)
    _check_features(path, data["features"])
    for shard in data["shards"]:
        # Before memory is allocated by the number of samples.
        if shard["samples"] * MIN_SAMPLE_BYTES > shard["bytes"]:
            raise ShardError(
                f"{path}: lists {shard['samples']} samples in the {shard['bytes']} bytes of "
                f"{shard['name']}, which are too many; copy it again"
            )
    for row in data.get("further_sets", ()):
        _check_further(path, data, row)
    return data


def _check_further(path: str, data: ManifestJson, row: FurtherSetJson) -> None:
    _check_features(path, row["features"])
    if len(row["tars"]) != len(data["shards"]):
        raise ShardError(
            f"{path}: feature set {row['name']!r} has {len(row['tars'])} tars for "
            f"{len(data['shards'])} shards; copy it again"
        )
    for tar, shard in zip(row["tars"], data["shards"], strict=True):
        if tar["images"] > shard["samples"]:
            raise ShardError(
                f"{path}: {tar['name']} has {tar['images']} images, but {shard['name']} has "
                f"{shard['samples']}; copy it again"
            )


def _check_features(path: str, features: FeaturesJson) -> None:
    scale, fingerprint = features["scale"], features["fingerprint"]
    mean, deviation = fingerprint["mean"], fingerprint["deviation"]
    if len(scale) not in (0, features["dim"]) or len(mean) != len(deviation):
        raise ShardError(
            f"{path}: features of width {features['dim']} have {len(scale)} scales, {len(mean)} "
            f"means and {len(deviation)} deviations; copy it again"
        )
    if (extractor := features.get("extractor")) and extractor.dim != features["dim"]:
        raise ShardError(
            f"{path}: features of width {features['dim']}, but their extractor makes width "
            f"{extractor.dim}; copy it again"
        )


def _parse(adapter: TypeAdapter[T], path: str, text: bytes) -> T:
    try:
        return parse_json(adapter, text)
    except ValueError as error:
        raise ShardError(f"{path}: {error}; build the shards again, or copy it again") from error
