"""Samples a scene: kinds, colours, sizes, counts and positions of its entities.

An arrangement places the first two entities (three for "between"); the others are placed where
there is room. Rejection sampling: a scene that does not fit, hides too much, or has no clear order
of saliency is sampled again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from shards.scenes.relations import CONTAINERS, SUPPORTS
from shards.scenes.words import base
from shards.scenes.world import (
    BACKDROPS,
    COLOURS,
    KINDS,
    SIDE,
    SIZES,
    Entity,
    Scene,
    area,
    centre,
    intersection,
    visible_shares,
)

ARRANGEMENTS = ("left", "right", "above", "below", "on", "inside", "front", "between")
MAX_OBJECTS = 6
#: Empty pixels at the edge of the canvas, and around entities of `_place_with_room`.
MARGIN = 3
#: The smallest visible share of an object.
MIN_VISIBLE = 0.4
#: The smallest ratio of an entity's saliency and the next one's.
MIN_SALIENCY_RATIO = 1.1

#: Width and height of a kind, as multiples of its size's edge; square if not listed.
ASPECT = {
    "car": (1.3, 0.75),
    "boat": (1.2, 0.95),
    "fish": (1.25, 0.75),
    "table": (1.3, 0.85),
    "book": (1.15, 0.85),
    "lamp": (0.75, 1.2),
    "tree": (0.85, 1.25),
    "chair": (0.75, 1.2),
    "key": (1.3, 0.6),
    "cone": (0.85, 1.1),
    "kite": (0.85, 1.2),
}


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene."""
    while True:
        arrangement = str(rng.choice(ARRANGEMENTS))
        entities = _place(rng, arrangement, _sample_entities(rng, arrangement))
        if _is_valid(entities):
            ranked = sorted(entities, key=lambda entity: -entity.saliency())
            return Scene(str(rng.choice(BACKDROPS)), tuple(ranked))


def _sample_entities(rng: np.random.Generator, arrangement: str) -> list[Entity]:
    """Two to four entities of different kinds, not yet placed."""
    number = int(rng.choice((2, 3, 4), p=(0.3, 0.5, 0.2)))
    number = max(number, 3) if arrangement == "between" else number
    kinds = [str(kind) for kind in rng.choice(KINDS, number, replace=False)]
    sizes = [str(size) for size in rng.choice(tuple(SIZES), number, p=(0.35, 0.35, 0.3))]
    sizes[2:] = ["small" if size == "large" else size for size in sizes[2:]]
    counts = [int(count) for count in rng.choice((1, 2, 3, 4), number, p=(0.62, 0.18, 0.12, 0.08))]
    if arrangement in ("on", "inside"):
        kinds = _with_base(rng, kinds, SUPPORTS if arrangement == "on" else CONTAINERS)
        sizes[:2] = "small", "large"
        counts[:2] = 1, 1
    colours = [str(colour) for colour in rng.choice(COLOURS, number)]
    # An entity inside a container is painted before it; otherwise the first after the second.
    depths = (0, 1, 2, 3) if arrangement == "inside" else (1, 0, 2, 3)
    attributes = zip(kinds, colours, sizes, counts, depths, strict=False)
    return [make_entity(rng, *values) for values in attributes]


def _with_base(rng: np.random.Generator, kinds: list[str], bases: Sequence[str]) -> list[str]:
    """As many different kinds, with one of ``bases`` as the second."""
    base = str(rng.choice(bases))
    others = [kind for kind in kinds if kind != base][: len(kinds) - 1]
    return [others[0], base, *others[1:]]


