"""What every set brings into an epoch, by its repeats or its proportion."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capdist.config.base import ConfigError, validate
from capdist.config.data import DataConfig, ShardSet
from capdist.data.mixture import images_per_epoch

Sets = list[dict[str, float]]


def plan(sets: Sets) -> tuple[ShardSet, ...]:
    """As a config's `data.shards` is read."""
    shards: list[Any] = [{"shards": str(number), **part} for number, part in enumerate(sets)]
    found = validate(DataConfig, {"shards": shards}, "c.json", "data").shards
    assert not isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("sets", "counts", "expected"),
    [
        # 48 and 30 are 0.65 of 120.
        (
            [{"repeats": 2.5}, {}, {"proportion": 0.3}, {"proportion": 0.05}],
            "19 30 7 900",
            "48 30 36 6",
        ),
        ([{}, {"proportion": 0.3}], "7000 1", "7000 3000"),
        ([{"repeats": 0.01}, {"proportion": 0.001}], "20 50", "1 1"),
        # All of 100; the small set twice and a half.
        ([{"proportion": 0.5}, {"proportion": 0.25}, {"proportion": 0.25}], "10 20 70", "50 25 25"),
        ([{"proportion": 0.1}] * 10, "1 1 1 1 1 1 1 1 1 91", "10 " * 10),
        ([{}], "8", "8"),
    ],
)
def test_images_per_epoch_by_hand(sets: Sets, counts: str, expected: str) -> None:
    assert images_per_epoch(plan(sets), [*map(int, counts.split())]) == [
        *map(int, expected.split())
    ]


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[tuple[str, Fraction]], list[int]]:
    """One to six sets that may be mixed, in hundredths, and how many images each has."""
    cuts = sorted(draw(st.sets(st.integers(1, 99), max_size=4)))
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    hundredths = [("proportion", share) for share in shares]
    if draw(st.booleans()) or len(shares) == 1:
        repeats = draw(st.lists(st.integers(1, 300), min_size=1, max_size=2))
        hundredths = [*hundredths[1:], *(("repeats", times) for times in repeats)]
    sets = [(kind, Fraction(value, 100)) for kind, value in draw(st.permutations(hundredths))]
    return sets, draw(st.lists(st.integers(1, 10**6), min_size=len(sets), max_size=len(sets)))


@settings(deadline=None, max_examples=200, derandomize=True)
@given(mixtures())
def test_images_per_epoch_equal_exact_fractions(
    mixture: tuple[list[tuple[str, Fraction]], list[int]],
) -> None:
    sets, counts = mixture
    images = images_per_epoch(plan([{kind: float(value)} for kind, value in sets]), counts)
    rest = 1 - sum(value for kind, value in sets if kind == "proportion")
    fixed = sum(n for n, (kind, _) in zip(images, sets, strict=True) if kind == "repeats")
    epoch = fixed / rest if rest else Fraction(sum(counts))
    for (kind, value), count, found in zip(sets, counts, images, strict=True):
        wanted = value * (count if kind == "repeats" else epoch)
        assert found == 1 if wanted < Fraction(1, 2) else abs(found - wanted) <= Fraction(1, 2)
    assert abs(sum(images) - epoch) <= len(sets)
    for (kind, value), found in zip(sets, images, strict=True):
        if kind == "proportion":
            assert abs(Fraction(found, sum(images)) - value) <= Fraction(len(sets), sum(images))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            [{}, {"repeats": 2, "proportion": 0.3}],
            "data.shards.1: has both repeats and a proportion; remove one of them",
        ),
        (
            [{"proportion": 0.5}, {"proportion": 0.4}],
            "data.shards: proportions 0.5, 0.4 add up to 0.9, expected 1 because every set has "
            "one; change them, or remove one",
        ),
        (
            [{"proportion": 0.7}, {}, {"proportion": 0.3}],
            "data.shards: proportions 0.7, 0.3 add up to 1, which leaves nothing of an epoch "
            "for data.shards.1; lower them, or give all sets one",
        ),
        ([{}, {"proportion": 1}], "data.shards.1.proportion: Input should be less than 1, got 1"),
        ([{"proportion": 0}], "data.shards.0.proportion: Input should be greater than 0, got 0"),
    ],
)
def test_impossible_proportions_are_refused(sets: Sets, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(sets)
    assert str(refused.value) == f"c.json: {message}"
