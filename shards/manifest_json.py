"""Parses and validates ``manifest.json``."""

from __future__ import annotations

from typing import Any

from pydantic import FiniteFloat, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from shards.extractor_spec import ExtractorSpec
from shards.json_types import Count, T, parse_json
from shards.listed_file import ListedFileJson
from shards.schema import SCHEMA_VERSION, ShardError

#: Bytes of the smallest possible sample in a tar: three members, each with its header.
MIN_SAMPLE_BYTES = 3 * 1024


class _FingerprintJson(TypedDict):
    images: Count
    mean: tuple[FiniteFloat, ...]
    deviation: tuple[FiniteFloat, ...]


class _FeaturesJson(TypedDict):
    name: str
    dim: Count
    max_regions: Count
    fingerprint: _FingerprintJson
    scale: tuple[FiniteFloat, ...]
    extractor: NotRequired[ExtractorSpec]


class _ShardJson(TypedDict):
    name: str
    split: str
    samples: Count
    captions: Count
    bytes: Count
    sha256: str


class ManifestJson(TypedDict):
    """The content of ``manifest.json``; fields as in `shards.manifest.Manifest`."""

    name: str
    features: _FeaturesJson
    shards: tuple[_ShardJson, ...]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...]
    tokeniser: NotRequired[str]
    language: NotRequired[str]
    concept_predictor: NotRequired[ListedFileJson | None]
    caption_counts: NotRequired[ListedFileJson | None]
    predicates: NotRequired[tuple[str, ...]]


_ANY_JSON, _MANIFEST_JSON = TypeAdapter(dict[str, Any]), TypeAdapter(ManifestJson)


def parse_manifest(path: str, text: bytes) -> ManifestJson:
    """The content of ``manifest.json``.

    Args:
        path: of the file, for messages.
        text: its bytes.

    Raises:
        ShardError: if it has another schema version, is not valid, or has impossible numbers.
    """
    if (version := _parse(_ANY_JSON, path, text).get("schema_version")) != SCHEMA_VERSION:
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
    return data


def _check_features(path: str, features: _FeaturesJson) -> None:
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
