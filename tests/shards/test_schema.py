import io
import json
from dataclasses import fields, replace

import numpy as np
import pytest

from shards.members import MEMBERS
from shards.schema import Phrase, Sample, ShardError, decode, encode
from tests.support.samples import make_sample

REQUIRED = tuple(member.suffix for member in MEMBERS if member.required)


def assert_equal(one: Sample, other: Sample) -> None:
    for field in fields(Sample):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("i", [0, 1, 2])
def test_decode_undoes_encode(i: int) -> None:
    sample = replace(make_sample(i), picture=b"\x89PNG made up")
    assert_equal(decode(sample.key, encode(sample)), sample)


def test_optional_members_can_be_left_out() -> None:
    sample = replace(make_sample(1), classes=None, concepts=None, grounding=None, relations=None)
    members = encode(sample)
    assert tuple(members) == REQUIRED
    assert_equal(decode(sample.key, members), sample)


def test_no_concepts_differ_from_unknown_concepts() -> None:
    sample = replace(make_sample(1), concepts=(), grounding=())
    assert_equal(decode(sample.key, encode(sample)), sample)


def test_members_can_be_read_by_json_and_numpy() -> None:
    sample = make_sample(2)
    members = encode(sample)
    assert json.loads(members["json"])["tokens"][1] == ["ein", "hündchen"]
    assert "hündchen".encode() in members["json"]
    np.testing.assert_array_equal(np.load(io.BytesIO(members["regions.npy"])), sample.regions)


@pytest.mark.parametrize("suffix", REQUIRED)
def test_missing_member_is_named(suffix: str) -> None:
    members = encode(make_sample(5))
    del members[suffix]
    with pytest.raises(ShardError, match=f"000000000005.{suffix} is missing"):
        decode("000000000005", members)


@pytest.mark.parametrize("suffix", ["json", "regions.npy", "classes.npy", "grounding.json"])
def test_damaged_member_is_named(suffix: str) -> None:
    members = encode(make_sample(5))
    members[suffix] = members[suffix][:-7]
    with pytest.raises(ShardError, match=f"000000000005.{suffix} is not"):
        decode("000000000005", members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": np.zeros((2, 4), np.float32)}, r"regions.npy is float32 \(2, 4\)"),
        ({"regions": np.zeros(4, np.float16)}, r"regions.npy is float16 \(4,\)"),
        ({"regions": np.zeros((0, 4), np.float16), "boxes": np.zeros((0, 4), np.float32)}, "no"),
        ({"boxes": np.zeros((3, 4), np.float32)}, r"boxes.npy .* expected float32 \(2, 4\)"),
        ({"boxes": np.zeros((2, 5), np.float32)}, r"boxes.npy is float32 \(2, 5\)"),
        ({"classes": np.zeros((2, 3), np.int16)}, "classes.npy is int16"),
        ({"captions": ("one",)}, "1 captions but 2 token lists"),
        ({"grounding": (Phrase(2, 0, 1, 0, "dog", ()),)}, "not a phrase of caption 2.* 0 tokens"),
        ({"grounding": (Phrase(0, 1, 5, 2, "dog", ()),)}, "1 to 5 .* caption 0, which has 4"),
        ({"grounding": (Phrase(0, 1, 3, 3, "dog", ()),)}, "with head 3 are not a phrase"),
        ({"key": "a.b"}, "no '.'"),
        ({"key": ""}, "not empty"),
    ],
)
def test_invalid_sample_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        encode(replace(make_sample(1), **change))
