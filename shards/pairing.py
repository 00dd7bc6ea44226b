"""Finds the features of each annotated image: by its id, or by the name of its file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from shards.formats import Annotation
from shards.image_ids import parse_image_id
from shards.json_types import ImageId
from shards.schema import ShardError

_PAIRS_SHOWN = 3
_NUMBERED = re.compile(r"(.*[^0-9])0*([0-9]{1,18})", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class FeatureNames:
    """The ids of all images that have features.

    Args:
        ids: as in the files.
        numbers: the ids by their number, if all are a number with the same text in front of it.
    """

    ids: Collection[ImageId]
    numbers: Mapping[int, ImageId] = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Sequence[ImageId]) -> FeatureNames:
        """``img_1``, ``img_2`` ... have numbers; ``airport_1``, ``beach_1`` have not."""
        found = [_NUMBERED.fullmatch(str(image)) for image in ids]
        numbers = {int(m[2]): image for m, image in zip(found, ids, strict=True) if m}
        prefixes = {m and m[1] for m in found}
        unique = len(prefixes) == 1 and None not in prefixes and len(numbers) == len(ids) > 1
        return cls(frozenset(ids), numbers if unique else {})

    def by_id(self, image: ImageId) -> ImageId:
        """The id of the features of an image, by its id; the image's own if there are none."""
        parsed = parse_image_id(str(image))
        return self.numbers.get(parsed, parsed) if isinstance(parsed, int) else parsed

    def by_name(self, file_name: str) -> ImageId:
        """The id of the features that are named as a file, with or without its folders."""
        whole, base = (parse_image_id(n) for n in (file_name, PurePosixPath(file_name).name))
        return base if base in self.ids and whole not in self.ids else whole


def pair(images: Sequence[Annotation], features: FeatureNames, by: str | None) -> list[Annotation]:
    """The images with their ``feature_id``, which ``features`` may not have.

    Args:
        images: with captions.
        features: of all images.
        by: "id" or "filename"; None: by id, if no file name has features of its own.

    Raises:
        ShardError: naming an image whose file name has other features than its id.
    """
    if by is None:
        for image in images:
            _check_agreement(image, features)
    if by == "filename":
        return [replace(image, feature_id=features.by_name(image.file_name)) for image in images]
    return [replace(image, feature_id=features.by_id(image.image_id)) for image in images]


def describe(images: Sequence[Annotation], features: FeatureNames, by: str | None) -> str:
    """One line: how images are paired, and the first pairs."""
    found = (image for image in images if image.feature_id in features.ids)
    pairs = (
        f"image {image.image_id} ({image.file_name}) with features {image.feature_id}"
        for image in islice(found, _PAIRS_SHOWN)
    )
    return f"paired by {by or 'id'}: {', '.join(pairs) or 'none'}"


def check_any_pair(images: Sequence[Annotation], features: FeatureNames, where: Path) -> None:
    """Refuse images, at least one, of which none has features; ``where`` has those of others.

    Raises:
        ShardError: with an id of both sides.
    """
    if any(image.feature_id in features.ids for image in images):
        return
    captions = f"image {images[0].image_id} with file {images[0].file_name}"
    first = min(map(str, features.ids), default="none")
    raise ShardError(
        f"no annotated image has features: the captions have {captions}, {where} has features of "
        f"image {first}; give those of the captions, or pair them with --pair-by filename"
    )


def leave_out_repeated(images: Sequence[Annotation]) -> tuple[list[Annotation], list[str]]:
    """The images without those whose id or features an earlier one has; a line for each of these.

    Args:
        images: with their ``feature_id``.
    """
    kept, bad = [], []
    by_id: dict[ImageId, Annotation] = {}
    by_features: dict[ImageId, Annotation] = {}
    for image in images:
        name = f"{image.position or 'captions'}: image {image.image_id} ({image.file_name})"
        if first := by_id.get(image.image_id):
            bad.append(f"{name} is also in {first.position}, with file {first.file_name}")
        elif first := by_features.get(image.feature_id):
            bad.append(
                f"{name} would get features {image.feature_id}, as image {first.image_id} "
                f"({first.file_name}) of {first.position}"
            )
        else:
            kept.append(image)
            by_id[image.image_id] = by_features[image.feature_id] = image
    return kept, bad


def image_sizes(
    images: Sequence[Annotation], listed: Sequence[Annotation], by: str | None
) -> dict[ImageId, tuple[int, int]]:
    """Width and height of the images by ``feature_id``: their own, or those that are listed.

    Args:
        images: with their ``feature_id``.
        listed: of files that have sizes; they are found as features are, see `pair`.
        by: as for `pair`.

    Raises:
        ShardError: naming an image that is listed with another file name.
    """
    by_id = {image.image_id: image for image in listed}
    by_name = {_name(image): image for image in listed}
    sizes: dict[ImageId, tuple[int, int]] = {}
    for image in images:
        found = by_name.get(_name(image)) if by == "filename" else by_id.get(image.image_id)
        if found and by is None and _name(found) != _name(image):
            raise ShardError(
                f"{image.position}: image {image.image_id} is {image.file_name}, but "
                f"{found.file_name} in {found.position}; state which is right with --pair-by id "
                "or --pair-by filename"
            )
        if (sized := found or image).width:
            sizes[image.feature_id] = sized.width, sized.height
    return sizes


def with_prefix(images: Sequence[Annotation], prefix: str) -> list[Annotation]:
    """The images with a text in front of their ids, which keeps those of several sets apart.

    Raises:
        ShardError: if the text can't be printed.
    """
    if not prefix.isprintable():
        raise ShardError(f"--id-prefix {prefix!r}: expected text that can be printed")
    if not prefix:
        return list(images)
    return [replace(image, image_id=f"{prefix}{image.image_id}") for image in images]


def _name(image: Annotation) -> ImageId:
    return parse_image_id(PurePosixPath(image.file_name).name)


def _check_agreement(image: Annotation, features: FeatureNames) -> None:
    by_id, by_name = features.by_id(image.image_id), features.by_name(image.file_name)
    if by_id == by_name or by_name not in features.ids:
        return
    found = f"would get features {by_id}" if by_id in features.ids else "has no features"
    raise ShardError(
        f"{image.position}: image {image.image_id} {found} by its id, but those of {by_name} by "
        f"its file name, {image.file_name}; state which is right with --pair-by id or --pair-by "
        "filename"
    )
