"""A simulated, imperfect classifier of the relations between an image's regions.

Of each pair of objects of different entities, their best regions have the true relation, a wrong
one or none; a few other pairs of regions have one by mistake.
"""

from __future__ import annotations

import numpy as np

from shards.scenes.detector import root_iou
from shards.scenes.relations import relation
from shards.scenes.world import Scene, normalised
from shards.schema import Array

PREDICATES = ("left", "right", "above", "below", "on", "inside", "holding", "front", "behind")
#: Shares of the pairs that have the true predicate, and a random one.
TRUE, RANDOM = 0.7, 0.15
#: Pairs of random regions that have one by mistake.
MISTAKES = 6
#: A region shows an object if the root of their IoU is at least this.
MIN_OVERLAP = 0.7


def detect_relations(scene: Scene, boxes: Array, rng: np.random.Generator) -> Array:
    """Relations (E, 3) int16 between regions with the boxes (R, 4), see `Sample`."""
    objects = scene.objects()
    found: dict[tuple[int, int], int] = {}
    for subject, other in rng.integers(0, len(boxes), (MISTAKES, 2)).tolist():
        found[subject, other] = int(rng.integers(1, len(PREDICATES) + 1))
    covers = root_iou(boxes, np.array([normalised(box) for _, box in objects]))
    best, shown = covers.argmax(axis=0), covers.max(axis=0) >= MIN_OVERLAP
    for i, (a, _) in enumerate(objects):
        for j, (b, _) in enumerate(objects):
            if a is b or not (shown[i] and shown[j]):
                continue
            draw, wrong = rng.random(), int(rng.integers(1, len(PREDICATES) + 1))
            if draw < TRUE + RANDOM:
                true = 1 + PREDICATES.index(relation(a, b))
                found[int(best[i]), int(best[j])] = true if draw < TRUE else wrong
    edges = [(*pair, predicate) for pair, predicate in sorted(found.items()) if pair[0] != pair[1]]
    return np.array(edges, np.int16).reshape(-1, 3)
