"""File formats that shards can be built from: of captions and of region features.

A format is one module in this folder: a class that takes a file or folder and registers itself
with `caption_format` or `feature_format`. The format of a file is detected by `accepts`.
"""

from __future__ import annotations

import glob
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from shards.json_types import ImageId
from shards.schema import Array, Phrase, ShardError


@dataclass(frozen=True)
class Annotation:
    """One image's captions.

    Args:
        image_id: as in the data set.
        file_name: of the picture, possibly with folders.
        split: train, val or test.
        captions: texts.
        tokens: of each caption, as the file has them; empty if it has none.
        width, height: pixels, 0 if unknown.
        grounding: phrases with their boxes, None if unknown.
        position: the file and the image's place in it, for messages.
        feature_id: the id of its features, empty until `shards.pairing` has found them.
    """

    image_id: ImageId
    file_name: str
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    width: int = 0
    height: int = 0
    grounding: tuple[Phrase, ...] | None = None
    position: str = field(default="", compare=False)
    feature_id: ImageId = ""


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """One image's region features.

    Args:
        regions: (R, F) numbers; if not ``arranged``, as they are stored.
        boxes: (R, 4) x1 y1 x2 y2, in pixels or in [0, 1]; None if there are none.
        classes: (R, T) of CLASS_DTYPE, likeliest first, with all classes of a vector; class n has
            the name n, and the background is -1.
        width, height: pixels, 0 if unknown.
        pixels: whether boxes are in pixels.
        position: of the image in its file, for messages; empty if the image id identifies it.
        arranged: whether the format defines the axes of ``regions``; if not, see `layout.arrange`.
        count: number of regions, where further ones are padding that `layout.arrange` removes.
        class_count: of whole vectors, without the background; 0 if the format has none.
        clipped: boxes that were clipped by more than rounding.
    """

    regions: Array
    boxes: Array | None = None
    classes: Array | None = None
    width: int = 0
    height: int = 0
    pixels: bool = False
    position: str = ""
    arranged: bool = True
    count: int | None = None
    class_count: int = 0
    clipped: int = 0


class CaptionSource(Protocol):
    """Reads annotated images from one file or folder."""

    def __init__(self, path: Path) -> None: ...

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether the file or folder is in this format."""

    def annotations(self) -> list[Annotation]:
        """All images, in the order of the file.

        Raises:
            ShardError: naming the position in the file and what is wrong with it.
        """


class FeatureSource(Protocol):
    """Reads region features from one file or folder; picklable, opens its files when it reads."""

    def __init__(self, path: Path) -> None: ...

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether the file or folder is in this format."""

    @property
    def paths(self) -> list[Path]:
        """The files and folders that it reads."""

    @property
    def image_ids(self) -> list[ImageId]:
        """Ids of all images, in the order of the file."""

    @property
    def bad(self) -> list[str]:
        """Entries that can't be used: position and reason, one line each; see `Entries`."""

    def read(self, image_id: ImageId) -> RegionFeatures:
        """One image's features.

        Raises:
            ShardError: naming the position in the file and what is wrong with it.
        """


CAPTION_FORMATS: dict[str, type[CaptionSource]] = {}
FEATURE_FORMATS: dict[str, type[FeatureSource]] = {}

_Captions = TypeVar("_Captions", bound=type[CaptionSource])
_Features = TypeVar("_Features", bound=type[FeatureSource])
_Format = TypeVar("_Format", CaptionSource, FeatureSource)


def caption_format(name: str) -> Callable[[_Captions], _Captions]:
    """Register a class as a format of captions."""

    def register(cls: _Captions) -> _Captions:
        CAPTION_FORMATS[name] = cls
        return cls

    return register


def feature_format(name: str) -> Callable[[_Features], _Features]:
    """Register a class as a format of region features."""

    def register(cls: _Features) -> _Features:
        FEATURE_FORMATS[name] = cls
        return cls

    return register


def find_files(patterns: str | Sequence[str]) -> list[Path]:
    """The files or folders that match paths or globs; those of each pattern in alphabetical order.

    A path that exists is taken literally, also if it has brackets; so are a pattern's folders.

    Raises:
        ShardError: if a pattern matches nothing.
    """
    paths: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        files = sorted(map(Path, glob.glob(_existing_part_escaped(pattern))))
        if not files:
            raise ShardError(f"{pattern}: no such file; check the path, and quote patterns with *")
        paths += files
    return paths


def _existing_part_escaped(pattern: str) -> str:
    """The pattern, in which the longest path that exists stands for itself."""
    path = Path(pattern)
    there = next((part for part in (path, *path.parents) if part.exists()), Path())
    return str(Path(glob.escape(str(there))) / path.relative_to(there))


def detect_format(formats: dict[str, type[_Format]], path: Path) -> tuple[str, type[_Format]]:
    """Name and class of the format of a file or folder.

    Raises:
        ShardError: if no format accepts it, or several do.
    """
    accepting = [name for name, format_ in formats.items() if format_.accepts(path)]
    if len(accepting) != 1:
        problem = f"matches formats {' and '.join(accepting)}" if accepting else "unknown format"
        raise ShardError(
            f"{path}: {problem}, expected exactly one of {', '.join(formats)}; compare it with the "
            "formats in shards/README.md"
        )
    return accepting[0], formats[accepting[0]]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
