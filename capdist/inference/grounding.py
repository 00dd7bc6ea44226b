"""Grounding of captions: a split's annotated objects, and those that captions name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from capdist.decoding.generate import Caption
from capdist.metrics.grounding import Box, Grounded, Object, grounding_f1, lemma
from shards.formats.records import read_lines
from shards.image_ids import image_number
from shards.manifest import Manifest
from shards.schema import Phrase, ShardError, decode_grounding

#: Width and height of an image in pixels.
Size = tuple[int, int]


def check_english(manifest: Manifest) -> None:
    """Refuse to score the grounding of captions in another language.

    Raises:
        ShardError: naming the shards and the language.
    """
    if not manifest.text.is_english:
        raise ShardError(
            f"{manifest.location}: grounding scores compare English lemmas, but its captions' "
            f"language is {manifest.text.language!r}; omit --grounding"
        )


def check_grounding(manifest: Manifest, split: str) -> None:
    """Refuse a split without any grounding, without reading all of it as `Annotated.read` does.

    Raises:
        ShardError: naming the shards.
    """
    check_english(manifest)
    if next(manifest.read(split, "grounding.json"), None) is None:
        raise ShardError(
            f"{manifest.location}: split {split} has no grounding, which grounding scores need; "
            "build the shards with it"
        )


@dataclass(frozen=True)
class Annotated:
    """The objects that a split's captions mention, and the sizes of its images, by image number."""

    references: Mapping[int, Sequence[Grounded]]
    sizes: Mapping[int, Size]

    @classmethod
    def read(cls, manifest: Manifest, split: str, names: frozenset[str] | None = None) -> Annotated:
        """The grounding of a split's shards; a phrase without a box is not annotated.

        Args:
            manifest: of the shards.
            split: its name.
            names: lemmas of the classes that count; phrases of others are not annotated, as in
                the data of Zhou et al. None: all classes.

        Raises:
            ShardError: if the captions are not English, no phrase is of these classes, or naming a
                sample that has no grounding, or no size in pixels.
        """
        check_english(manifest)
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
            counted = [p for p in phrases[key] if names is None or lemma(p.class_name) in names]
            references[image] = [
                _grounded(words, (p for p in counted if p.caption == number), size)
                for number, words in enumerate(sample["tokens"])
            ]
        annotated = cls(references, sizes)
        if names is not None and not annotated.classes:
            raise ShardError(
                f"{manifest.location}: no phrase of {split} is of one of the {len(names)} classes "
                "of --classes; give a file with the names of its objects, one per line"
            )
        return annotated

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


def read_class_names(path: Path) -> frozenset[str]:
    """The lemmas of the names in a text file, one per line.

    Raises:
        ShardError: if there is no such file, or it has no name.
    """
    if not path.is_file():
        raise ShardError(f"{path}: no such file; expected one with names of classes, one per line")
    names = frozenset(lemma(line.strip()) for line in read_lines(path) if line.strip())
    if not names:
        raise ShardError(f"{path}: no names; expected those of classes, one per line")
    return names


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
