"""Captions from COCO's own JSON: ``images[]`` with sizes, ``annotations[]`` with a caption each.

The split is in the file's name: the one of train, val and test that stands there, as in
captions_val2014.json. image_info_test2014.json, which has no annotations, gives images to caption.

There are no tokens in such files. They are made by one rule: in lower case, a word is a run of
letters and digits, which may have ' ’ - . / or, before a digit, a comma inside; everything else is
dropped. "The man's T-shirt, 2 dogs." is: the man's t-shirt 2 dogs. It is near the Penn Treebank
tokeniser without its punctuation, but contractions stay whole.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from shards.formats import Annotation, caption_format
from shards.formats.records import field, read_json
from shards.schema import ShardError

_SPLITS = ("train", "val", "test")
_WORD = re.compile(r"[^\W_]+(?:['’./-][^\W_]+|,\d+)*")


@caption_format("coco_captions")
class CocoCaptions:
    """Captions from one COCO JSON file."""

    def __init__(self, path: Path) -> None:
        self._file = path

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether this is a JSON file that speaks of ``file_name``s."""
        return path.suffix == ".json" and b'"file_name"' in path.read_bytes()

    def annotations(self) -> list[Annotation]:
        """All images in the file's order.

        Raises:
            ShardError: if the name tells no split, a field is missing or odd, or a caption has no
                image or no word: names the image or the annotation.
        """
        split, captions = _split(self._file), defaultdict(list)
        data = read_json(self._file)
        images = field(f"{self._file}", data, "images", list)
        for number, annotation in enumerate(data.get("annotations", ())):
            where = f"{self._file}: annotation number {number}"
            image = field(where, annotation, "image_id", int)
            captions[image].append(field(where, annotation, "caption", str).strip())
        found = [
            self._annotation(number, image, split, captions) for number, image in enumerate(images)
        ]
        if captions:
            raise ShardError(f"{self._file}: caption of image {min(captions)}, which is not there")
        return found

    def _annotation(
        self, number: int, image: Any, split: str, captions: dict[int, list[str]]
    ) -> Annotation:
        where = f"{self._file}: image number {number}"
        image_id = field(where, image, "id", int)
        texts = captions.pop(image_id, [])
        return Annotation(
            image_id=image_id,
            file_name=field(where, image, "file_name", str),
            split=split,
            captions=tuple(texts),
            tokens=tuple(words(text) for text in texts),
            width=field(where, image, "width", int),
            height=field(where, image, "height", int),
        )


def words(caption: str) -> tuple[str, ...]:
    """The tokens of a caption, by the rule above."""
    return tuple(_WORD.findall(caption.lower()))


def _split(path: Path) -> str:
    told = [split for split in _SPLITS if split in path.stem]
    if len(told) != 1:
        raise ShardError(
            f"{path}: the name of a COCO file tells its split, expected one of "
            f"{', '.join(_SPLITS)} in it; rename it"
        )
    return told[0]
