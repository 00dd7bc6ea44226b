"""Grounding of captions: a split's annotated objects, and those that captions name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from capdist.decoding.generate import Caption
from capdist.metrics.grounding import Box, Grounded, Object, grounding_f1, lemma
from shards.image_ids import image_number
from shards.manifest import Manifest
from shards.schema import Phrase, ShardError, decode_grounding

#: Width and height of an image in pixels.
Size = tuple[int, int]


@dataclass(frozen=True)
class Annotated:
    """The objects that a split's captions mention, and the sizes of its images, by image number."""

    references: Mapping[int, Sequence[Grounded]]
    sizes: Mapping[int, Size]

    @classmethod
    def read(cls, manifest: Manifest, split: str) -> Annotated:
        """The grounding of a split's shards; a phrase without a box is not annotated.

        Raises:
            ShardError: if the captions are not English, or naming a sample that has no grounding,
                or no size in pixels.
        """
        if not manifest.text.is_english:
            raise ShardError(
                f"{manifest.location}: grounding scores compare English lemmas, but its captions' "
                f"language is {manifest.text.language!r}; omit --grounding"
            )
        members = manifest.read(split, "grounding.json")
        phrases = {key: decode_grounding(key, data) for key, data in members}
        references, sizes = {}, {}
        for key, data in manifest.read(split, "json"):
            sample = json.loads(data)
            image, size = image_number(sample["image_id"]), (sample["width"], sample["height"])
            if key not in phrases or 0 in size:
                lacking = "size in pixels" if key in phrases else "grounding"
                raise ShardError(
                    f"{manifest.location}: sample {key} of {split} has no {lacking}, which "
                    "grounding scores need; build the shards with it, or omit --grounding"
                )
            sizes[image] = size
            references[image] = [
                _grounded(words, (p for p in phrases[key] if p.caption == number), size)
                for number, words in enumerate(sample["tokens"])
            ]
        return cls(references, sizes)

    @cached_property
    def classes(self) -> frozenset[str]:
        """Lemmas of all classes of the split; others never count."""
        captions = (caption for image in self.references.values() for caption in image)
        return frozenset(lemma(known.name) for caption in captions for known in caption.objects)

    def f1(self, captions: Mapping[int, Caption]) -> dict[str, float]:
        """``F1_all`` and ``F1_loc`` of one caption per image, with the boxes that it attended to.

        Raises:
            ScoreError: if the split has no annotated object.
        """
        predictions = {image: self.objects(image, caption) for image, caption in captions.items()}
        return grounding_f1(self.references, predictions)

    def objects(self, image: int, caption: Caption) -> list[Object]:
        """The words of a caption that name a class, each at the region with most attention."""
        return [
            Object(position, word, (_pixels(box, self.sizes[image]),))
            for position, (word, box) in enumerate(zip(caption.words, caption.boxes, strict=True))
            if lemma(word) in self.classes
        ]


def _grounded(words: Sequence[str], phrases: Iterable[Phrase], size: Size) -> Grounded:
    objects = (
        Object(phrase.head, phrase.class_name, tuple(_pixels(box, size) for box in phrase.boxes))
        for phrase in phrases
        if phrase.boxes
    )
    return Grounded(tuple(words), tuple(objects))


def _pixels(box: Sequence[float], size: Size) -> Box:
    """A box in pixels, from fractions of the image's size."""
    x1, y1, x2, y2 = box
    width, height = size
    return x1 * width, y1 * height, x2 * width, y2 * height
