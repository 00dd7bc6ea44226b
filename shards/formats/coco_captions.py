"""Captions from COCO's own JSON: ``images[]``, ``annotations[]`` with a caption each.

The split is the one of train, val and test that is a word of the file's name, as in
captions_val2014.json. image_info_test2014.json, which has no annotations, gives images to caption.
Images may lack their ``width`` and ``height``, as they do in the files of other sets.

Such files have no tokens.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from shards.formats import Annotation, caption_format
from shards.formats.records import get_field, get_image_id, read_json
from shards.json_types import ImageId
from shards.schema import ShardError

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "test": "test",
}
#: A run of letters, with the digits that follow it: ``val2014``.
_NAME_WORD = re.compile(r"([^\W\d_]+)\d*")


@caption_format("coco_captions")
class CocoCaptions:
    """Captions from one COCO JSON file."""

    def __init__(self, path: Path) -> None:
        self._file = path

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a JSON file with a field ``file_name``."""
        return path.suffix == ".json" and b'"file_name"' in path.read_bytes()

    def annotations(self) -> list[Annotation]:
        """All images, in the order of the file.

        Raises:
            ShardError: if the name does not contain the split, a field is missing or of another
                type, or a caption is of an image that is not listed.
        """
        split = split_in_name(self._file)
        captions = defaultdict[ImageId, list[str]](list)
        data = read_json(self._file)
        images = get_field(f"{self._file}", data, "images", list)
        for number, annotation in enumerate(data.get("annotations", ())):
            where = f"{self._file}: annotation number {number}"
            image = get_image_id(where, annotation, "image_id")
            captions[image].append(get_field(where, annotation, "caption", str).strip())
        annotations = [
            self._annotation(number, image, split, captions) for number, image in enumerate(images)
        ]
        if captions:
            image = next(iter(captions))
            raise ShardError(
                f"{self._file}: caption of image {image}, which images[] does not list; "
                "download the file again"
            )
        return annotations

    def _annotation(
        self, number: int, image: Any, split: str, captions: dict[ImageId, list[str]]
    ) -> Annotation:
        where = f"{self._file}: image number {number}"
        image_id = get_image_id(where, image, "id")
        texts = captions.pop(image_id, [])
        return Annotation(
            image_id=image_id,
            file_name=get_field(where, image, "file_name", str),
            split=split,
            captions=tuple(texts),
            tokens=(),
            width=_pixels(where, image, "width"),
            height=_pixels(where, image, "height"),
            position=where,
        )


def _pixels(where: str, image: Any, name: str) -> int:
    """Width or height; 0 if it is not given."""
    return 0 if image.get(name) is None else get_field(where, image, name, int)


def split_in_name(path: Path) -> str:
    """The split in a file's name.

    Raises:
        ShardError: if there is none, or several.
    """
    words = _NAME_WORD.findall(path.stem.lower())
    splits = {_SPLITS[word] for word in words if word in _SPLITS}
    if len(splits) != 1:
        raise ShardError(
            f"{path}: expected exactly one of the words train, val, test in the name of the file, "
            "which is its split; rename it"
        )
    return splits.pop()
