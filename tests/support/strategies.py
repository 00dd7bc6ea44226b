"""Hostile input, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def corrupted(draw: st.DrawFn, valid: bytes) -> bytes:
    """The bytes with some replaced, removed, duplicated or truncated."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 2, 8, 512])))
        replacement = st.one_of(st.binary(max_size=12), st.just(bytes(data[start:stop]) * 2))
        data[start:stop] = draw(replacement)
        if draw(st.booleans()):
            del data[draw(st.integers(0, len(data))) :]
    return bytes(data)
