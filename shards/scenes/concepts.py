"""A simulated concept detector: words with scores, some of them wrong.

Its noise is independent of the region detector's, so that a model that reads both has more
information than a model that reads one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from shards.scenes.catalogue import Catalogue
from shards.scenes.relations import between, near, relation
from shards.scenes.words import COUNT_WORDS, NOUNS, RELATIONS, SIZE_WORDS
from shards.scenes.world import BACKDROPS, COLOURS, Entity, Scene

#: Limits of the number of concepts.
MIN_CONCEPTS, MAX_CONCEPTS = 12, 20
#: Probability that a true word is missed, for the entities in order of saliency.
MISS_RATE = (0.06, 0.1, 0.2, 0.3)
#: Probability that a relation is missed: models should need the regions for it.
RELATION_MISS_RATE = 0.3
#: Probability that a kind is accompanied by one that it is confused with.
CONFUSION_RATE = 0.7
#: Probability that a random relation is named.
RANDOM_RELATION_RATE = 0.6


def detect_concepts(
    scene: Scene, rng: np.random.Generator, catalogue: Catalogue
) -> tuple[tuple[str, float], ...]:
    """12 to 20 (word, score) pairs, highest score first, with scores in [0, 1]."""
    words = _vocabulary(catalogue)
    scores: dict[str, float] = {}
    for word, miss_rate in _true_words(scene):
        if rng.random() >= miss_rate:
            scores[word] = max(scores.get(word, 0), _true_score(rng))
    for entity in scene.entities:
        if rng.random() < CONFUSION_RATE:
            scores.setdefault(_confused_word(entity, rng, catalogue), _confused_score(rng))
    if rng.random() < RANDOM_RELATION_RATE:
        scores.setdefault(str(rng.choice(tuple(RELATIONS))), _confused_score(rng))
    count = max(MIN_CONCEPTS, len(scores) + int(rng.integers(3, 7)))
    for number in rng.permutation(len(words)):
        if len(scores) < count:
            scores.setdefault(words[number], _random_word_score(rng))
    ranked = sorted(scores.items(), key=lambda pair: -pair[1])
    return tuple(ranked[:MAX_CONCEPTS])


def _true_words(scene: Scene) -> Iterator[tuple[str, float]]:
    """Every true word with the probability that it is missed."""
    for entity, miss_rate in zip(scene.entities, MISS_RATE, strict=False):
        for word in _entity_words(entity):
            yield word, miss_rate
    for word in _relations(scene):
        yield word, RELATION_MISS_RATE
    yield scene.backdrop, MISS_RATE[0]


def _entity_words(entity: Entity) -> list[str]:
    """The usual words for an entity's kind and colour, and for its size and count if special."""
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


def _confused_word(entity: Entity, rng: np.random.Generator, catalogue: Catalogue) -> str:
    others = catalogue.rivals(entity.kind)
    return NOUNS[others[int(rng.integers(len(others)))]][0][len(entity.boxes) > 1]


def _true_score(rng: np.random.Generator) -> float:
    """The score of a true word: mostly above 0.6."""
    return round(0.3 + 0.68 * float(rng.random(2).max()), 3)


def _confused_score(rng: np.random.Generator) -> float:
    """The score of a confused word: anything up to 0.8."""
    return round(0.1 + 0.7 * float(rng.random()), 3)


def _random_word_score(rng: np.random.Generator) -> float:
    """The score of a random word: mostly below 0.3."""
    return round(0.05 + 0.6 * float(rng.random(2).min()), 3)


@cache
def _vocabulary(catalogue: Catalogue) -> tuple[str, ...]:
    """The words that the detector knows."""
    attributes = (words[0] for words in (*SIZE_WORDS.values(), *COUNT_WORDS.values()))
    words = (*catalogue.nouns, *COLOURS, *attributes, *RELATIONS, *BACKDROPS)
    return tuple(dict.fromkeys(words))
