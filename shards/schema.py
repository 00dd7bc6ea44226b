"""Encodes and decodes samples; shards/README.md is the normative text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shards.json_types import T
from shards.members import DESCRIPTION, GROUNDING, MEMBERS
from shards.members.base import Member
from shards.members.description import SampleJson
from shards.sample import (
    CLASS_DTYPE,
    KEY_PATTERN,
    Array,
    Phrase,
    RegionSet,
    Sample,
    ShardError,
)

__all__ = ["CLASS_DTYPE", "KEY_PATTERN", "Array", "Phrase", "RegionSet", "Sample", "ShardError"]

SCHEMA_VERSION = 3
#: Version 2 knows no further feature sets, and is otherwise the same.
READABLE_VERSIONS = (2, SCHEMA_VERSION)


def encode(sample: Sample) -> dict[str, bytes]:
    """The bytes of a sample's members by suffix, in their order in a tar.

    Raises:
        ShardError: if the sample is not valid, see `check_sample`.
    """
    check_sample(sample)
    members = ((member.suffix, member.encode(sample)) for member in MEMBERS)
    return {suffix: data for suffix, data in members if data is not None}


def decode(key: str, members: Mapping[str, bytes]) -> Sample:
    """Inverse of `encode`.

    Raises:
        ShardError: naming a required member that is missing, or a member that is not valid.
    """
    fields: dict[str, Any] = {}
    for member in MEMBERS:
        fields |= decode_member(key, member, members)
    sample = Sample(key=key, **fields)
    check_sample(sample)
    return sample


def decode_member(key: str, member: Member, members: Mapping[str, bytes]) -> dict[str, Any]:
    """The fields of `Sample` that a member holds; none of an optional one that is missing.

    Raises:
        ShardError: if a required member is missing, or its bytes are not valid.
    """
    if member.suffix in members:
        return _decoded(key, member.suffix, member.decode, members[member.suffix])
    if member.required:
        raise ShardError(
            f"sample {key}: member {key}.{member.suffix} is missing; build the shard again"
        )
    return {}


def decode_sample_json(key: str, data: bytes) -> SampleJson:
    """The content of the member ``json``.

    Raises:
        ShardError: if it is not valid.
    """
    return _decoded(key, DESCRIPTION.suffix, DESCRIPTION.parse, data)


def decode_grounding(key: str, data: bytes) -> tuple[Phrase, ...]:
    """The phrases of the member ``grounding.json``.

    Raises:
        ShardError: if it is not valid.
    """
    return _decoded(key, GROUNDING.suffix, GROUNDING.parse, data)


def check_sample(sample: Sample) -> None:
    """Check the key of a sample, and its members.

    Raises:
        ShardError: naming the sample and the member, what was found and what was expected.
    """
    for member in MEMBERS:
        member.check(sample)
    if not KEY_PATTERN.fullmatch(sample.key):
        raise ShardError(
            f"sample key {sample.key!r}: expected one that is not empty and has no '.', no '/' and "
            "no control character"
        )


def _decoded(key: str, suffix: str, decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except ValueError as error:
        raise ShardError(f"sample {key}: member {key}.{suffix} is {error}") from error
