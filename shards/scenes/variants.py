"""The shapes of the hard corpus's kinds: those of the plain one, mirrored, with a mark, or both."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from shards.scenes.shapes import INK, SHAPES, Stroke
from shards.scenes.words import VARIANTS, base

#: Across the lower half of the box.
_MARK = Stroke("line", INK, ((0.2, 0.72), (0.5, 0.82), (0.8, 0.72)))


@cache
def shape(kind: str) -> tuple[Stroke, ...]:
    """The strokes of a kind, in painting order."""
    strokes = SHAPES[base(kind)]
    if kind in SHAPES:
        return strokes
    number = 1 + list(VARIANTS[base(kind)]).index(kind)
    if number & 1:
        strokes = tuple(map(_mirrored, strokes))
    return (*strokes, _MARK) if number & 2 else strokes


def _mirrored(stroke: Stroke) -> Stroke:
    """Left and right swapped; corners of a rectangle or ellipse stay in the order of Pillow."""
    points = tuple((round(1 - x, 6), y) for x, y in stroke.points)
    if stroke.shape in ("ellipse", "rectangle"):
        (x1, y1), (x2, y2) = points
        points = ((x2, y1), (x1, y2))
    return replace(stroke, points=points)
