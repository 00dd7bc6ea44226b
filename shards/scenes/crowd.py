"""Samples the scenes of the hard corpus, and plans their captions.

Scenes are crowded: six to eight entities of 96 kinds, frequent and rare ones, most of them small,
often partly hidden, and half of the scenes have an entity that looks like the most salient one.
Captions mention one or two entities, which are large or near the centre.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from shards.scenes.catalogue import HARD
from shards.scenes.grammar import Caption, Plan
from shards.scenes.layout import MARGIN, make_entity, place_anywhere
from shards.scenes.relations import near
from shards.scenes.words import RELATIONS
from shards.scenes.world import (
    BACKDROPS,
    COLOURS,
    SIDE,
    Entity,
    Scene,
    intersection,
    visible_shares,
)

#: Edge of a square object in pixels, by size, and how often each size occurs.
EDGES, SIZE_RATES = {"small": 16, "medium": 26, "large": 52}, (0.5, 0.32, 0.18)
MAX_OBJECTS = 10
#: The smallest visible share of an object.
MIN_VISIBLE = 0.3
#: See `Entity.saliency`.
CENTRE_BIAS = 0.8
#: The smallest ratio of the saliencies of the first three entities to the next one's.
MIN_SALIENCY_RATIO = 1.15
#: Probability that an entity is of the same group and colour as the first one.
RIVAL_RATE = 0.5
#: Probability that the second entity takes the place of the first in a caption of one entity.
SECOND_RATE = 0.15


def sample_crowd(rng: np.random.Generator) -> Scene:
    """A random scene of the hard corpus."""
    while True:
        entities = [place_anywhere(rng, entity) for entity in _sample_entities(rng)]
        ranked = sorted(entities, key=lambda entity: -entity.saliency(CENTRE_BIAS))
        if _is_valid(ranked):
            return Scene(str(rng.choice(BACKDROPS)), tuple(ranked))


def _sample_entities(rng: np.random.Generator) -> list[Entity]:
    """Six to eight entities of different kinds, not yet placed."""
    number = int(rng.integers(6, 9))
    weights = np.array(HARD.weights) / sum(HARD.weights)
    kinds = [str(kind) for kind in rng.choice(HARD.kinds, number, replace=False, p=weights)]
    colours = [str(colour) for colour in rng.choice(COLOURS, number)]
    sizes = [str(size) for size in rng.choice(tuple(EDGES), number, p=SIZE_RATES)]
    counts = [int(count) for count in rng.choice((1, 2, 3), number, p=(0.82, 0.13, 0.05))]
    if rng.random() < RIVAL_RATE and not set(rivals := HARD.rivals(kinds[0])) & set(kinds):
        kinds[1], colours[1] = str(rng.choice(rivals)), colours[0]
    depths = [int(depth) for depth in rng.permutation(number)]
    attributes = zip(kinds, colours, sizes, counts, depths, strict=True)
    return [make_entity(rng, *values, edges=EDGES) for values in attributes]


def _is_valid(ranked: list[Entity]) -> bool:
    inner = (MARGIN, MARGIN, SIDE - MARGIN, SIDE - MARGIN)
    fits = all(intersection(entity.bounds, inner) == entity.bounds for entity in ranked)
    few_objects = sum(len(entity.boxes) for entity in ranked) <= MAX_OBJECTS
    first = [entity.saliency(CENTRE_BIAS) for entity in ranked[:3]]
    clear_order = all(high >= MIN_SALIENCY_RATIO * low for high, low in pairwise(first))
    return fits and few_objects and clear_order and min(visible_shares(ranked)) >= MIN_VISIBLE


def _one(caption: Caption) -> None:
    """The first entity, in a few captions the second."""
    entities = caption.scene.entities
    caption.add_entity(entities[caption.rng.random() < SECOND_RATE])


def _there_is_one(caption: Caption) -> None:
    first = caption.scene.entities[0]
    caption.add("there is" if len(first.boxes) == 1 else "there are")
    caption.add_entity(first)


def _two(caption: Caption) -> None:
    """The first two entities, as near each other if they are."""
    first, second = caption.scene.entities[:2]
    caption.add_entity(first)
    caption.add_one_of(RELATIONS["near"] if near(first, second) else ("and",))
    caption.add_entity(second)


#: Most of these captions are short, and so `shards.scenes.grammar` adds the backdrop.
PLANS: tuple[Plan, ...] = (_one, _one, _there_is_one, _two, _two)
