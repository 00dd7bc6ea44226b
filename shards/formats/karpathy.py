"""Captions from Karpathy's JSON: ``images[]`` with split and tokenised ``sentences[]``.

Source: Karpathy & Fei-Fei 2015, the split of COCO, Flickr8k and Flickr30k that papers report on.
The image id is ``cocoid`` if there is one, else ``imgid``; split restval counts as train. The
file does not know the images' sizes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shards.formats import Annotation, caption_format
from shards.schema import ShardError

_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@caption_format("karpathy")
class Karpathy:
    """Captions from one Karpathy JSON file."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._file = files[0]

    @classmethod
    def accepts(cls, files: Sequence[Path]) -> bool:
        """Whether this is one JSON file."""
        return len(files) == 1 and files[0].suffix == ".json"

    def annotations(self) -> list[Annotation]:
        """All images in the file's order.

        Raises:
            ShardError: if the file is not JSON, or a field is missing or odd: names the image.
        """
        try:
            data = json.loads(self._file.read_bytes())
        except ValueError as error:
            raise ShardError(f"{self._file}: not JSON ({error})") from error
        images = _field(f"{self._file}", data, "images", list)
        return [self._annotation(number, image) for number, image in enumerate(images)]

    def _annotation(self, number: int, image: Any) -> Annotation:
        where = f"{self._file}: image number {number}"
        name = _field(where, image, "filename", str)
        where = f"{self._file}: image {name}"
        split = _field(where, image, "split", str)
        if split not in _SPLITS:
            raise ShardError(f"{where}: split {split!r}, expected one of {', '.join(_SPLITS)}")
        sentences = _field(where, image, "sentences", list)
        return Annotation(
            image_id=_field(where, image, "cocoid" if "cocoid" in image else "imgid", int),
            file_name=name,
            split=_SPLITS[split],
            captions=tuple(_field(where, sentence, "raw", str) for sentence in sentences),
            tokens=tuple(_tokens(where, sentence) for sentence in sentences),
        )


def _tokens(where: str, sentence: Any) -> tuple[str, ...]:
    tokens = _field(where, sentence, "tokens", list)
    if not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise ShardError(f"{where}: tokens {tokens!r}, expected one word or more; remove it")
    return tuple(tokens)


def _field(where: str, record: Any, name: str, kind: type) -> Any:
    """A field of a record, if it is there and of this type."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        found = "nothing" if value is None else repr(value)
        raise ShardError(f"{where}: field {name!r} is {found}, expected a {kind.__name__}")
    return value
