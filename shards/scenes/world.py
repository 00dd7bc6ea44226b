"""The content of a scene: its entities, their boxes and their saliency.

Positions are whole pixels and arithmetic is exact or correctly rounded, so that a scene is the same
on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shards.scenes.words import base

#: The canvas is a square of SIDE × SIDE pixels.
SIDE = 160

#: Groups of kinds that a detector easily confuses.
CONFUSABLE = (
    ("cat", "dog", "bird"),
    ("ball", "moon", "clock"),
    ("box", "book", "house"),
    ("cone", "tree", "kite"),
    ("car", "boat", "fish"),
    ("flower", "mushroom", "umbrella"),
    ("chair", "table", "lamp"),
    ("cup", "key", "star"),
)
KINDS = tuple(kind for group in CONFUSABLE for kind in group)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
BACKDROPS = ("grass", "beach", "floor", "snow")

#: Edge of a square object in pixels, by size; `ASPECT` stretches it by kind.
SIZES = {"small": 24, "medium": 36, "large": 54}

#: Kinds that contain or carry others, which are less salient than what is in or on them.
FURNITURE = ("table", "box", "book", "car", "cup", "chair")

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Entity:
    """One object, or a row of two to four equal ones; ``boxes`` are x1, y1, x2, y2 in pixels.

    An entity with larger ``depth`` is painted later and hides those behind it.
    """

    kind: str
    colour: str
    size: str
    boxes: tuple[Box, ...]
    depth: int

    @cached_property
    def bounds(self) -> Box:
        """The smallest box around all objects of the row."""
        x1, y1, x2, y2 = zip(*self.boxes, strict=True)
        return min(x1), min(y1), max(x2), max(y2)

    def saliency(self, centre_bias: float = 0.5) -> float:
        """√(area in pixels), lower far from the centre and for furniture.

        Args:
            centre_bias: the share that is lost in a corner of the canvas.
        """
        x, y = centre(self.bounds)
        distance = math.sqrt((x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2) / (SIDE / math.sqrt(2))
        interest = 0.4 if base(self.kind) in FURNITURE else 1.0
        return (
            interest
            * (1 - centre_bias * distance)
            * math.sqrt(sum(area(box) for box in self.boxes))
        )


@dataclass(frozen=True)
class Scene:
    """A backdrop and two or more entities, the most salient first."""

    backdrop: str
    entities: tuple[Entity, ...]

    def objects(self) -> list[tuple[Entity, Box]]:
        """Every object's entity and box, in painting order."""
        return painting_order(self.entities)


def painting_order(entities: Sequence[Entity]) -> list[tuple[Entity, Box]]:
    """Every object's entity and box, those behind first."""
    by_depth = sorted(entities, key=lambda entity: entity.depth)
    return [(entity, box) for entity in by_depth for box in entity.boxes]


def visible_shares(entities: Sequence[Entity]) -> list[float]:
    """The share of each object's box that no later box hides, in painting order."""
    boxes = [box for _, box in painting_order(entities)]
    shares = []
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        visible = np.ones((SIDE, SIDE), bool)
        for u1, v1, u2, v2 in boxes[number + 1 :]:
            visible[v1:v2, u1:u2] = False
        shares.append(int(visible[y1:y2, x1:x2].sum()) / area(boxes[number]))
    return shares


def area(box: Box) -> int:
    """The area of a box in square pixels; 0 for an empty one."""
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def centre(box: Box) -> tuple[float, float]:
    """The centre x, y of a box in pixels."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def intersection(a: Box, b: Box) -> Box:
    """The intersection of two boxes; its `area` is 0 if they do not overlap."""
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def normalised(box: Box) -> tuple[float, float, float, float]:
    """A box in pixels, divided by the size of the canvas."""
    x1, y1, x2, y2 = box
    return x1 / SIDE, y1 / SIDE, x2 / SIDE, y2 / SIDE
