"""Detection of captions that end in the middle of a phrase."""

from __future__ import annotations

import pytest

from capdist.metrics.endings import bad_endings


@pytest.mark.parametrize(
    ("caption", "bad"),
    [
        ("a man riding a", True),
        ("a man riding", False),
        ("a dog in the snow and", True),
        ("a dog looking up", False),
        ("", True),
    ],
)
def test_the_last_word_decides(caption: str, bad: bool) -> None:
    assert bad_endings([caption.split()]) == bad


def test_the_share_of_several_captions() -> None:
    assert bad_endings([["a"], ["dog"], ["cat"], ["on"]]) == 0.5
