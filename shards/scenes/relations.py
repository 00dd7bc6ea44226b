"""Spatial relations between entities, computed from their boxes and depths."""

from __future__ import annotations

from shards.scenes.words import base
from shards.scenes.world import Entity, area, centre, intersection

#: Kinds that can contain others; their front hides the lower part of what is inside.
CONTAINERS = ("box", "cup")
#: Kinds with a flat top, which others can stand on.
SUPPORTS = ("table", "box", "book", "car")

#: Entities overlap if they share more than this part of the smaller one's box.
MIN_OVERLAP = 0.08
#: Largest gap, in pixels, between entities that are near each other.
NEAR_PIXELS = 14


def relation(a: Entity, b: Entity) -> str:
    """The relation of a to b: one of the keys of `shards.scenes.words.RELATIONS`.

    In order of priority: containing, hiding, standing on; without contact, the direction in which
    the centres differ more. "below" is the inverse of "on" and of "above".
    """
    if _inside(a, b):
        return "inside"
    if _inside(b, a):
        return "holding"
    if overlapping(a, b):
        return "front" if a.depth > b.depth else "behind"
    if _on(a, b):
        return "on"
    return _direction(a, b)


def near(a: Entity, b: Entity) -> bool:
    """Whether at most NEAR_PIXELS pixels separate a and b along each axis."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.bounds, b.bounds
    return max(ax1 - bx2, bx1 - ax2, ay1 - by2, by1 - ay2) <= NEAR_PIXELS


def between(a: Entity, b: Entity, c: Entity) -> bool:
    """Whether b and c are on different sides of a, all in one row."""
    left, right = sorted((b, c), key=lambda entity: centre(entity.bounds))
    separated = left.bounds[2] <= a.bounds[0] and a.bounds[2] <= right.bounds[0]
    return separated and relation(a, left) == "right" and relation(a, right) == "left"


def overlapping(a: Entity, b: Entity) -> bool:
    """Whether the bounds share more than MIN_OVERLAP of the smaller one."""
    common = area(intersection(a.bounds, b.bounds))
    return common > MIN_OVERLAP * min(area(a.bounds), area(b.bounds))


def _inside(a: Entity, b: Entity) -> bool:
    within = b.bounds[0] <= a.bounds[0] and a.bounds[2] <= b.bounds[2]
    partly_below_top = b.bounds[1] < a.bounds[3] <= b.bounds[3]
    hidden = a.depth < b.depth and overlapping(a, b)
    return base(b.kind) in CONTAINERS and within and partly_below_top and hidden


def _on(a: Entity, b: Entity) -> bool:
    x, _ = centre(a.bounds)
    touches = abs(a.bounds[3] - b.bounds[1]) <= 2
    return base(b.kind) in SUPPORTS and touches and b.bounds[0] <= x <= b.bounds[2]


def _direction(a: Entity, b: Entity) -> str:
    (ax, ay), (bx, by) = centre(a.bounds), centre(b.bounds)
    if abs(ax - bx) >= abs(ay - by):
        return "left" if ax < bx else "right"
    return "above" if ay < by else "below"
