"""Five captions of a scene and where their phrases lie.

The most salient entity is the subject (in a few captions the second one is); captions
differ in which colours and sizes they give, and in whether they tell the relation, the third
entity or the backdrop. All they say is true of the scene.
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

#: Captions shorter than FEWEST words go on to say where the scene is.
FEWEST = 8
#: How often a word that has synonyms is the usual one.
USUAL = 0.65
#: How often a colour and a size are given, for the entities in order of saliency.
COLOUR_GIVEN = (0.85, 0.7, 0.5)
SIZE_GIVEN = (0.45, 0.25, 0.1)
#: How often a relation is told from the second entity's side.
SWAPPED = 0.15

T = TypeVar("T")


@dataclass
class Caption:
    """A caption as it grows; ``number`` is its place among the scene's captions."""

    scene: Scene
    rng: np.random.Generator
    number: int
    tokens: list[str] = field(default_factory=list)
    phrases: list[Phrase] = field(default_factory=list)

    def say(self, words: str) -> None:
        """Append words, given in one string."""
        self.tokens.extend(words.split())

    def say_one_of(self, synonyms: Sequence[str]) -> None:
        """Append the first of these, or now and then another."""
        self.say(_one_of(self.rng, synonyms))

    def name(self, entity: Entity) -> None:
        """Append a noun phrase for an entity and note where it lies."""
        start = len(self.tokens)
        self.tokens.extend(self._noun_phrase(entity))
        boxes = tuple(normalised(box) for box in entity.boxes)
        end = len(self.tokens)
        self.phrases.append(Phrase(self.number, start, end, end - 1, entity.kind, boxes))

    def _noun_phrase(self, entity: Entity) -> list[str]:
        rank = min(self.scene.entities.index(entity), 2)
        words = []
        if entity.size in SIZE_WORDS and self.rng.random() < SIZE_GIVEN[rank]:
            words.append(_one_of(self.rng, SIZE_WORDS[entity.size]))
        if self.rng.random() < COLOUR_GIVEN[rank]:
            words.append(_one_of(self.rng, COLOUR_WORDS[entity.colour]))
        single, plural = _one_of(self.rng, NOUNS[entity.kind])
        if (count := len(entity.boxes)) > 1:
            return [*_one_of(self.rng, COUNT_WORDS[count]).split(), *words, plural]
        words.append(single)
        return ["an" if words[0][0] in "aeiou" else "a", *words]


def captions(scene: Scene, rng: np.random.Generator) -> list[Caption]:
    """Five captions of a scene, in random order of what they tell."""
    told = []
    for number, plan in enumerate(rng.permutation(len(PLANS))):
        caption = Caption(scene, rng, number)
        PLANS[plan](caption)
        if len(caption.tokens) < FEWEST:
            caption.say_one_of(BACKDROP_WORDS[scene.backdrop])
        told.append(caption)
    return told


def raw(tokens: Sequence[str]) -> str:
    """A caption's tokens as a sentence."""
    return " ".join(tokens).capitalize() + "."


def _relation(caption: Caption) -> None:
    """How the most salient entity stands to the second, or now and then the reverse."""
    first, second = caption.scene.entities[:2]
    _relate(caption, *((second, first) if caption.rng.random() < SWAPPED else (first, second)))


def _all_relations(caption: Caption) -> None:
    """The first entity between the next two, where it is; else the plain relation."""
    first, *others = caption.scene.entities[:3]
    if len(others) < 2 or not between(first, *others):
        _relation(caption)
        return
    caption.name(first)
    caption.say("between")
    caption.name(others[0])
    caption.say("and")
    caption.name(others[1])


def _there_is(caption: Caption) -> None:
    first, second = caption.scene.entities[:2]
    caption.say("there is" if len(first.boxes) == 1 else "there are")
    _relate(caption, first, second)


def _with_third(caption: Caption) -> None:
    """The relation of proximity where it holds, and the third entity."""
    first, second, *others = caption.scene.entities
    caption.name(first)
    caption.say_one_of(RELATIONS["near"] if near(first, second) else ("and",))
    caption.name(second)
    if others:
        caption.say("with")
        caption.name(others[0])


def _with_backdrop(caption: Caption) -> None:
    _relation(caption)
    caption.say_one_of(BACKDROP_WORDS[caption.scene.backdrop])


def _relate(caption: Caption, a: Entity, b: Entity) -> None:
    caption.name(a)
    caption.say_one_of(RELATIONS[relation(a, b)])
    caption.name(b)


PLANS: tuple[Callable[[Caption], None], ...] = (
    _relation,
    _all_relations,
    _there_is,
    _with_third,
    _with_backdrop,
)


def _one_of(rng: np.random.Generator, synonyms: Sequence[T]) -> T:
    if len(synonyms) == 1 or rng.random() < USUAL:
        return synonyms[0]
    return synonyms[int(rng.integers(1, len(synonyms)))]
