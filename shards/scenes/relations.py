"""Spatial relations between entities, read off their boxes and depths alone."""

from __future__ import annotations

from shards.scenes.world import Entity, area, centre, intersection

#: Kinds with an opening, whose front hides the lower part of what is inside.
CONTAINERS = ("box", "cup")
#: Kinds with a flat top.
SUPPORTS = ("table", "box", "book", "car")

#: Entities that hide more than this share of each other's smaller box count as overlapping.
OVERLAP = 0.08
#: Largest gap, in pixels, between entities that are near each other.
NEAR = 14


def relation(a: Entity, b: Entity) -> str:
    """How a stands to b: one of the keys of `shards.scenes.words.RELATIONS`.

    Containing comes first, then hiding, then standing on; without contact the larger of the two
    distances between centres decides. "below" answers "on" as well as "above".
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
    """Whether at most NEAR pixels separate a and b along each axis."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.bounds, b.bounds
    return max(ax1 - bx2, bx1 - ax2, ay1 - by2, by1 - ay2) <= NEAR


def between(a: Entity, b: Entity, c: Entity) -> bool:
    """Whether b and c stand on the left and right of a, in either order, all in one row."""
    left, right = sorted((b, c), key=lambda entity: centre(entity.bounds))
    apart = left.bounds[2] <= a.bounds[0] and a.bounds[2] <= right.bounds[0]
    return apart and relation(a, left) == "right" and relation(a, right) == "left"


def overlapping(a: Entity, b: Entity) -> bool:
    """Whether the bounds share more than OVERLAP of the smaller one."""
    shared = area(intersection(a.bounds, b.bounds))
    return shared > OVERLAP * min(area(a.bounds), area(b.bounds))


def _inside(a: Entity, b: Entity) -> bool:
    within = b.bounds[0] <= a.bounds[0] and a.bounds[2] <= b.bounds[2]
    sunk = b.bounds[1] < a.bounds[3] <= b.bounds[3]
    hidden = a.depth < b.depth and overlapping(a, b)
    return b.kind in CONTAINERS and within and sunk and hidden


def _on(a: Entity, b: Entity) -> bool:
    x, _ = centre(a.bounds)
    touches = abs(a.bounds[3] - b.bounds[1]) <= 2
    return b.kind in SUPPORTS and touches and b.bounds[0] <= x <= b.bounds[2]


def _direction(a: Entity, b: Entity) -> str:
    (ax, ay), (bx, by) = centre(a.bounds), centre(b.bounds)
    if abs(ax - bx) >= abs(ay - by):
        return "left" if ax < bx else "right"
    return "above" if ay < by else "below"
