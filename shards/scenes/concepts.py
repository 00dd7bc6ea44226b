"""What a simulated concept detector says of a scene: words with scores, some of them wrong.

Its noise has nothing to do with the region detector's, so a reader of both sees more than a
reader of either.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shards.scenes.relations import between, near, relation
from shards.scenes.words import COUNT_WORDS, NOUNS, RELATIONS, SIZE_WORDS
from shards.scenes.world import BACKDROPS, COLOURS, CONFUSABLE, Entity, Scene

#: A concept list's length lies between these.
FEWEST, MOST = 12, 20
#: How often a true word is missed, for the entities in order of saliency.
MISSED = (0.06, 0.1, 0.2, 0.3)
#: How often a relation is missed: to be sure of it takes the regions.
RELATION_MISSED = 0.3
#: How often a kind brings along one it is confused with.
CONFUSED = 0.7
#: How often a relation is named that may well not hold.
RELATION_INVENTED = 0.6


def spot(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Twelve to twenty (word, score) pairs, highest score first; scores are in 0..1."""
    found: dict[str, float] = {}
    for word, missed in _truth(scene):
        if rng.random() >= missed:
            found[word] = max(found.get(word, 0), _high(rng))
    for entity in scene.entities:
        if rng.random() < CONFUSED:
            found.setdefault(_confused(entity, rng), _middling(rng))
    if rng.random() < RELATION_INVENTED:
        found.setdefault(str(rng.choice(tuple(RELATIONS))), _middling(rng))
    enough = max(FEWEST, len(found) + int(rng.integers(3, 7)))
    for number in rng.permutation(len(WORDS)):
        if len(found) < enough:
            found.setdefault(WORDS[number], _low(rng))
    ranked = sorted(found.items(), key=lambda pair: -pair[1])
    return tuple(ranked[:MOST])


def _truth(scene: Scene) -> Iterator[tuple[str, float]]:
    """Every true word with how often it is missed."""
    for entity, missed in zip(scene.entities, MISSED, strict=False):
        for word in _words(entity):
            yield word, missed
    for word in _relations(scene):
        yield word, RELATION_MISSED
    yield scene.backdrop, MISSED[0]


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
    """The relations between the most salient entities."""
    first, second, *others = scene.entities[:3]
    names = [relation(first, second)]
    if near(first, second):
        names.append("near")
    if others and between(first, second, others[0]):
        names.append("between")
    return names


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


#: Every word it knows, each once.
WORDS = tuple(
    dict.fromkeys(
        (
            *(noun for synonyms in NOUNS.values() for noun in synonyms[0]),
            *COLOURS,
            *(words[0] for words in (*SIZE_WORDS.values(), *COUNT_WORDS.values())),
            *RELATIONS,
            *BACKDROPS,
        )
    )
)
