"""Image ids: numbers or texts, such as hashes, UUIDs and names of files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from shards.json_types import MAX_ID_LENGTH, ImageId

T = TypeVar("T")

#: Any number with so many decimal digits fits into 64 bits.
MAX_ID_DIGITS = 18
#: Characters of a key that is made of an id; a tar's header has room for 100 with the suffix.
_MAX_KEY = 64

_COCO_NAME = re.compile(r"COCO_[A-Za-z0-9]+_(\d{12})", re.ASCII)
_PICTURE = re.compile(r"\.(jpe?g|png|tiff?|gif|bmp|webp|ppm)", re.IGNORECASE)
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_-]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


def parse_image_id(name: str) -> ImageId:
    """The image id in the name of a file or of an entry, without a picture's extension.

    Digits are a number, and so are those of COCO's file names (``COCO_val2014_000000000042``). Any
    other name is the id itself: the number in ``airport_1`` may be that of another image, too.
    """
    path = PurePosixPath(name)
    stem = name.removesuffix(path.suffix) if _PICTURE.fullmatch(path.suffix) else name
    coco = _COCO_NAME.fullmatch(stem)
    digits = coco[1] if coco else stem
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= MAX_ID_DIGITS
    return int(digits) if is_number else stem


def image_key(image: ImageId) -> str:
    """The key of an image's sample: 12 digits, or the text with other characters as ``%XX``.

    A long text is cut, and its hash appended.
    """
    if isinstance(image, int):
        return f"{image:012d}"
    key = _NOT_IN_KEYS.sub(lambda c: "".join(f"%{byte:02X}" for byte in c[0].encode()), image)
    if len(key) <= _MAX_KEY:
        return key
    digest = hashlib.sha256(image.encode()).hexdigest()[:16]
    return f"{key[: _MAX_KEY - len(digest) - 1]}-{digest}"


def image_number(image: ImageId) -> int:
    """The number that stands for an image id in arrays: a text's hash, less than -2^62."""
    if isinstance(image, int):
        return image
    digest = hashlib.blake2b(image.encode(), digest_size=8).digest()
    return -(2**62) - 1 - (int.from_bytes(digest, "big") >> 2)


def id_order(image: ImageId) -> tuple[bool, ImageId]:
    """Sorts ids: numbers before texts."""
    return isinstance(image, str), image


class Entries(Generic[T]):
    """What a file or folder of features has, by image id; of a repeated id, the first counts.

    Args:
        position: of an entry in the file, for messages.

    Attributes:
        by_id: the entries, in the order of the file.
        bad: names that can't be image ids and repeated ids, one line each.
    """

    def __init__(self, position: Callable[[T], str]) -> None:
        self._position = position
        self.by_id: dict[ImageId, T] = {}
        self.bad: list[str] = []

    def add(self, where: str, name: str, entry: T) -> None:
        """Add the entry of this name; ``where`` begins messages about it."""
        if not 0 < len(name) <= MAX_ID_LENGTH or _UNPRINTABLE.search(name):
            self.bad.append(
                f"{where}: image id {name[:20]!r}, expected 1 to {MAX_ID_LENGTH} characters that "
                "can be printed"
            )
            return
        image = parse_image_id(name)
        if image in self.by_id:
            first = self._position(self.by_id[image])
            self.bad.append(f"{where}: image {image} is also in {first}")
        else:
            self.by_id[image] = entry
