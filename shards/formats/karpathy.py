"""Captions from Karpathy's JSON: ``images[]`` with split and tokenised ``sentences[]``.

Source: Karpathy & Fei-Fei 2015, the split of COCO, Flickr8k and Flickr30k that papers report on.
The image id is ``cocoid`` if there is one, else ``imgid``; split restval becomes train. The file
does not have the images' sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shards.formats import Annotation, caption_format
from shards.formats.records import get_field, get_image_id, read_json
from shards.schema import ShardError

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@caption_format("karpathy")
class Karpathy:
    """Captions from one Karpathy JSON file."""

    def __init__(self, path: Path) -> None:
        self._file = path

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a JSON file with a field ``filename``."""
        return path.suffix == ".json" and b'"filename"' in path.read_bytes()

    def annotations(self) -> list[Annotation]:
        """All images, in the order of the file.

        Raises:
            ShardError: if the file is not JSON, or a field is missing or of another type.
        """
        images = get_field(f"{self._file}", read_json(self._file), "images", list)
        return [self._annotation(number, image) for number, image in enumerate(images)]

    def _annotation(self, number: int, image: Any) -> Annotation:
        where = f"{self._file}: image number {number}"
        name = get_field(where, image, "filename", str)
        where = f"{self._file}: image {name}"
        split = get_field(where, image, "split", str)
        if split not in SPLITS:
            raise ShardError(f"{where}: split {split!r}, expected one of {', '.join(SPLITS)}")
        sentences = get_field(where, image, "sentences", list)
        return Annotation(
            image_id=get_image_id(where, image, "cocoid" if "cocoid" in image else "imgid"),
            file_name=name,
            split=SPLITS[split],
            captions=tuple(get_field(where, sentence, "raw", str) for sentence in sentences),
            tokens=tuple(_tokens(where, sentence) for sentence in sentences),
            position=f"{self._file}: image number {number}",
        )


def _tokens(where: str, sentence: Any) -> tuple[str, ...]:
    tokens = get_field(where, sentence, "tokens", list)
    if not all(isinstance(token, str) and token.split() == [token] for token in tokens):
        raise ShardError(
            f"{where}: tokens {tokens!r}, expected words without spaces; correct the caption"
        )
    return tuple(tokens)
