"""The extrapolation of starts: a power law of each part, and their sum."""

from __future__ import annotations

import pytest

from benchmarks import start
from benchmarks.start import COUNTING, FAR, MEMORY, ON_DISK, PARTS, SCST, XE, Figures


def row(images: int) -> dict[str, float]:
    """Parts that grow with the number of images, its root, and not at all."""
    parts = dict(zip(PARTS, (images, images**0.5, 7.0, 2 * images), strict=True))
    return {**parts, MEMORY: 0.3 + images / 1e9, ON_DISK: 3 * images, COUNTING: 5 * images}


def test_parts_are_extrapolated_and_added_up() -> None:
    figures = Figures({n: row(n) for n in (10**4, 10**5, 10**6)}, imports=0.3)
    expected = row(FAR)
    for name, value in expected.items():
        assert figures.far[name] == pytest.approx(value)
    assert figures.far[XE] == pytest.approx(FAR + FAR**0.5 + 7)
    assert figures.far[SCST] == pytest.approx(3 * FAR + FAR**0.5 + 7)
    assert "| slope " in figures.page("command")


def test_starts_are_measured_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "SIZES", (40, 80))
    monkeypatch.setattr(start, "ROUNDS", 1)
    monkeypatch.setattr(start, "alone", lambda function, *arguments: function(*arguments))
    rows = start.measure(80).rows
    assert [*rows] == [40, 80]
    assert 0 < rows[40][ON_DISK] < rows[80][ON_DISK]
    for row in rows.values():
        assert row[SCST] == pytest.approx(sum(row[part] for part in PARTS))


def test_one_size_is_not_extrapolated() -> None:
    assert Figures({10**4: row(10**4)}, imports=0.3).far == {}
