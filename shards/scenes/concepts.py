"""What a simulated concept detector says of a scene: words with scores, some of them wrong.

Its noise has nothing to do with the region detector's, so a reader of both sees more than a
reader of either.
"""

from __future__ import annotations

import numpy as np

from shards.scenes.relations import between, near, relation
from shards.scenes.words import (
    BACKDROP_CONCEPTS,
    COUNT_WORDS,
    NOUNS,
    RELATION_CONCEPTS,
    SIZE_WORDS,
)
from shards.scenes.world import BACKDROPS, COLOURS, CONFUSABLE, Entity, Scene

#: A concept list's length lies between these.
FEWEST, MOST = 12, 20
#: How often a true word is missed, for the entities in order of saliency.
MISSED = (0.06, 0.1, 0.2, 0.3)
#: How often a kind brings along one it is confused with.
CONFUSED = 0.7


def spot(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Twelve to twenty (word, score) pairs, highest score first; scores are in 0..1."""
    found: dict[str, float] = {}
    for rank, entity in enumerate(scene.entities):
        for word in _words(entity):
            if rng.random() >= MISSED[rank]:
                found[word] = max(found.get(word, 0), _high(rng))
        if rng.random() < CONFUSED:
            found.setdefault(_confused(entity, rng), _middling(rng))
    for word in (*_relations(scene), BACKDROP_CONCEPTS[scene.backdrop]):
        if rng.random() >= MISSED[1]:
            found[word] = _high(rng)
    for word in rng.permutation(ALL_WORDS)[: int(rng.integers(3, 7))]:
        found.setdefault(str(word), _low(rng))
    for word in rng.permutation(ALL_WORDS):
        if len(found) >= FEWEST:
            break
        found.setdefault(str(word), _low(rng))
    ranked = sorted(found.items(), key=lambda pair: -pair[1])
    return tuple(ranked[:MOST])


def _words(entity: Entity) -> list[str]:
    """The usual words for an entity's kind and colour, and for a telling size or count."""
    number = len(entity.boxes)
    words = [NOUNS[entity.kind][0][number > 1], entity.colour]
    if entity.size in SIZE_WORDS:
        words.append(SIZE_WORDS[entity.size][0])
    if number > 1:
        words.append(COUNT_WORDS[number][0])
    return words


def _relations(scene: Scene) -> list[str]:
    """The words of the relations between the most salient entities."""
    first, second, *others = scene.entities[:3]
    names = [relation(first, second)]
    if near(first, second):
        names.append("near")
    if others and between(first, second, others[0]):
        names.append("between")
    return [RELATION_CONCEPTS[name] for name in names]


def _confused(entity: Entity, rng: np.random.Generator) -> str:
    group = next(group for group in CONFUSABLE if entity.kind in group)
    others = [kind for kind in group if kind != entity.kind]
    return NOUNS[others[int(rng.integers(len(others)))]][0][len(entity.boxes) > 1]


def _high(rng: np.random.Generator) -> float:
    """The score of a true word: mostly above 0.6."""
    return round(0.3 + 0.68 * float(rng.random(2).max()), 3)


def _middling(rng: np.random.Generator) -> float:
    """The score of a confused word: anything up to 0.8."""
    return round(0.1 + 0.7 * float(rng.random()), 3)


def _low(rng: np.random.Generator) -> float:
    """The score of a stray word: mostly below 0.3."""
    return round(0.05 + 0.6 * float(rng.random(2).min()), 3)


ALL_WORDS = (
    *(noun for synonyms in NOUNS.values() for noun in synonyms[0]),
    *COLOURS,
    *(words[0] for words in (*SIZE_WORDS.values(), *COUNT_WORDS.values())),
    *RELATION_CONCEPTS.values(),
    *(BACKDROP_CONCEPTS[backdrop] for backdrop in BACKDROPS),
)
