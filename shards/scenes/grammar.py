"""Five captions of a scene, with the boxes of their phrases.

The most salient entity is the subject (in a few captions, the second one); captions differ in the
colours and sizes that they mention, and in whether they mention the relation, the third entity or
the backdrop. Everything they say is true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from shards.scenes.relations import between, near, relation
from shards.scenes.words import (
    BACKDROP_WORDS,
    COLOUR_WORDS,
    COUNT_WORDS,
    NOUNS,
    RELATIONS,
    SIZE_WORDS,
)
from shards.scenes.world import Entity, Scene, normalised
from shards.schema import Phrase

#: Captions with fewer words also mention the backdrop.
MIN_WORDS = 8
#: Probability of the usual word among synonyms.
USUAL_RATE = 0.65
#: Probabilities that colour and size are mentioned, for the entities in order of saliency.
COLOUR_RATE = (0.85, 0.7, 0.5)
SIZE_RATE = (0.45, 0.25, 0.1)
#: Probability that the second entity is the subject of a relation.
SWAP_RATE = 0.15

T = TypeVar("T")


@dataclass
class Caption:
    """A caption under construction; ``number`` is its position among the scene's captions."""

    scene: Scene
    rng: np.random.Generator
    number: int
    tokens: list[str] = field(default_factory=list)
    phrases: list[Phrase] = field(default_factory=list)

    def add(self, words: str) -> None:
        """Append the words of a string."""
        self.tokens.extend(words.split())

    def add_one_of(self, synonyms: Sequence[str]) -> None:
        """Append the first of these (usually) or another."""
        self.add(_one_of(self.rng, synonyms))

    def add_entity(self, entity: Entity) -> None:
        """Append a noun phrase for an entity, and its boxes to ``phrases``."""
        start = len(self.tokens)
        self.tokens.extend(self._noun_phrase(entity))
        boxes = tuple(normalised(box) for box in entity.boxes)
        end = len(self.tokens)
        self.phrases.append(Phrase(self.number, start, end, end - 1, entity.kind, boxes))

    def _noun_phrase(self, entity: Entity) -> list[str]:
        rank = min(self.scene.entities.index(entity), 2)
        words = []
        if entity.size in SIZE_WORDS and self.rng.random() < SIZE_RATE[rank]:
            words.append(_one_of(self.rng, SIZE_WORDS[entity.size]))
        if self.rng.random() < COLOUR_RATE[rank]:
            words.append(_one_of(self.rng, COLOUR_WORDS[entity.colour]))
        single, plural = _one_of(self.rng, NOUNS[entity.kind])
        if (count := len(entity.boxes)) > 1:
            return [*_one_of(self.rng, COUNT_WORDS[count]).split(), *words, plural]
        words.append(single)
        return ["an" if words[0][0] in "aeiou" else "a", *words]


#: Writes one caption.
Plan = Callable[[Caption], None]


def make_captions(scene: Scene, rng: np.random.Generator, plans: Sequence[Plan]) -> list[Caption]:
    """Captions of a scene, one of each of its plans, such as `PLANS`, in random order."""
    captions = []
    for number, plan in enumerate(rng.permutation(len(plans))):
        caption = Caption(scene, rng, number)
        plans[plan](caption)
        if len(caption.tokens) < MIN_WORDS:
            caption.add_one_of(BACKDROP_WORDS[scene.backdrop])
        captions.append(caption)
    return captions


def to_sentence(tokens: Sequence[str]) -> str:
    """A caption's tokens as a sentence."""
    return " ".join(tokens).capitalize() + "."


def _relation(caption: Caption) -> None:
    """The relation of the two most salient entities, sometimes from the second one's side."""
    first, second = caption.scene.entities[:2]
    _relate(caption, *((second, first) if caption.rng.random() < SWAP_RATE else (first, second)))


def _all_relations(caption: Caption) -> None:
    """The first entity between the next two if it is; otherwise the relation of the first two."""
    first, *others = caption.scene.entities[:3]
    if len(others) < 2 or not between(first, *others):
        _relation(caption)
        return
    caption.add_entity(first)
    caption.add("between")
    caption.add_entity(others[0])
    caption.add("and")
    caption.add_entity(others[1])


def _there_is(caption: Caption) -> None:
    first, second = caption.scene.entities[:2]
    caption.add("there is" if len(first.boxes) == 1 else "there are")
    _relate(caption, first, second)


def _with_third(caption: Caption) -> None:
    """The first two entities, as near each other if they are, and the third."""
    first, second, *others = caption.scene.entities
    caption.add_entity(first)
    caption.add_one_of(RELATIONS["near"] if near(first, second) else ("and",))
    caption.add_entity(second)
    if others:
        caption.add("with")
        caption.add_entity(others[0])


def _with_backdrop(caption: Caption) -> None:
    _relation(caption)
    caption.add_one_of(BACKDROP_WORDS[caption.scene.backdrop])


def _relate(caption: Caption, a: Entity, b: Entity) -> None:
    caption.add_entity(a)
    caption.add_one_of(RELATIONS[relation(a, b)])
    caption.add_entity(b)


PLANS: tuple[Plan, ...] = (
    _relation,
    _all_relations,
    _there_is,
    _with_third,
    _with_backdrop,
)


def _one_of(rng: np.random.Generator, synonyms: Sequence[T]) -> T:
    if len(synonyms) == 1 or rng.random() < USUAL_RATE:
        return synonyms[0]
    return synonyms[int(rng.integers(1, len(synonyms)))]
