"""What every member of a sample must satisfy; a new one is tested as soon as it is listed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.members import MEMBERS
from shards.members.base import Member
from shards.schema import Sample, ShardError, decode, encode
from tests.support.samples import make_sample

#: The picture's bytes are nobody's to check.
CHECKED = [member for member in MEMBERS if member.suffix != "png"]
SAMPLES = [replace(make_sample(number), picture=b"\x89PNG") for number in range(3)]


def ids(member: Member) -> str:
    return member.suffix


@pytest.mark.parametrize("member", MEMBERS, ids=ids)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.key)
def test_decode_undoes_encode(member: Member, sample: Sample) -> None:
    data = member.encode(sample)
    assert data is not None
    for field, value in member.decode(data).items():
        np.testing.assert_array_equal(
            np.array(value, object), np.array(getattr(sample, field), object)
        )


@pytest.mark.parametrize("member", CHECKED, ids=ids)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bytes_are_the_member_or_an_error_that_names_it(
    member: Member, data: st.DataObject
) -> None:
    members = encode(SAMPLES[1])
    whole = members[member.suffix]
    cut = data.draw(st.integers(0, len(whole)))
    members[member.suffix] = whole[:cut] + data.draw(st.binary(max_size=20)) + whole[cut + 3 :]
    assert refusal(members) is None or f"sample {SAMPLES[1].key}: " in refusal(members)


def refusal(members: dict[str, bytes]) -> str | None:
    """The message with which members are refused; None if they are a sample."""
    try:
        encode(decode(SAMPLES[1].key, members))
    except ShardError as error:
        return str(error)
    return None


@pytest.mark.parametrize("member", MEMBERS, ids=ids)
def test_a_sample_without_it_is_refused_only_if_it_is_required(member: Member) -> None:
    members = encode(SAMPLES[0])
    del members[member.suffix]
    if member.required:
        with pytest.raises(ShardError, match=f"{member.suffix} is missing"):
            decode(SAMPLES[0].key, members)
    else:
        assert member.encode(decode(SAMPLES[0].key, members)) is None
