"""The shapes of the hard corpus's kinds: those of the plain one with two marks, or one of them."""

from __future__ import annotations

from functools import cache

from shards.scenes.shapes import INK, LIGHT, SHAPES, Stroke
from shards.scenes.words import VARIANTS, base

_BAND = Stroke("line", INK, ((0.2, 0.7), (0.5, 0.8), (0.8, 0.7)))
_SPOT = Stroke("ellipse", LIGHT, ((0.4, 0.5), (0.6, 0.7)))


@cache
def shape(kind: str) -> tuple[Stroke, ...]:
    """The strokes of a kind, in painting order."""
    if kind in SHAPES:
        return SHAPES[kind]
    marks = {0: (_BAND,), 1: (_SPOT,), 2: (_SPOT, _BAND)}
    return SHAPES[base(kind)] + marks[list(VARIANTS[base(kind)]).index(kind)]