def make_entity(
    rng: np.random.Generator,
    kind: str,
    colour: str,
    size: str,
    count: int,
    depth: int,
    edges: Mapping[str, int] = SIZES,
) -> Entity:
    """An entity whose objects are in a row at the corner of the canvas; ``edges`` as in SIZES."""
    edge = edges[size] * rng.uniform(0.92, 1.08)
    wide, high = ASPECT.get(base(kind), (1.0, 1.0))
    width, height = round(edge * wide), round(edge * high)
    step = width + int(rng.integers(2, 5))
    boxes = tuple((i * step, 0, i * step + width, height) for i in range(count))
    return Entity(kind, colour, size, boxes, depth)


def _place(rng: np.random.Generator, arrangement: str, entities: list[Entity]) -> list[Entity]:
    """The entities at their positions, which may be partly outside the canvas."""
    first, second, *others = entities
    second = place_anywhere(rng, second)
    first = _place_relative(rng, first, second, "left" if arrangement == "between" else arrangement)
    placed = [first, second]
    if arrangement == "between":
        placed.append(_place_relative(rng, others.pop(0), first, "left"))
    for entity in others:
        placed.append(_place_with_room(rng, entity, placed))
    return placed


def _place_relative(rng: np.random.Generator, a: Entity, b: Entity, side: str) -> Entity:
    """Entity a in the given relation to b."""
    (aw, ah), (bw, bh) = _extent(a), _extent(b)
    gap, slide, lean = rng.integers(5, 24), rng.integers(-9, 10), rng.uniform(-1, 1)
    along, across = (aw + bw) / 2 + gap, (ah + bh) / 2 + gap
    dx, dy = {
        "left": (-along, slide),
        "right": (along, slide),
        "above": (slide, -across),
        "below": (slide, across),
        "on": (lean * bw / 4, gap - across),
        "inside": (lean * (bw - aw) / 2, gap - across + 0.5 * ah),
        "front": (lean * (aw + bw) / 3, 0.3 * bh),
    }[side]
    x, y = centre(b.bounds)
    return _moved(a, round(x + dx - aw / 2), round(y + dy - ah / 2))


def place_anywhere(rng: np.random.Generator, entity: Entity) -> Entity:
    """The entity at a random position on the canvas."""
    width, height = _extent(entity)
    x = rng.integers(MARGIN, max(MARGIN + 1, SIDE - MARGIN - width))
    y = rng.integers(MARGIN, max(MARGIN + 1, SIDE - MARGIN - height))
    return _moved(entity, int(x), int(y))


def _place_with_room(rng: np.random.Generator, entity: Entity, placed: list[Entity]) -> Entity:
    """The entity where it touches no other; after 20 attempts, anywhere."""
    for _ in range(20):
        entity = place_anywhere(rng, entity)
        x1, y1, x2, y2 = entity.bounds
        around = (x1 - MARGIN, y1 - MARGIN, x2 + MARGIN, y2 + MARGIN)
        if not any(area(intersection(around, other.bounds)) for other in placed):
            break
    return entity


def _extent(entity: Entity) -> tuple[int, int]:
    x1, y1, x2, y2 = entity.bounds
    return x2 - x1, y2 - y1


def _moved(entity: Entity, x: int, y: int) -> Entity:
    """The entity with its upper left corner at x, y."""
    dx, dy = x - entity.bounds[0], y - entity.bounds[1]
    boxes = tuple((x1 + dx, y1 + dy, x2 + dx, y2 + dy) for x1, y1, x2, y2 in entity.boxes)
    return replace(entity, boxes=boxes)


def _is_valid(entities: list[Entity]) -> bool:
    inner = (MARGIN, MARGIN, SIDE - MARGIN, SIDE - MARGIN)
    fits = all(intersection(entity.bounds, inner) == entity.bounds for entity in entities)
    few_objects = sum(len(entity.boxes) for entity in entities) <= MAX_OBJECTS
    ranks = sorted((entity.saliency() for entity in entities), reverse=True)
    clear_order = all(high >= MIN_SALIENCY_RATIO * low for high, low in pairwise(ranks))
    return fits and few_objects and clear_order and min(visible_shares(entities)) >= MIN_VISIBLE
